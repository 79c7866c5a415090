"""What the seats of one process know: the bus that everybody hears, and each seat's own memory and inbox."""

from dataclasses import dataclass, field

from convive.bus.conversation._events import Whispered, event_of
from convive.bus.conversation._floor import Floor, Utterance, fold_floor
from convive.bus.conversation._memory import MemoryFold
from convive.bus.conversation._seat_memory import decide
from convive.bus.log._errors import BadRecord
from convive.bus.log._ids import SeatName
from convive.bus.log._log import Record
from convive.bus.log._subjects import address_of


@dataclass(slots=True)
class Private:
    """What only one seat knows."""

    memory: MemoryFold
    whispers: list[Whispered] = field(default_factory=list[Whispered])


class World:
    """A fold of one ordered subscription. Apply records in log order; nothing else is needed to know it all."""

    def __init__(self, *seats: SeatName) -> None:
        self.floor = Floor()
        self.heard: list[Utterance] = []
        """Everything that was said or interjected, in order."""
        self.private = {seat: Private(MemoryFold()) for seat in seats}
        self.bad: list[BadRecord] = []
        """Records of memories and inboxes that are not ours; those of the bus are in `floor.damage`."""
        self.seq = 0
        """The last record that was applied."""

    def apply(self, record: Record) -> None:
        """Take one more record."""
        self.seq = record.seq
        address = address_of(record.subject)
        if address.kind in ("floor", "aside"):
            self._bus(record)
            return
        private = self.private.get(SeatName(address.name))
        if private is None:
            return
        try:
            if address.kind == "memory":
                private.memory.remember(record)
            elif address.kind == "inbox":
                self._whispered(private, record)
        except BadRecord as bad:
            self.bad.append(bad.kept())

    def _bus(self, record: Record) -> None:
        before = self.floor
        self.floor = floor = fold_floor(before, record)
        if floor.last_outcome is not before.last_outcome or floor.opened is not before.opened:
            for seat, private in self.private.items():
                decide(private.memory, seat, before, floor)
        if floor.heard is not None and floor.heard is not before.heard:
            self.heard.append(floor.heard)

    def _whispered(self, private: Private, record: Record) -> None:
        event = event_of(record)
        if not isinstance(event, Whispered):
            raise BadRecord(record.subject, record.seq, f"{event.type} is no whisper")
        private.whispers.append(event)
