"""Private memory commits with the turn: held back, kept or dropped, in the order in which it was written down."""

import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.bus import (
    HOST,
    BadRecord,
    Chair,
    Draft,
    Granted,
    Interjected,
    MemoryFold,
    Opened,
    Passed,
    Remembered,
    Revoked,
    RunContext,
    Said,
    SeatName,
    Verification,
    Whispered,
    World,
    memory_bus,
)
from convive.bus.testing import Records, read_all, run_number

ADA, BOB = SeatName("ada"), SeatName("bob")


class Play:
    """A world that is told a conversation, step by step."""

    def __init__(self) -> None:
        self.records = Records()
        self.world = World(ADA, BOB)
        self.links = 0
        self.turn = 0
        self._link(HOST, Opened(run_id=run_number(0), topic="figs", chairs=(Chair(seat=ADA), Chair(seat=BOB))))

    def grant(self, seat: SeatName) -> None:
        self.turn += 1
        self._link(
            HOST, Granted(link=self.links, turn=self.turn, seat=seat, run_id=run_number(self.turn), deadline_s=0)
        )

    def say(self, seat: SeatName, memories: tuple[int, ...] | None = None) -> None:
        self._link(
            seat, Said(link=self.links, turn=self.turn, run_id=run_number(self.turn), text="hm", memories=memories)
        )

    def pass_on(self, seat: SeatName) -> None:
        self._link(seat, Passed(link=self.links, turn=self.turn, run_id=run_number(self.turn)))

    def revoke(self) -> None:
        self._link(HOST, Revoked(link=self.links, turn=self.turn, run_id=run_number(self.turn)))

    def remember(self, seat: SeatName, text: str, turn: int | None = None) -> int:
        run = None if turn is None else run_number(turn)
        self.world.apply(self.records.memory(seat, Remembered(text=text, run_id=run)))
        return self.records.seq

    def held(self, seat: SeatName = ADA) -> list[str]:
        return [memory.event.text for memory in self.world.private[seat].memory.held]

    def _link(self, author: SeatName, event: Opened | Granted | Said | Passed | Revoked) -> None:
        self.world.apply(self.records.link(author, event))
        self.links += 1
        assert self.records.seq not in [bad.seq for bad in self.world.floor.damage]


@pytest.fixture
def play() -> Play:
    return Play()


def test_a_memory_waits_for_its_turn_to_be_committed(play: Play) -> None:
    play.grant(ADA)
    play.remember(ADA, "a", turn=1)
    play.remember(ADA, "b", turn=1)
    assert play.held() == []
    play.say(ADA)
    assert play.held() == ["a", "b"]


def test_a_pass_commits_as_well(play: Play) -> None:
    play.grant(ADA)
    play.remember(ADA, "a", turn=1)
    play.pass_on(ADA)
    assert play.held() == ["a"]


def test_a_revoked_turn_is_not_remembered(play: Play) -> None:
    play.grant(ADA)
    play.remember(ADA, "a", turn=1)
    play.revoke()
    play.remember(ADA, "too late", turn=1)
    assert play.held() == []
    play.world.private[ADA].memory.decide(Passed(link=play.links, turn=1, run_id=run_number(1)))
    assert play.held() == [], "what was dropped waits for nothing"


def test_a_memory_that_arrives_behind_its_committed_turn_counts(play: Play) -> None:
    play.grant(ADA)
    play.say(ADA)
    play.remember(ADA, "late", turn=1)
    assert play.held() == ["late"]


def test_only_the_memories_that_the_speaker_names_count(play: Play) -> None:
    play.grant(ADA)
    play.remember(ADA, "of one who sat in the same seat", turn=1)
    mine = play.remember(ADA, "mine", turn=1)
    play.remember(ADA, "of one who sat in the same seat", turn=1)
    play.say(ADA, memories=(mine,))
    play.remember(ADA, "of one who is late", turn=1)
    assert play.held() == ["mine"]
    play.grant(ADA)
    play.remember(ADA, "of an attempt that died", turn=2)
    play.say(ADA, memories=())
    assert play.held() == ["mine"]


def test_a_memory_does_not_keep_what_was_said_in_its_turns() -> None:
    memory = MemoryFold()
    said = Said(link=2, turn=1, run_id=run_number(1), text="a long speech")
    gone = weakref.ref(said)
    memory.decide(said)
    del said
    assert gone() is None


def test_a_turn_that_names_very_many_memories_takes_no_longer_for_each(play: Play) -> None:
    play.grant(ADA)
    places = [play.remember(ADA, "x", turn=1) for _ in range(50_000)]
    began = time.process_time()
    play.say(ADA, memories=tuple(places))
    assert time.process_time() - began < 2, "it was meant to be linear"
    assert len(play.held()) == len(places)


def test_a_memory_without_a_turn_counts_at_once(play: Play) -> None:
    play.remember(ADA, "always")
    assert play.held() == ["always"]


