"""Displays: the same lines whatever they come through, and the text of a speaker while it comes."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from convive.bus import HOST, Chair, Granted, Interjected, Opened, Record, Said, SeatName
from convive.bus.testing import Records, run_number
from convive.scenarios.cli._display import JsonDisplay, LiveText, PlainDisplay, TerminalDisplay

ADA = SeatName("ada")
RUN = run_number(1)
LONG = "I counted the wheels, and then I counted them again, because nobody at this table believes in arithmetic."


class Speech:
    """Live records of one run."""

    def __init__(self, run: str = RUN) -> None:
        self.records = Records()
        self._subject = f"{self.records.subjects.base}.live.{run_number(0)}.{run}"

    def delta(self, offset: int, text: str, trip: int = 0, attempt: int = 1) -> Record:
        return self.raw({"type": "delta", "trip": trip, "attempt": attempt, "offset": offset, "text": text})

    def raw(self, body: Any) -> Record:
        return self.records.raw(self._subject, body if isinstance(body, bytes) else json.dumps(body).encode())


def evening(records: Records) -> list[Record]:
    """Ada is granted the floor and speaks."""
    opened = Opened(run_id=run_number(0), topic="Figs?", chairs=(Chair(seat=HOST), Chair(seat=ADA)))
    granted = Granted(link=1, turn=1, seat=ADA, run_id=RUN, deadline_s=0)
    said = Said(link=2, turn=1, run_id=RUN, text=LONG)
    return [records.link(HOST, opened), records.link(HOST, granted), records.link(ADA, said)]


def test_live_text_grows_with_its_deltas() -> None:
    live, speech = LiveText(), Speech()
    for record in (speech.delta(0, "My engine"), speech.delta(9, " could"), speech.delta(15, " sing.")):
        assert live.apply(record, RUN)
    assert live.text == "My engine could sing."


@pytest.mark.parametrize(("trip", "attempt"), [(0, 2), (1, 1)])
def test_live_text_begins_again_with_another_attempt(trip: int, attempt: int) -> None:
    live, speech = LiveText(), Speech()
    live.apply(speech.delta(0, "A first try"), RUN)
    live.apply(speech.delta(0, "Better", trip, attempt), RUN)
    assert live.text == "Better"


def test_live_text_with_a_gap_shows_what_it_has() -> None:
    live, speech = LiveText(), Speech()
    live.apply(speech.delta(0, "One"), RUN)
    live.apply(speech.delta(9, " three"), RUN)
    assert live.text == "One"


def test_a_delta_that_comes_twice_counts_once() -> None:
    live, speech = LiveText(), Speech()
    for record in (speech.delta(0, "One"), speech.delta(3, " two"), speech.delta(3, " two")):
        live.apply(record, RUN)
    assert live.text == "One two"


def test_live_text_of_another_run_is_not_shown() -> None:
    live = LiveText()
    assert not live.apply(Speech(run_number(2)).delta(0, "Elsewhere"), RUN)
    assert live.text == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"type":"delta","trip":1e999,"attempt":1,"offset":0,"text":"x"}',
        [],
        3,
        {"type": "end", "trip": 0, "attempt": 1, "length": 3},
        {"type": "delta"},
        {"type": "delta", "trip": None, "attempt": 1, "offset": 0, "text": "x"},
        {"type": "delta", "trip": "x", "attempt": 1, "offset": 0, "text": "x"},
    ],
)
def test_live_records_that_are_garbage_are_ignored(body: Any) -> None:
    live, speech = LiveText(), Speech()
    live.apply(speech.delta(0, "Still here"), RUN)
    assert not live.apply(speech.raw(body), RUN)
    assert live.text == "Still here"


def test_a_plain_display_writes_one_line_a_record() -> None:
    out = io.StringIO()
    display = PlainDisplay(out)
    for record in evening(Records()):
        display.show(record)
    assert out.getvalue().splitlines() == ["* Figs? At the table: Ada.", f"Ada: {LONG}"]


def test_a_json_display_writes_every_record_that_it_shows_and_knows_what_it_skips() -> None:
    out = io.StringIO()
    display = JsonDisplay(out)
    opened, granted, said = evening(Records())
    display.skip(opened)
    display.show(granted)
    display.show(said)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(row["seq"], row["event"]["type"]) for row in rows] == [(2, "granted"), (3, "said")]
    assert display.transcript.floor.said_turns == 1


def test_a_terminal_shows_text_while_it_comes_and_the_whole_at_the_end() -> None:
    out = io.StringIO()
    display = TerminalDisplay(Console(file=out, force_terminal=True, width=80, highlight=False))
    speech = Speech()
    opened, granted, said = evening(speech.records)
    display.show(opened)
    display.show(granted)
    display.show(speech.delta(0, "I counted the"))
    assert "I counted the ▍" in out.getvalue()
    display.show(said)
    display.close()
    final = out.getvalue().rpartition("▍")[2]
    assert "believes in arithmetic." in " ".join(final.split())


def test_no_line_of_a_terminal_is_wider_than_it_is() -> None:
    out = io.StringIO()
    display = TerminalDisplay(Console(file=out, width=40, highlight=False))
    records = Records()
    for record in evening(records):
        display.show(record)
    display.show(records.aside("eve", Interjected(text="W" * 200 + " 漢字" * 40)))
    assert all(len(line.rstrip()) <= 40 for line in out.getvalue().splitlines())


def test_markup_in_what_is_said_stays_text() -> None:
    out = io.StringIO()
    display = TerminalDisplay(Console(file=out, width=80, highlight=False))
    records = Records()
    display.show(evening(records)[0])
    display.show(records.aside("eve", Interjected(text="[bold red]no[/] [link=x]y")))
    assert "[bold red]no[/] [link=x]y" in out.getvalue()
