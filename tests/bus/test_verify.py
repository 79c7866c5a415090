"""The check of a conversation: what is whole passes, and each kind of damage is exactly one finding."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.bus import (
    HOST,
    Chair,
    Ended,
    Finding,
    Granted,
    Interjected,
    Joined,
    Opened,
    Passed,
    Record,
    Remembered,
    Revoked,
    RunContext,
    RunId,
    Said,
    SeatName,
    Verification,
    Verified,
    Whispered,
    World,
)
from convive.bus.testing import Records, run_number

ADA, BOB = SeatName("ada"), SeatName("bob")
ROOT = run_number(0)


class Table:
    """A conversation that is written down by hand: three turns, two of them committed."""

    def __init__(self) -> None:
        self.log = Records()
        self.records: list[Record] = []
        self.links = 0
        self.turn = 0
        mine = self.put(self.log.memory(ADA, Remembered(text="win", run_id=ROOT)))
        self.put(self.log.memory(BOB, Remembered(text="of one who was second to open", run_id=run_number(99))))
        chairs = (Chair(seat=ADA), Chair(seat=BOB))
        self.link(HOST, Opened(run_id=ROOT, topic="figs", chairs=chairs, memories=(mine,)))
        self.grant(ADA)
        said = self.put(self.log.memory(ADA, Remembered(text="I said it", run_id=self.run)))
        self.put(self.log.memory(ADA, Remembered(text="of a double", run_id=self.run)))
        self.say(ADA, (said,))
        self.put(self.log.aside("mara", Interjected(text="hear, hear")))
        self.grant(BOB)
        self.dropped = self.put(self.log.memory(BOB, Remembered(text="too late", run_id=self.run)))
        self.link(HOST, Revoked(link=self.links, turn=self.turn, run_id=self.run))
        self.put(self.log.whisper(BOB, Whispered(sender=ADA, text="psst")))
        self.grant(BOB)
        self.put(self.log.memory(BOB, Remembered(text="all of mine", run_id=self.run)))
        self.link(BOB, Passed(link=self.links, turn=self.turn, run_id=self.run))
        self.put(self.log.memory(BOB, Remembered(text="without a turn")))

    @property
    def run(self) -> RunId:
        return run_number(self.turn)

    def put(self, record: Record) -> int:
        self.records.append(record)
        return record.seq

    def raw(self, suffix: str, body: bytes = b"{}", run: str | None = None) -> int:
        return self.put(self.log.raw(f"{self.log.subjects.base}.{suffix}", body, run))

    def link(self, author: str, event: Opened | Granted | Said | Passed | Revoked | Ended) -> int:
        self.links += 1
        return self.put(self.log.link(author, event))

    def grant(self, seat: SeatName, run: int | None = None) -> int:
        self.turn += 1
        number = self.turn if run is None else run
        granted = Granted(link=self.links, turn=self.turn, seat=seat, run_id=run_number(number), deadline_s=0)
        return self.link(HOST, granted)

    def said(self, memories: tuple[int, ...] | None = ()) -> Said:
        return Said(link=self.links, turn=self.turn, run_id=run_number(self.turn), text="hm", memories=memories)

    def say(self, seat: SeatName, memories: tuple[int, ...] | None = ()) -> int:
        return self.link(seat, self.said(memories))


def checked(table: Table) -> tuple[Verified, list[Finding]]:
    checks = Verification(table.log.subjects.base)
    for record in table.records:
        checks.apply(record)
    seen = checks.finish()
    assert sum(checks.findings.counts.values()) == len(checks.findings.kept)
    return seen, checks.findings.kept


def test_a_whole_conversation_passes_and_is_counted() -> None:
    seen, findings = checked(Table())
    assert findings == []
    assert seen.fates == {"said": 1, "revoked": 1, "passed": 1}
    assert (seen.memories, seen.dropped) == (4, 3)
    assert seen.parts == {"memory": 7, "bus": 8, "inbox": 1}
    assert (seen.through, seen.floor.links) == (16, 7)


def test_every_beginning_of_a_whole_conversation_passes() -> None:
    whole = Table()
    for end in range(len(whole.records) + 1):
        part = Table()
        part.records = part.records[:end]
        assert checked(part)[1] == []


Damage = Callable[[Table], int]


def forged_said(table: Table) -> int:
    table.grant(ADA)
    return table.put(table.log.link(BOB, table.said()))


def said_without_the_floor(table: Table) -> int:
    return table.put(table.log.link(ADA, table.said()))


def doubled_link(table: Table) -> int:
    table.grant(ADA)
    table.put(table.log.link(ADA, said := table.said()))
    return table.put(table.log.link(ADA, said))


def said_with_another_run(table: Table) -> int:
    table.grant(ADA)
    return table.put(table.log.link(ADA, table.said().model_copy(update={"run_id": run_number(50)})))


def skipped_link(table: Table) -> int:
    granted = Granted(link=table.links + 1, turn=table.turn + 1, seat=ADA, run_id=run_number(50), deadline_s=0)
    return table.put(table.log.link(HOST, granted))


def grant_of_an_old_run(table: Table) -> int:
    place = table.grant(ADA, run=1)
    table.link(HOST, Revoked(link=table.links, turn=table.turn, run_id=run_number(1)))
    return place


def revoked_by_another_number(table: Table) -> int:
    table.grant(ADA)
    return table.link(HOST, Revoked(link=table.links, turn=1, run_id=table.run))


def link_behind_the_end(table: Table) -> int:
    table.link(HOST, Ended(link=table.links))
    return table.put(table.log.link(HOST, Ended(link=table.links)))


def memory_of_a_turn_that_was_revoked_is_named(table: Table) -> int:
    table.grant(BOB)
    return table.say(BOB, (table.dropped,))


def memory_that_is_not_there_is_named(table: Table) -> int:
    table.grant(ADA)
    return table.say(ADA, (table.log.seq + 100,))


def memory_of_another_seat_is_named(table: Table) -> int:
    table.grant(ADA)
    place = table.put(table.log.memory(BOB, Remembered(text="bob's", run_id=table.run)))
    return table.say(ADA, (place,))


def memory_is_named_twice(table: Table) -> int:
    table.grant(ADA)
    place = table.put(table.log.memory(ADA, Remembered(text="mine", run_id=table.run)))
    return table.say(ADA, (place, place))


def memory_of_nobody(table: Table) -> int:
    return table.put(table.log.memory("zoe", Remembered(text="I was never here")))


def foreign_link(table: Table) -> int:
    return table.raw("bus.floor.ada", b"\xff\x00")


def foreign_aside(table: Table) -> int:
    return table.raw("bus.aside.ada", b'{"type":"other"}')


def foreign_memory(table: Table) -> int:
    return table.raw("memory.ada", b"junk")


def whisper_in_a_memory(table: Table) -> int:
    return table.raw("memory.ada", Whispered(sender=BOB, text="x").body())


def memory_in_an_inbox(table: Table) -> int:
    return table.raw("inbox.ada", Remembered(text="x").body())


def unknown_subject(table: Table) -> int:
    return table.raw("minutes.of.the.meeting")


def unknown_subject_of_the_bus(table: Table) -> int:
    return table.raw("bus.aside.ada.twice", Interjected(text="x").body())


def journal_without_a_run(table: Table) -> int:
    return table.raw("run.nobody.knows")


def headers_of_another_run(table: Table) -> int:
    table.grant(ADA)
    record = table.log.link(ADA, table.said())
    headers = RunContext.root(run_number(50)).headers()
    table.links += 1
    return table.put(Record(record.subject, record.seq, record.time_s, headers, record.body))


def headers_that_are_no_run(table: Table) -> int:
    record = table.log.aside("mara", Interjected(text="x"))
    return table.put(Record(record.subject, record.seq, record.time_s, {"Cv-Run": "me"}, record.body))


def headers_of_another_journal(table: Table) -> int:
    return table.raw(f"run.{ROOT}.{run_number(1)}", run=run_number(2))


def headers_of_another_root(table: Table) -> int:
    return table.raw(f"run.{ROOT}.{run_number(1)}", run=run_number(1))


DAMAGE: dict[Damage, tuple[str, str]] = {
    forged_said: ("floor", "bob spoke in turn 4; the floor is with ada for turn 4"),
    said_without_the_floor: ("floor", "ada spoke without the floor"),
    doubled_link: ("floor", "link 8 where link 9 was due"),
    said_with_another_run: ("floor", "ada spoke in turn 4; the floor is with ada for turn 4"),
    skipped_link: ("floor", "link 8 where link 7 was due"),
    grant_of_an_old_run: ("floor", f"run {run_number(1)} is not new: it had a turn, or is the conversation"),
    revoked_by_another_number: ("floor", "revokes turn 1 with the run of turn 4"),
    link_behind_the_end: ("floor", "a link behind the end of the conversation"),
    memory_of_a_turn_that_was_revoked_is_named: ("memory", f"names the memory at 10, which is of run {run_number(2)}"),
    memory_that_is_not_there_is_named: ("memory", "names 117, where no memory of ada stands before it"),
    memory_of_another_seat_is_named: ("memory", "names 18, where no memory of ada stands before it"),
    memory_is_named_twice: ("memory", "names a memory twice"),
    memory_of_nobody: ("orphan", "a memory of zoe, who never had a seat"),
    foreign_link: ("foreign", "not an event of ours"),
    foreign_aside: ("foreign", "not an event of ours"),
    foreign_memory: ("foreign", "not an event of ours"),
    whisper_in_a_memory: ("foreign", "whispered is no memory"),
    memory_in_an_inbox: ("foreign", "remembered is no whisper"),
    unknown_subject: ("foreign", "a conversation has no such subject"),
    unknown_subject_of_the_bus: ("foreign", "a bus has no such subject"),
    journal_without_a_run: ("foreign", "no journal has such a subject"),
    headers_of_another_run: ("header", f"the headers name run {run_number(50)}, the record is of run {run_number(4)}"),
    headers_that_are_no_run: ("header", "'me' is not a run id"),
    headers_of_another_journal: ("header", f"the headers name run {run_number(2)}"),
    headers_of_another_root: ("header", f"the headers name the root {run_number(1)}"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_each_kind_of_damage_is_exactly_that_finding(damage: Damage) -> None:
    table = Table()
    place = damage(table)
    kind, why = DAMAGE[damage]
    (finding,) = checked(table)[1]
    assert (finding.kind, finding.seq) == (kind, place)
    assert finding.why.startswith(why)
    assert not finding.subject.startswith("cv.")


def test_who_joins_later_has_a_seat() -> None:
    table = Table()
    table.put(table.log.memory("zoe", Remembered(text="early")))
    table.put(table.log.aside("zoe", Joined()))
    assert checked(table)[1] == []


def test_live_text_that_may_be_gone_tomorrow_makes_no_difference() -> None:
    table, other = Table(), Table()
    other.raw(f"live.{ROOT}.{run_number(1)}", b"anything")
    assert checked(table) == checked(other)


OUTCOMES = st.lists(
    st.tuples(
        st.sampled_from([ADA, BOB]),
        st.sampled_from(["say", "pass", "revoke"]),
        st.integers(0, 3),
        st.sampled_from([None, 0, 1, 3]),
    ),
    max_size=8,
)


@given(OUTCOMES)
def test_the_memories_that_count_are_those_that_the_seats_hold(
    turns: list[tuple[SeatName, str, int, int | None]],
) -> None:
    table = Table()
    for seat, outcome, written, named in turns:
        table.grant(seat)
        run = run_number(table.turn)
        places = [table.put(table.log.memory(seat, Remembered(text="x", run_id=run))) for _ in range(written)]
        memories = None if named is None else tuple(places[:named])
        match outcome:
            case "say":
                table.say(seat, memories)
            case "pass":
                table.link(seat, Passed(link=table.links, turn=table.turn, run_id=run, memories=memories))
            case _:
                table.link(HOST, Revoked(link=table.links, turn=table.turn, run_id=run))
        table.put(table.log.memory(seat, Remembered(text="late", run_id=run)))
    world = World(ADA, BOB)
    for record in table.records:
        world.apply(record)
    seen, findings = checked(table)
    assert findings == []
    assert seen.memories == sum(len(private.memory.held) for private in world.private.values())


@given(st.lists(st.tuples(st.sampled_from(["bus.floor.host", "memory.ada", "inbox.x", "run.a.b", "x"]), st.binary())))
def test_whatever_stands_there_is_read_to_the_end(junk: list[tuple[str, bytes]]) -> None:
    table = Table()
    for suffix, body in junk:
        table.raw(suffix, body)
    seen, findings = checked(table)
    assert len(findings) == len(junk)
    assert seen.through == table.log.seq


def test_what_is_kept_of_much_damage_is_bounded_and_takes_no_time() -> None:
    """A link that names 100,000 memories, all of which are there, and 100,000 that are not."""
    table = Table()
    table.grant(ADA)
    many = 100_000
    for _ in range(many):
        table.put(table.log.memory(ADA, Remembered(text="x", run_id=table.run)))
    table.say(ADA, tuple(range(table.log.seq - many + 1, table.log.seq + 1)))
    table.grant(BOB)
    table.say(BOB, tuple(range(1_000_000, 1_000_000 + many)))
    checks = Verification(table.log.subjects.base)
    began = time.process_time()
    for record in table.records:
        checks.apply(record)
    seen = checks.finish()
    assert time.process_time() - began < 20, "it was meant to be linear"
    assert (seen.memories, checks.findings.counts["memory"], len(checks.findings.kept)) == (many + 4, many, 100)
