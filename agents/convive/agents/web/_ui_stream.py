"""The UI message stream of Vercel's AI SDK (`useChat`): https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol"""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Mapping
from contextlib import aclosing
from types import MappingProxyType

from pydantic import JsonValue

from convive.agents.journal._interrupts import Interrupt
from convive.agents.models._schema import json_of
from convive.agents.runs import _events as shown
from convive.agents.runs._events import AnyRunEvent
from convive.agents.runs._result import AgentResult
from convive.agents.runs._run_events import Followed
from convive.agents.web._event_json import event_json, result_json
from convive.agents.web._sse import PING, PING_S, SSE_HEADERS, data, or_none
from convive.bus import ConviveError, RunId

UI_STREAM_HEADERS: Mapping[str, str] = MappingProxyType({**SSE_HEADERS, "x-vercel-ai-ui-message-stream": "v1"})
"""Of the response."""

Chunk = dict[str, JsonValue]

_FINISH = {"length": "length", "refusal": "content-filter", "limit": "other"}
_SUSPECT = (b'"__proto__"', b'"constructor"')
_TOLD = ("status", "usage", "cost", "known_cost", "resume_token")
"""What of a result goes into the message's metadata."""


async def ui_stream(events: AsyncIterable[AnyRunEvent | Followed], *, ping_s: float = PING_S) -> AsyncGenerator[bytes]:
    """The body of a response that `useChat` reads, for AI SDK 5 and later (6 for approvals; 7 where an answer is asked
    for once more, and what was shown of it is taken back). Of 5 and 6 those from 5.0.230 and 6.0.20 on: older ones
    refuse chunks with fields that they do not know.

    One run makes one message, whose id is the run's. What a tool shows of its progress is its preliminary output, and
    runs below are not shown. A run that waits ends the stream: calls of tools that run in the browser have their input
    then, and others ask for an approval whose id is that of the interrupt, for `resume` of this run. Where a run below
    waits for one, the call that leads there asks for it, one after the other if there are several; its descriptor (AI
    SDK 7) says which `agent` would call which `tool` with which `arguments`. The stream of what comes then goes on with
    the same message, and tells of those calls no more than what came of them.

    Names in data for which the SDK refuses all of a stream, `__proto__` and a `constructor` with a `prototype`, are
    left out.
    """
    fold = UiFold()
    try:
        async with aclosing(or_none(events, ping_s)) as told:
            async for each in told:
                if each is None and not fold.is_over:
                    yield PING
                    continue
                if each is not None:
                    for chunk in fold.push(each.event if isinstance(each, Followed) else each):
                        yield _data(chunk)
                # A run that is executed here ends its events itself, when its handlers were told as well.
                if fold.is_over and (each is None or isinstance(each, Followed)):
                    break
    except Exception as error:
        if not fold.is_over:  # what broke a run is raised behind its last event, which has told of it
            if not isinstance(error, ConviveError):
                raise
            yield data({"type": "error", "errorText": str(error)})
    yield b"data: [DONE]\n\n"


def _data(chunk: Chunk) -> bytes:
    line = data(chunk)
    return data(_harmless(chunk)) if any(name in line for name in _SUSPECT) else line


