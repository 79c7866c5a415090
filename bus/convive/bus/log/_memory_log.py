"""A log in this process's memory, with the same contract as the durable one.

For tests, for trying things out, and for runs that need no bus. Nothing survives the process.
"""

import asyncio
import heapq
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self

from convive.bus.log._errors import Conflict, NotAppended
from convive.bus.log._log import MESSAGE_ID, TTL, Draft, Record, check_batch, check_draft, guards_itself, matches

MAX_BODY_BYTES = 1_048_576
"""The largest body that is taken, the same as the default of a NATS server."""


class MemoryLog:
    """`Log` in memory. Not for threads: one event loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._records: list[Record] = []
        self._places: dict[str, list[int]] = {}
        self._newest: dict[str, tuple[int, int]] = {}
        self._expiring: list[tuple[float, int]] = []
        self._ids: dict[str, int] = {}
        self._tails: set[_MemoryTail] = set()
        self._present = Counter[str]()

    async def append(self, draft: Draft) -> int:
        return self._store([draft])[0]

    async def append_all(self, drafts: Sequence[Draft]) -> list[int]:
        return [self._store([draft])[0] for draft in drafts]

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        check_batch(drafts)
        return self._store(drafts) if drafts else []

    async def post(self, draft: Draft) -> None:
        self._store([draft])

    def check(self, draft: Draft) -> None:
        check_draft(draft)
        if len(draft.body) > MAX_BODY_BYTES:
            raise NotAppended(
                f"{draft.subject}: the body has {len(draft.body)} bytes, the log takes {MAX_BODY_BYTES}. "
                "Nothing was appended; shorten it or store it elsewhere and append a reference."
            )

    @asynccontextmanager
    async def read(
        self, *subjects: str, after: int = 0, until: int | None = None, since_s: float | None = None
    ) -> AsyncGenerator[AsyncIterator[Record]]:
        end = len(self._records) if until is None else min(until, len(self._records))
        tail = _MemoryTail(self._there, subjects, _start(self._records, after, since_s), end)
        yield tail.__aiter__()

    @asynccontextmanager
    async def latest(self, *subjects: str) -> AsyncGenerator[AsyncIterator[Record]]:
        records = self._there()
        places = [
            seqs[-1] for name, seqs in self._places.items() if any(matches(pattern, name) for pattern in subjects)
        ]
        yield _each([records[seq - 1] for seq in sorted(places)])

    @asynccontextmanager
    async def follow(
        self, *subjects: str, after: int = 0, since_s: float | None = None
    ) -> AsyncGenerator["_MemoryTail"]:
        tail = _MemoryTail(self._there, subjects, _start(self._records, after, since_s), None)
        self._tails.add(tail)
        try:
            yield tail
        finally:
            self._tails.discard(tail)

    async def last(self, subject: str) -> Record | None:
        seq = self._last_seq(subject)
        return self._records[seq - 1] if seq else None

    async def subjects(self, pattern: str) -> dict[str, int]:
        self._there()
        return {name: len(seqs) for name, seqs in self._places.items() if matches(pattern, name)}

    async def end(self) -> int:
        return len(self._records)

    async def purge(self, subject: str, until: int) -> int:
        names = [name for name in self._places if matches(subject, name)]
        gone = [seq for name in names for seq in self._places[name] if seq <= until]
        self._remove(gone)
        return len(gone)

    @asynccontextmanager
    async def present(self, subject: str) -> AsyncGenerator[None]:
        self._present[subject] += 1
        try:
            yield
        finally:
            self._present[subject] -= 1
            if not self._present[subject]:
                del self._present[subject]

    async def is_present(self, subject: str, timeout_s: float) -> bool | None:
        return subject in self._present

    def _store(self, drafts: Sequence[Draft]) -> list[int]:
        """Store all of them or none."""
        for draft in drafts:
            self.check(draft)
        first = drafts[0]
        if first.id is not None and first.id in self._ids:
            return list(range(self._ids[first.id], self._ids[first.id] + len(drafts)))
        if first.at is not None and first.at != len(self._records) + 1:
            raise Conflict(first.subject, first.at - 1, len(self._records))
        for draft in drafts:
            actual = self._last_seq(draft.guard.subjects) if draft.guard else 0
            if draft.guard is not None and actual != draft.guard.last:
                return self._own_or_conflict(drafts, Conflict(draft.subject, draft.guard.last, actual))
        places = [self._put(draft) for draft in drafts]
        for tail in self._tails:
            tail.wake()
        return places

    def _put(self, draft: Draft) -> int:
        seq = len(self._records) + 1
        headers = dict(draft.headers) if draft.id is None else {**draft.headers, MESSAGE_ID: draft.id}
        now_s = self._clock()
        if draft.ttl_s is not None:
            headers[TTL] = str(draft.ttl_s)
        if draft.replaces:
            self._remove(list(self._places.get(draft.subject, ())))
        self._records.append(Record(draft.subject, seq, now_s, headers, draft.body))
        if draft.ttl_s is not None:
            heapq.heappush(self._expiring, (now_s + draft.ttl_s, seq))
        self._places.setdefault(draft.subject, []).append(seq)
        if draft.id is not None:
            self._ids[draft.id] = seq
        return seq

    def _own_or_conflict(self, drafts: Sequence[Draft], conflict: Conflict) -> list[int]:
        first = drafts[0]
        if first.guard is None or first.id is not None or not guards_itself(first):
            raise conflict
        place = next((seq for seq in self._places.get(first.subject, ()) if seq > first.guard.last), 0)
        there = self._records[place - 1 : place - 1 + len(drafts)] if place else []
        if [draft.body for draft in drafts] != [record.body for record in there]:
            raise conflict
        return list(range(place, place + len(drafts)))

    def _last_seq(self, pattern: str) -> int:
        records = self._there()
        if "*" not in pattern and ">" not in pattern:
            return self._places.get(pattern, (0,))[-1]
        if pattern in self._newest:  # only what came since it was last asked for
            last, looked = self._newest[pattern]
            last = next((one.seq for one in reversed(records[looked:]) if _is_on(one, pattern)), last)
        else:
            last = max((seqs[-1] for name, seqs in self._places.items() if matches(pattern, name)), default=0)
        self._newest[pattern] = last, len(records)
        return last

    def _there(self) -> list[Record]:
        """All records by their places; one that has expired is on no subject any more."""
        gone: list[int] = []
        while self._expiring and self._expiring[0][0] <= self._clock():
            gone.append(heapq.heappop(self._expiring)[1])
        if gone:
            self._remove(gone)
        return self._records

    def _remove(self, gone: Sequence[int]) -> None:
        """Take records off their subjects; what was taken off before stays so."""
        by_subject: dict[str, set[int]] = {}
        for seq in gone:
            record = self._records[seq - 1]
            by_subject.setdefault(record.subject, set()).add(seq)
            self._records[seq - 1] = Record("", seq, record.time_s, {}, b"")
        by_subject.pop("", None)
        for subject, seqs in by_subject.items():
            left = [seq for seq in self._places[subject] if seq not in seqs]
            if left:
                self._places[subject] = left
            else:
                del self._places[subject]
        removed = set(gone)
        self._newest = {pattern: known for pattern, known in self._newest.items() if known[0] not in removed}


class _MemoryTail:
    """A cursor over the list of records; `end` bounds it, None lets it wait for more."""

    def __init__(
        self, records: Callable[[], list[Record]], subjects: tuple[str, ...], start: int, end: int | None
    ) -> None:
        self._records = records
        self._subjects = subjects
        self._place = start
        self._end = end
        self._more = asyncio.Event()

    @property
    def caught_up(self) -> bool:
        return self._peek() is None

    async def catch_up(self) -> Record | None:
        record = self._peek()
        if record is not None:
            self._place += 1
        return record

    async def next(self, timeout_s: float | None = None) -> Record | None:
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        while True:
            record = await self.catch_up()
            if record is not None:
                return record
            if self._end is not None:
                return None
            self._more.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._more.wait()
            except TimeoutError:
                return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        record = await self.next()
        if record is None:
            raise StopAsyncIteration
        return record

    def wake(self) -> None:
        self._more.set()

    def _peek(self) -> Record | None:
        records = self._records()
        end = len(records) if self._end is None else self._end
        while self._place < end:
            record = records[self._place]
            if any(_is_on(record, pattern) for pattern in self._subjects):
                return record
            self._place += 1
        return None


async def _each(records: Sequence[Record]) -> AsyncIterator[Record]:
    for record in records:
        yield record


def _is_on(record: Record, pattern: str) -> bool:
    return record.subject != "" and matches(pattern, record.subject)


def _start(records: list[Record], after: int, since_s: float | None) -> int:
    if since_s is None:
        return after
    older = bisect_right(records, since_s, key=lambda record: record.time_s)
    while older and records[older - 1].time_s >= since_s:
        older -= 1
    return max(after, older)
