"""Live readers of a stream, which share a consumer.

A consumer per listener costs the server 25 ms for a thousand listeners, one consumer handed out in process 4 ms
(architecture.md section 3). So all tails of one process on the same subjects share a `Hub`, and what it has received:
handing a record out costs the same for one tail and for a thousand, beside waking those that wait.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Self

import anyio

from convive.bus.jetstream._connect import Connection
from convive.bus.jetstream._jetstream_consumer import RETRY_S, SILENCE_S, Consumer
from convive.bus.jetstream._jetstream_reader import ROOM, room_of
from convive.bus.log._errors import BusUnavailable
from convive.bus.log._log import Record, matches

REFILL_S = 1.0
"""How long a reader that has to read again may take for it at least, whatever time it was given."""


class _Link:
    """A record that a hub has received, and the one after it. Whoever reads holds the link that it read last, so what
    everybody has read is freed by itself. `number` is how much has come up to here, as `ROOM` counts it."""

    __slots__ = ("next", "number", "record")

    def __init__(self, record: Record, number: int) -> None:
        self.record = record
        self.number = number
        self.next: _Link | None = None


_NOTHING = Record("", 0, 0.0, {}, b"")


class Hub:
    """One live consumer and the tails that it feeds."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subjects: tuple[str, ...],
        after: int,
        since_s: float | None,
    ) -> None:
        self.consumer = Consumer(connection, stream, subjects, after, since_s, self._hand_out, lambda: False)
        self.subjects = subjects
        self.since_s = since_s
        self.tails: set[LiveTail] = set()
        self.waiting: set[LiveTail] = set()
        """Those that have read everything, to be woken."""
        self.newest = _Link(_NOTHING, 0)
        self._looked_at = 0
        self.failure: BusUnavailable | None = None
        self._scope = anyio.CancelScope()
        self._last_looked = 0

    async def keep(self) -> None:
        """Replace the consumer whenever it may be gone. Runs until `close`."""
        with self._scope:
            while self.failure is None:
                try:
                    async with asyncio.timeout(SILENCE_S):
                        await self.consumer.trouble.wait()
                except TimeoutError:
                    if not self.consumer.silent:
                        await self._recount()
                        continue
                await self._heal()

    async def close(self) -> None:
        """End the delivery."""
        self._scope.cancel()
        await self.consumer.close()

    async def _recount(self) -> None:
        # Records that expired meanwhile are counted but never come.
        if not self.consumer.complete and self.consumer.last == self._last_looked:
            await self.consumer.recount()
        self._last_looked = self.consumer.last
        if self.consumer.complete:
            with contextlib.suppress(BusUnavailable):
                if any([await tail.look_again() for tail in tuple(self.tails)]):
                    self.consumer.trouble.set()  # the leader has it, and who delivers has not: another one may

    async def _heal(self) -> None:
        try:
            await self.consumer.replace(wait_for_server=True)
        except BusUnavailable as error:
            self.failure = error
            self._wake_all()

    def _hand_out(self, record: Record | None) -> None:
        if record is None:
            self._wake_all()
            return
        link = _Link(record, self.newest.number + room_of(record))
        self.newest.next = link
        self.newest = link
        if self.waiting:
            self.waiting = {tail for tail in self.waiting if not tail.offer(link)}
        if link.number - self._looked_at >= ROOM // 8:
            self._looked_at = link.number
            for tail in self.tails:
                tail.fall_behind(link.number - ROOM)

    def _wake_all(self) -> None:
        for tail in self.waiting:
            tail.wake()


class Hubs:
    """The hubs of one log that others may join, found by any of their subjects."""

    def __init__(self) -> None:
        self._delivering: dict[str, set[Hub]] = {}

    def find(self, subjects: tuple[str, ...], since_s: float | None) -> Hub | None:
        """A hub that delivers these subjects, maybe among others: its tails pick what they want.

        One that started at a time is for the same subjects and time: its first sequence number is not known beforehand.
        """
        for hub in self._delivering.get(subjects[0] if subjects else "", ()):
            fits = set(hub.subjects).issuperset(subjects) if since_s is None else hub.subjects == subjects
            if fits and hub.since_s == since_s and hub.failure is None:
                return hub
        return None

    def add(self, hub: Hub) -> None:
        for subject in hub.subjects:
            self._delivering.setdefault(subject, set()).add(hub)

    def remove(self, hub: Hub) -> None:
        for subject in hub.subjects:
            self._delivering[subject].discard(hub)
            if not self._delivering[subject]:
                del self._delivering[subject]


