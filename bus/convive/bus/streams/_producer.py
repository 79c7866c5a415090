"""Many records into one stream, fast and once: batches, each with a note of how far its producer has come.

Every batch begins with the producer's mark, which replaces the one before and is guarded by its place (docs/adr/0011).
So the server stores a batch once, whatever is tried again, and the mark tells a later process what is stored.
"""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from convive.bus.log._errors import (
    BadName,
    BadRecord,
    Conflict,
    ConviveError,
    MaybeAppended,
    NotAppended,
    ProducerReplaced,
)
from convive.bus.log._ids import is_slug
from convive.bus.log._log import BATCH, Draft, Guard, Log, whole_number
from convive.bus.log._tasks import background_tasks
from convive.bus.streams._stream_fence import Fence
from convive.bus.streams._stream_records import Entry, draft_of

BATCH_RECORDS = BATCH - 1
"""One is the mark."""

FULL_BYTES = 1_048_576
MARK_KEPT_S = 86_400
"""How long the mark of a producer without an id is kept: nobody goes on from it."""

_LOOK = "Look whether it is there before you append it again; a producer with an id knows by itself."
_GO_ON = "Begin a producer of the same id again: its `resumed_at` tells what is stored."

_WAITING, _ON_ITS_WAY = 0, -1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a producer writes to: a stream, by its log, subject and name, and the token to write with, if any."""

    log: Log
    subject: str
    name: str
    fences: Fence
    token: str | None


@dataclass(slots=True)
class _Batch:
    """Records that are appended together; `first` is the position of the first one as soon as they are stored."""

    number: int
    drafts: list[Draft] = field(default_factory=list[Draft])
    size: int = 0
    first: int = _WAITING
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far a producer's id has come: `stored` records, as the producer `instance` wrote down at `place`."""

    instance: str
    stored: int
    place: int


class Ticket:
    """A record that was handed to a producer."""

    __slots__ = ("_batch", "_producer", "_seat")

    def __init__(self, producer: "Producer", batch: _Batch, seat: int) -> None:
        self._producer = producer
        self._batch = batch
        self._seat = seat

    @property
    def number(self) -> int:
        """Counts from 0 over the life of the producer's id."""
        return self._batch.number + self._seat

    async def position(self) -> int:
        """The position of the record, once it is stored. Raises what the producer failed with."""
        await self._batch.done.wait()
        if self._batch.first <= 0:
            raise self._producer.failure()
        return self._batch.first + self._seat


