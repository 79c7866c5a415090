"""Responses that go on: server-sent events that end with their reader, and take nothing of the bus with them."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TypeVar

import anyio
from pydantic import JsonValue
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from convive.agents.http._problems import problem_json
from convive.agents.web._sse import PING, PING_S, SSE_HEADERS, data, or_none
from convive.bus import ConviveError

SEND_S = 60.0
"""How long a reader may take nothing of what waits for it, before it is left. It goes on from its place when it comes
again."""

Item = TypeVar("Item")

Frames = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""Opens what is to be sent."""


def frame(name: str, place: int | None, told: Mapping[str, JsonValue]) -> bytes:
    """One event. Its id is the place in the log, where that is one to go on behind."""
    begin = "" if place is None else f"id: {place}\n"
    return f"{begin}event: {name}\n".encode() + data(told)


async def framed(items: AsyncIterator[Item], told: Callable[[Item], bytes | None]) -> AsyncGenerator[bytes]:
    """The frames of the items, with a comment whenever there was nothing for a while. An error of the bus is the last
    one, `event: error`."""
    try:
        async with aclosing(or_none(items, PING_S)) as found:
            async for each in found:
                made = PING if each is None else told(each)
                if made is not None:
                    yield made
    except ConviveError as error:
        yield frame("error", None, problem_json(error))


class Events(Response):
    """Sends frames until there are no more, the reader leaves, or its token has expired."""

    def __init__(
        self, frames: Frames, until_s: float, headers: Mapping[str, str] = SSE_HEADERS, *, send_s: float = SEND_S
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._frames = frames
        self._until_s = until_s
        self._send_s = send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        whole = scope["method"] == "HEAD" or await self._sent(receive, send)
        if whole:
            with anyio.move_on_after(self._send_s):  # this, too, waits for a reader that takes nothing
                await send({"type": "http.response.body", "body": b""})

    async def _sent(self, receive: Receive, send: Send) -> bool:
        """Whether the reader is there to be told that this is the end."""
        gone = False

        async def leave(scope: anyio.CancelScope) -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave, tasks.cancel_scope)
            with anyio.move_on_after(max(0.0, self._until_s - time.time())):
                gone = not await self._send_all(send)
            tasks.cancel_scope.cancel()
        return not gone

    async def _send_all(self, send: Send) -> bool:
        """Whether the reader took all of it."""
        try:
            async with self._frames() as frames:
                async for each in frames:
                    if not await self._give(send, each):
                        return False
        except ConviveError as error:  # it could not be opened
            return await self._give(send, frame("error", None, problem_json(error)))
        return True

    async def _give(self, send: Send, body: bytes) -> bool:
        with anyio.move_on_after(self._send_s) as patience:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        return not patience.cancelled_caught
