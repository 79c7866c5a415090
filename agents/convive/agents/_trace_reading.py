"""Where a trace stands, and reading it: every log of a bus may hold a part of it."""

import difflib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.abc

from convive.agents._journal import Place
from convive.agents._refusals import UnknownRun
from convive.agents._trace import Trace
from convive.agents._waiting import Where
from convive.bus import BadName, Bus, Conversation, Log, Record, RunId, UnknownConversation, conversation_id

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
    if isinstance(where, Bus) and not re.fullmatch(r"[0-9a-f]{32}", which):
        try:
            there = await where.existing(conversation_id(which))
        except (UnknownConversation, BadName):
            pass
        else:
            opened = (await there.floor()).opened
            assert opened is not None  # noqa: S101 - `floor` raises otherwise
            return _placed(places, opened.run_id, opened.run_id, there)
    roots = await journals(where)
    found = [run for run in roots if _is_part(which, run)]
    if len(found) == 1 or which in roots:
        asked = RunId(which) if which in roots else found[0]
        return _placed(places, roots[asked], asked, await _conversation_of(where, roots[asked]))
    beside = await _conversation_of(where, RunId(which))  # whose seats keep no journals
    if beside is not None:
        return _placed(places, RunId(which), RunId(which), beside)
    raise _unknown(which, found or list(roots), [] if not isinstance(where, Bus) else list(await where.conversations()))


def _unknown(which: str, runs: Sequence[str], conversations: Sequence[str]) -> UnknownRun:
    several = [run for run in runs if _is_part(which, run)]
    if several:
        listed = ", ".join(several[:5]) + (", ..." if len(several) > 5 else "")
        return UnknownRun(f"{len(several)} runs have ids that begin with {which!r} or end with it: {listed}")
    near = difflib.get_close_matches(which, [*conversations, *runs], n=3, cutoff=0.5)
    hint = (
        f" Did you mean {' or '.join(near)}?" if near else " `convive runs` lists the runs, `convive ls` conversations."
    )
    return UnknownRun(f"there is no run and no conversation {which[:80]!r}.{hint}")


def _is_part(which: str, run: str) -> bool:
    return len(which) >= _SHORTEST and (run.startswith(which) or run.endswith(which))


async def journals(where: Where) -> dict[RunId, RunId]:
    """All runs that have a journal, each with the outermost run above it. One request a log."""
    found: dict[RunId, RunId] = {}
    for pattern, log in (await _places(where)).items():
        for subject in await log.subjects(f"{pattern}.run.*.*"):
            root, run = subject.split(".")[-2:]
            found[RunId(run)] = RunId(root)
    return found


async def read_trace(where: Where, which: str, *, keep_events: bool = False) -> Trace:
    """A trace as it is now, also one that is under way. Raises as `find_trace`."""
    trace = Trace(keep_events=keep_events)
    for log, subjects in (await find_trace(where, which)).logs:
        async with log.read(*subjects) as records:
            async for record in records:
                trace.apply(record)
    trace.complete()
    return trace


@asynccontextmanager
async def follow_trace(where: Where, which: str) -> AsyncGenerator[AsyncIterator[Trace]]:
    """A trace while it grows: `async with ... as states`, then one Trace, the same object, after all that was there and
    after each record that comes, until it is over. Raises as `find_trace`."""
    place = await find_trace(where, which)
    send, receive = anyio.create_memory_object_stream[Record | None](256)
    async with anyio.create_task_group() as tasks:
        for log, subjects in place.logs:
            tasks.start_soon(_pump, log, subjects, send.clone())
        send.close()
        with receive:
            yield _States(receive, len(place.logs))
        tasks.cancel_scope.cancel()


async def _pump(log: Log, subjects: tuple[str, ...], to: anyio.abc.ObjectSendStream[Record | None]) -> None:
    async with to, log.follow(*subjects) as tail:
        while (record := await tail.catch_up()) is not None:
            await to.send(record)
        await to.send(None)
        async for record in tail:
            await to.send(record)


class _States:
    """Folds what the logs bring."""

    def __init__(self, receive: anyio.abc.ObjectReceiveStream[Record | None], logs: int) -> None:
        self._receive = receive
        self._behind = logs
        self._trace = Trace()
        self._over = False

    def __aiter__(self) -> AsyncIterator[Trace]:
        return self

    async def __anext__(self) -> Trace:
        if self._over:
            raise StopAsyncIteration
        while True:
            record = await self._receive.receive()
            if record is None:
                self._behind -= 1
            else:
                self._trace.apply(record)
            if not self._behind:
                self._over = self._trace.is_over
                return self._trace


def _placed(places: Mapping[str, Log], root: RunId, asked: RunId, conversation: Conversation | None) -> TracePlace:
    logs: list[tuple[Log, tuple[str, ...]]] = []
    for pattern, log in places.items():
        subjects = [f"{pattern}.run.{root}.*"]
        if conversation is not None and f"{conversation.subjects.base}.".startswith(pattern.removesuffix("*")):
            subjects.append(conversation.subjects.floor)
        logs.append((log, tuple(subjects)))
    return TracePlace(root, asked, None if conversation is None else conversation.id, tuple(logs))


async def _conversation_of(where: Where, root: RunId) -> Conversation | None:
    """The conversation whose run is the root, if one is."""
    if isinstance(where, Place):
        return None
    if isinstance(where, Conversation):
        floor = await where.floor()
        return where if floor.opened is not None and floor.opened.run_id == root else None
    for name, floor in (await where.conversations()).items():
        if floor.opened is not None and floor.opened.run_id == root:
            return await where.existing(name)
    return None


async def _places(where: Where) -> dict[str, Log]:
    if isinstance(where, Bus):
        return await where.partitions()
    if isinstance(where, Conversation):
        return {where.subjects.base: where.log}
    return {where.base: where.log}