class Producer:
    """Appends records in the order in which they are submitted. Made by `Stream.producer`; for one event loop.

    After an error it takes no more records, and whatever is asked of it raises that error. A record that has a position
    is stored; how many of the others are, a producer of the same id tells by its `resumed_at`.
    """

    def __init__(self, place: Place, id: str | None, mark: _Mark, max_records: int, max_bytes: int) -> None:
        self.resumed_at = mark.stored
        """How many records of this id were stored when it began: go on with the record of that number."""
        self._place = place
        self._id = id
        self._mark = mark
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._batches: deque[_Batch] = deque()
        self._next = mark.stored
        self._bytes = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._failed: ConviveError | None = None

    @property
    def stored(self) -> int:
        """How many records of this id are known to be stored, those of earlier producers included."""
        return self._mark.stored

    @property
    def in_flight(self) -> int:
        """How many records were submitted and are not yet known to be stored."""
        return self._next - self._mark.stored

    @property
    def failed(self) -> bool:
        """Whether it takes no more records."""
        return self._failed is not None

    async def submit(
        self, body: object, headers: Mapping[str, str] | None = None, *, ttl_s: int | None = None
    ) -> Ticket:
        """Hand over a record, as in `Stream.append`. Waits only while the producer is full. Cancelled, it hands over
        nothing.

        Raises NotAppended for a record that cannot be one, which changes nothing, or what the producer failed with.
        """
        draft = draft_of(self._place.name, self._place.subject, Entry(body, dict(headers or {}), ttl_s))
        self._place.log.check(draft)
        size = len(draft.body)
        if self._batches and len(self._batches[-1].drafts) == BATCH_RECORDS:
            await asyncio.sleep(0)  # let a batch that is full go out before the next one is begun
        while self._failed is None and self._is_full(size):
            self._room.clear()
            await self._room.wait()
        if self._failed is not None:
            raise self._failed
        batch = self._batch_for(size)
        batch.drafts.append(draft)
        batch.size += size
        self._bytes += size
        self._next += 1
        self._work.set()
        return Ticket(self, batch, len(batch.drafts) - 1)

    async def flush(self) -> None:
        """Wait until everything that was submitted is stored. Raises what the producer failed with."""
        if self._batches:
            await self._batches[-1].done.wait()
        if self._failed is not None:
            raise self._failed

    def failure(self) -> ConviveError:
        """What the producer failed with, or that it has ended."""
        if self._failed is None and not self._batches:
            return NotAppended(
                f"stream {self._place.name}: this producer has ended. Nothing was appended; begin another."
            )
        return self._failed or self._unknown("its producer ended before an acknowledgement came")

    def _unknown(self, why: str, waited_s: float = 0.0) -> MaybeAppended:
        return MaybeAppended(self._place.subject, waited_s, why=why, cure=_LOOK if self._id is None else _GO_ON)

    async def run(self) -> None:
        """Append what is submitted, one batch after the other, until cancelled or failed."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._batches:
                    await self._store(self._batches[0])
        except MaybeAppended as error:
            self._failed = self._unknown("", error.waited_s)
        except ConviveError as error:
            self._failed = error
        finally:
            self._failed = self.failure()
            for batch in self._batches:
                batch.done.set()
            self._room.set()

    def _is_full(self, size: int) -> bool:
        return self.in_flight >= self._max_records or (self._bytes > 0 and self._bytes + size > self._max_bytes)

    def _batch_for(self, size: int) -> _Batch:
        """The batch that takes the next record: the last one, unless it is full or on its way."""
        last = self._batches[-1] if self._batches else None
        taken = last is None or last.first == _ON_ITS_WAY or len(last.drafts) == BATCH_RECORDS
        if last is None or taken or last.size + size > FULL_BYTES:
            last = _Batch(self._next)
            self._batches.append(last)
        return last

    async def _store(self, batch: _Batch) -> None:
        batch.first = _ON_ITS_WAY
        self._mark = await self._append(batch.drafts, batch.number + len(batch.drafts))
        batch.first = self._mark.place + 1
        batch.done.set()
        self._batches.popleft()
        self._bytes -= batch.size
        if 2 * self._bytes <= self._max_bytes and 2 * self.in_flight <= self._max_records:
            self._room.set()

    async def _append(self, drafts: Sequence[Draft], stored: int) -> _Mark:
        place, fence, fresh = self._place, None, False
        while True:
            if place.token is not None:
                fence = await place.fences.guard(place.token, fresh=fresh)
            mark = _mark_draft(place.subject, self._id, replace(self._mark, stored=stored))
            first = drafts[0] if fence is None else replace(drafts[0], guard=fence)
            try:
                places = await place.log.append_batch([mark, first, *drafts[1:]])
            except Conflict:
                await self._find_out(stored)
                fresh = True
            else:
                return replace(self._mark, stored=stored, place=places[0])

    async def _find_out(self, stored: int) -> None:
        """A batch was refused: its guard was the mark, or the fence. Raises ProducerReplaced if another has begun."""
        there = await _read_mark(self._place, self._id or self._mark.instance)
        if there is None:  # it has expired, or somebody has removed it: nobody else goes on from it
            self._mark = replace(self._mark, place=0)
        elif there.instance != self._mark.instance:
            raise ProducerReplaced(self._place.name, self._id or "", there.stored)
        elif there.stored != self._mark.stored:
            # The mark of this batch without all of the batch: the server ran out of room in the middle of it, and
            # stores the rest when it is started again.
            raise self._unknown(
                "the server holds only a part of its batch, and may store the rest when it is restarted"
            )
        else:
            self._mark = there


@asynccontextmanager
async def open_producer(place: Place, id: str | None, max_records: int, max_bytes: int) -> AsyncGenerator[Producer]:
    """See `Stream.producer`."""
    if id is not None and not is_slug(id):
        raise BadName(f"{id[:80]!r} is not the id of a producer: use 1 to 63 of a-z, 0-9 and '-'.")
    if max_records < 1 or max_bytes < 1:
        raise ValueError("a producer needs room for one record and one byte")
    mark = _Mark(secrets.token_hex(8), 0, 0)
    if id is not None:
        mark = await _claimed(place, id, mark.instance)
    producer = Producer(place, id, mark, max_records, max_bytes)
    async with background_tasks() as tasks:
        tasks.start_soon(producer.run)
        yield producer
        await producer.flush()


async def _claimed(place: Place, id: str, instance: str) -> _Mark:
    """Take over what an earlier producer of the same id has left: from now on the server refuses its batches."""
    while True:
        there = await _read_mark(place, id)
        mark = _Mark(instance, there.stored if there else 0, there.place if there else 0)
        try:
            return replace(mark, place=await place.log.append(_mark_draft(place.subject, id, mark)))
        except Conflict:
            continue


async def _read_mark(place: Place, id: str) -> _Mark | None:
    """The mark of a producer. Raises BadRecord for one that is not ours."""
    record = await place.log.last(_mark_subject(place.subject, id))
    if record is None:
        return None
    instance, stored = "", None
    try:
        found = json.loads(record.body)
        instance, stored = str(found["instance"]), whole_number(str(found["stored"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    if stored is None:
        raise BadRecord(record.subject, record.seq, "not the mark of a producer")
    return _Mark(instance, stored, record.seq)


def _mark_draft(subject: str, id: str | None, mark: _Mark) -> Draft:
    """The mark that follows the one at `mark.place`. It names its instance, so that a rival's is never taken for it."""
    own = _mark_subject(subject, id or mark.instance)
    body = json.dumps({"instance": mark.instance, "stored": mark.stored}).encode()
    kept_s = MARK_KEPT_S if id is None else None
    return Draft(own, body, guard=Guard(own, mark.place), ttl_s=kept_s, replaces=True)


def _mark_subject(subject: str, id: str) -> str:
    return f"{subject}.producer.{id}"
