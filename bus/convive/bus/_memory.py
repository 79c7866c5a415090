"""Private memory: a fold that believes a turn's memories only once the bus shows that the turn was committed."""

from dataclasses import dataclass, field

from convive.bus._errors import BadRecord
from convive.bus._events import Passed, Remembered, Revoked, Said, event_of
from convive.bus._ids import RunId
from convive.bus._log import Record


@dataclass(frozen=True, slots=True)
class Memory:
    """One thing that an agent remembers, and its place in the log."""

    event: Remembered
    seq: int


@dataclass(slots=True)
class MemoryFold:
    """The memory of one seat, folded from its `memory` records and the outcomes of turns, in log order.

    Records of a run wait until `said` or `passed` with that run id is seen, and are dropped at `revoked`: either the
    guest said it and remembers it, or neither (architecture.md, section 5).
    """

    held: list[Memory] = field(default_factory=list[Memory])
    """What is remembered, in the order in which it was written down."""
    _waiting: dict[RunId, list[Memory]] = field(default_factory=dict[RunId, list[Memory]])
    _decided: dict[RunId, bool] = field(default_factory=dict[RunId, bool])

    def decide(self, outcome: Said | Passed | Revoked) -> None:
        """Take the outcome of a turn, as the fold of the floor accepted it."""
        committed = not isinstance(outcome, Revoked)
        self._decided[outcome.run_id] = committed
        waiting = self._waiting.pop(outcome.run_id, [])
        if committed:
            self.held += waiting

    def remember(self, record: Record) -> None:
        """Take a record of this seat's memory. Raises BadRecord, and is unchanged then."""
        event = event_of(record)
        if not isinstance(event, Remembered):
            raise BadRecord(record.subject, record.seq, f"{event.type} is no memory")
        memory = Memory(event, record.seq)
        if event.run_id is None or self._decided.get(event.run_id) is True:
            self.held.append(memory)
        elif event.run_id not in self._decided:
            self._waiting.setdefault(event.run_id, []).append(memory)

    @property
    def undecided(self) -> list[Memory]:
        """What was written down in a turn that is neither committed nor revoked yet."""
        return [memory for memories in self._waiting.values() for memory in memories]

    def of_run(self, run: RunId) -> list[Memory]:
        """What was written down in the turn of `run` that is still open."""
        return self._waiting.get(run, [])
