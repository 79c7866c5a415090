"""Folds of a conversation that can be kept: its floor, and the memory of a seat."""

from dataclasses import dataclass, field
from functools import lru_cache

from convive.bus.conversation._floor import Floor, fold_floor
from convive.bus.conversation._memory import MemoryFold
from convive.bus.log._errors import BadRecord
from convive.bus.log._folds import Fold
from convive.bus.log._ids import SeatName
from convive.bus.log._log import Record
from convive.bus.log._subjects import address_of

FLOOR: Fold[Floor] = Fold("floor", Floor, Floor, fold_floor, version=3)
"""The floor of a conversation, from the records of its bus."""


def decide(memory: MemoryFold, seat: SeatName, before: Floor, after: Floor) -> None:
    """Settle which memories of a seat count, when a link has just decided on them."""
    if after.opened is not None and before.opened is None:
        memory.decide(after.opened)
    outcome = after.last_outcome
    # A turn decides on the memories of the seat that had it, and of no other.
    holder = None if after.last_grant is None else after.last_grant.seat
    if outcome is not None and outcome is not before.last_outcome and holder == seat:
        memory.decide(outcome)


@dataclass(slots=True)
class SeatMemory:
    """The memory of a seat, and the floor that decides on it. `damaged` counts records that are no memories."""

    floor: Floor = field(default_factory=Floor)
    memory: MemoryFold = field(default_factory=MemoryFold)
    damaged: int = 0


@lru_cache(maxsize=64)
def memory_fold(seat: SeatName) -> Fold[SeatMemory]:
    """The memory of a seat, from the floor of its conversation and its own records."""

    def step(state: SeatMemory, record: Record) -> SeatMemory:
        if address_of(record.subject).kind == "memory":
            try:
                state.memory.remember(record)
            except BadRecord:
                state.damaged += 1
            return state
        before, state.floor = state.floor, fold_floor(state.floor, record)
        decide(state.memory, seat, before, state.floor)
        return state

    return Fold(f"memory-{seat}"[:63], SeatMemory, SeatMemory, step, version=3)
