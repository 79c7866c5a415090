"""The transcript: a fold of the bus into lines. Whatever shows a conversation shows the same lines because of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from convive.bus.conversation._events import (
    AsideEvent,
    BusEvent,
    Chair,
    Ended,
    Interjected,
    Joined,
    Left,
    Noted,
    Opened,
    Passed,
    Revoked,
    Said,
    event_of,
)
from convive.bus.conversation._floor import Floor, fold_floor
from convive.bus.log._errors import BadRecord
from convive.bus.log._ids import HOST, SeatName
from convive.bus.log._log import Record
from convive.bus.log._subjects import address_of

Style = Literal["speech", "aside", "stage"]


@dataclass(frozen=True, slots=True)
class TranscriptLine:
    """One line: speech with the floor, an aside, or a stage direction (without a speaker)."""

    style: Style
    seat: str
    speaker: str
    text: str


class Transcript:
    """Folds records into lines. `floor` is the floor after the last record."""

    def __init__(self) -> None:
        self.floor = Floor()
        self.names: dict[str, str] = {}

    def apply(self, record: Record) -> Iterator[TranscriptLine]:
        """The lines that one more record of the bus adds: none, or one."""
        before = self.floor
        self.floor = fold_floor(before, record)
        if self.floor.damaged > before.damaged:
            known = len(self.floor.damage) > len(before.damage)
            why = self.floor.damage[-1].why if known else "not an event of ours, or against the floor protocol"
            yield TranscriptLine("stage", "", "", f"unreadable record at {record.seq}: {why}")
            return
        try:
            event = event_of(record)
        except BadRecord:
            return  # on a subject that is not of the bus
        address = address_of(record.subject)
        added = self.floor.links > before.links
        if not added and not (address.kind == "aside" and isinstance(event, AsideEvent)):
            return  # the same
        if isinstance(event, Opened):
            self.names = {chair.seat: chair.shown for chair in event.chairs}
        yield from self._line(event, address.name)

    def speaker(self, seat: str) -> str:
        """The display name of a seat."""
        return self.names.get(seat) or Chair(seat=SeatName(seat)).shown

    def _line(self, event: BusEvent, seat: str) -> Iterator[TranscriptLine]:
        who = self.speaker(seat)
        match event:
            case Opened():
                guests = ", ".join(self.speaker(chair.seat) for chair in event.chairs if chair.seat != HOST)
                topic = f"{event.topic}{'.' if event.topic[-1:].isalnum() else ''}"
                yield TranscriptLine("stage", seat, who, f"{topic} At the table: {guests or 'nobody yet'}.")
            case Said():
                yield TranscriptLine("speech", seat, who, event.text)
            case Passed():
                yield TranscriptLine("stage", seat, who, f"{who} passes{_because(event.reason)}")
            case Revoked():
                grant = self.floor.last_grant
                holder = self.speaker(grant.seat) if grant else "the guest"
                yield TranscriptLine(
                    "stage", seat, who, f"the floor is taken back from {holder}{_because(event.reason)}"
                )
            case Ended():
                yield TranscriptLine("stage", seat, who, f"the end{_because(event.reason)}")
            case Interjected():
                yield TranscriptLine("aside", seat, who, event.text)
            case Joined():
                yield TranscriptLine("stage", seat, who, f"{who} sits down{_because(event.about)}")
            case Left():
                yield TranscriptLine("stage", seat, who, f"{who} leaves{_because(event.reason)}")
            case Noted():
                yield TranscriptLine("stage", seat, who, event.text)
            case _:
                return


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
