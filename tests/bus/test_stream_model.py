"""A stream against a plain list, on both logs: whatever is done in whatever order, both hold the same."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from convive.bus import (
    BeyondTail,
    Bus,
    Conflict,
    Fenced,
    NotAppended,
    StreamRecord,
    Trimmed,
    memory_bus,
    mint_run_id,
    open_bus,
)

T = TypeVar("T")
VALUES = st.integers(0, 9)
TOKENS = st.sampled_from(["ada", "bo"])


class AgainstAList(RuleBasedStateMachine):
    """The list holds the positions and values of the records that should be there."""

    def __init__(self, portal: BlockingPortal, bus: Bus) -> None:
        super().__init__()
        self.portal = portal
        self.stream = self.call(bus.stream, f"s-{mint_run_id()}")
        self.records: list[tuple[int, object]] = []
        self.token = ""
        self.trimmed = 0
        self.covered = 0
        self.state: object = None
        self.produced = 0

    def call(self, ask: Callable[..., Awaitable[T]], *arguments: object, **named: object) -> T:
        async def asked() -> T:
            return await ask(*arguments, **named)

        return self.portal.call(asked)

    @property
    def tail(self) -> int:
        return self.records[-1][0] if self.records else 0

    def position(self, number: int) -> int:
        """One of the positions that have something to do with this stream."""
        known = sorted({0, self.trimmed, self.covered, *(position for position, _ in self.records)})
        return known[number % len(known)]

    def read(self, **limits: object) -> list[tuple[int, object]]:
        async def all_of_it() -> list[StreamRecord]:
            async with self.stream.read(**limits) as records:  # type: ignore[arg-type]  # pyright: ignore
                return [record async for record in records]

        return [(record.position, record.json()) for record in self.call(all_of_it)]

    def stored(self, positions: list[int], values: list[object]) -> None:
        assert positions == sorted(set(positions))
        assert positions[0] > self.tail
        self.records += zip(positions, values, strict=True)

    @rule(value=VALUES)
    def append(self, value: int) -> None:
        self.stored([self.call(self.stream.append, value)], [value])

    @rule(values=st.lists(VALUES, min_size=1, max_size=5), off=st.sampled_from([0, 0, -1, 1]), batch=st.booleans())
    def append_expecting(self, values: list[object], off: int, batch: bool) -> None:
        expected = max(0, self.tail + off)
        with pytest.raises(Conflict) if expected != self.tail else nullcontext():
            if batch:
                self.stored(self.call(self.stream.append_all, values, expected=expected), values)
            else:
                self.stored([self.call(self.stream.append, values[0], expected=expected)], values[:1])

    @rule(token=TOKENS, held=st.none() | TOKENS | st.just(""))
    def fence(self, token: str, held: str | None) -> None:
        if held is None or held == self.token:
            self.call(self.stream.fence, token, held=held)
            self.token = token
        else:
            with pytest.raises(Fenced):
                self.call(self.stream.fence, token, held=held)

    @rule(token=TOKENS, values=st.lists(VALUES, min_size=1, max_size=3), expect=st.booleans())
    def append_with_token(self, token: str, values: list[object], expect: bool) -> None:
        expected = self.tail if expect else None
        if token == self.token:
            self.stored(self.call(self.stream.append_all, values, token=token, expected=expected), values)
        else:
            with pytest.raises(Fenced):
                self.call(self.stream.append_all, values, token=token, expected=expected)

    @rule(count=st.integers(0, 4))
    def produce(self, count: int) -> None:
        async def produced() -> list[int]:
            async with self.stream.producer("lines") as producer:
                assert producer.resumed_at == self.produced
                tickets = [await producer.submit(["produced", number]) for number in range(count)]
                await producer.flush()
                return [await ticket.position() for ticket in tickets]

        positions = self.call(produced)
        if positions:
            self.stored(positions, [["produced", number] for number in range(count)])
        self.produced += count

    @rule(number=st.integers(0, 20))
    def trim(self, number: int) -> None:
        position = self.position(number)
        left = [record for record in self.records if record[0] > position]
        assert self.call(self.stream.trim, position) == len(self.records) - len(left)
        self.records = left
        self.trimmed = max(self.trimmed, position)

    @rule(number=st.integers(0, 20), state=VALUES)
    def snapshot(self, number: int, state: int) -> None:
        covers = self.position(number)
        if covers < self.covered:
            with pytest.raises(NotAppended):
                self.call(self.stream.snapshot, state, covers=covers)
        else:
            self.call(self.stream.snapshot, state, covers=covers)
            self.covered, self.state = covers, state

    @rule(number=st.integers(0, 20), count=st.none() | st.integers(0, 5), end=st.none() | st.integers(0, 20))
    def read_a_part(self, number: int, count: int | None, end: int | None) -> None:
        after = self.position(number)
        until = None if end is None else self.position(end)
        if 0 < after < self.trimmed:
            with pytest.raises(Trimmed):
                self.read(after=after)
        expected = [one for one in self.records if one[0] > after and (until is None or one[0] <= until)]
        assert self.read(after=after, until=until, count=count, clamp=True) == expected[:count]

    @rule(last=st.integers(0, 8))
    def read_the_last(self, last: int) -> None:
        assert self.read(last=last) == self.records[max(0, len(self.records) - last) :]

    @rule()
    def read_beyond(self) -> None:
        beyond = self.call(self.stream.log.end) + 1_000_000
        with pytest.raises(BeyondTail):
            self.read(after=beyond)
        assert self.read(after=beyond, clamp=True) == []

    @precondition(lambda self: self.state is not None)
    @rule()
    def read_from_the_snapshot(self) -> None:
        found = self.call(self.stream.latest_snapshot)
        assert found is not None
        assert (found.covers, found.json()) == (self.covered, self.state)
        if self.covered < self.trimmed:
            with pytest.raises(Trimmed):
                self.read(from_snapshot=True)
        else:
            assert self.read(from_snapshot=True) == [one for one in self.records if one[0] > self.covered]

    @rule()
    def follow(self) -> None:
        async def followed() -> list[tuple[int, object]]:
            found: list[tuple[int, object]] = []
            async with self.stream.follow() as tail:
                while (record := await tail.catch_up()) is not None:
                    found.append((record.position, record.json()))
                assert tail.caught_up
            return found

        assert self.call(followed) == self.records

    @invariant()
    def both_hold_the_same(self) -> None:
        assert self.read() == self.records
        assert self.call(self.stream.tail) == self.tail
        assert self.call(self.stream.trimmed) == self.trimmed


@pytest.mark.parametrize("kind", ["memory", "jetstream"])
def test_a_stream_is_the_list_that_it_should_be(kind: str, nats_url: str) -> None:
    opened: AbstractAsyncContextManager[Bus] = memory_bus() if kind == "memory" else open_bus(nats_url)
    examples, steps = (60, 30) if kind == "memory" else (12, 25)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as bus:

        class OnThisLog(AgainstAList):
            def __init__(self) -> None:
                super().__init__(portal, bus)

        run_state_machine_as_test(
            OnThisLog,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