def test_seats_do_not_share_memories_or_whispers(play: Play) -> None:
    play.grant(ADA)
    play.remember(ADA, "a", turn=1)
    play.remember(BOB, "b", turn=1)
    play.world.apply(play.records.whisper(BOB, Whispered(sender=ADA, text="psst")))
    play.say(ADA)
    assert (play.held(ADA), play.held(BOB)) == (["a"], []), "a turn decides on the memories of its own seat"
    assert [whisper.text for whisper in play.world.private[BOB].whispers] == ["psst"]
    assert play.world.private[ADA].whispers == []


def test_records_for_seats_that_are_not_here_are_left_alone(play: Play) -> None:
    play.world.apply(play.records.memory("cleo", Remembered(text="x")))
    play.world.apply(play.records.whisper("cleo", Whispered(sender=ADA, text="x")))
    assert play.world.bad == []


def test_what_is_not_a_memory_or_a_whisper_is_reported(play: Play) -> None:
    subjects = play.records.subjects
    for subject in (subjects.memory(ADA), subjects.inbox(ADA)):
        play.world.apply(play.records.raw(subject, b"\x00junk"))
        play.world.apply(play.records.raw(subject, Interjected(text="x").body()))
    assert [bad.seq for bad in play.world.bad] == [2, 3, 4, 5]
    assert play.world.floor.damage == ()


def test_a_forged_end_of_a_turn_decides_nothing(play: Play) -> None:
    play.grant(ADA)
    play.remember(ADA, "a", turn=1)
    forged = Said(link=play.links, turn=1, run_id=run_number(1), text="I am ada")
    play.world.apply(play.records.link(BOB, forged))
    assert play.held() == []
    play.revoke()
    assert play.held() == []


OUTCOMES = st.lists(
    st.tuples(st.sampled_from(["say", "pass", "revoke"]), st.integers(0, 3), st.integers(0, 2)), max_size=8
)


@given(OUTCOMES)
def test_exactly_the_memories_of_committed_turns_are_held_in_order(turns: list[tuple[str, int, int]]) -> None:
    play = Play()
    expected: list[str] = []
    for number, (outcome, before, after) in enumerate(turns, 1):
        play.grant(ADA)
        texts = [f"{number}/{place}" for place in range(before + after)]
        for text in texts[:before]:
            play.remember(ADA, text, turn=number)
        if outcome == "revoke":
            play.revoke()
        else:
            play.say(ADA) if outcome == "say" else play.pass_on(ADA)
            expected += texts
        for text in texts[before:]:
            play.remember(ADA, text, turn=number)
    assert play.held() == expected


@pytest.mark.anyio
async def test_the_same_memory_of_the_same_turn_is_stored_once_and_found_at_its_place() -> None:
    async with memory_bus() as bus:
        conversation = await bus.conversation("table")
        run = RunContext.root()
        memories = [Remembered(text="a", run_id=run.run_id), Remembered(text="b", run_id=run.run_id)]
        places = await conversation.remember(ADA, memories, run)
        assert await conversation.remember(ADA, memories, run) == places


@pytest.mark.anyio
async def test_what_is_remembered_twice_in_a_turn_is_named_once() -> None:
    """A guest may note the same thing twice; a link that named it twice would be a finding of `verify`."""
    async with memory_bus() as bus:
        table, run = await bus.conversation("table"), RunContext.root()

        async def remember_twice(own: RunContext) -> list[int]:
            return await table.remember(ADA, [Remembered(text="figs", run_id=own.run_id)] * 2, own)

        places = await remember_twice(run)
        await table.open(run, "figs", [Chair(seat=ADA)], memories=places)
        for answer in ("said", "passed"):
            own = run.child()
            await table.grant(await table.floor(), ADA, own, 2e9)
            floor, places = await table.floor(), await remember_twice(own)
            assert floor.open_grant is not None
            if answer == "said":
                await table.say(floor, floor.open_grant, "figs", own, memories=places)
            else:
                await table.pass_on(floor, floor.open_grant, own, memories=places)
        checks = Verification(table.subjects.base)
        for record in await read_all(table.log, f"{table.subjects.base}.>"):
            checks.apply(record)
        assert checks.finish().memories == 3
        assert checks.findings.kept == []


@pytest.mark.anyio
async def test_a_strict_reader_is_told_of_the_first_bad_record_it_would_have_used() -> None:
    async with memory_bus() as bus:
        conversation = await bus.conversation("table")
        await conversation.open(RunContext.root(), "figs", [Chair(seat=ADA)])
        place = await conversation.log.append(Draft(conversation.subjects.memory(ADA), b"junk"))
        await conversation.log.append(Draft(conversation.subjects.aside(BOB), b"junk"))
        assert len((await conversation.world(ADA)).bad) == 1
        with pytest.raises(BadRecord) as memory:
            await conversation.world(ADA, strict=True)
        assert memory.value.seq == place
        with pytest.raises(BadRecord) as aside:
            await conversation.world(BOB, strict=True)
        assert aside.value.seq == place + 1
        assert (await conversation.world(ADA, until=place - 1, strict=True)).bad == []
