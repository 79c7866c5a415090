"""Plain streams: listed, read, followed, appended to."""

import json
from base64 import b64decode, b64encode
from binascii import Error as NoBase64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from pydantic import Field, JsonValue
from pydantic_core import from_json
from starlette.responses import Response

from convive.agents.entities import EntityName
from convive.agents.http._asked import Asked, as_json
from convive.agents.http._events import Events, frame, framed
from convive.agents.http._problems import Refused
from convive.agents.http._requests import Body, after_of, body_of, number_of
from convive.bus import Stream, StreamRecord, stream_name

MOST_RECORDS = 10_000
_RECORDS = 1_000
_BYTES = 8_388_608
"""Of all bodies in one response; a reader goes on behind the last of them."""


class Appending(Body):
    """One record: its body as JSON, as text, or as bytes in base 64, and when it is to be taken."""

    data: JsonValue = Field(default=None, alias="json")
    text: str | None = None
    base64: str | None = None
    headers: dict[str, str] = Field(default_factory=dict, max_length=100)
    expected: int | None = Field(default=None, ge=0, le=10**15)
    id: str | None = Field(default=None, min_length=1, max_length=200)
    token: str | None = Field(default=None, max_length=200)
    ttl_s: int | None = None


async def list_all(asked: Asked) -> Response:
    """The streams that may be read, and how many records each holds."""
    every = await asked.bus.streams()
    rows = [{"stream": name, "records": count} for name, count in every.items() if _is_seen(asked, name)]
    return as_json({"streams": rows})


def _is_seen(asked: Asked, name: str) -> bool:
    return asked.held.may("read", "stream", name) and EntityName.of_space(name.partition("/")[0]) is None


async def read(asked: Asked) -> Response:
    """The records that are there now: behind `after`, or the `last` so many."""
    there = await _stream(asked)
    query = asked.request.query_params
    begin: dict[str, Any] = {name: number_of(query, name, 0) for name in ("after", "last") if name in query}
    limit = number_of(query, "limit", _RECORDS, MOST_RECORDS)
    if len(begin) > 1:
        raise Refused(400, "begin behind a position (after) or with the last so many (last).")
    rows = list[JsonValue]()
    position = begin.get("after", 0)
    async with there.read(**begin, count=min(limit, begin.get("last", limit)), max_bytes=_BYTES) as records:
        async for record in records:
            rows.append(_row(record))
            position = record.position
    return as_json({"stream": there.name, "records": rows, "position": position})


async def follow(asked: Asked) -> Response:
    """The records behind a position, and then those that come."""
    there = await _stream(asked)
    after = await after_of(asked.request, there.log)
    trimmed = await there.trimmed()
    if 0 < after < trimmed:
        async with there.read(after=after):  # says so in its own words
            pass

    @asynccontextmanager
    async def opened() -> AsyncGenerator[AsyncIterator[bytes]]:
        async with there.follow(after=after) as tail, aclosing(framed(aiter(tail), _frame)) as frames:
            yield frames

    return Events(opened, asked.held.until_s)


async def append(asked: Asked) -> Response:
    """One record, durable when this returns."""
    there = await _stream(asked)
    given = await body_of(asked.request, Appending)
    rules: dict[str, Any] = given.model_dump(include={"expected", "id", "token", "ttl_s"})
    return as_json({"position": await there.append(_body(given), given.headers, **rules)}, 201)


async def _stream(asked: Asked) -> Stream:
    """Raises Refused for what an entity consists of: who could append there could forge what it did; and for a second
    name of a stream."""
    space, name = stream_name(asked.name)
    entity = EntityName.of_space(space)
    if entity is not None:
        raise Refused(403, f"{asked.name} belongs to an entity: see /entities/{entity}. Nothing was read or changed.")
    if space == name != asked.name:  # it would be opened by a right to another name
        raise Refused(404, f"this stream is called {name}: see /streams/{name}. Nothing was read or changed.")
    return await asked.bus.stream(asked.name)


def _body(given: Appending) -> object:
    named = given.model_fields_set & {"data", "text", "base64"}
    if len(named) != 1:
        raise Refused(400, 'give the body once: as "json", as "text", or as "base64". Nothing was appended.')
    if given.text is not None:
        return given.text.encode(errors="replace")
    if given.base64 is not None:
        try:
            return b64decode(given.base64, validate=True)
        except (NoBase64, ValueError):
            raise Refused(400, "base64: this is none. Nothing was appended.") from None
    return given.data


def _row(record: StreamRecord) -> dict[str, JsonValue]:
    row: dict[str, JsonValue] = {"position": record.position, "time_s": round(record.time_s, 3)}
    return {**row, "headers": dict(record.headers), **_told(record.body)}


def _told(body: bytes) -> dict[str, JsonValue]:
    """A body as JSON if it is that, else as text, or in base 64: as `append` takes it."""
    try:
        value = from_json(body, allow_inf_nan=False)
        json.dumps(value, allow_nan=False)  # 1e999 is JSON, and infinite as soon as it is read
        return {"json": value}
    except ValueError:
        pass
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": b64encode(body).decode()}


def _frame(record: StreamRecord) -> bytes:
    return frame("record", record.position, _row(record))
