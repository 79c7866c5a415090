"""The subject space: where each kind of record lives (architecture.md, section 3)."""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from convive.bus.log._ids import ConversationId, RunId, SeatName

Kind = Literal["floor", "aside", "memory", "inbox", "run", "live", "stream", "other"]


def partition_of(conversation: ConversationId, partitions: int) -> int:
    """The partition that holds a conversation: CRC-32 of its id (as in zlib), modulo the number of partitions."""
    return zlib.crc32(conversation.encode()) % partitions


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one conversation; `base` is `<prefix>.<partition>.<conversation>`."""

    base: str

    @classmethod
    def of(cls, prefix: str, partition: int, conversation: ConversationId) -> "Subjects":
        return cls(f"{prefix}.{partition:02d}.{conversation}")

    @property
    def bus(self) -> str:
        """Everything that everybody sees."""
        return f"{self.base}.bus.>"

    @property
    def floor(self) -> str:
        """The floor chain: the guard of every link names exactly this filter."""
        return f"{self.base}.bus.floor.*"

    def link(self, author: SeatName) -> str:
        return f"{self.base}.bus.floor.{author}"

    def aside(self, author: SeatName) -> str:
        return f"{self.base}.bus.aside.{author}"

    def memory(self, seat: SeatName | Literal["*"]) -> str:
        return f"{self.base}.memory.{seat}"

    def inbox(self, seat: SeatName | Literal["*"]) -> str:
        return f"{self.base}.inbox.{seat}"

    @property
    def live(self) -> str:
        """Text while it is being produced, of every run of this conversation."""
        return f"{self.base}.live.>"

    def stream(self, name: str) -> str:
        """The records of a plain stream; what goes with them (fence, snapshots, producers) is one token deeper."""
        return f"{self.base}.stream.{name}"

    @property
    def folds(self) -> str:
        """Where folds are kept, each below its name. They follow from the rest."""
        return f"{self.base}.fold"

    def journal(self, root: RunId, run: RunId) -> str:
        return f"{self.base}.run.{root}.{run}"


def is_derived(below: str) -> bool:
    """Whether what stands on that subject below a conversation passes (live text) or follows from the rest (folds).

    Neither is part of what happened: copies leave it out, and a check looks past it.
    """
    first, *others = below.split(".")
    return first in ("live", "fold") or (first == "stream" and others[1:2] == ["fold"])


@dataclass(frozen=True, slots=True)
class Address:
    """What a subject says of its record. `name` is the seat, the stream, or the run of a journal or live record."""

    conversation: ConversationId
    kind: Kind
    name: str


@lru_cache(maxsize=4096)
def address_of(subject: str) -> Address:
    """Read a subject. Subjects that are not of the bus have the kind `other`."""
    match subject.split("."):
        case [_, _, conversation, "bus", ("floor" | "aside") as kind, seat]:
            return Address(ConversationId(conversation), "floor" if kind == "floor" else "aside", seat)
        case [_, _, conversation, ("memory" | "inbox") as kind, seat]:
            return Address(ConversationId(conversation), "memory" if kind == "memory" else "inbox", seat)
        case [_, _, conversation, ("run" | "live") as kind, _, run]:
            return Address(ConversationId(conversation), "run" if kind == "run" else "live", run)
        case [_, _, conversation, "stream", name, *_]:
            return Address(ConversationId(conversation), "stream", name)
        case [_, _, conversation, *_]:
            return Address(ConversationId(conversation), "other", "")
        case _:
            return Address(ConversationId(""), "other", "")
