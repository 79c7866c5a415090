"""What a check of a conversation finds, and what it saw."""

from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from convive.bus.conversation._floor import Floor
from convive.bus.log._ids import SeatName

FindingKind = Literal["foreign", "floor", "memory", "journal", "orphan", "header", "wake", "letter", "lost"]
"""A record that is not ours; a link that the floor protocol forbids; a memory that is named and cannot count; a journal
that does not fold; a record that belongs to nothing; headers that name another run than the record does.

Of an entity: a commit that does not follow; a letter that is not what its sender sent, or never came; what waits, and
nobody has a job to do it."""

Part = Literal["bus", "memory", "inbox", "run", "stream", "other"]
Fate = Literal["open", "said", "passed", "revoked"]

KEPT: Final = 100
"""How many findings of each kind are kept. All are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. `seq` is the place of the record, `subject` its subject below the conversation."""

    kind: FindingKind
    seq: int
    subject: str
    why: str


class Findings:
    """All that was found, counted; of each kind the first `KEPT`."""

    def __init__(self) -> None:
        self.counts: Counter[FindingKind] = Counter()
        self.kept: list[Finding] = []

    def add(self, kind: FindingKind, seq: int, subject: str, why: str) -> None:
        """Note one more."""
        self.counts[kind] += 1
        if self.counts[kind] <= KEPT:
            self.kept.append(Finding(kind, seq, subject, why))


@dataclass(slots=True)
class GrantedTurn:
    """A turn, and what became of it."""

    seat: SeatName
    turn: int
    fate: Fate = "open"


@dataclass(frozen=True, slots=True)
class Verified:
    """What a pass over a conversation saw. `through` is the last record that was looked at, 0: none."""

    through: int
    parts: dict[Part, int]
    """How many records there are of each part. Live text, which expires, is not among them."""
    floor: Floor
    fates: dict[Fate, int]
    """How many turns came to what."""
    memories: int
    """How many memories count."""
    dropped: int
    """How many do not: of turns that are not committed, or left out by the link that committed the turn."""
    head: str
    """A hash over all records and their positions in this log, see `_verify_heads`."""
    content_head: str
    """The same without what differs in a copy."""
