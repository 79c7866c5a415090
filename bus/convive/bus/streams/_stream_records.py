"""What goes into a plain stream, and what comes out of it."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Self

from convive.bus.log._errors import BadName, BadRecord, NotAppended
from convive.bus.log._ids import ConversationId, is_slug, slugify
from convive.bus.log._log import RESERVED_HEADERS, Draft, Record, Tail, whole_number

NEXT = "Cv-Next"
POSITION = "Cv-Position"
"""The header of a snapshot that names the first position which it does not cover."""

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """A record to append: a body of bytes, or anything that JSON can hold, and headers of your own."""

    body: object
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    ttl_s: int | None = None
    """After so many seconds the record is not there any more."""


@dataclass(slots=True)
class StreamRecord:
    """A record of a stream. `position` grows from record to record, but not by one; `time_s` is since 1970."""

    stream: str
    position: int
    time_s: float
    headers: Mapping[str, str]
    """The writer's own headers; what belongs to the server is left out."""
    body: bytes

    def json(self) -> Any:
        """What the body holds. Raises BadRecord when it is not JSON."""
        return _parsed(self.stream, self.position, self.body)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State that stands for all records of a stream up to `covers`."""

    stream: str
    covers: int
    position: int
    time_s: float
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The state. Raises BadRecord when it is not JSON."""
        return _parsed(self.stream, self.position, self.body)


def stream_name(text: str) -> tuple[ConversationId, str]:
    """The name space and the name of a stream. Raises BadName, with a suggestion where one can be made."""
    space, slash, name = text.partition("/")
    if not slash:
        name = space
    if is_slug(space) and is_slug(name):
        return ConversationId(space), name
    hint = "/".join(filter(None, (slugify(part) for part in text.split("/", 1))))
    raise BadName(
        f"{text[:80]!r} is not the name of a stream: use NAME or CONVERSATION/NAME, each 1 to 63 of a-z, 0-9 and '-', "
        f"starting with a letter or digit.{f' Did you mean {hint!r}?' if hint else ''}"
    )


def shown_name(space: str, name: str) -> str:
    """The name of a stream as `stream_name` takes it."""
    return name if space == name else f"{space}/{name}"


def encoded(stream: str, body: object) -> bytes:
    """Bytes as they are, anything else as JSON. Raises NotAppended for what JSON cannot hold."""
    if isinstance(body, bytes):
        return body
    try:
        return _JSON.encode(body).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NotAppended(
            f"stream {stream}: the body is not JSON: {error}. Nothing was appended; give bytes, or what JSON can hold."
        ) from None


def draft_of(stream: str, subject: str, entry: Entry) -> Draft:
    """An entry as a record of the log. Raises NotAppended."""
    return Draft(subject, encoded(stream, entry.body), entry.headers, ttl_s=entry.ttl_s)


def decoded(stream: str, record: Record) -> StreamRecord:
    """A record of the log as a reader of the stream sees it."""
    return StreamRecord(stream, record.seq, record.time_s, own_headers(record.headers), record.body)


def snapshot_of(stream: str, record: Record) -> Snapshot:
    """Raises BadRecord for a record that does not say what it covers."""
    first_after = whole_number(record.headers.get(NEXT, "")) or 0
    if not 1 <= first_after <= record.seq:
        raise BadRecord(record.subject, record.seq, f"a snapshot needs the header {NEXT} with a position")
    headers = {name: value for name, value in own_headers(record.headers).items() if name != NEXT}
    return Snapshot(stream, first_after - 1, record.seq, record.time_s, headers, record.body)


def own_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers that the writer gave."""
    if not headers:
        return _NO_HEADERS
    return {name: value for name, value in headers.items() if name[:5].lower() != RESERVED_HEADERS}


def size_of(record: StreamRecord) -> int:
    """The bytes of body and headers."""
    return len(record.body) + sum(len(name) + len(value.encode()) for name, value in record.headers.items())


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a read ends: after `count` records, before it has more than `max_bytes`, before the time `until_s`."""

    count: float
    max_bytes: float
    until_s: float


class StreamReader:
    """The records that were asked for: an async iterator that ends."""

    def __init__(self, stream: str, records: AsyncIterator[Record], snapshot: Snapshot | None, limits: Limits) -> None:
        self._stream = stream
        self._records = records
        self._behind = snapshot.covers if snapshot else 0
        self._limits = limits
        self._count = 0
        self._bytes = 0
        self.snapshot = snapshot
        """Where it began, if it was asked to."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamRecord:
        limits = self._limits
        while self._count < limits.count:
            found = await anext(self._records)
            if found.seq <= self._behind:
                continue
            record = decoded(self._stream, found)
            if limits.max_bytes != inf:
                self._bytes += size_of(record)
            if record.time_s >= limits.until_s or (self._count and self._bytes > limits.max_bytes):
                self._limits = Limits(0, 0, 0)
                break
            self._count += 1
            return record
        raise StopAsyncIteration


class StreamTail:
    """The records of a stream as they come, in order and without a gap; see `Tail` for the methods."""

    def __init__(self, stream: str, tail: Tail, after: int, snapshot: Snapshot | None) -> None:
        self._stream = stream
        self._tail = tail
        self._behind = snapshot.covers if snapshot else 0
        self.snapshot = snapshot
        """Where it began, if it was asked to."""
        self.position = max(after, self._behind)
        """The record handed out last: where to go on (`follow(after=...)`) should this process end now."""

    @property
    def caught_up(self) -> bool:
        """True while everything that was there has been handed out."""
        return self._tail.caught_up

    async def catch_up(self) -> StreamRecord | None:
        """The next record as long as the reader is not `caught_up`, then None. Raises BusUnavailable."""
        while (record := await self._tail.catch_up()) is not None:
            if record.seq > self._behind:
                return self._handed_out(record)
        return None

    async def next(self, timeout_s: float | None = None) -> StreamRecord | None:
        """The next record, or None when none came within `timeout_s`. Cancelling it loses nothing.

        Raises BusUnavailable.
        """
        while (record := await self._tail.next(timeout_s)) is not None:
            if record.seq > self._behind:
                return self._handed_out(record)
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamRecord:
        while True:
            record = await self.next()
            if record is not None:
                return record

    def _handed_out(self, record: Record) -> StreamRecord:
        self.position = record.seq
        return decoded(self._stream, record)


def _parsed(stream: str, position: int, body: bytes) -> Any:
    try:
        return json.loads(body.decode())  # half the time of guessing at its encoding
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"stream {stream}", position, f"its body is not JSON: {error}") from None
