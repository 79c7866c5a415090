"""The transcript: a fold of the bus into lines. Nothing from the wire gets to a terminal as it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.bus import (
    HOST,
    Chair,
    Ended,
    Granted,
    Interjected,
    Joined,
    Left,
    Noted,
    Opened,
    Passed,
    Record,
    Revoked,
    Said,
    SeatName,
    Transcript,
    Whispered,
)
from convive.bus.testing import Records, run_number
from convive.scenarios.cli._transcript import plain, record_as_json, shown

ADA, BOB = SeatName("ada"), SeatName("bob-the-elder")
RUN = run_number(0)


class Table:
    """A conversation by hand, and the lines that it makes."""

    def __init__(self, *chairs: Chair, topic: str = "Figs?") -> None:
        self.records = Records()
        self.transcript = Transcript()
        opened = Opened(run_id=RUN, topic=topic, chairs=chairs or tuple(Chair(seat=seat) for seat in (HOST, ADA, BOB)))
        self.opening = self.hear(self.records.link(HOST, opened))

    def hear(self, record: Record) -> list[str]:
        return [plain(line) for line in self.transcript.apply(record)]

    def granted(self, seat: SeatName = ADA) -> list[str]:
        floor = self.transcript.floor
        turn = floor.turn + 1
        granted = Granted(link=floor.links, turn=turn, seat=seat, run_id=run_number(turn), deadline_s=0)
        return self.hear(self.records.link(HOST, granted))

    def said(self, text: str, seat: SeatName = ADA) -> list[str]:
        self.granted(seat)
        floor = self.transcript.floor
        said = Said(link=floor.links, turn=floor.turn, run_id=run_number(floor.turn), text=text)
        return self.hear(self.records.link(seat, said))


@pytest.mark.parametrize(("topic", "shown"), [("Figs", "Figs."), ("Figs!", "Figs!"), ('"Figs."', '"Figs."')])
def test_a_topic_ends_before_the_guests_are_named(topic: str, shown: str) -> None:
    table = Table(topic=topic)
    assert table.opening == [f"* {shown} At the table: Ada, Bob The Elder."]


def test_every_event_of_the_floor_has_its_line() -> None:
    table = Table()
    assert table.opening == ["* Figs? At the table: Ada, Bob The Elder."]
    assert table.granted(BOB) == []
    passed = Passed(link=2, turn=1, run_id=run_number(1), reason="shy")
    assert table.hear(table.records.link(BOB, passed)) == ["* Bob The Elder passes (shy)"]
    assert table.said("I like figs.") == ["Ada: I like figs."]
    table.granted(BOB)
    revoked = Revoked(link=6, turn=3, run_id=run_number(3), reason="too late")
    assert table.hear(table.records.link(HOST, revoked)) == ["* the floor is taken back from Bob The Elder (too late)"]
    assert table.hear(table.records.link(HOST, Ended(link=7))) == ["* the end"]


def test_every_aside_has_its_line() -> None:
    table, eve = Table(), SeatName("eve")
    lines = [
        table.hear(table.records.aside(eve, event))
        for event in (Joined(about="a guest"), Joined(), Interjected(text="Hear!"), Noted(text="Rain."), Left())
    ]
    assert lines == [
        ["* Eve sits down (a guest)"],
        ["* Eve sits down"],
        ["Eve (aside): Hear!"],
        ["* Rain."],
        ["* Eve leaves"],
    ]


def test_names_come_from_the_chairs() -> None:
    table = Table(Chair(seat=HOST, name="Martha"), Chair(seat=ADA, name="Countess Ada"), Chair(seat=BOB))
    assert table.opening == ["* Figs? At the table: Countess Ada, Bob The Elder."]
    assert table.said("Well.") == ["Countess Ada: Well."]
    assert table.said("To figs!", HOST) == ["Martha: To figs!"]


def test_newlines_and_control_characters_are_not_shown() -> None:
    evil = "one\r\ntwo\x1b[2J\x07 \u202ethree\u2028four\tfive\x9b31m"
    table = Table(Chair(seat=HOST, name="Mar\x1b[31mtha\n"), Chair(seat=ADA))
    assert table.said(evil) == ["Ada: one two[2J three four five31m"]
    assert table.said(evil, HOST)[0].startswith("Mar[31mtha: one two")
    assert shown("a\x00b\x7fc") == "abc"


def test_an_author_from_the_subject_is_shown_without_control_characters() -> None:
    table = Table()
    record = table.records.raw(f"{table.records.subjects.base}.bus.aside.\x1b]0;x\x07", Interjected(text="Hi").body())
    (line,) = table.hear(record)
    assert line == "]0;X (aside): Hi"


def test_a_record_that_is_not_ours_is_told_of_and_the_next_is_read() -> None:
    table = Table()
    (line,) = table.hear(table.records.raw(table.records.subjects.link(ADA), b"\xff not json \x1b[2J"))
    assert line.startswith("* unreadable record at 2: not an event of ours")
    assert line.isprintable()
    assert table.said("Where was I?") == ["Ada: Where was I?"]


def test_words_of_somebody_without_the_floor_are_never_shown_as_speech() -> None:
    """Nor skipped in silence, also after more damage than a floor keeps samples of."""
    table = Table()
    forged = Said(link=1, turn=1, run_id=run_number(1), text="I am Ada!")
    for _ in range(30):
        (line,) = table.hear(table.records.link(ADA, forged))
        assert line.startswith("* unreadable record at ")
        assert "I am Ada" not in line
    (line,) = table.hear(table.records.raw(table.records.subjects.aside(ADA), forged.body()))
    assert line.startswith("* unreadable record at ")
    assert "I am Ada" not in line
    assert table.hear(table.records.raw(f"{table.records.subjects.base}.bus.elsewhere", forged.body())) == []
    assert table.said("This is me.") == ["Ada: This is me."]


@given(body=st.binary(max_size=60), seat=st.text(alphabet=st.characters(exclude_characters=".*>"), min_size=1))
def test_whatever_is_on_the_bus_every_line_is_one_line(body: bytes, seat: str) -> None:
    table = Table()
    for kind in ("floor", "aside", "other"):
        for line in table.hear(table.records.raw(f"{table.records.subjects.base}.bus.{kind}.{seat}", body)):
            assert line.isprintable()


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b"", b'{"type":"said"}', b"9" * 5_000, b'"\\ud800"'])
def test_a_record_as_json_is_one_line_of_json_whatever_is_in_it(body: bytes) -> None:
    records = Records()
    line = record_as_json(records.raw(records.subjects.link(ADA), body))
    assert "\n" not in line
    row = json.loads(line)
    assert (row["seq"], row["kind"], row["seat"]) == (1, "floor", "ada")


def test_a_memory_or_a_whisper_among_the_asides_is_no_line() -> None:
    table = Table()
    whisper = Whispered(sender=ADA, text="psst")
    (line,) = table.hear(table.records.raw(table.records.subjects.aside(ADA), whisper.body()))
    assert line.startswith("* unreadable record")
    assert "psst" not in line
