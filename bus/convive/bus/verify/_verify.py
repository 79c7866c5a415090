"""Whether the records of a conversation can be what they claim: one pass, in the order of the log.

What the floor protocol and the fold of memories promise is checked here; journals, of which the bus knows nothing but
their subjects and headers, in `convive.agents`. Nothing is repaired and nothing is skipped: what is wrong is a finding.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final, cast

from convive.bus.conversation._events import (
    BusEvent,
    Granted,
    Joined,
    Opened,
    Passed,
    Remembered,
    Revoked,
    Said,
    Whispered,
    event_of,
)
from convive.bus.conversation._floor import Floor, OpenGrant, fold_floor
from convive.bus.conversation._memory import MemoryFold
from convive.bus.log._errors import BadName, BadRecord
from convive.bus.log._ids import HOST, RunId, SeatName, run_id
from convive.bus.log._log import Record
from convive.bus.log._runs import RunContext, run_of
from convive.bus.log._subjects import address_of, is_derived
from convive.bus.verify._findings import FindingKind, Findings, GrantedTurn, Part, Verified
from convive.bus.verify._verify_heads import CONTENT, Heads

_PARTS: Final = frozenset(("bus", "memory", "inbox", "run", "stream"))
_NO_RUN: Final = RunId("")


@dataclass(frozen=True, slots=True)
class _Committed:
    """The memories that a link committed: of whom (None: of everybody), and where (None: all of the run)."""

    seat: SeatName | None
    places: frozenset[int] | None


@dataclass(slots=True)
class _Shelf:
    """The memory of a seat: where it begins, how much there is, and the fold that readers use, told of no text."""

    first: int = 0
    size: int = 0
    fold: MemoryFold = field(default_factory=MemoryFold)


class Verification:
    """The check of one conversation. Apply its records in the order of the log, then `finish`.

    `base` is the subject of the conversation, `content` what its content head is of (see `_verify_heads`). Time is
    linear in the records; what is kept grows with turns, runs and memories, by some hundred bytes each, and never holds
    a text.
    """

    def __init__(self, base: str, content: Collection[str] = CONTENT) -> None:
        self.findings = Findings()
        self.floor = Floor()
        self.turns: dict[RunId, GrantedTurn] = {}
        """The turns, by their run."""
        self._prefix = f"{base}."
        self._heads = Heads(content)
        self._parts: Counter[Part] = Counter()
        self._through = 0
        self._seats: set[SeatName] = {HOST}
        self._committed: dict[RunId, _Committed] = {}
        self._memories: dict[int, tuple[SeatName, RunId | None]] = {}
        self._owners: dict[tuple[SeatName, RunId | None], tuple[SeatName, RunId | None]] = {}
        self._shelves: dict[SeatName, _Shelf] = {}

    @property
    def root(self) -> RunId | None:
        """The run of the conversation itself; None: it was not opened."""
        return None if self.floor.opened is None else self.floor.opened.run_id

    def found(self, kind: FindingKind, record: Record, why: str) -> None:
        """Note that something is wrong with a record."""
        self.findings.add(kind, record.seq, record.subject.removeprefix(self._prefix), why)

    def apply(self, record: Record) -> RunContext | None:
        """Take the next record. For one of a journal, the run by its subject; its parent is the one in the headers."""
        suffix = record.subject.removeprefix(self._prefix)
        if is_derived(suffix):
            return None
        first = suffix.partition(".")[0]
        part = cast("Part", first) if first in _PARTS else "other"
        self._parts[part] += 1
        self._through = record.seq
        self._heads.take(suffix, record.seq, record.headers, record.body)
        match part:
            case "bus":
                self._on_bus(record)
            case "memory":
                self._on_memory(record)
            case "inbox":
                self._on_inbox(record)
            case "run":
                return self._on_journal(record, suffix)
            case "stream":
                pass  # whatever its writers like
            case "other":
                self.found("foreign", record, "a conversation has no such subject")
        return None

    def finish(self) -> Verified:
        """What there is, when all records were applied."""
        for seat, shelf in self._shelves.items():
            if self.floor.opened is not None and seat not in self._seats and shelf.size:
                what = "a memory" if shelf.size == 1 else f"the first of {shelf.size} memories"
                self.findings.add("orphan", shelf.first, f"memory.{seat}", f"{what} of {seat}, who never had a seat")
        counting = {seq for seq, (seat, run) in self._memories.items() if self._counts(seat, seq, run)}
        held = {memory.seq for shelf in self._shelves.values() for memory in shelf.fold.held}
        for seq in sorted(counting ^ held):
            why = "readers count it, the links do not" if seq in held else "the links count it, readers do not"
            self.findings.add("memory", seq, f"memory.{self._memories[seq][0]}", why)
        return Verified(
            through=self._through,
            parts=dict(self._parts),
            floor=self.floor,
            fates=dict(Counter(turn.fate for turn in self.turns.values())),
            memories=len(counting),
            dropped=len(self._memories) - len(counting),
            head=self._heads.head,
            content_head=self._heads.content,
        )

    # The bus

    def _on_bus(self, record: Record) -> None:
        before = self.floor
        after = fold_floor(before, record)
        # Room for the next sample: what a floor keeps of its damage is bounded.
        self.floor = replace(after, damage=()) if after.damage else after
        address = address_of(record.subject)
        try:
            event = event_of(record)
        except BadRecord as bad:
            self.found("foreign", record, bad.why)
            return
        if address.kind == "other":
            self.found("foreign", record, "a bus has no such subject")
        elif after.damage:
            self.found("floor", record, after.damage[0].why)
        else:
            if isinstance(event, Joined):
                self._seats.add(SeatName(address.name))
            self._on_event(before.open_grant, event, record)

    def _on_event(self, held: OpenGrant | None, event: BusEvent, record: Record) -> None:
        match event:
            case Opened():
                self._seats |= {chair.seat for chair in event.chairs}
                self._check_run(event.run_id, record)
                self._check_headers(record, event.run_id)
                self._commit(event, None, record)
                for shelf in self._shelves.values():
                    shelf.fold.decide(event)
            case Granted():
                self._seats.add(event.seat)
                self._check_headers(record, event.run_id)
                if event.run_id in self.turns or event.run_id == self.root:
                    self.found("floor", record, f"run {event.run_id} is not new: it had a turn, or is the conversation")
                elif self._check_run(event.run_id, record):
                    self.turns[event.run_id] = GrantedTurn(event.seat, event.turn)
            case Said() | Passed() | Revoked():
                assert held is not None  # noqa: S101 - the floor accepted it
                self._on_outcome(held.grant, event, record)
            case _:
                self._check_headers(record, None)

    def _on_outcome(self, grant: Granted, event: Said | Passed | Revoked, record: Record) -> None:
        turn = self.turns.get(grant.run_id)
        if turn is not None and turn.turn == grant.turn:
            turn.fate = event.type
        if isinstance(event, Revoked):
            self._check_headers(record, None)
            if event.turn != grant.turn:
                self.found("floor", record, f"revokes turn {event.turn} with the run of turn {grant.turn}")
        else:
            self._check_headers(record, event.run_id)
            self._commit(event, grant.seat, record)
        self._shelf(grant.seat).fold.decide(event)

    # Memories and whispers

    def _on_memory(self, record: Record) -> None:
        event = self._event(record)
        if not isinstance(event, Remembered):
            if event is not None:
                self.found("foreign", record, f"{event.type} is no memory")
            return
        self._check_headers(record, event.run_id)
        run = event.run_id
        if run is not None and not self._check_run(run, record):
            run = _NO_RUN
        seat = SeatName(address_of(record.subject).name)
        shelf = self._shelf(seat)
        shelf.first = shelf.first or record.seq
        shelf.size += 1
        self._memories[record.seq] = self._owners.setdefault((seat, run), (seat, run))
        shelf.fold.remember(replace(record, headers={}, body=Remembered(text="", run_id=run).body()))

    def _on_inbox(self, record: Record) -> None:
        event = self._event(record)
        if isinstance(event, Whispered):
            self._check_headers(record, None)
        elif event is not None:
            self.found("foreign", record, f"{event.type} is no whisper")

    def _event(self, record: Record) -> BusEvent | None:
        if address_of(record.subject).kind == "other":
            self.found("foreign", record, "a seat has no such subject")
            return None
        try:
            return event_of(record)
        except BadRecord as bad:
            self.found("foreign", record, bad.why)
            return None

    def _shelf(self, seat: SeatName) -> _Shelf:
        shelf = self._shelves.get(seat)
        if shelf is None:
            shelf = self._shelves[seat] = _Shelf()
            if self.floor.opened is not None:
                shelf.fold.decide(self.floor.opened)
        return shelf

    def _commit(self, event: Opened | Said | Passed, seat: SeatName | None, record: Record) -> None:
        """Note which memories a link commits, and see whether those that it names can be."""
        places = None if event.memories is None else frozenset(event.memories)
        self._committed.setdefault(event.run_id, _Committed(seat, places))
        if places is not None and event.memories is not None and len(places) < len(event.memories):
            self.found("memory", record, "names a memory twice")
        for place in sorted(places or ()):
            owner, run = self._memories.get(place, (None, None))
            if owner is None or seat not in (None, owner):
                self.found("memory", record, f"names {place}, where no memory of {seat or 'a guest'} stands before it")
            elif run != event.run_id:
                self.found("memory", record, f"names the memory at {place}, which is of run {run or 'none'}")

    def _counts(self, seat: SeatName, seq: int, run: RunId | None) -> bool:
        if run is None:
            return True
        committed = self._committed.get(run)
        if committed is None or committed.seat not in (None, seat):
            return False
        return committed.places is None or seq in committed.places

    # Runs

    def _on_journal(self, record: Record, suffix: str) -> RunContext | None:
        tokens = suffix.split(".")
        try:
            _, root, run = tokens[0], run_id(tokens[1]), run_id(".".join(tokens[2:]))
        except (BadName, IndexError):
            self.found("foreign", record, "no journal has such a subject")
            return None
        parent = None if run == root else root
        try:
            named = run_of(record.headers)
        except BadName as error:
            self.found("header", record, str(error))
            return RunContext(run, root, parent)
        if named is None:
            return RunContext(run, root, parent)
        if named.run_id != run:
            self.found("header", record, f"the headers name run {named.run_id}")
        elif named.root_run_id != root:
            self.found("header", record, f"the headers name the root {named.root_run_id}")
        else:
            return named
        return RunContext(run, root, parent)

    def _check_run(self, run: RunId, record: Record) -> bool:
        try:
            run_id(run)
        except BadName as error:
            self.found("header", record, str(error))
            return False
        return True

    def _check_headers(self, record: Record, own: RunId | None) -> None:
        """The headers name a run that can be: the record's `own`, or the conversation's, or any where it has none."""
        try:
            named = run_of(record.headers)
        except BadName as error:
            self.found("header", record, str(error))
            return
        if named is not None and own is not None and named.run_id not in (own, self.root):
            self.found("header", record, f"the headers name run {named.run_id}, the record is of run {own[:40]}")