def _harmless(value: JsonValue) -> JsonValue:
    if isinstance(value, list):
        return [_harmless(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: _harmless(each) for name, each in value.items() if not _is_refused(name, each)}


def _is_refused(name: str, value: JsonValue) -> bool:
    return name == "__proto__" or (name == "constructor" and isinstance(value, dict) and "prototype" in value)


class UiFold:
    """Folds the events of one run, the first of which any is, to chunks."""

    def __init__(self) -> None:
        self.is_over = False
        self._run: RunId | None = None
        self._in_step = False
        self._words: tuple[str, str] | None = None  # the kind and the id of the part that is being written
        self._parts = 0
        self._has_text = False
        self._calls: dict[tuple[int, str], str] = {}
        self._made: set[str] = set()
        self._trips: set[int] = set()  # whose beginning was told

    def push(self, event: AnyRunEvent) -> Iterator[Chunk]:
        """The chunks for one more event."""
        self._run = self._run or event.run_id
        if event.run_id != self._run or self.is_over:
            return
        match event:
            case shown.RunStarted():
                about: Chunk = {"run_id": event.run_id, "root_run_id": event.root_run_id, "agent": event.agent}
                yield {"type": "start", "messageId": event.run_id, "messageMetadata": about}
            case shown.TripStarted():
                yield from self._step(event.trip, again=event.attempt > 1)
            case shown.TextDelta():
                self._has_text = True
                yield from self._write("text", event.text)
            case shown.ThinkingDelta():
                yield from self._write("reasoning", event.text)
            case shown.ArgumentsDelta():
                yield from self._call(event.trip, event.call_id, event.name, event.text)
            case shown.TripFinished():
                if event.text and not self._has_text:  # told later, when the deltas are no longer there
                    yield from self._write("text", event.text)
                yield from self._write("", "")
            case shown.ToolStarted() if event.trip in self._trips:
                yield from self._make(event.trip, event.call_id, event.name, event.arguments)
            case shown.ToolStarted() if (event.trip, event.call_id) not in self._calls:
                # To be told of an input that is there has a browser carry its tool out: it has done so before.
                yield from self._call(event.trip, event.call_id, event.name, json_of(event.arguments))
            case shown.ToolUpdated():
                yield from self._settle(event.trip, event.call_id, event.name)
                output = event_json(event)["value"]
                call = self._calls[event.trip, event.call_id]
                yield {"type": "tool-output-available", "toolCallId": call, "output": output, "preliminary": True}
            case shown.ToolFinished():
                yield from self._settle(event.trip, event.call_id, event.name)
                call = self._calls[event.trip, event.call_id]
                if event.is_error:
                    yield {"type": "tool-output-error", "toolCallId": call, "errorText": event.content}
                else:
                    yield {"type": "tool-output-available", "toolCallId": call, "output": event.content}
            case shown.RunFinished():
                yield from self._end(event.result, _FINISH.get(event.result.finish_reason or "", "stop"))
            case shown.RunSuspended():
                yield from self._wait(event.result.interrupts)
                yield from self._end(event.result, "tool-calls")
            case shown.RunFailed():
                why = event.result.error
                yield from self._leave_step()
                yield {"type": "error", "errorText": why.message if why else "no reason is known"}
                yield from self._end(event.result, "error")
            case shown.RunCancelled():
                self.is_over = True
                yield from self._write("", "")
                yield {"type": "abort", "reason": event.reason}
            case shown.ToolStarted() | shown.ModelFailed():
                pass

    def _step(self, trip: int, *, again: bool) -> Iterator[Chunk]:
        self._words, self._has_text = (None if again else self._words), False
        self._trips.add(trip)
        if again and self._in_step:
            self._calls = {key: call for key, call in self._calls.items() if key[0] != trip}
            yield {"type": "reset-step"}
            return
        yield from self._leave_step()
        self._in_step = True
        yield {"type": "start-step"}

    def _leave_step(self) -> Iterator[Chunk]:
        yield from self._write("", "")
        if self._in_step:
            self._in_step = False
            yield {"type": "finish-step"}

    def _write(self, kind: str, text: str) -> Iterator[Chunk]:
        """More words of that kind; the empty kind ends the part that is being written."""
        if self._words is not None and self._words[0] != kind:
            yield {"type": f"{self._words[0]}-end", "id": self._words[1]}
            self._words = None
        if kind and self._words is None:
            self._parts += 1
            self._words = kind, f"{kind}-{self._parts}"
            yield {"type": f"{kind}-start", "id": self._words[1]}
        if self._words is not None:
            yield {"type": f"{kind}-delta", "id": self._words[1], "delta": text}

    def _call(self, trip: int, call_id: str, name: str, text: str) -> Iterator[Chunk]:
        """A call that the model is writing."""
        yield from self._write("", "")
        if (trip, call_id) not in self._calls:
            # Some models number the calls of each answer from the start.
            known = call_id in self._calls.values()
            self._calls[trip, call_id] = f"{call_id}/{trip}" if known else call_id
            yield {"type": "tool-input-start", "toolCallId": self._calls[trip, call_id], "toolName": name}
        if text:
            yield {"type": "tool-input-delta", "toolCallId": self._calls[trip, call_id], "inputTextDelta": text}

    def _make(self, trip: int, call_id: str, name: str, arguments: JsonValue) -> Iterator[Chunk]:
        """A call is made, with all of its arguments. Only the first time that it is told of."""
        yield from self._call(trip, call_id, name, "")
        call = self._calls[trip, call_id]
        if call not in self._made:
            self._made.add(call)
            yield {"type": "tool-input-available", "toolCallId": call, "toolName": name, "input": arguments}

    def _settle(self, trip: int, call_id: str, name: str) -> Iterator[Chunk]:
        """Something comes of a call. One of a trip that began before is in the message that is gone on with."""
        if trip in self._trips:
            yield from self._make(trip, call_id, name, None)
        self._calls.setdefault((trip, call_id), call_id)

    def _wait(self, interrupts: Iterable[Interrupt]) -> Iterator[Chunk]:
        asked: set[tuple[int, int]] = set()  # a call has room for one question
        for each in interrupts:
            if each.run_id == self._run:
                asked.add((each.trip, each.index))
                yield from self._make(each.trip, each.call_id, each.tool, each.arguments)
                if each.kind == "approval":
                    yield self._request(each, each.trip, each.call_id)
            elif each.kind == "approval" and (by := each.through) is not None and (by.trip, by.index) not in asked:
                asked.add((by.trip, by.index))
                yield from self._settle(by.trip, by.call_id, by.tool)
                yield {**self._request(each, by.trip, by.call_id), "approvalDescriptor": _shown(each)}

    def _request(self, interrupt: Interrupt, trip: int, call_id: str) -> Chunk:
        call = self._calls[trip, call_id]
        return {"type": "tool-approval-request", "approvalId": interrupt.id, "toolCallId": call}

    def _end(self, result: AgentResult, reason: str) -> Iterator[Chunk]:
        self.is_over = True
        yield from self._leave_step()
        told = result_json(result)
        metadata: Chunk = {name: told[name] for name in _TOLD if told[name] is not None}
        yield {"type": "finish", "finishReason": reason, "messageMetadata": metadata}


def _shown(interrupt: Interrupt) -> Chunk:
    """What is asked about, for who sees only the call that leads there."""
    return {
        "run_id": interrupt.run_id,
        "agent": interrupt.agent,
        "tool": interrupt.tool,
        "arguments": interrupt.arguments,
        "about": interrupt.about,
    }
