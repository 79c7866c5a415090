"""Plain record streams: a log for whoever wants only that (docs/adr/0011).

All records of a stream are on one subject. A guard on one subject is sound on replicas, whoever else writes; a guard
with a wildcard is so only while every writer has the same one.
"""

import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from math import inf

from convive.bus.log._errors import BeyondTail, Conflict, NotAppended, Trimmed
from convive.bus.log._folds import Fold, Folded, State, fold_records
from convive.bus.log._log import Draft, Guard, Log, whole_number
from convive.bus.streams._producer import Place, Producer, open_producer
from convive.bus.streams._stream_fence import Fence
from convive.bus.streams._stream_records import (
    NEXT,
    POSITION,
    Entry,
    Limits,
    Snapshot,
    StreamReader,
    StreamTail,
    draft_of,
    encoded,
    snapshot_of,
)


class Stream:
    """One stream of records. Cheap to make: nothing is read or written before a method is called.

    A position is the place of a record in its log: positions grow, and have gaps. Every method that takes one means
    "what I know up to here, this record included"; 0 is the position in front of all.
    """

    def __init__(self, log: Log, subject: str, name: str) -> None:
        self.log = log
        self.subject = subject
        """Where its records are; any NATS client can read them there."""
        self.name = name
        self.fences = Fence(log, self._beside("fence"), name)

    # Appending

    async def append(
        self,
        body: object,
        headers: Mapping[str, str] | None = None,
        *,
        ttl_s: int | None = None,
        expected: int | None = None,
        token: str | None = None,
        id: str | None = None,
    ) -> int:
        """Append one record durably and return its position. `body`: bytes, or anything that JSON can hold.

        `expected`: only if the last record of the stream is still at that position (0: if there is none).
        `token`: only while the stream is fenced with it. `id`: a second append with the same id within ten minutes is
        answered with the position of the first. Both conditions are the server's to check; together they cost a batch.

        Raises Conflict (not as expected), Fenced, NotAppended (refused, for example too large) or MaybeAppended (no
        answer in time; appending it again is safe with an `id` or `expected`, else it may be stored twice).
        """
        entry = Entry(body, headers or {}, ttl_s)
        return (await self._append([entry], expected, token, id))[0]

    async def append_all(
        self, entries: Iterable[object], *, expected: int | None = None, token: str | None = None
    ) -> list[int]:
        """Append up to 1,000 records, all or none, without another's between them. Each is an `Entry` or a body.

        The rest is as in `append`. For more, or for speed over time, see `producer`.
        """
        wanted = [entry if isinstance(entry, Entry) else Entry(entry) for entry in entries]
        return await self._append(wanted, expected, token, None) if wanted else []

    async def fence(self, token: str, *, held: str | None = None) -> int:
        """Take the stream over: appends with any other token are refused from now on; those without one are not.

        `held`: only if that token counts until now ("": if none does). Returns the position of the fence.
        Raises Fenced when another one does, NotAppended for a token that is none, or MaybeAppended.
        """
        return await self.fences.take(token, held)

    async def _append(
        self, entries: Sequence[Entry], expected: int | None, token: str | None, id: str | None
    ) -> list[int]:
        first, *others = [draft_of(self.name, self.subject, entry) for entry in entries]
        if id is not None:  # the log knows ids of all streams and conversations of its partition
            id = f"{self.subject}/{id}"
        if expected is not None:
            # Without an id a rival's record with the same body would be taken for this one.
            first = replace(first, id=id or secrets.token_hex(8), guard=Guard(self.subject, expected))
        elif id is not None:
            first = replace(first, id=id)
        if token is None:
            return await self._send([first, *others])
        guard = await self.fences.guard(token)
        while True:
            try:
                return (await self._send(self._fenced(first, others, guard)))[: len(entries)]
            except Conflict:
                now = await self.fences.guard(token, fresh=True)
                if now == guard:  # the fence holds, so it was the position that did not
                    raise
                guard = now

    def _fenced(self, first: Draft, others: Sequence[Draft], guard: Guard) -> list[Draft]:
        if first.guard is None:
            return [replace(first, guard=guard), *others]
        if others:
            return [first, replace(others[0], guard=guard), *others[1:]]
        # One record takes one guard: a second record, of which there is ever but one, takes the other.
        return [first, Draft(self._beside("held"), b"", guard=guard, replaces=True)]

    async def _send(self, drafts: Sequence[Draft]) -> list[int]:
        if len(drafts) == 1:
            return [await self.log.append(drafts[0])]
        return await self.log.append_batch(drafts)

    def producer(
        self,
        id: str | None = None,
        *,
        token: str | None = None,
        max_records: int = 10_000,
        max_bytes: int = 16_777_216,
    ) -> AbstractAsyncContextManager[Producer]:
        """Append many records, in batches while others are on their way. The block ends when all of them are stored.

        With an `id` (a slug), records are stored once over restarts as well: submit again from the record number
        `resumed_at` on. Whoever begins with the same id replaces the one before, which gets ProducerReplaced; or
        MaybeAppended, if it had lost touch with the server and cannot know what was stored before.
        `token`: as in `append`. `max_records` and `max_bytes`: what may be under way before `submit` waits.
        Raises BadName, BadRecord, MaybeAppended or BusUnavailable.
        """
        return open_producer(Place(self.log, self.subject, self.name, self.fences, token), id, max_records, max_bytes)

    # Reading

    async def tail(self) -> int:
        """The position of the last record; 0 when there is none."""
        last = await self.log.last(self.subject)
        return last.seq if last else 0

    @asynccontextmanager
    async def read(
        self,
        *,
        after: int = 0,
        since_s: float | None = None,
        last: int | None = None,
        from_snapshot: bool = False,
        until: int | None = None,
        until_s: float | None = None,
        count: int | None = None,
        max_bytes: int | None = None,
        clamp: bool = False,
    ) -> AsyncGenerator[StreamReader]:
        """The records that are there now.

        They begin behind the position `after`, or at the time `since_s` (seconds since 1970), or with the `last` so
        many, or behind the latest snapshot. They end with the position `until`, before the time `until_s`, after
        `count` records, or where body and headers would come to more than `max_bytes` (the first record comes anyway).

        Raises BeyondTail or Trimmed for a position that the log has not reached, or behind which records were trimmed;
        with `clamp`, begins at the nearest position instead. Raises ValueError for arguments that make no sense.
        """
        limits = Limits(_none_or_more(count, inf), _none_or_more(max_bytes, inf), _none_or_more(until_s, inf))
        start = await self._start(_Start(after, since_s, last, from_snapshot, clamp))
        async with self.log.read(self.subject, after=start.after, until=until, since_s=since_s) as records:
            yield StreamReader(self.name, records, await self._begun(start), limits)

    @asynccontextmanager
    async def follow(
        self,
        *,
        after: int = 0,
        since_s: float | None = None,
        last: int | None = None,
        from_snapshot: bool = False,
        clamp: bool = False,
    ) -> AsyncGenerator[StreamTail]:
        """The records, and then those that come. Begins, and raises, as `read`.

        A follower may be slower than the writers: it goes on from its position. Only what is trimmed or expires before
        it gets there is gone.
        """
        start = await self._start(_Start(after, since_s, last, from_snapshot, clamp))
        async with self.log.follow(self.subject, after=start.after, since_s=since_s) as tail:
            yield StreamTail(self.name, tail, start.after, await self._begun(start))

    async def _start(self, start: "_Start") -> "_Start":
        """Where to begin: `after` is right then. Raises BeyondTail or ValueError."""
        given = [start.after != 0, start.since_s is not None, start.last is not None, start.from_snapshot]
        if sum(given) > 1 or start.after < 0:
            raise ValueError("begin behind one position (0 or more), or at one time, or with the last, or a snapshot")
        if start.last is not None:
            return replace(start, after=await self._before_last(int(_none_or_more(start.last, 0))))
        if start.from_snapshot:
            snapshot = await self.latest_snapshot()
            return replace(start, after=snapshot.covers if snapshot else 0)
        if start.after:
            end = await self.log.end()
            if start.after > end:
                if not start.clamp:
                    raise BeyondTail(self.name, start.after, end)
                return replace(start, after=end)
        return start

    async def _begun(self, start: "_Start") -> Snapshot | None:
        """What a reader must know, asked once it is under way: what is trimmed from now on does not concern it.

        Raises Trimmed.
        """
        if start.last is not None or start.clamp or not (start.after or start.from_snapshot):
            return await self.latest_snapshot() if start.from_snapshot else None
        trimmed = await self.trimmed()
        snapshot = await self.latest_snapshot() if start.from_snapshot else None
        known = snapshot.covers if snapshot else start.after
        if known < trimmed and not (start.from_snapshot and snapshot is None):
            raise Trimmed(self.name, known, trimmed)
        return snapshot

    async def _before_last(self, count: int) -> int:
        """The position in front of the last `count` records. Positions have gaps: it looks back ever further."""
        newest = await self.tail()
        span = max(count, 1)
        while count and newest:
            after = max(0, newest - span)
            async with self.log.read(self.subject, after=after, until=newest) as records:
                found = [record.seq async for record in records]
            if len(found) >= count:
                return found[-count] - 1
            if after == 0:
                return 0
            span *= 4
        return newest

    async def fold(self, fold: Fold[State], *, until: int | None = None, keep: bool = True) -> Folded[State]:
        """A state of your own from the records of this stream, as it is now or was at a position. It is kept beside
        them, so that the next fold begins there: see `Fold`, and `fold_records`. What was kept goes on to stand for
        records that were trimmed behind it; one that does not reach as far as the trim is begun anew from what is left.
        """
        beside, gone = self._beside("fold"), self.trimmed
        return await fold_records(self.log, [self.subject], fold, beside, until=until, keep=keep, forgotten=gone)

    # Forgetting

    async def trim(self, position: int) -> int:
        """Forget the records up to `position`, this one included, for good. Returns how many that were.

        A stream of which all was trimmed is empty: the next record is `expected` behind 0. Raises BeyondTail.
        """
        await self._check(position)
        try:
            # First the note, then the removal: whoever begins to read in between is told.
            await self._note_trim(position)
        except NotAppended:  # no room for the note, which a trim is often meant to make
            removed = await self.log.purge(self.subject, position)
            await self._note_trim(position)
            return removed
        return await self.log.purge(self.subject, position)

    async def _note_trim(self, position: int) -> None:
        draft = Draft(self._beside("trimmed"), b"", {POSITION: str(position)}, replaces=True)
        while True:
            last = await self.log.last(draft.subject)
            if last is not None and _position(last.headers) >= position:
                return
            guard = Guard(draft.subject, last.seq if last else 0)
            try:
                await self.log.append(replace(draft, id=secrets.token_hex(8), guard=guard))
            except Conflict:
                continue
            return

    async def trimmed(self) -> int:
        """The position up to which the stream was trimmed; 0 when it never was."""
        last = await self.log.last(self._beside("trimmed"))
        return _position(last.headers) if last else 0

    async def snapshot(self, body: object, headers: Mapping[str, str] | None = None, *, covers: int) -> int:
        """Keep the state that the records up to `covers` lead to, in place of an earlier one. Returns its position.

        Raises BeyondTail, or NotAppended when the one that is there covers more.
        """
        await self._check(covers)
        own = {**(headers or {}), NEXT: str(covers + 1)}
        draft = Draft(self._beside("snapshot"), encoded(self.name, body), own, id=secrets.token_hex(8), replaces=True)
        while True:
            last = await self.latest_snapshot()
            if last is not None and last.covers > covers:
                raise NotAppended(
                    f"stream {self.name}: the snapshot that is there covers it up to {last.covers}, this one up to "
                    f"{covers}. Nothing was changed."
                )
            try:
                return await self.log.append(replace(draft, guard=Guard(draft.subject, last.position if last else 0)))
            except Conflict:
                continue

    async def latest_snapshot(self) -> Snapshot | None:
        """The snapshot that is there, or None. Raises BadRecord when it is not one of ours."""
        last = await self.log.last(self._beside("snapshot"))
        return snapshot_of(self.name, last) if last else None

    async def _check(self, position: int) -> None:
        if position < 0:
            raise ValueError(f"{position} is not a position")
        end = await self.log.end()
        if position > end:
            raise BeyondTail(self.name, position, end)

    def _beside(self, what: str) -> str:
        return f"{self.subject}.{what}"


@dataclass(frozen=True, slots=True)
class _Start:
    after: int
    since_s: float | None
    last: int | None
    from_snapshot: bool
    clamp: bool


def _position(headers: Mapping[str, str]) -> int:
    return whole_number(headers.get(POSITION, "")) or 0


def _none_or_more(value: float | None, otherwise: float) -> float:
    if value is None:
        return otherwise
    if value < 0:
        raise ValueError(f"{value} is less than nothing")
    return value
