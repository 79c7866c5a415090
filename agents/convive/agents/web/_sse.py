"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import AsyncExitStack, aclosing
from types import MappingProxyType
from typing import TypeVar, cast

import anyio

from convive.agents.models._schema import check_number, cleaned, json_of
from convive.agents.runs._events import AnyRunEvent
from convive.agents.runs._run_events import Followed
from convive.agents.web._event_json import event_json
from convive.bus import ConviveError

PING_S = 15.0
"""Proxies close a connection on which nothing is said for half a minute or so."""
_AHEAD = 16
"""Events that wait for a slow reader: one at a time costs two changes of task each."""
PING = b": nothing new\n\n"

SSE_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
    }
)
"""Of the response: nobody between may keep it, pack it or hold it back."""

T = TypeVar("T")


async def sse(events: AsyncIterable[AnyRunEvent | Followed], *, ping_s: float = PING_S) -> AsyncGenerator[bytes]:
    """A frame for each event: `event:` is its type, `data:` what `event_json` gives, and of events from `run_events`
    `id:` is the place in the log.

    A browser that lost the connection says the last id (`Last-Event-ID`): `run_events(..., after=int(id))` goes on
    there, and nothing is missed or shown twice. A comment is sent when there was nothing for `ping_s` seconds. What
    ends the iteration with an error of the bus or of the log is told in a last frame, `event: error`.
    """
    try:
        async with aclosing(or_none(events, ping_s)) as told:
            async for each in told:
                if each is None:
                    yield PING
                elif isinstance(each, Followed):
                    yield _frame(each.event, each.seq)
                else:
                    yield _frame(each, None)
    except ConviveError as error:
        yield b"event: error\n" + data({"type": "error", "error": type(error).__name__, "message": str(error)})


def _frame(event: AnyRunEvent, place: int | None) -> bytes:
    begin = "" if place is None else f"id: {place}\n"
    return f"{begin}event: {event.type}\n".encode() + data(event_json(event))


def data(value: object) -> bytes:
    """The last line of a frame. JSON text has no line breaks."""
    return f"data: {json_of(cleaned(value))}\n\n".encode()


async def or_none(items: AsyncIterable[T], every_s: float) -> AsyncGenerator[T | None]:
    """The items, and None whenever none came for so many seconds. To be closed: what is iterated is over then.

    One task iterates from the beginning to the end, since a generator may hold what has to be left by who entered it,
    such as a run; and waiting for an item is never broken off for the sake of a None, which no generator survives.
    """
    check_number("ping_s", every_s)
    if not every_s:
        raise ValueError("ping_s=0: there would be nothing but pings.")
    give, take = anyio.create_memory_object_stream[T](_AHEAD)

    async def iterate() -> None:
        async with give, AsyncExitStack() as stack:
            if isinstance(items, AsyncGenerator):
                await stack.enter_async_context(aclosing(cast("AsyncGenerator[T]", items)))
            async for item in items:
                await give.send(item)

    iterating = asyncio.create_task(iterate())
    try:
        while True:
            item: T | None = None
            try:
                item = take.receive_nowait()  # however short the wait is
            except anyio.WouldBlock:
                with anyio.move_on_after(every_s):
                    item = await take.receive()
            yield item
    except anyio.EndOfStream:
        await iterating
    finally:
        iterating.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(iterating, return_exceptions=True)
        take.close()
