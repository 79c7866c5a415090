"""Following a channel: the runs that are announced on it, each from its journal, told in one iteration."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream, TaskGroup

from convive.agents.journal._journal import Place
from convive.agents.queues._channel import announcements, begun_of, channel_space
from convive.agents.queues._queue import ENDINGS, QueuedRun, RunUpdate, shown_by, update_of
from convive.bus import BadRecord, Bus, ConviveError, Record, RunContext, RunId, Tail, run_of

Told = RunUpdate | ConviveError


@asynccontextmanager
async def follow_channel(
    bus: Bus, channel: str, *, since_s: float = 0.0, seen: Mapping[RunId, int] | None = None
) -> AsyncGenerator[AsyncIterator[RunUpdate]]:
    """What happened in the runs of a channel, then what happens in them and in those that come, until it is left.

    The updates of a run are in order, those of several are mixed. `since_s` (seconds since 1970): only runs begun since
    then. `seen`: the `seq` of the last update that was seen of each run, to go on behind it. A run that is over costs
    two requests, one under way a consumer of its own.

    Raises BadName; the iteration raises BadRecord, and BusUnavailable when the bus is gone for good.
    """
    space = await bus.conversation(channel_space(channel))
    send, receive = anyio.create_memory_object_stream[Told]()
    failure: Exception | None = None
    async with (
        space.log.follow(announcements(space), since_s=since_s) as tail,
        send,
        receive,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_Listener(bus, send, tasks, dict(seen or {})).listen, tail)
        try:
            yield _Updates(receive)
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


@dataclass(frozen=True, slots=True)
class _Updates:
    """What the listener found. Not a generator: one that is left half-way would wait to be finalized."""

    told: ObjectReceiveStream[Told]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RunUpdate:
        told = await self.told.receive()
        if isinstance(told, ConviveError):
            raise told
        return told


class _Listener:
    """Takes up each run that is announced, once."""

    def __init__(self, bus: Bus, send: ObjectSendStream[Told], tasks: TaskGroup, seen: dict[RunId, int]) -> None:
        self._bus = bus
        self._send = send
        self._tasks = tasks
        self._seen = seen
        self._known: set[RunId] = set()

    async def listen(self, tail: Tail) -> None:
        try:
            while True:
                record = await tail.next()
                if record is not None:
                    await self._take_up(record)
        except ConviveError as error:
            await self._send.send(error)

    async def _take_up(self, record: Record) -> None:
        begun, run = begun_of(record), run_of(record.headers)
        if run is None:
            raise BadRecord(record.subject, record.seq, "it names no run")
        if run.run_id in self._known:
            return  # another worker went on with it
        self._known.add(run.run_id)
        space = await self._bus.conversation(begun.space)
        place, after = Place(space.log, space.subjects.base), self._seen.get(run.run_id, 0)
        last = await place.log.last(place.journal(run))
        if last is None or update_of(last, run.run_id).name not in ENDINGS:
            self._tasks.start_soon(self._follow, place, run, after, begun.prefix or "")
            return
        async with place.log.read(place.journal(run), place.live_text(run), after=after, until=last.seq) as records:
            async for each in records:
                if (update := shown_by(each, run.run_id, begun.prefix or "")) is not None:
                    await self._send.send(update)

    async def _follow(self, place: Place, run: RunContext, after: int, prefix: str) -> None:
        try:
            async with QueuedRun(place, run).events(after=after, prefix=prefix) as updates:
                async for update in updates:
                    await self._send.send(update)
        except ConviveError as error:
            await self._send.send(error)
