"""A local server that speaks the Anthropic Messages streaming protocol, for tests without a key.

    async with MessagesServer(["Good evening.", Refused(529, "Overloaded")]) as server:
        model = AnthropicModel("anthropic/claude-test", base_url=server.url, api_key="test")

It gives the replies in order, one to a request, and keeps what it was asked.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, assert_never

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from convive.agents.models._messages import Part, Text, Thinking, ToolResult, ToolUse
from convive.agents.models._model import Usage

_LONGEST_HEAD = 65_536
_ERROR_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer, streamed as the API does. `stop_reason` is the API's word, by default what `content` implies.

    A tool's `arguments` that are a string are streamed as they are, so that they may be broken JSON.
    """

    content: str | Sequence[Part]
    stop_reason: str = ""
    usage: Usage = Usage(input_tokens=12, output_tokens=7)


@dataclass(frozen=True, slots=True)
class Refused:
    """An HTTP error in place of an answer, with the API's JSON body."""

    status: int
    message: str = "refused"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Interrupted:
    """An answer whose first `after` events arrive as they should; then the bytes of `extra`, then `how`.

    "cut": the connection breaks. "end": the body ends in order, but early. "hang": nothing more comes until
    `MessagesServer.release` or until the client hangs up; released, the rest follows.
    With `after` = 0 and no `extra`, not even a status line is sent before a cut or a hang.
    """

    answer: Streamed
    after: int
    how: Literal["cut", "end", "hang"]
    extra: bytes = b""


Reply = str | Streamed | Refused | Interrupted


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """What the server was asked. `at_s` is on the clock of `anyio.current_time`; header names are lower case."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at_s: float
    connection: int
    """The connection it came on, counted from 0."""
    hung_up: anyio.Event = field(default_factory=anyio.Event)
    """Set when the client went away before it had the whole reply."""


def sse(kind: str, **data: Any) -> bytes:
    """One event of the protocol as bytes, as in `sse("error", error={"type": ..., "message": ...})`."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


