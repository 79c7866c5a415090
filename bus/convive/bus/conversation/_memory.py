"""Private memory: a fold that believes a turn's memories only once the bus shows that the turn was committed."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import PlainSerializer

from convive.bus.conversation._events import Opened, Passed, Remembered, Revoked, Said, event_of
from convive.bus.log._errors import BadRecord
from convive.bus.log._ids import RunId
from convive.bus.log._log import Record


def _kept(event: Remembered) -> dict[str, Any]:
    """How a kept memory holds it: with what differs from one to the other, which is read back in half the time."""
    return event.model_dump(mode="json", by_alias=True, exclude={"type"}, exclude_none=True)


@dataclass(frozen=True, slots=True)
class Memory:
    """One thing that an agent remembers, and its place in the log."""

    event: Annotated[Remembered, PlainSerializer(_kept)]
    seq: int

    @property
    def text(self) -> str:
        return self.event.text

    @property
    def kind(self) -> str:
        return self.event.kind


@dataclass(slots=True)
class MemoryFold:
    """The memory of one seat, folded from its `memory` records and the outcomes of turns, in log order.

    Records of a run wait until `said` or `passed` with that run id is seen, and are dropped at `revoked`, or when that
    link names its memories and they are not among them: either the guest said it and remembers it, or neither
    (architecture.md, section 5).
    """

    held: list[Memory] = field(default_factory=list[Memory])
    """What is remembered, in the order in which it was written down."""
    _waiting: dict[RunId, list[Memory]] = field(default_factory=dict[RunId, list[Memory]])
    _decided: dict[RunId, frozenset[int] | None] = field(default_factory=dict[RunId, frozenset[int] | None])
    """Of each decided run, the places of its memories that count; None: all of them."""

    def decide(self, outcome: Opened | Said | Passed | Revoked) -> None:
        """Take the link that decides on memories, as the fold of the floor accepted it: an opening or a turn's end."""
        named = () if isinstance(outcome, Revoked) else outcome.memories
        self._decided[outcome.run_id] = places = None if named is None else frozenset(named)
        waiting = self._waiting.pop(outcome.run_id, [])
        self.held += [memory for memory in waiting if places is None or memory.seq in places]

    def remember(self, record: Record) -> None:
        """Take a record of this seat's memory. Raises BadRecord, and is unchanged then."""
        event = event_of(record)
        if not isinstance(event, Remembered):
            raise BadRecord(record.subject, record.seq, f"{event.type} is no memory")
        memory = Memory(event, record.seq)
        if event.run_id is not None and event.run_id not in self._decided:
            self._waiting.setdefault(event.run_id, []).append(memory)
            return
        places = None if event.run_id is None else self._decided[event.run_id]
        if places is None or record.seq in places:
            self.held.append(memory)
