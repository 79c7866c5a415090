"""The fold of the floor: what the protocol allows folds to a model, what it forbids is reported and changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convive.bus import (
    HOST,
    BadRecord,
    Chair,
    Ended,
    Floor,
    FloorEvent,
    Granted,
    Interjected,
    Joined,
    Left,
    NotAppended,
    Noted,
    Opened,
    Passed,
    Record,
    Remembered,
    Revoked,
    Said,
    SeatName,
    Whispered,
    event_of,
    fold_floor,
)
from convive.bus.testing import Records, run_number

ADA, BOB = SeatName("ada"), SeatName("bob")
SEATS = (ADA, BOB, SeatName("cleo"))
RUN = run_number(0)


def opened(*seats: SeatName) -> Opened:
    return Opened(run_id=RUN, topic="figs", chairs=tuple(Chair(seat=seat) for seat in seats or SEATS))


def fold(*records: Record) -> Floor:
    floor = Floor()
    for record in records:
        floor = fold_floor(floor, record)
    return floor


@dataclass
class Model:
    """The protocol as a player knows it: whose turn it is, and what was said so far."""

    records: Records
    links: int = 1
    turn: int = 0
    holder: SeatName | None = None
    said: int = 0
    ended: bool = False

    def grant(self, seat: SeatName) -> Record:
        self.turn += 1
        self.holder = seat
        return self._link(HOST, Granted(link=self.links, turn=self.turn, seat=seat, run_id=self.run, deadline_s=0))

    def say(self, text: str) -> Record:
        seat, self.holder = self.holder, None
        self.said += 1
        return self._link(seat, Said(link=self.links, turn=self.turn, run_id=self.run, text=text))

    def pass_on(self) -> Record:
        seat, self.holder = self.holder, None
        return self._link(seat, Passed(link=self.links, turn=self.turn, run_id=self.run))

    def revoke(self) -> Record:
        self.holder = None
        return self._link(HOST, Revoked(link=self.links, turn=self.turn, run_id=self.run))

    def end(self) -> Record:
        self.ended = True
        return self._link(HOST, Ended(link=self.links))

    @property
    def run(self) -> Any:
        return run_number(self.turn)

    def _link(self, author: SeatName | None, event: FloorEvent) -> Record:
        assert author is not None
        self.links += 1
        return self.records.link(author, event)


TURNS = st.lists(
    st.tuples(st.sampled_from(SEATS), st.sampled_from(["say", "pass", "revoke"]), st.text(max_size=8)), max_size=12
)


@given(TURNS, st.booleans())
def test_whatever_the_protocol_allows_folds_to_what_was_played(
    turns: list[tuple[SeatName, str, str]], end: bool
) -> None:
    model = Model(Records())
    floor = fold(model.records.link(HOST, opened()))
    last: dict[SeatName, int] = {}
    for seat, outcome, text in turns:
        floor = fold_floor(floor, model.grant(seat))
        last[seat] = model.turn
        assert floor.open_grant is not None
        assert (floor.open_grant.grant.seat, floor.open_grant.seq) == (seat, model.records.seq)
        match outcome:
            case "say":
                floor = fold_floor(floor, model.say(text))
            case "pass":
                floor = fold_floor(floor, model.pass_on())
            case _:
                floor = fold_floor(floor, model.revoke())
        assert floor.open_grant is None
    if end:
        floor = fold_floor(floor, model.end())
    assert floor.damage == ()
    assert (floor.links, floor.turn, floor.said_turns) == (model.links, model.turn, model.said)
    assert dict(floor.turns_of) == last
    assert (floor.seq, floor.is_open) == (model.records.seq, not end)


def plays(records: Records) -> list[Record]:
    model = Model(records)
    return [records.link(HOST, opened()), model.grant(ADA), model.say("good evening"), model.grant(BOB)]


RUNS = st.sampled_from([run_number(number) for number in range(4)])
SMALL = st.integers(min_value=-1, max_value=6)
ANY_EVENT: st.SearchStrategy[Any] = st.one_of(
    st.builds(Opened, run_id=RUNS, topic=st.just("again")),
    st.builds(Granted, link=SMALL, turn=SMALL, seat=st.sampled_from(SEATS), run_id=RUNS, deadline_s=st.just(0.0)),
    st.builds(Said, link=SMALL, turn=SMALL, run_id=RUNS, text=st.text(max_size=4)),
    st.builds(Passed, link=SMALL, turn=SMALL, run_id=RUNS),
    st.builds(Revoked, link=SMALL, turn=SMALL, run_id=RUNS),
    st.builds(Ended, link=SMALL),
    st.builds(Joined, about=st.text(max_size=4)),
    st.builds(Left),
    st.builds(Interjected, text=st.text(max_size=4)),
    st.builds(Noted, text=st.text(max_size=4)),
    st.builds(Remembered, text=st.text(max_size=4)),
    st.builds(Whispered, sender=st.sampled_from(SEATS), text=st.just("psst")),
)
JUNK = st.binary(max_size=40) | st.sampled_from(
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"said"',
        b'{"type":"said"}',
        b'{"type":"no such"}',
        b"\xff",
        b"[" * 500,
        b'{"type":{}}',
    ]
)
BODIES = st.one_of(ANY_EVENT.map(lambda event: event.body()), JUNK)
PLACES = st.sampled_from(["bus.floor.", "bus.aside."])
AUTHORS = st.sampled_from([*SEATS, HOST, "mallory"])


@given(st.lists(st.tuples(PLACES, AUTHORS, BODIES), max_size=25))
@settings(max_examples=300)
def test_no_record_whatever_makes_the_fold_fail_and_its_links_stay_without_a_gap(
    given_records: list[tuple[str, str, bytes]],
) -> None:
    records = Records()
    floor = fold(*plays(records))
    for place, author, body in given_records:
        before = floor
        record = records.raw(f"{records.subjects.base}.{place}{author}", body)
        floor = fold_floor(before, record)
        if place == "bus.floor.":
            assert floor.seq == record.seq, "the next link must follow whatever stands on the floor subjects"
        bad = floor.damaged - before.damaged
        assert bad in (0, 1)
        assert floor.links - before.links == (place == "bus.floor." and not bad)
        if bad:
            assert replace(floor, seq=0, at_s=0, damage=(), damaged=0) == replace(
                before, seq=0, at_s=0, damage=(), damaged=0
            )
        assert floor.turn >= before.turn
        assert floor.said_turns <= floor.turn
        assert len(floor.damage) == min(floor.damaged, 10)
        if before.closed is not None:
            assert floor.links == before.links


@given(st.lists(st.tuples(st.integers(0, 4), PLACES, st.sampled_from([*SEATS, "mallory"]), JUNK), max_size=8))
def test_a_conversation_goes_on_by_its_valid_links_whatever_stands_between_them(
    junk: list[tuple[int, str, str, bytes]],
) -> None:
    records = Records()
    model = Model(records)
    steps: list[Callable[[], Record]] = [
        lambda: records.link(HOST, opened()),
        lambda: model.grant(ADA),
        lambda: model.say("good evening"),
        lambda: model.grant(BOB),
        lambda: model.say("and to you"),
    ]
    floor = Floor()
    for place, step in enumerate(steps):
        floor = fold_floor(floor, step())
        for at, where, author, body in junk:
            if at == place:
                floor = fold_floor(floor, records.raw(f"{records.subjects.base}.{where}{author}", body))
    assert (floor.links, floor.said_turns, floor.open_grant) == (5, 2, None)
    assert len(floor.damage) == floor.damaged == len(junk)


def test_damage_is_told_on_one_short_line_whatever_the_record_says() -> None:
    records = Records()
    granted = Granted(link=1, turn=1, seat=SeatName("\x1b[2J" * 100_000), run_id=run_number(1), deadline_s=0)
    floor = fold(
        records.link(HOST, Opened(run_id=run_number(9), topic="soup")),
        records.link(HOST, granted),
        records.link(ADA, Said(link=2, turn=1, run_id=run_number(1), text="mine")),
        records.raw(
            records.subjects.aside(ADA), b'{"type": "noted", "text": "x", "\\u001b[2J%b": 1}' % (b"k" * 900_000)
        ),
    )
    assert floor.damaged == 2
    for bad in floor.damage:
        assert len(str(bad)) < 500
        assert str(bad).isprintable()


def test_damage_beyond_the_samples_is_still_counted() -> None:
    records = Records()
    floor = fold(*plays(records), *(records.raw(records.subjects.link(ADA), b"junk") for _ in range(25)))
    assert (len(floor.damage), floor.damaged) == (10, 25)
    assert [bad.seq for bad in floor.damage] == list(range(5, 15))


@pytest.mark.parametrize(
    ("author", "event", "why"),
    [
        (ADA, Said(link=4, turn=2, run_id=run_number(2), text="mine"), "the floor is with bob"),
        (BOB, Said(link=4, turn=1, run_id=run_number(2), text="late"), "spoke in turn 1"),
        (BOB, Said(link=4, turn=2, run_id=run_number(1), text="other run"), "the floor is with bob for turn 2"),
        (BOB, Said(link=3, turn=2, run_id=run_number(2), text="twice"), "link 3 where link 4 was due"),
        (BOB, Said(link=5, turn=2, run_id=run_number(2), text="gap"), "link 5 where link 4 was due"),
        (ADA, Passed(link=4, turn=2, run_id=run_number(2)), "the floor is with bob"),
        (BOB, Revoked(link=4, turn=2, run_id=run_number(2)), "revoked by bob, not by the host"),
        (HOST, Revoked(link=4, turn=1, run_id=run_number(1)), "not open"),
        (HOST, Granted(link=4, turn=3, seat=ADA, run_id=RUN, deadline_s=0), "while bob has the floor"),
        (HOST, Ended(link=4), "closed while bob has the floor"),
        (HOST, Opened(run_id=RUN, topic="again"), "link 0 where link 4 was due"),
        (ADA, Interjected(text="me too"), "among the links of the floor"),
    ],
)
def test_a_link_that_breaks_the_protocol_is_reported_with_its_place(author: SeatName, event: Any, why: str) -> None:
    records = Records()
    before = fold(*plays(records))
    record = records.link(author, event)
    floor = fold_floor(before, record)
    (bad,) = floor.damage
    assert why in bad.why
    assert (bad.subject, bad.seq) == (record.subject, record.seq)
    assert (floor.open_grant, floor.links, floor.seq) == (before.open_grant, 4, record.seq)
    # The holder still speaks, behind what was not his.
    said = Said(link=4, turn=2, run_id=run_number(2), text="at last")
    assert fold_floor(floor, records.link(BOB, said)).said_turns == 2


@pytest.mark.parametrize(
    ("author", "event", "why"),
    [
        (HOST, Granted(link=0, turn=1, seat=ADA, run_id=RUN, deadline_s=0), "before the conversation was opened"),
        (ADA, Opened(run_id=RUN, topic="mine"), "opened by ada"),
    ],
)
def test_the_first_link_is_the_hosts_opening(author: SeatName, event: Any, why: str) -> None:
    records = Records()
    floor = fold(records.link(author, event))
    assert why in floor.damage[0].why
    assert not floor.is_open
    assert fold_floor(floor, records.link(HOST, opened())).is_open


def test_nothing_counts_behind_the_end_but_asides_are_still_heard() -> None:
    records = Records()
    model = Model(records)
    floor = fold(records.link(HOST, opened()), model.end(), model.grant(ADA))
    assert floor.closed is not None
    assert "behind the end" in floor.damage[0].why
    floor = fold_floor(floor, records.aside(ADA, Interjected(text="good night")))
    assert floor.heard is not None
    assert floor.heard.text == "good night"


def test_who_joins_sits_last_and_who_leaves_is_gone() -> None:
    records = Records()
    floor = fold(
        records.link(HOST, opened(ADA, BOB)),
        records.aside("cleo", Joined(about="a pilot")),
        records.aside(ADA, Left()),
        records.aside(BOB, Joined(about="a baker")),
        records.aside(BOB, Joined()),
    )
    assert floor.seats == (Chair(seat=BOB, about="a baker"), Chair(seat=SeatName("cleo"), about="a pilot"))


def test_records_of_other_kinds_do_not_touch_the_floor() -> None:
    records = Records()
    before = fold(*plays(records))
    for record in (
        records.memory(ADA, Remembered(text="x")),
        records.whisper(ADA, Whispered(sender=BOB, text="x")),
        records.raw("elsewhere", b"junk"),
        records.raw(f"{records.subjects.base}.run.a.b", b"junk"),
    ):
        assert fold_floor(before, record) is before


@given(ANY_EVENT)
def test_every_event_comes_back_from_its_body(event: Any) -> None:
    record = Records().raw("cv.00.table.bus.floor.ada", event.body())
    assert event_of(record) == event


@given(JUNK)
def test_a_body_that_is_not_ours_is_a_bad_record_with_its_place(body: bytes) -> None:
    record = Records().raw("cv.00.table.bus.floor.ada", body)
    with pytest.raises(BadRecord, match=r"record 1 on cv.00.table.bus.floor.ada: not an event of ours"):
        event_of(record)


@pytest.mark.parametrize("text", ["half of a \ud83d", "\udcff"])
def test_a_text_that_no_record_can_hold_is_refused_in_words(text: str) -> None:
    with pytest.raises(NotAppended, match=r"Interjected: it has no JSON form: .*Nothing was appended"):
        Interjected(text=text).body()
