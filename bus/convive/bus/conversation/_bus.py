"""The bus: conversations over the partitions of a store."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import anyio

from convive.bus.conversation._conversation import Conversation
from convive.bus.conversation._floor import Floor, fold_floor
from convive.bus.log._errors import UnknownConversation
from convive.bus.log._ids import ConversationId, conversation_id, is_slug, run_id
from convive.bus.log._log import Log
from convive.bus.log._memory_log import MemoryLog
from convive.bus.log._memory_queue import MemoryWorkQueue
from convive.bus.log._queue import LEASE_S, WorkQueue, queue_name
from convive.bus.log._subjects import Subjects, address_of, partition_of
from convive.bus.streams._stream import Stream
from convive.bus.streams._stream_records import shown_name, stream_name

Sync = Literal["always", "lazy", "unknown"]


class Bus:
    """Conversations and streams, each whole in one partition. Made by `open_bus` or `memory_bus`."""

    def __init__(
        self,
        partition: Callable[[int], Awaitable[Log]],
        found: Callable[[int], Awaitable[Log | None]],
        existing: Callable[[], Awaitable[Mapping[int, Log]]],
        queue: Callable[[str, float], Awaitable[WorkQueue]],
        *,
        prefix: str,
        partitions: int,
        where: str,
        sync: Sync = "unknown",
    ) -> None:
        self._partition = partition
        self._found = found
        self._existing = existing
        self._queue = queue
        self._prefix = prefix
        self._partitions = partitions
        self.where = where
        """The server's URL, without credentials, or `memory`."""
        self.sync: Sync = sync
        """When an acknowledged record is on disk: `always`, before the acknowledgement; `lazy`, within two minutes, so
        that a power cut (not a kill) can cost that much; `unknown`, as the server at that URL is set up."""

    def around(self, put: Callable[[Log], Log]) -> "Bus":
        """The same bus with `put(log)` in the place of each of its logs: one that counts or records, say a `LogAround`.
        Work queues are no logs, and stay as they are."""

        async def partition(number: int) -> Log:
            return put(await self._partition(number))

        async def found(number: int) -> Log | None:
            log = await self._found(number)
            return None if log is None else put(log)

        async def existing() -> Mapping[int, Log]:
            return {number: put(log) for number, log in (await self._existing()).items()}

        return Bus(
            partition,
            found,
            existing,
            self._queue,
            prefix=self._prefix,
            partitions=self._partitions,
            where=self.where,
            sync=self.sync,
        )

    async def conversation(self, name: str) -> Conversation:
        """A conversation by name, whether it was opened yet or not. Raises BadName."""
        conversation = conversation_id(name)
        number = partition_of(conversation, self._partitions)
        subjects = Subjects.of(self._prefix, number, conversation)
        return Conversation(await self._partition(number), conversation, subjects)

    async def existing(self, name: str) -> Conversation:
        """A conversation that was opened. Raises BadName or UnknownConversation; creates nothing."""
        conversation = conversation_id(name)
        number = partition_of(conversation, self._partitions)
        log = await self._found(number)
        subjects = Subjects.of(self._prefix, number, conversation)
        if log is None or await log.last(subjects.floor) is None:
            raise UnknownConversation(conversation)
        return Conversation(log, conversation, subjects)

    async def run_place(self, run: str) -> Conversation | None:
        """The conversation, or name space, beside which a run keeps its journal; None for a run that has none yet.

        One request a partition; creates nothing. Raises BadName for what is not the id of a run.
        """
        run_id(run)
        for pattern, log in (await self.partitions()).items():
            for subject in await log.subjects(f"{pattern}.run.*.{run}"):
                name = address_of(subject).conversation
                return Conversation(log, name, Subjects(pattern.removesuffix("*") + name))
        return None

    async def partitions(self) -> dict[str, Log]:
        """The logs that there are, by the pattern of the conversations in each, such as `cv.03.*`. Creates nothing."""
        logs = (await self._existing()).items()
        return {f"{self._prefix}.{number:02d}.*": log for number, log in sorted(logs)}

    async def work_queue(self, name: str = "default", *, lease_s: float = LEASE_S) -> WorkQueue:
        """A work queue by name. `lease_s` counts for a queue that no worker has listened to yet.

        Raises BadName, BusUnavailable or WrongStream.
        """
        if not 0.1 <= lease_s <= 86_400:
            raise ValueError(f"a lease of {lease_s} s is not one of 0.1 s to a day")
        return await self._queue(queue_name(name), lease_s)

    async def stream(self, name: str) -> Stream:
        """A plain stream of records by name: `orders`, or `dinner/notes` for the stream `notes` in the order of the
        conversation `dinner`. It is there as soon as something is appended. Raises BadName or BusUnavailable."""
        space, short = stream_name(name)
        number = partition_of(space, self._partitions)
        subjects = Subjects.of(self._prefix, number, space)
        return Stream(await self._partition(number), subjects.stream(short), shown_name(space, short))

    async def streams(self) -> dict[str, int]:
        """The plain streams on this bus and how many records each holds. One request a partition."""
        found: dict[str, int] = {}
        for number, log in sorted((await self._existing()).items()):  # of its own: others may be opened meanwhile
            for subject, count in (await log.subjects(f"{self._prefix}.{number:02d}.*.stream.*")).items():
                address = address_of(subject)
                ours = is_slug(address.conversation) and is_slug(address.name)
                if ours and partition_of(address.conversation, self._partitions) == number:
                    found[shown_name(address.conversation, address.name)] = count
        return dict(sorted(found.items()))

    async def conversations(self) -> dict[ConversationId, Floor]:
        """The floor of every conversation on this bus, by name. One reader a partition, whatever their number.

        One without `opened` holds nothing but records that are not ours.
        """
        floors: dict[ConversationId, Floor] = {}
        for number, log in sorted((await self._existing()).items()):
            async with log.read(f"{self._prefix}.{number:02d}.*.bus.>") as records:
                async for record in records:
                    name = address_of(record.subject).conversation
                    if partition_of(name, self._partitions) == number and is_slug(name):
                        floors[name] = fold_floor(floors.get(name, Floor()), record)
        return dict(sorted(floors.items()))


def check_partitions(count: object) -> None:
    """Raises TypeError for what is no whole number, ValueError for one below 1."""
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"partitions={count!r} is no whole number.")
    if count < 1:
        raise ValueError(f"partitions={count}: a store has at least one.")


@asynccontextmanager
async def memory_bus(*, partitions: int = 16) -> AsyncGenerator[Bus]:
    """A bus in this process's memory. Nothing survives it."""
    check_partitions(partitions)
    logs: dict[int, MemoryLog] = {}

    async def partition(number: int) -> Log:
        await anyio.lowlevel.checkpoint()
        return logs.setdefault(number, MemoryLog())

    async def found(number: int) -> Log | None:
        await anyio.lowlevel.checkpoint()
        return logs.get(number)

    async def existing() -> Mapping[int, Log]:
        await anyio.lowlevel.checkpoint()
        return logs

    queues: dict[str, MemoryWorkQueue] = {}

    async def queue(name: str, lease_s: float) -> WorkQueue:
        await anyio.lowlevel.checkpoint()
        return queues.setdefault(name, MemoryWorkQueue(name, lease_s))

    yield Bus(partition, found, existing, queue, prefix="cv", partitions=partitions, where="memory", sync="lazy")
