"""Where a reader on replicas begins: behind what the leader has removed, and never behind what is there or comes."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from convive.bus import Draft, open_bus
from convive.bus.checks._log_checks import seqs
from convive.bus.jetstream._connect import Connection, NoAnswer
from convive.bus.jetstream._jetstream import JetStreamLog
from convive.bus.testing import drafts, read_all, take

pytestmark = pytest.mark.anyio


class Removed(JetStreamLog):
    """A log on replicas whose leader has removed records that the server which delivers still has."""

    begins: int | None = None
    """Where the leader's records begin; None: it has none."""

    async def _begin_on(self, subject: str, after: int) -> int:
        return max(after, await self.end() if self.begins is None else self.begins - 1)


class Meanwhile(Connection):
    """A connection on which something happens behind the first answer to a question about records."""

    def __init__(self, connection: Connection, happens: Callable[[], Awaitable[None]]) -> None:
        super().__init__(connection.client, connection.url, connection.tasks, connection.patience_s)
        self._happens: Callable[[], Awaitable[None]] | None = happens

    async def api(
        self, verb: str, payload: dict[str, Any] | None = None, *, patience_s: float | None = None
    ) -> dict[str, Any]:
        try:
            return await super().api(verb, payload, patience_s=patience_s)
        finally:
            if verb.startswith("STREAM.MSG.GET") and self._happens is not None:
                happens, self._happens = self._happens, None
                await happens()


class PlacedOnTheLost(Connection):
    """A connection to a cluster that places the first consumers on a node of which it does not know yet that it is
    lost, and keeps to that for their names."""

    def __init__(self, connection: Connection, placed: int) -> None:
        super().__init__(connection.client, connection.url, connection.tasks, connection.patience_s)
        self._placed = placed
        self._names = set[str]()

    async def api(
        self, verb: str, payload: dict[str, Any] | None = None, *, patience_s: float | None = None
    ) -> dict[str, Any]:
        if verb.startswith("CONSUMER.CREATE") and (verb in self._names or len(self._names) < self._placed):
            self._names.add(verb)
            raise NoAnswer("no answer in time")
        return await super().api(verb, payload, patience_s=patience_s)


class Table(NamedTuple):
    log: JetStreamLog
    base: str

    def replicated(self) -> JetStreamLog:
        return JetStreamLog(self.log._connection, self.log._publisher, self.log._stream, replicated=True)

    def removed(self) -> Removed:
        return Removed(self.log._connection, self.log._publisher, self.log._stream, replicated=True)

    def meanwhile(self, happens: Callable[[], Awaitable[None]]) -> JetStreamLog:
        connection = Meanwhile(self.log._connection, happens)
        return JetStreamLog(connection, self.log._publisher, self.log._stream, replicated=True)

    def placed_on_the_lost(self, consumers: int) -> JetStreamLog:
        connection = PlacedOnTheLost(self.log._connection, consumers)
        return JetStreamLog(connection, self.log._publisher, self.log._stream, replicated=True)


@asynccontextmanager
async def table(url: str, name: str) -> AsyncGenerator[Table]:
    async with open_bus(url) as bus:
        conversation = await bus.conversation(name)
        assert isinstance(conversation.log, JetStreamLog)
        yield Table(conversation.log, conversation.subjects.base)


@pytest.mark.parametrize(("name", "removed"), [("some", 3), ("none", 0), ("all", 5)])
async def test_what_the_leader_has_removed_is_not_read_from_a_server_that_still_has_it(
    url: str, name: str, removed: int
) -> None:
    """On three nodes 11 reads of 12,936 right behind a removal, or a record that replaces, were given what was gone."""
    async with table(url, f"removed-{name}") as own:
        log, subject = own.removed(), f"{own.base}.a"
        places = await own.log.append_all(drafts(subject, 5))
        log.begins = places[removed] if removed < 5 else None
        assert seqs(await read_all(log, subject)) == places[removed:]
        async with log.follow(subject) as tail:
            assert seqs(await take(tail, 5 - removed)) == places[removed:]
            place = await log.append(Draft(subject, b"new"))
            assert seqs(await take(tail, 1)) == [place]


@pytest.mark.parametrize("after", [0, 1], ids=["from the beginning", "from a place on"])
async def test_what_comes_on_one_subject_while_another_is_asked_for_is_not_passed_over(url: str, after: int) -> None:
    """A turn is granted between the question for the first link and the one for the first memory."""
    async with table(url, f"between-{after}") as own:
        await own.log.append(Draft(f"{own.base}.elsewhere", b""))
        after = after and await own.log.append(Draft(f"{own.base}.a", b"seen"))
        places: list[int] = []

        async def happens() -> None:
            places.extend([await own.log.append(Draft(f"{own.base}.{one}", b"")) for one in ("a", "b", "a")])

        async with own.meanwhile(happens).follow(f"{own.base}.a", f"{own.base}.b", after=after) as tail:
            assert seqs(await take(tail, 3)) == places
        assert seqs(await read_all(own.meanwhile(happens), f"{own.base}.a", f"{own.base}.b", after=after)) == places


async def test_a_tail_of_many_subjects_from_the_end_on_asks_for_one_of_them_where_to_begin(url: str) -> None:
    """As a seat does that goes on: the records before it are on the bus of the conversation, which comes first."""
    async with table(url, "many") as own:
        last = await own.log.append(Draft(f"{own.base}.bus.a", b""))
        subjects = [f"{own.base}.{number}" for number in range(12)]
        client, log = own.log._connection.client, own.replicated()
        before = int(client.stats["out_msgs"])
        async with log.follow(f"{own.base}.bus.>", *subjects, after=last) as tail:
            sent = int(client.stats["out_msgs"]) - before
            assert tail.caught_up
        assert sent < 2 * len(subjects), "one for the newest of each, and a few"


async def test_what_comes_on_an_empty_subject_while_it_is_asked_for_is_not_passed_over(url: str) -> None:
    async with table(url, "empty") as own:
        places: list[int] = []

        async def happens() -> None:
            places.append(await own.log.append(Draft(f"{own.base}.a", b"")))

        async with own.meanwhile(happens).follow(f"{own.base}.a") as tail:
            assert seqs(await take(tail, 1)) == places


async def test_a_reader_from_the_last_record_on_begins_there_although_nothing_is_behind_it(url: str) -> None:
    async with table(url, "behind") as own:
        last = (await own.log.append_all(drafts(f"{own.base}.a", 3)))[-1]
        log = own.replicated()
        assert await log._begin_on(f"{own.base}.a", last) == last
        end = await own.log.append(Draft(f"{own.base}.b", b""))
        assert await log._begin_on(f"{own.base}.a", last) == last
        assert await log._begin_on(f"{own.base}.none", 0) == end


async def test_a_consumer_that_is_placed_on_a_node_that_is_lost_is_made_under_another_name(url: str) -> None:
    """Right behind a `kill -9` of one of three nodes, a quarter of all reads met one, and failed after ten seconds."""
    async with table(url, "lost") as own:
        places = await own.log.append_all(drafts(f"{own.base}.stream.a", 3))
        log = own.placed_on_the_lost(2)
        assert seqs(await read_all(log, f"{own.base}.stream.a")) == places
        async with own.placed_on_the_lost(2).follow(f"{own.base}.stream.a") as tail:
            assert seqs(await take(tail, 3)) == places
