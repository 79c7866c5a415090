"""Where a trace stands, and reading it: every log of a bus may hold a part of it."""

import difflib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.abc

from convive.agents.journal._journal import Place
from convive.agents.journal._refusals import UnknownRun
from convive.agents.journal._waiting import Where
from convive.agents.traces._trace import Trace
from convive.bus import (
    BadName,
    Bus,
    Conversation,
    ConviveError,
    Log,
    Record,
    RunId,
    UnknownConversation,
    conversation_id,
)

_SHORTEST = 4


@dataclass(frozen=True, slots=True)
class TracePlace:
    """A trace that was found: its root, the run that was asked for, and what to read of which logs."""

    root: RunId
    asked: RunId
    conversation: str | None
    logs: tuple[tuple[Log, tuple[str, ...]], ...]


async def find_trace(where: Where, which: str) -> TracePlace:
    """The trace of a conversation, or of a run by its id, the beginning of it or the end.

    A few requests a log. Raises UnknownRun with near ids, and errors of the bus.
    """
    places = await _places(where)
    there = await _conversation(where, which)
    if there is not None:
        opened = (await there.floor()).opened
        assert opened is not None  # noqa: S101 - `floor` raises otherwise
        return _placed(places, opened.run_id, opened.run_id, there)
    runs, conversations = await journals(where), await _conversations(where)
    # A conversation has no journal, nor has a run that is named and not there.
    known = {root: root for root in (*conversations, *runs.values())} | runs
    found = [RunId(which)] if which in known else _meant(known, which)
    if len(found) != 1:
        raise _unknown(which, found or list(known), list(conversations.values()))
    root = known[found[0]]
    beside = await _conversation(where, conversations[root]) if root in conversations else None
    return _placed(places, root, found[0], beside)


def _meant(runs: Iterable[RunId], which: str) -> list[RunId]:
    return [run for run in runs if run.startswith(which) or run.endswith(which)] if len(which) >= _SHORTEST else []


def _unknown(which: str, runs: Sequence[RunId], conversations: Sequence[str]) -> UnknownRun:
    several = _meant(runs, which)
    if several:
        listed = ", ".join(several[:5]) + (", ..." if len(several) > 5 else "")
        return UnknownRun(f"{len(several)} runs have ids that begin with {which!r} or end with it: {listed}")
    near = difflib.get_close_matches(which, [*conversations, *runs], n=3, cutoff=0.5)
    hint = (
        f" Did you mean {' or '.join(near)}?" if near else " `convive runs` lists the runs, `convive ls` conversations."
    )
    return UnknownRun(f"there is no run and no conversation {which[:80]!r}.{hint}")


async def journals(where: Where) -> dict[RunId, RunId]:
    """All runs that have a journal, each with the outermost run above it. One request a log."""
    found: dict[RunId, RunId] = {}
    for pattern, log in (await _places(where)).items():
        for subject in await log.subjects(f"{pattern}.run.*.*"):
            root, run = subject.split(".")[-2:]
            found[RunId(run)] = RunId(root)
    return found


async def read_trace(where: Where, which: str, *, keep_events: bool = False) -> Trace:
    """A trace as it is now, also one that is under way. Raises as `find_trace`, also when nothing of it is readable."""
    trace = Trace(keep_events=keep_events)
    for log, subjects in (await find_trace(where, which)).logs:
        async with log.read(*subjects) as records:
            async for record in records:
                trace.apply(record)
    if trace.root is None:
        raise UnknownRun(f"what is kept as run {which[:80]!r} has no record that says so: none of it can be read.")
    trace.complete()
    return trace


@asynccontextmanager
async def follow_trace(where: Where, which: str) -> AsyncGenerator[AsyncIterator[Trace]]:
    """A trace while it grows: `async with ... as states`, then one Trace, the same object, after all that was there and
    after each record that comes, until it is over; the last time with all that any log has by then. Raises as
    `find_trace`, out of the iteration as well."""
    place = await find_trace(where, which)
    send, receive = anyio.create_memory_object_stream[_News](256)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        for number, (log, subjects) in enumerate(place.logs):
            tasks.start_soon(_pump, number, log, subjects, send.clone())
        send.close()
        with receive:
            try:
                yield _States(receive, place.logs)
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
                failure = error
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


_News = tuple[int, Record | ConviveError | None]
"""From the log of that number: a record; that it will give no more; or that all that was there has been told."""


async def _pump(number: int, log: Log, subjects: tuple[str, ...], to: anyio.abc.ObjectSendStream[_News]) -> None:
    async with to:
        try:
            async with log.follow(*subjects) as tail:
                while (record := await tail.catch_up()) is not None:
                    await to.send((number, record))
                await to.send((number, None))
                async for record in tail:
                    await to.send((number, record))
        except ConviveError as error:
            await to.send((number, error))


class _States:
    """Folds what the logs bring."""

    def __init__(
        self, receive: anyio.abc.ObjectReceiveStream[_News], logs: Sequence[tuple[Log, tuple[str, ...]]]
    ) -> None:
        self._receive = receive
        self._logs = logs
        self._seen = [0] * len(logs)
        self._behind = len(logs)
        self._trace = Trace()
        self._over = False

    def __aiter__(self) -> AsyncIterator[Trace]:
        return self

    async def __anext__(self) -> Trace:
        if self._over:
            raise StopAsyncIteration
        while True:
            number, news = await self._receive.receive()
            if isinstance(news, Record):
                self._trace.apply(news)
                self._seen[number] = news.seq
            elif news is None:
                self._behind -= 1
            else:
                raise news
            if not self._behind:
                if self._trace.is_over:
                    await self._read_on()
                    self._over = True
                return self._trace

    async def _read_on(self) -> None:
        """The end of one log may come before what another one has had for a while."""
        for (log, subjects), seen in zip(self._logs, self._seen, strict=True):
            async with log.read(*subjects, after=seen) as records:
                async for record in records:
                    self._trace.apply(record)
        self._trace.complete()


def _placed(places: Mapping[str, Log], root: RunId, asked: RunId, conversation: Conversation | None) -> TracePlace:
    logs: list[tuple[Log, tuple[str, ...]]] = []
    for pattern, log in places.items():
        subjects = [f"{pattern}.run.{root}.*"]
        if conversation is not None and f"{conversation.subjects.base}.".startswith(pattern.removesuffix("*")):
            subjects.append(conversation.subjects.floor)
        logs.append((log, tuple(subjects)))
    return TracePlace(root, asked, None if conversation is None else conversation.id, tuple(logs))


async def _conversation(where: Where, name: str) -> Conversation | None:
    """The conversation of that name, if there is one."""
    if isinstance(where, Conversation):
        return where if name == where.id else None
    if isinstance(where, Place):
        return None
    try:
        return await where.existing(conversation_id(name))
    except (UnknownConversation, BadName):
        return None


async def _conversations(where: Where) -> dict[RunId, str]:
    """The names of all conversations, by the run of each."""
    if isinstance(where, Place):
        return {}
    try:
        floors = {where.id: await where.floor()} if isinstance(where, Conversation) else await where.conversations()
    except UnknownConversation:
        return {}  # a name space, where runs keep journals and nobody speaks
    return {floor.opened.run_id: name for name, floor in floors.items() if floor.opened is not None}


async def _places(where: Where) -> dict[str, Log]:
    if isinstance(where, Bus):
        return await where.partitions()
    if isinstance(where, Conversation):
        return {where.subjects.base: where.log}
    return {where.base: where.log}