class MessagesServer:
    """The server; `requests` holds what it was asked so far. Requests beyond the last reply are refused with 400."""

    def __init__(self, replies: Iterable[Reply]) -> None:
        self.requests: list[SeenRequest] = []
        self._replies = list(replies)
        self._port = 0
        self._connections = 0
        self._arrival = anyio.Event()
        self._released = anyio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            listener = await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
            self._port = listener.extra(SocketAttribute.local_port)  # noqa: S610  anyio's, not Django's
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(listener.serve, self._serve)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, traceback)

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self._port}"

    async def asked(self, count: int) -> SeenRequest:
        """Wait until the server was asked `count` times; the last of these requests."""
        while len(self.requests) < count:
            await self._arrival.wait()
        return self.requests[count - 1]

    def release(self) -> None:
        """Let every reply that hangs, now or later, go on."""
        self._released.set()

    async def _serve(self, stream: SocketStream) -> None:
        connection, self._connections = self._connections, self._connections + 1
        reader = BufferedByteReceiveStream(stream)
        async with stream:
            while (request := await self._read(reader, connection)) is not None:
                self.requests.append(request)
                self._arrival.set()
                self._arrival = anyio.Event()
                try:
                    keep = await self._reply(stream, request, len(self.requests))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    request.hung_up.set()
                    return
                if not keep:
                    return

    async def _read(self, reader: BufferedByteReceiveStream, connection: int) -> SeenRequest | None:
        try:
            head = (await reader.receive_until(b"\r\n\r\n", _LONGEST_HEAD)).decode("latin-1")
            start, *lines = head.split("\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            body = await reader.receive_exactly(int(headers.get("content-length", "0")))
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            return None
        asked: dict[str, Any] = json.loads(body or b"{}")
        return SeenRequest(start.split(" ")[1], headers, asked, anyio.current_time(), connection)

    async def _reply(self, stream: SocketStream, request: SeenRequest, number: int) -> bool:
        """Send the reply. Whether the connection can take another request."""
        reply: Reply
        if request.path != "/v1/messages":
            reply = Refused(404, f"this server has no {request.path}, only /v1/messages")
        elif not self._replies:
            reply = Refused(400, f"this server was given no reply for request number {number}")
        else:
            reply = self._replies.pop(0)
        match reply:
            case Refused():
                await stream.send(_refusal(reply))
                return True
            case str() | Streamed():
                answer = Streamed(reply) if isinstance(reply, str) else reply
                return await self._stream(stream, request, Interrupted(answer, 1_000_000, "end"))
            case Interrupted():
                return await self._stream(stream, request, reply)
            case _:
                assert_never(reply)

    async def _stream(self, stream: SocketStream, request: SeenRequest, reply: Interrupted) -> bool:
        events = _events(reply.answer, str(request.body.get("model", "")))
        early, late = events[: reply.after], events[reply.after :]
        if early or reply.extra or reply.how == "end":
            await stream.send(_HEAD + b"".join(_chunk(data) for data in [*early, reply.extra] if data))
        match reply.how:
            case "cut":
                return False
            case "end":
                await stream.send(_chunk(b""))
                return True
            case "hang":
                if not await self._wait_for_release(stream, request):
                    return False
                head = b"" if early or reply.extra else _HEAD
                await stream.send(head + b"".join(map(_chunk, late)) + _chunk(b""))
                return True
            case _:
                assert_never(reply.how)

    async def _wait_for_release(self, stream: SocketStream, request: SeenRequest) -> bool:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                # A client sends nothing while it waits, so whatever ends this read is a hang-up.
                try:
                    await stream.receive(1)
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    request.hung_up.set()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._released.wait()
            tasks.cancel_scope.cancel()
        return not request.hung_up.is_set()


_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nrequest-id: req_fake\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _refusal(reply: Refused) -> bytes:
    kind = _ERROR_KINDS.get(reply.status, "api_error")
    body = json.dumps({"type": "error", "error": {"type": kind, "message": reply.message}}).encode()
    headers = {"content-type": "application/json", "request-id": "req_fake", **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} Refused", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def _events(answer: Streamed, model: str) -> list[bytes]:
    parts = [Text(text=answer.content)] if isinstance(answer.content, str) else answer.content
    calls = any(isinstance(part, ToolUse) for part in parts)
    stop_reason = answer.stop_reason or ("tool_use" if calls else "end_turn")
    usage: dict[str, Any] = {
        "input_tokens": answer.usage.input_tokens,
        "cache_creation_input_tokens": answer.usage.cache_write_tokens,
        "cache_read_input_tokens": answer.usage.cache_read_tokens,
        "output_tokens": 1,
    }
    message: dict[str, Any] = {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    events = [sse("message_start", message=message)]
    for index, part in enumerate(parts):
        block, deltas = _block(part)
        events.append(sse("content_block_start", index=index, content_block=block))
        if index == 0:
            events.append(sse("ping"))
        events += [sse("content_block_delta", index=index, delta=delta) for delta in deltas]
        events.append(sse("content_block_stop", index=index))
    ending: dict[str, Any] = {"stop_reason": stop_reason, "stop_sequence": None}
    events.append(sse("message_delta", delta=ending, usage={"output_tokens": answer.usage.output_tokens}))
    return [*events, sse("message_stop")]


def _block(part: Part) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How a block starts, and the deltas that follow."""
    match part:
        case Text(text=text):
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in _pieces(text)]
        case Thinking(thinking=thinking, signature=signature):
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(thinking)]
            signed = {"type": "signature_delta", "signature": signature}
            return {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signed]
        case ToolUse(id=call_id, name=name, arguments=arguments):
            sent = arguments if isinstance(arguments, str) else json.dumps(arguments)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *_pieces(sent)]]
            return {"type": "tool_use", "id": call_id, "name": name, "input": {}}, deltas
        case ToolResult():
            raise TypeError("a model's answer holds no tool results")
        case _:
            assert_never(part)


def _pieces(text: str, size: int = 8) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
