"""The log in memory is a model of the one on JetStream: whatever is called on both comes to the same."""

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
import pytest

from convive.bus import Draft, Guard, Log, MemoryLog, NotAppended, Tail, mint_run_id
from convive.bus.checks._log_checks import PATIENCE_S, drain, read_all, seqs
from convive.bus.jetstream._connect import Connection, connect
from convive.bus.jetstream._jetstream import JetStreamLog, StreamPlan, open_log
from convive.bus.jetstream._jetstream_publisher import Publisher

pytestmark = pytest.mark.anyio

SUBJECTS = ("a", "b", "c.x", "c.y", "d.x.y")
PATTERNS = (*SUBJECTS, "c.*", "c.>", "d.>", "*", ">")
SETS = (*((one,) for one in PATTERNS), ("a", "b"), ("a", "c.*"), ("b", "c.x", "d.>"))
STEPS = 120


class Pair:
    """Two empty logs that are told the same; both count from 1."""

    def __init__(self, seed: int, server: JetStreamLog, base: str) -> None:
        self.rnd = random.Random(seed)  # noqa: S311 - no secret
        self.logs: tuple[Log, Log] = (MemoryLog(), server)
        self.base = base
        self._again: dict[str, Draft] = {}

    async def same(self, call: Callable[[Log], Awaitable[object]]) -> None:
        """Call both; what they return, or how they refuse, is the same."""
        told: list[object] = []
        for log in self.logs:
            try:
                with anyio.fail_after(PATIENCE_S):
                    told.append(await call(log))
            except NotAppended as error:
                told.append(type(error))
        assert told[1] == told[0]

    def subjects(self) -> list[str]:
        return [f"{self.base}.{one}" for one in self.rnd.choice(SETS)]

    async def place(self) -> int:
        """A place in the log, or a little beyond its end."""
        return self.rnd.randint(0, await self.logs[0].end() + 2)

    async def draft(self) -> Draft:
        rnd = self.rnd
        draft = Draft(f"{self.base}.{rnd.choice(SUBJECTS)}", str(rnd.random()).encode(), replaces=rnd.random() < 0.15)
        if rnd.random() < 0.5:
            return draft
        watched = f"{self.base}.{rnd.choice(PATTERNS[:-2])}"
        last = await self.logs[0].last(watched)
        return replace(draft, guard=Guard(watched, rnd.choice([last.seq if last else 0, await self.place()])))

    async def drafts(self) -> list[Draft]:
        """A record or a batch, maybe for a place, maybe by an id: then the same as whenever that came before."""
        first, *others = [await self.draft() for _ in range(self.rnd.choice((1, 1, 1, 2, 4)))]
        kind = self.rnd.random()
        if kind < 0.1:
            first = replace(first, at=max(1, await self.place()))
        if kind < 0.9:
            return [first, *others]
        key = f"{self.base}/{self.rnd.randint(0, 4)}"
        # Of what was removed one node does not know its own any more, if it is a batch or has a guard that has moved.
        return [self._again.setdefault(key, replace(first, id=key, guard=None))]


async def step(pair: Pair) -> None:
    """One call on both, of those that return."""
    drafts, subjects = await pair.drafts(), pair.subjects()
    after, until = pair.rnd.choice((0, await pair.place())), pair.rnd.choice((None, await pair.place()))

    async def latest(log: Log) -> list[tuple[int, str]]:
        async with log.latest(subjects[0]) as records:
            return [(record.seq, record.subject) async for record in records]

    async def last(log: Log) -> tuple[int, bytes] | None:
        found = await log.last(subjects[0])
        return (found.seq, found.body) if found else None

    async def read(log: Log) -> list[tuple[int, str, bytes]]:
        return [(one.seq, one.subject, one.body) for one in await read_all(log, *subjects, after=after, until=until)]

    async def append(log: Log) -> list[int]:
        return [await log.append(drafts[0])] if len(drafts) == 1 else await log.append_batch(drafts)

    async def purge(log: Log) -> int:
        return await log.purge(subjects[0], until or 0)

    await pair.same(pair.rnd.choice((append, append, append, append, read, read, latest, last, purge)))
    await pair.same(lambda log: log.subjects(f"{pair.base}.>"))
    await pair.same(lambda log: log.end())


async def open_pair(stack: AsyncExitStack, connection: Connection, seed: int, *, replicated: bool) -> Pair:
    publisher, name = Publisher(connection, 10), f"M{mint_run_id()}"
    await publisher.start()
    log = await open_log(connection, publisher, StreamPlan(name, f"{name}.>", 1, {}))
    stack.push_async_callback(connection.api, f"STREAM.DELETE.{name}")
    # With what is asked of the leader beside, which is the only server there is.
    return Pair(seed, JetStreamLog(connection, publisher, name, replicated=True) if replicated else log, name)


@pytest.mark.parametrize("replicated", [False, True], ids=["one node", "as on replicas"])
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_called_on_both_logs_comes_to_the_same(url: str, seed: int, *, replicated: bool) -> None:
    async with connect(url) as connection, AsyncExitStack() as stack:
        pair = await open_pair(stack, connection, seed, replicated=replicated)
        for _ in range(STEPS):
            await step(pair)


async def caught_up(tail: Tail, count: int, there: set[int]) -> list[int]:
    """The next `count` records of a tail; what was removed meanwhile may have come before, or not."""
    found: list[int] = []
    with anyio.fail_after(PATIENCE_S):
        while len(found) < count:
            record = await tail.next()
            assert record is not None
            found += [record.seq] if record.seq in there else []
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_followed_on_both_logs_comes_to_the_same(url: str, seed: int) -> None:
    """Tails that begin anywhere, on subjects that others follow, and are left again."""
    async with connect(url) as connection, AsyncExitStack() as stack:
        pair = await open_pair(stack, connection, seed, replicated=seed % 2 == 0)
        model, server = pair.logs
        tails: list[tuple[AsyncExitStack, Tail, Tail]] = []
        for _ in range(STEPS):
            kind = pair.rnd.random()
            if kind < 0.1 and len(tails) < 5:
                own, subjects, after = AsyncExitStack(), pair.subjects(), await pair.place()
                await stack.enter_async_context(own)
                both = [await own.enter_async_context(log.follow(*subjects, after=after)) for log in pair.logs]
                tails.append((own, both[0], both[1]))
            elif kind < 0.15 and tails:
                await tails.pop(pair.rnd.randrange(len(tails)))[0].aclose()
            elif kind < 0.4 and tails:
                _, ours, theirs = pair.rnd.choice(tails)
                there = set(seqs(await read_all(model, f"{pair.base}.>")))
                expected = seqs(await drain(ours))
                assert await caught_up(theirs, len(expected), there) == expected
            else:
                await step(pair)
        assert seqs(await read_all(server, f"{pair.base}.>")) == seqs(await read_all(model, f"{pair.base}.>"))
