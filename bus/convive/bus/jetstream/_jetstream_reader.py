"""Readers of a stream that end, each with a consumer of its own."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Self

from convive.bus.jetstream._connect import Connection
from convive.bus.jetstream._jetstream_consumer import SILENCE_S, Consumer
from convive.bus.log._errors import BusUnavailable
from convive.bus.log._log import Record

ROOM = 8_192
"""Records that wait for a reader. With more, it holds the server back, or lets them go and reads them again later."""

BULK = 8_192
"""For so many bytes a record counts once more."""


def room_of(record: Record) -> int:
    """How much of `ROOM` a record takes."""
    return 1 + len(record.body) // BULK


class BoundedReader:
    """The records that a stream holds now, up to `until`; an async iterator that ends.

    `newest` asks the leader for the place of the newest record that there is, or 0. The server that delivers may be a
    replica that has not heard of it yet: the reader does not end before it, unless it has expired meanwhile.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subjects: tuple[str, ...],
        after: int,
        until: int | None,
        since_s: float | None,
        newest: Callable[[], Awaitable[int]],
        *,
        latest: bool = False,
    ) -> None:
        self._ask_newest = newest
        self._newest = 0
        self._patience_s = connection.patience_s
        self._lacking_since_s: float | None = None
        self._waiting: deque[Record] = deque()
        self._taken = 0
        self._handed = after
        self._more = asyncio.Event()
        self._until = until
        self._done = False
        self._consumer = Consumer(
            connection, stream, subjects, after, since_s, self._take, lambda: self._taken >= ROOM, latest=latest
        )

    async def open(self) -> None:
        self._newest = await self._ask_newest()
        await self._consumer.open()
        self._finish_if_complete()

    async def close(self) -> None:
        await self._consumer.close()

    @property
    def node(self) -> str:
        """The server that delivers, by its name."""
        return self._consumer.node

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        while True:
            if self._waiting:
                record = self._waiting.popleft()
                self._taken -= room_of(record)
                self._handed = record.seq
                if self._consumer.is_held and self._taken < ROOM // 2:
                    await self._consumer.resume()
                return record
            if self._done:
                raise StopAsyncIteration
            await self._wait()

    async def _wait(self) -> None:
        self._more.clear()
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._more.wait()
        except TimeoutError:
            if not self._consumer.silent:
                await self._look_again()
        if self._consumer.trouble.is_set() or self._consumer.silent:
            await self._renew()
        self._finish_if_complete()

    async def _renew(self) -> None:
        await self._consumer.replace(wait_for_server=False)

    async def _look_again(self) -> None:
        """Nothing has come for a while. Records that expired are counted, or known as the newest, but never come."""
        await self._consumer.recount()
        if not self._consumer.complete or self._consumer.last >= self._newest:
            return
        now_known = await self._ask_newest()
        if now_known < self._newest:
            self._newest = now_known
            return
        # The leader has it, and who delivers has not: another one may.
        now_s = asyncio.get_running_loop().time()
        self._lacking_since_s = self._lacking_since_s or now_s
        if now_s - self._lacking_since_s > self._patience_s:
            raise BusUnavailable(
                f"record {self._newest} is known to the leader of its stream, and no server has delivered it for "
                f"{self._patience_s:g} s. It is safe; read again when the servers have caught up with one another."
            )
        self._consumer.trouble.set()

    def _take(self, record: Record | None) -> None:
        if self._done:
            return
        if record is not None and (self._until is None or record.seq <= self._until):
            self._waiting.append(record)
            self._taken += room_of(record)
            self._lacking_since_s = None
        self._finish_if_complete()
        self._more.set()

    def _finish_if_complete(self) -> None:
        last = self._consumer.last
        if (self._until is not None and last >= self._until) or (self._consumer.complete and last >= self._newest):
            self._done = True


class FreshReader(BoundedReader):
    """The last record of each subject, from a server that had the newest of all records when it began.

    One that lags takes older records for the last of their subjects. Nothing in a delivery says how far its server was
    when the consumer was made; so a server is chosen that has delivered the newest record to another one before.
    """

    def __init__(
        self, connection: Connection, stream: str, subjects: tuple[str, ...], newest: Callable[[], Awaitable[int]]
    ) -> None:
        super().__init__(connection, stream, subjects, 0, None, None, newest, latest=True)
        self._where = connection, stream, subjects
        self._fresh: set[str] = set()
        """The servers that have the newest record, by their names."""

    async def open(self) -> None:
        self._newest = await self._ask_newest()
        await self._find_one()
        await self._consumer.open()
        await self._until_fresh()
        self._finish_if_complete()

    async def _renew(self) -> None:
        await super()._renew()
        await self._until_fresh()

    async def _until_fresh(self) -> None:
        while self._newest and self._consumer.node not in self._fresh:
            await self._consumer.stop()
            self._waiting.clear()
            self._taken, self._done, self._consumer.last = 0, False, self._handed
            await self._find_one()
            await super()._renew()

    async def _find_one(self) -> None:
        """Have one server deliver the newest record, however late it has it: whichever is asked to."""
        if not self._newest:
            return
        probe = BoundedReader(*self._where, self._newest - 1, self._newest, None, self._ask_newest)
        try:
            await probe.open()
            found = [record async for record in probe]
        finally:
            await probe.close()
        if found:
            self._fresh.add(probe.node)
        else:  # it has expired, or was removed, and says nothing any more
            self._newest = await self._ask_newest()
            self._fresh.clear()


class EachOnce:
    """Of records in their order, the last of each subject.

    Where there are replicas, the one that delivers may lag: what it takes for the last record of a subject comes first,
    and the newer one behind it. So all are read before the first is handed out; where that are more than `ROOM`, they
    are read again, from one that does not.
    """

    def __init__(self, records: AsyncIterator[Record], fresh: Callable[[], Awaitable[AsyncIterator[Record]]]) -> None:
        self._records = records
        self._fresh = fresh
        self._found: Iterator[Record] | None = None
        self._streamed: AsyncIterator[Record] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        if self._streamed is None and self._found is None:
            await self._begin()
        if self._streamed is not None:
            return await anext(self._streamed)
        found = None if self._found is None else next(self._found, None)
        if found is None:
            raise StopAsyncIteration
        return found

    async def _begin(self) -> None:
        last: dict[str, Record] = {}
        room = 0
        async for record in self._records:
            older = last.pop(record.subject, None)
            last[record.subject] = record
            room += room_of(record) - (0 if older is None else room_of(older))
            if room > ROOM:
                self._streamed = await self._fresh()
                return
        self._found = iter(last.values())
