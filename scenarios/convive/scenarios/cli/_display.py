"""Ways to show a conversation while it happens: plain lines, JSON lines, or a terminal with colours."""

import json
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from convive.bus import HOST, Record, Transcript, TranscriptLine, address_of
from convive.scenarios.cli._transcript import plain, record_as_json, shown

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red", "bright_cyan", "bright_green", "bright_magenta")


class Display(ABC):
    """Shows records in the order of the log."""

    wants_live = False
    """Whether it shows text while it is being produced."""
    wants_heading = False
    """Whether it begins with the first record also when it shows what came later; who resumes has it already."""

    def __init__(self) -> None:
        self.transcript = Transcript()

    @property
    def over(self) -> bool:
        """Whether the conversation was closed."""
        return self.transcript.floor.closed is not None

    @abstractmethod
    def show(self, record: Record) -> None:
        """One more record of the bus, or a live one."""

    def skip(self, record: Record) -> None:
        """A record that must be known but not shown."""
        for _ in self.transcript.apply(record):
            pass

    @contextmanager
    def paused(self) -> Generator[None]:
        """Keep off the screen within this block, in which somebody is asked something."""
        yield

    def close(self) -> None:  # noqa: B027 - most displays have nothing to tidy up
        """Leave the screen tidy."""


class PlainDisplay(Display):
    """One line a record; the same bytes whether the conversation runs or is replayed."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def show(self, record: Record) -> None:
        for line in self.transcript.apply(record):
            self._out.write(plain(line) + "\n")
            self._out.flush()


class JsonDisplay(Display):
    """One JSON object a record."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def show(self, record: Record) -> None:
        self.skip(record)
        self._out.write(record_as_json(record) + "\n")
        self._out.flush()


class LiveText:
    """The text that the holder of the floor is producing, folded from live records (`_live.py` of the agents)."""

    def __init__(self) -> None:
        self._attempt: tuple[str, int, int] = ("", -1, -1)
        self.text = ""

    def apply(self, record: Record, run: str) -> bool:
        """Take one live record; True when the text of `run` changed. Broken ones are ignored: they are a courtesy."""
        if address_of(record.subject).name != run:
            return False
        try:
            body = json.loads(record.body)
            if body["type"] != "delta":
                return False
            attempt = (run, int(body["trip"]), int(body["attempt"]))
            offset, text = int(body["offset"]), str(body["text"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return False
        if attempt != self._attempt:
            self._attempt, self.text = attempt, ""
        if offset <= len(self.text):
            self.text = self.text[:offset] + text
        return True

    def clear(self) -> None:
        """The turn is over."""
        self.text = ""


class TerminalDisplay(Display):
    """Colours, names in a column, and the text of the speaker while it comes."""

    wants_live = True
    wants_heading = True

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._text = LiveText()
        self._region: Live | None = None
        self._held: list[TranscriptLine] | None = None

    @contextmanager
    def paused(self) -> Generator[None]:
        if self._held is not None:  # somebody is being asked something already
            yield
            return
        self._clear()
        self._held = []
        try:
            yield
        finally:
            lines, self._held = self._held, None
            for line in lines:
                self._console.print(self._line(line))
        self._refresh()  # not when the question was called off: what follows is a farewell

    def show(self, record: Record) -> None:
        if address_of(record.subject).kind == "live":
            held = self.transcript.floor.open_grant
            if held is not None and self._text.apply(record, held.grant.run_id):
                self._refresh()
            return
        lines = list(self.transcript.apply(record))
        if self._held is not None:
            self._held += lines
            return
        self._clear()
        for line in lines:
            self._console.print(self._line(line))
        if self.transcript.floor.open_grant is None:
            self._text.clear()
        else:
            self._refresh()

    def close(self) -> None:
        self._clear()

    def _refresh(self) -> None:
        held = self.transcript.floor.open_grant
        if held is None or self._held is not None or not self._console.is_terminal:
            return
        seat = held.grant.seat
        text = shown(self._text.text)
        line = self._row(seat, self.transcript.speaker(seat), Text(text + " ▍" if text else "…", style="dim"))
        if self._region is None:
            self._region = Live(
                line, console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop"
            )
            self._region.start()
        self._region.update(line, refresh=True)

    def _clear(self) -> None:
        if self._region is not None:
            self._region.stop()
            self._region = None

    def _line(self, line: TranscriptLine) -> Table | Text:
        match line.style:
            case "speech":
                return self._row(line.seat, line.speaker, Text(shown(line.text)))
            case "aside":
                return self._row(
                    line.seat, line.speaker, Text.assemble((shown(line.text), "italic"), ("  (aside)", "dim"))
                )
            case "stage":
                return Text(shown(line.text), style="dim italic")

    def _row(self, seat: str, speaker: str, text: Text) -> Table:
        # Room for the ^C that a terminal echoes: on a line of its own it would keep a part of the region there.
        row = Table.grid(padding=(0, 2, 0, 0))
        row.width = max(20, self._console.width - 3)
        row.add_column(width=self._name_width(), no_wrap=True)
        row.add_column(ratio=1)
        row.add_row(Text(shown(speaker), style=f"bold {self._colour(seat)}"), text)
        return row

    def _name_width(self) -> int:
        names = [self.transcript.speaker(chair.seat) for chair in self.transcript.floor.seats]
        return min(16, max((len(shown(name)) for name in names), default=8))

    def _colour(self, seat: str) -> str:
        if seat == HOST:
            return "white"
        seats: list[str] = [chair.seat for chair in self.transcript.floor.seats if chair.seat != HOST]
        return COLOURS[(seats.index(seat) if seat in seats else sum(seat.encode())) % len(COLOURS)]
