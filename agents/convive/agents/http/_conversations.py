"""Conversations: listed, read, followed, and a visitor's word."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from pydantic import Field, JsonValue
from starlette.responses import Response

from convive.agents.http._asked import Asked, as_json
from convive.agents.http._events import Events, frame, framed
from convive.agents.http._requests import Body, after_of, body_of, number_of
from convive.agents.http._told import Table, Told, floor_json
from convive.bus import Conversation, ConversationId, Floor, Tail, UnknownConversation, interject, is_slug

MOST_LINES = 10_000
_LINES = 1_000
_CAUGHT_UP: Told = {"type": "caught_up"}


class Saying(Body):
    """A visitor's word: as whom, and what."""

    name: str = Field(alias="as", max_length=200)
    text: str


async def list_all(asked: Asked) -> Response:
    """The conversations that may be read, the latest last."""
    names = asked.held.names("conversation")
    floors = dict[ConversationId, Floor]()
    if names is None:
        every = await asked.bus.conversations()
        floors = {name: floor for name, floor in every.items() if asked.held.may("read", "conversation", name)}
    for name in filter(is_slug, names or ()):
        try:
            there = await asked.bus.existing(name)
            floors[there.id] = await there.floor()
        except UnknownConversation:
            continue
    rows = sorted(floors.items(), key=lambda row: row[1].at_s)
    return as_json({"conversations": [floor_json(name, floor) for name, floor in rows]})


async def show(asked: Asked) -> Response:
    """How a conversation stands, and what was said: the last so many, or those behind a place."""
    there = await asked.bus.existing(asked.name)
    query = asked.request.query_params
    after, limit = number_of(query, "after", 0), number_of(query, "limit", _LINES, MOST_LINES)
    table, told, skipped = Table(), deque[Told](maxlen=limit), 0
    async with there.read() as records:
        async for record in records:
            one = table.push(record)
            if one is None or record.seq <= after:
                continue
            skipped += len(told) == limit
            if "after" not in query or len(told) < limit:  # from a place on the first, else the last
                told.append(one)
    row = floor_json(there.id, table.floor)
    return as_json({**row, "more": skipped > 0, "events": list[JsonValue](told)})


async def follow(asked: Asked) -> Response:
    """What was said, is being said and will be said, until the conversation is closed."""
    there = await asked.bus.existing(asked.name)
    after = await after_of(asked.request, there.log)
    if after and await _is_over(there, after):
        return Response(status_code=204)  # a browser connects no more then

    @asynccontextmanager
    async def opened() -> AsyncGenerator[AsyncIterator[bytes]]:
        async with (
            there.log.follow(there.subjects.bus, there.subjects.live) as tail,
            aclosing(framed(_Following(tail, after), _frame)) as frames,
        ):
            yield frames

    return Events(opened, asked.held.until_s)


async def say(asked: Asked) -> Response:
    """Say something without the floor, as somebody who has no seat."""
    there = await asked.bus.existing(asked.name)
    saying = await body_of(asked.request, Saying)
    return as_json({"seq": await interject(there, saying.name, saying.text)}, 201)


async def _is_over(there: Conversation, after: int) -> bool:
    last = await there.log.last(there.subjects.bus)
    return last is not None and last.seq <= after and (await there.floor()).closed is not None


def _frame(told: Told) -> bytes:
    seq = told.get("seq")
    return frame(str(told["type"]), seq if isinstance(seq, int) else None, told)


class _Following:
    """What a tail brings, behind a place. All before it is folded: what counts depends on it."""

    def __init__(self, tail: Tail, after: int) -> None:
        self._tail = tail
        self._after = after
        self._table = Table()
        self._caught_up = False

    def __aiter__(self) -> "_Following":
        return self

    async def __anext__(self) -> Told:
        while self._table.floor.closed is None or not self._caught_up:
            record = await (self._tail.next() if self._caught_up else self._tail.catch_up())
            if record is None and not self._caught_up:
                self._caught_up = True
                return _CAUGHT_UP
            told = None if record is None else self._table.push(record)
            if record is not None and told is not None and record.seq > self._after:
                return told
        raise StopAsyncIteration
