"""Folds that are kept: the same state as from the beginning, whatever was kept, and few records to read."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from convive.bus import (
    BadName,
    Bus,
    Chair,
    Conversation,
    Draft,
    Floor,
    Fold,
    Record,
    Remembered,
    RunContext,
    RunId,
    SeatName,
    memory_bus,
    open_bus,
)
from convive.bus.conversation._memory import Memory, MemoryFold
from convive.bus.conversation._seat_memory import FLOOR, SeatMemory, memory_fold
from convive.bus.streams._stream import Stream
from convive.bus.testing import read_all

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")


class Tally(BaseModel):
    """How often each word came."""

    words: dict[str, int] = {}
    records: int = 0


def count(tally: Tally, record: Record) -> Tally:
    word = record.body.decode()
    words = {**tally.words, word: tally.words.get(word, 0) + 1}
    return Tally(words=words, records=tally.records + 1)


TALLY = Fold("tally", Tally, Tally, count)


@asynccontextmanager
async def bus_of(kind: str, nats_url: str) -> AsyncGenerator[Bus]:
    async with memory_bus() if kind == "memory" else open_bus(nats_url) as bus:
        yield bus


async def filled(bus: Bus, name: str, count: int) -> Stream:
    stream = await bus.stream(name)
    for start in range(0, count, 500):
        await stream.append_all([f"w{number % 7}".encode() for number in range(start, min(count, start + 500))])
    return stream


@pytest.mark.parametrize("kind", ["memory", "jetstream"])
async def test_the_next_fold_begins_where_one_was_kept(kind: str, nats_url: str) -> None:
    async with bus_of(kind, nats_url) as bus:
        stream = await filled(bus, "fold-a", 1_000)
        first = await stream.fold(TALLY)
        assert (first.state.records, first.kept, first.folded) == (1_000, 0, 1_000)
        second = await stream.fold(TALLY)
        assert (second.state, second.seq, second.kept, second.folded) == (first.state, first.seq, first.seq, 0)
        await stream.append(b"w0")
        third = await stream.fold(TALLY)
        assert (third.state.records, third.kept, third.folded) == (1_001, first.seq, 1)
        assert third.state.words["w0"] == first.state.words["w0"] + 1


@pytest.mark.parametrize("kind", ["memory", "jetstream"])
async def test_the_state_at_any_position_is_that_of_the_records_up_to_it(kind: str, nats_url: str) -> None:
    async with bus_of(kind, nats_url) as bus:
        stream = await filled(bus, "fold-b", 600)
        await stream.fold(TALLY)
        await filled(bus, "fold-b", 40)
        async with stream.read() as entries:
            positions = [entry.position async for entry in entries]
        for number in (1, 300, 600, 601, 640):
            found = await stream.fold(TALLY, until=positions[number - 1])
            assert (found.state.records, found.seq) == (number, positions[number - 1])
        assert (await stream.fold(TALLY)).kept  # a look back did not replace what was kept


@pytest.mark.parametrize("kind", ["memory", "jetstream"])
async def test_a_fold_does_not_go_on_over_records_that_were_trimmed_before_it_saw_them(
    kind: str, nats_url: str
) -> None:
    async with bus_of(kind, nats_url) as bus:
        stream = await filled(bus, "fold-trimmed", 400)
        kept = await stream.fold(TALLY)
        await stream.trim(kept.seq)
        places = [await stream.append(b"after") for _ in range(300)]
        assert (await stream.fold(TALLY, keep=False)).state.records == 700, "what was kept stands for what is gone"
        await stream.trim(places[199])
        assert (await stream.fold(TALLY)).state == Tally(words={"after": 100}, records=100)


async def test_a_fold_of_another_version_begins_anew_and_is_kept_instead() -> None:
    async with memory_bus() as bus:
        stream = await filled(bus, "fold-c", 500)
        await stream.fold(TALLY)
        newer = Fold("tally", Tally, Tally, count, version=2)
        assert (await stream.fold(newer)).folded == 500
        assert (await stream.fold(newer)).folded == 0
        assert (await stream.fold(TALLY, keep=False)).folded == 500
        assert (await stream.fold(newer)).folded == 0


async def test_what_is_kept_of_a_short_stream_costs_no_write() -> None:
    async with memory_bus() as bus:
        stream = await filled(bus, "fold-d", 200)
        for _ in range(3):
            assert (await stream.fold(TALLY)).folded == 200
        assert await stream.log.subjects(f"{stream.subject}.fold.>") == {}


async def test_a_large_state_is_kept_in_parts_all_or_none(nats_url: str) -> None:
    """A server takes a megabyte at most."""

    def gather(texts: list[str], record: Record) -> list[str]:
        texts.append(record.body.decode())
        return texts

    whole = Fold("whole", list[str], list[str], gather)
    async with open_bus(nats_url) as bus:
        stream = await bus.stream("fold-e")
        await stream.append_all([f"{number:5}" + "x" * 4_000 for number in range(500)])
        first = await stream.fold(whole)
        second = await stream.fold(whole)
        assert (second.folded, second.state) == (0, first.state)
        assert len(await stream.log.subjects(f"{stream.subject}.fold.whole.*")) > 4


@pytest.mark.parametrize("covers", [-5, 0, 10**30], ids=["before", "nothing", "beyond"])
async def test_a_state_that_is_kept_for_no_place_is_not_believed(covers: int, nats_url: str) -> None:
    """Anybody can write one down with all that belongs to it."""
    async with open_bus(nats_url) as bus:
        stream = await filled(bus, f"fold-h{covers:x}".replace("--", "-"), 300)
        await stream.fold(TALLY)
        (kept,) = await read_all(stream.log, f"{stream.subject}.fold.tally.0")
        headers = {name: value for name, value in kept.headers.items() if name.startswith("Cv-")}
        forged = Draft(kept.subject, kept.body, {**headers, "Cv-Covers": str(covers)}, replaces=True)
        await stream.log.append(forged)
        assert (await stream.fold(TALLY)).folded == 300


@pytest.mark.parametrize("headers", [{}, {"Cv-Covers": "x"}, {"Cv-Covers": "9", "Cv-Parts": "3", "Cv-Records": "1"}])
async def test_what_is_not_ours_where_a_fold_is_kept_is_not_believed(headers: dict[str, str]) -> None:
    async with memory_bus() as bus:
        stream = await filled(bus, "fold-f", 300)
        await stream.log.append(Draft(f"{stream.subject}.fold.tally.0", b'{"words":{},"records":9}', headers))
        assert (await stream.fold(TALLY)).state.records == 300
        assert (await stream.fold(TALLY)).folded == 0


async def test_two_that_keep_at_once_leave_one_whole_state(nats_url: str) -> None:
    async with open_bus(nats_url) as bus, open_bus(nats_url) as other:
        stream, theirs = await filled(bus, "fold-g", 2_000), await other.stream("fold-g")
        async with anyio.create_task_group() as tasks:
            for each in (stream, theirs) * 4:
                tasks.start_soon(lambda each: each.fold(TALLY), each)
        found = await stream.fold(TALLY)
        assert (found.state.records, found.folded) == (2_000, 0)


async def party(bus: Bus, name: str, turns: int) -> Conversation:
    conversation = await bus.conversation(name)
    run = RunContext.root()
    places = await conversation.remember(ADA, [Remembered(text="a plan", run_id=run.run_id)], run)
    await conversation.open(run, "figs", [Chair(seat=ADA), Chair(seat=BOB)], memories=places)
    for turn in range(1, turns + 1):
        seat, own = (BOB, ADA)[turn % 2], run.child()
        await conversation.grant(await conversation.floor(), seat, own, 2e9)
        kept = await conversation.remember(seat, [Remembered(text=f"of {turn}", run_id=own.run_id)], own)
        floor = await conversation.floor()
        assert floor.open_grant is not None
        if turn % 5 == 3:
            await conversation.revoke(floor, floor.open_grant, run, "too slow")
        else:
            await conversation.say(floor, floor.open_grant, f"words {turn}", own, memories=kept)
    return conversation


@settings(max_examples=25)
@given(turns=st.integers(0, 12), data=st.data())
def test_a_memory_at_any_place_is_that_of_the_world(turns: int, data: st.DataObject) -> None:
    """Wherever one looks: in the middle of a turn as well."""

    async def check() -> None:
        async with memory_bus() as bus:
            conversation = await party(bus, "fold-h", turns)
            seen = data.draw(st.integers(2, (await conversation.floor()).seq))
            world = await conversation.world(ADA, until=seen)
            assert await conversation.memory(ADA, seen) == world.private[ADA].memory.held

    anyio.run(check)


@pytest.mark.parametrize("kind", ["memory", "jetstream"])
async def test_a_long_memory_comes_back_from_what_was_kept(kind: str, nats_url: str) -> None:
    async with bus_of(kind, nats_url) as bus:
        conversation = await party(bus, "fold-i", 150)
        subjects = (conversation.subjects.floor, conversation.subjects.memory(ADA))
        whole = await conversation.fold(memory_fold(ADA), *subjects)
        again = await conversation.fold(memory_fold(ADA), *subjects)
        assert (again.folded, again.state) == (0, whole.state)
        assert again.state.memory.held == (await conversation.world(ADA)).private[ADA].memory.held
        assert await conversation.memory(ADA) == again.state.memory.held
        floor = await conversation.fold(FLOOR)
        assert (await conversation.fold(FLOOR)).state == floor.state == await conversation.floor()


def test_memories_are_kept_as_they_are_whatever_is_in_them() -> None:
    texts = st.text(max_size=5)
    data = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | texts, lambda of: st.lists(of, max_size=2))
    kinds = st.builds(Remembered, text=texts, kind=texts, data=data | st.dictionaries(texts, data, max_size=2))
    adapter = memory_fold(ADA).adapter

    @given(st.lists(kinds, max_size=4), st.sampled_from([None, RunContext.root().run_id]))
    def check(events: list[Remembered], run: RunId | None) -> None:
        held = [Memory(event.model_copy(update={"run_id": run}), seq) for seq, event in enumerate(events, 1)]
        state = SeatMemory(memory=MemoryFold(held))
        assert adapter.validate_json(adapter.dump_json(state, by_alias=True)) == state

    check()


async def test_a_floor_with_damage_is_kept_as_it_is() -> None:
    async with memory_bus() as bus:
        conversation = await party(bus, "fold-j", 130)
        await conversation.log.append(Draft(conversation.subjects.link(BOB), b"none of ours"))
        first = await conversation.fold(FLOOR)
        again = await conversation.fold(FLOOR)
        assert (again.folded, first.state.damaged) == (0, 1)
        assert [str(bad) for bad in again.state.damage] == [str(bad) for bad in first.state.damage]
        assert isinstance(again.state, Floor)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(BadName, match="is not a name for a fold"):
        Fold("No Slug", list[str], list[str], lambda state, record: state)


async def test_what_is_kept_for_one_seat_is_not_told_to_another_with_nearly_its_name() -> None:
    """Names of seats have up to 63 characters, and so has the name under which something is kept."""
    first, second = (SeatName("a" * 62 + end) for end in "xy")
    async with memory_bus() as bus:
        conversation = await bus.conversation("fold-k")
        run = RunContext.root()
        await conversation.open(run, "figs", [Chair(seat=first), Chair(seat=second)])
        await conversation.remember(first, [Remembered(text=f"secret {number}") for number in range(300)], run)
        assert len(await conversation.memory(first)) == 300
        assert [subject for subject in await conversation.log.subjects(">") if ".fold." in subject]
        assert await conversation.memory(second) == []
        assert len(await conversation.memory(first)) == 300


async def test_what_was_kept_of_other_subjects_is_not_believed() -> None:
    async with memory_bus() as bus:
        conversation = await party(bus, "fold-l", 150)
        count = Fold("count", int, int, lambda count, record: count + 1)
        bus_records = await conversation.fold(count)
        memories = await conversation.fold(count, conversation.subjects.memory(ADA))
        assert (memories.kept, memories.state) == (0, 76)
        assert (await conversation.fold(count)).state == bus_records.state