class LiveTail:
    """See `Tail`. What came before the hub joined, or while this reader was slow, is read in chunks of its own.

    `newest`, and what it asks the leader for, are those of `BoundedReader`: a tail has not caught up before it.
    """

    def __init__(
        self,
        hub: Hub,
        subjects: tuple[str, ...],
        after: int,
        read: Callable[[int, int], AbstractAsyncContextManager[AsyncIterator[Record]]],
        ask_newest: Callable[[], Awaitable[int]],
        newest: int,
    ) -> None:
        self._hub = hub
        self._subjects = () if subjects == hub.subjects else subjects
        self._read = read
        self._ask_newest = ask_newest
        self._newest = newest
        self._seen = after
        self._horizon = hub.consumer.last if after < hub.consumer.last else after
        self._old: deque[Record] = deque()
        self._link: _Link | None = hub.newest
        """What was read last of what the hub has received; None: too much has come since."""
        self._more: asyncio.Future[None] | None = None

    @property
    def caught_up(self) -> bool:
        if not self._complete or self._old or self._link is None or self._seen < self._horizon:
            return False
        return self._following() is None

    @property
    def _complete(self) -> bool:
        return self._hub.consumer.complete and self._hub.consumer.last >= self._newest

    async def look_again(self) -> bool:
        """Whether the leader knows of a record that has not been delivered yet. Raises BusUnavailable."""
        if self._hub.consumer.last < self._newest:
            self._newest = min(self._newest, await self._ask_newest())  # a lower one: it has expired meanwhile
            self.wake()
        return self._hub.consumer.last < self._newest

    async def catch_up(self) -> Record | None:
        while True:
            record = await self._take(None)
            if record is not None or self._complete:
                return record
            await self._arrival(None)

    async def next(self, timeout_s: float | None = None) -> Record | None:
        record = self._here()
        if record is not None:
            return record
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        while True:
            record = await self._take(deadline)
            if record is not None or (deadline is not None and loop.time() >= deadline):
                return record
            await self._arrival(deadline)

    async def _take(self, deadline: float | None) -> Record | None:
        """The next record of those that are here or can be read, or None. Raises BusUnavailable behind the last one."""
        loop = asyncio.get_running_loop()
        while True:
            record = self._here()
            if record is not None:
                return record
            if self._seen < self._horizon:
                # Who asks with hardly any time, again and again, must get on all the same.
                until = None if deadline is None else max(deadline, loop.time() + REFILL_S)
                try:
                    async with asyncio.timeout_at(until):
                        answered = await self._refill()
                except TimeoutError:
                    answered = False
                if not answered and not self._old and deadline is not None and loop.time() >= deadline:
                    return None
            elif self._link is None:
                self._link = self._hub.newest
                self._horizon = self._hub.consumer.last
            elif self._hub.failure is not None:
                raise self._hub.failure
            else:
                return None

    def _here(self) -> Record | None:
        """The next record, if it has arrived."""
        if self._old:
            return self._old.popleft()
        link = None if self._seen < self._horizon else self._following()
        if link is None:
            return None
        self._link = link
        self._seen = link.record.seq
        return link.record

    def _following(self) -> _Link | None:
        """The next link with a record for this tail. What comes before it is passed over."""
        link = self._link
        while link is not None and (link := link.next) is not None:
            if link.record.seq > self._seen and self._wants(link.record.subject):
                return link
            self._link = link
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        record = self._here() or await self.next()
        assert record is not None  # noqa: S101 - next() without a deadline returns a record or raises
        return record

    def offer(self, link: _Link) -> bool:
        """Wake this tail, which waits, if a link that has come is for it; says whether it is."""
        wanted = link.record.seq > self._seen and self._wants(link.record.subject)
        if wanted:
            self.wake()
        else:
            self._link = link
        return wanted

    def fall_behind(self, number: int) -> None:
        """Give up what came before a link of that number, and keep it from being freed no longer: read it again."""
        if self._link is not None and self._link.number < number:
            self._link = None

    def wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _wants(self, subject: str) -> bool:
        """Whether this tail asked for a subject; its hub may deliver more than that."""
        for pattern in self._subjects:  # for each record: a generator would cost more than what it asks
            if matches(pattern, subject):
                return True
        return not self._subjects

    async def _arrival(self, deadline: float | None) -> None:
        """Wait for a record or for the deadline. A timer of the loop costs a quarter of what asyncio.timeout does."""
        loop = asyncio.get_running_loop()
        self._more = loop.create_future()
        self._hub.waiting.add(self)
        timer = None if deadline is None else loop.call_at(deadline, self.wake)
        try:
            await self._more
        finally:
            self._more = None
            self._hub.waiting.discard(self)
            if timer is not None:
                timer.cancel()

    async def _refill(self) -> bool:
        """Read what is still missing up to the horizon; False when the server did not answer."""
        taken = 0
        try:
            async with self._read(self._seen, self._horizon) as records:
                async for record in records:
                    if taken >= ROOM:
                        return True  # only now is it certain that there is more
                    taken += room_of(record)
                    self._old.append(record)
                    self._seen = record.seq
        except BusUnavailable:
            if self._hub.failure is not None:  # the hub judges whether it is for good
                raise
            await asyncio.sleep(RETRY_S)
            return False
        self._seen = self._horizon
        return True
