"""Appending a conversation again at other places: what `import_archive` and `fork` share.

A copy holds the same records in the same order at other places of another log. What names a place or a run is rewritten
on the way: the sequence numbers in links, and, where the copy is another conversation, every run id. Each copied record
names its original (`Cv-Origin`), so that a copy which was interrupted is completed by making it again.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from convive.bus.conversation._conversation import Conversation
from convive.bus.conversation._events import (
    ORIGIN,
    BusEvent,
    Opened,
    Origin,
    Passed,
    Revoked,
    Said,
    event_of,
    happened_s,
)
from convive.bus.conversation._floor import Floor, fold_floor
from convive.bus.log._errors import BadName, BadRecord, Conflict, ConviveError
from convive.bus.log._ids import HOST, ConversationId, RunId, derive_run_id
from convive.bus.log._log import BATCH, LONGEST_TTL_S, TTL, Draft, Guard, Record, whole_number
from convive.bus.log._runs import PARENT, ROOT, RunContext, run_of
from convive.bus.log._subjects import is_derived
from convive.bus.streams._stream_records import NEXT, POSITION

FORKED = "forked here"
"""Why the last link of a fork takes the floor back."""

_BATCH_BYTES = 1_048_576
_TRIES = 3
_SPAN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,12})?)(h|ms?|s)")
_SPANS = re.compile(rf"(?:{_SPAN.pattern}){{1,4}}")
_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
_RUN_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")

Change = Callable[[Opened], Opened]


class NameTaken(ConviveError):
    """A conversation of that name is there, and it is no part of the same copy. Nothing was changed."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is another conversation {name!r} on this bus. Nothing was changed; take another name (`--as`)."
        )


@dataclass(frozen=True, slots=True)
class CopyOrigin:
    """What a copy under another name comes from, and what is changed in it."""

    conversation: ConversationId
    seq: int
    change: Change | None = None

    def opened(self, event: Opened, original: RunId) -> Opened:
        origin = Origin(conversation=self.conversation, run_id=original, seq=self.seq)
        event = event.model_copy(update={"origin": origin})
        return event if self.change is None else self.change(event)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record that is about to be appended: itself, its event if it counts, and whether it is a link of the floor."""

    record: Record
    event: BusEvent | None
    is_link: bool

    @property
    def names(self) -> bool:
        """Whether it names places, maybe of records that wait with it."""
        named = isinstance(self.event, Opened | Said | Passed) and bool(self.event.memories)
        return named or _position_header(self.record) is not None


@dataclass(frozen=True, slots=True)
class _Done:
    """A record of the copy that is there already: its place, and what it has to be (`_known_by`)."""

    seq: int
    known_by: bytes


class Copy:
    """Appends originals to a target, rewritten: in batches, and each of these behind the link before it."""

    def __init__(
        self, target: Conversation, done: Mapping[int, _Done], opened: Record | None, clock: Callable[[], float]
    ) -> None:
        self.origin: CopyOrigin | None = None
        """Set for a copy under another name, before anything is taken."""
        self._target = target
        self._clock = clock
        self._done = done
        self._opened = opened
        self._places = {0: 0} | {original: each.seq for original, each in done.items()}
        self._runs: dict[bytes, RunId] = {}
        self._floor = Floor()
        self._link = 0
        self._waiting: list[_Waiting] = []
        self._size = 0

    @classmethod
    async def begin(cls, target: Conversation, clock: Callable[[], float]) -> Self:
        """Find what is there of this copy already. Raises NameTaken for anything that is no part of a copy."""
        done: dict[int, _Done] = {}
        opened: Record | None = None
        base, link = target.subjects.base, target.subjects.link(HOST)
        async with target.log.read(f"{base}.>") as records:
            async for record in records:
                number = whole_number(record.headers.get(ORIGIN, "").partition(" ")[0])
                if number is not None:
                    done[number] = _Done(record.seq, _known_by(record.subject, record.body))
                    opened = record if opened is None and record.subject == link else opened
                elif not is_derived(record.subject[len(base) + 1 :]) and not _is_last_of_a_fork(record):
                    raise NameTaken(target.id)
        return cls(target, done, opened, clock)

    def begun_at(self, source: ConversationId) -> int | None:
        """Where that conversation was cut when this fork of it was begun; None if it was not, or was not opened yet."""
        event = event_of(self._opened) if self._opened else None
        origin = event.origin if isinstance(event, Opened) else None
        return origin.seq if origin and origin.conversation == source else None

    def plain(self, original: Record) -> Draft:
        """A record as it will be, as far as the size and form of it go."""
        headers = {**self._headers(original), ORIGIN: f"{original.seq} {original.time_s!r}"}
        return Draft(f"{self._target.subjects.base}.{original.subject}", original.body, headers, ttl_s=_ttl_s(original))

    async def take(self, original: Record) -> None:
        """Copy one record; its subject is the part below the conversation. Raises NameTaken and errors of the bus."""
        ttl_s = _ttl_s(original)
        if ttl_s is not None and original.time_s + ttl_s <= self._clock():
            return
        subject = f"{self._target.subjects.base}.{original.subject}"
        whole = Record(subject, original.seq, original.time_s, original.headers, original.body)
        floor = fold_floor(self._floor, whole)
        if floor.closed is not None and self.origin is not None:
            return  # the end of another conversation is not the end of this one, and nothing comes behind it
        is_link, counts = floor.seq != self._floor.seq, floor.links > self._floor.links
        self._floor = floor
        event = event_of(whole) if counts else None
        done = self._done.get(original.seq)
        # What waits comes first in any case, since a run is seen before anything speaks of it.
        if done is not None or len(self._waiting) >= BATCH or self._size + len(whole.body) > _BATCH_BYTES:
            await self._flush()
        if done is None:
            self._waiting.append(_Waiting(whole, event, is_link))
            self._size += len(whole.body)
            return
        draft = self._draft(whole, event)
        if done.known_by != _known_by(draft.subject, draft.body):
            raise NameTaken(self._target.id)
        if is_link:
            self._link = done.seq

    async def _flush(self) -> None:
        """Append what waits, all or none: its order is that of the original whatever breaks.

        A link that names memories which wait with it has to know their places beforehand. So the batch is for the end
        of the log as it is now. Where others write there all the time, it is taken apart before each such link.
        """
        waiting, self._waiting, self._size = self._waiting, [], 0
        parts = _apart(waiting)
        for _ in range(_TRIES if len(parts) > 1 else 0):
            if await self._append(waiting, await self._target.log.end() + 1):
                return
        for part in parts:
            await self._append(part)

    async def _append(self, waiting: Sequence[_Waiting], at: int | None = None) -> bool:
        """Append a batch, behind the last link; False when others were first at the place that it was for."""
        if at is not None:
            self._places |= {each.record.seq: place for place, each in enumerate(waiting, at)}
        first, *others = (self._draft(each.record, each.event) for each in waiting)
        drafts = [replace(first, id=_digest(first), at=at), *others]  # it stands for its batch
        links = [number for number, each in enumerate(waiting) if each.is_link]
        if links:  # behind the first link the others follow it in the same batch
            guard = Guard(self._target.subjects.floor, self._link)
            drafts[links[0]] = replace(drafts[links[0]], guard=guard)
        log = self._target.log
        try:
            places = [await log.append(drafts[0])] if len(drafts) == 1 else await log.append_batch(drafts)
        except Conflict:
            if at is not None and await log.end() >= at:
                return False
            raise NameTaken(self._target.id) from None
        self._places |= {each.record.seq: place for each, place in zip(waiting, places, strict=True)}
        self._link = places[links[-1]] if links else self._link
        return True

    async def finish(self) -> None:
        """Append what waits, and take the floor back from whoever held it in another conversation."""
        await self._flush()
        held, opened = self._floor.open_grant, self._floor.opened
        if self.origin is not None and held is not None and opened is not None:
            floor = await self._target.floor()
            if floor.open_grant is not None:
                run = RunContext.root(self._run(opened.run_id))
                await self._target.revoke(floor, floor.open_grant, run, FORKED)

    def _draft(self, original: Record, event: BusEvent | None) -> Draft:
        subject, headers = original.subject, dict(self._headers(original))
        placed = self._placed(event)
        body = original.body if placed is event or placed is None else placed.body()
        if self.origin is not None:
            body = self._renamed(body)
            subject = self._renamed(subject.encode()).decode()
            if isinstance(event, Opened):
                body = self.origin.opened(Opened.model_validate_json(body), event.run_id).body()
        header = _position_header(original)
        if header is not None:
            beyond = int(header == NEXT)
            headers[header] = str(self._place_of(int(headers[header]) - beyond) + beyond)
        headers[ORIGIN] = f"{original.seq} {happened_s(original)!r}"
        ttl_s = _ttl_s(original)
        left_s = None if ttl_s is None else max(1, math.ceil(original.time_s + ttl_s - self._clock()))
        return Draft(subject, body, headers, ttl_s=left_s)

    def _headers(self, original: Record) -> Mapping[str, str]:
        headers = {name: value for name, value in original.headers.items() if not name.lower().startswith("nats-")}
        try:
            run = run_of(headers) if self.origin is not None else None
        except BadName:
            run = None  # no record of ours, and none of our business
        if run is None:
            return headers
        parent = None if run.parent_run_id is None else self._run(run.parent_run_id)
        kept = {name: value for name, value in headers.items() if name not in (ROOT, PARENT)}
        # A copy joins nothing; where its original did, that is where to look for it.
        was = f"00-{run.joined}-{run.run_id[16:]}-01" if run.joined and run.parent_run_id is None else ""
        return kept | RunContext(self._run(run.run_id), self._run(run.root_run_id), parent, was).headers()

    def _placed(self, event: BusEvent | None) -> BusEvent | None:
        if not isinstance(event, Opened | Said | Passed) or event.memories is None:
            return event
        places = tuple(self._places[seq] for seq in event.memories if seq in self._places)
        return event.model_copy(update={"memories": places})

    def _place_of(self, original: int) -> int:
        """Where a position of the original is in the copy: at the last record that is not behind it."""
        return self._places[max((seq for seq in self._places if seq <= original), default=0)]

    def _run(self, original: RunId) -> RunId:
        """The id of a run in the copy: the same time, and the same digest whenever this copy is made."""
        known = self._runs.get(original.encode())
        if known is None:
            known = self._runs[original.encode()] = derive_run_id(original, f"copied to {self._target.id}")
        return known

    def _renamed(self, text: bytes) -> bytes:
        """The same text with the ids of the runs seen so far replaced. A run is seen before anything speaks of it."""
        return _RUN_ID.sub(lambda found: self._runs.get(found[0], RunId("")).encode() or found[0], text)


def _apart(waiting: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """What waits, divided so that no part names places of its own."""
    parts: list[list[_Waiting]] = []
    for each in waiting:
        if each.names or not parts:
            parts.append([])
        parts[-1].append(each)
    return parts


def _digest(draft: Draft) -> str:
    """An idempotency key: of the copy of a record, whenever it is made."""
    name = "\0".join((draft.subject, draft.headers[ORIGIN])).encode() + draft.body
    return hashlib.blake2b(name, digest_size=12).hexdigest()


def _known_by(subject: str, body: bytes) -> bytes:
    """What stands for a record that may be large. Subjects hold no zero bytes."""
    return hashlib.blake2b(b"%b\0%b" % (subject.encode(errors="replace"), body), digest_size=16).digest()


def _ttl_s(record: Record) -> int | None:
    """How many seconds a record lives from when it was appended; None: as long as its log.

    A server takes spans as Go writes them (`1h30m`) from other writers.
    """
    text = record.headers.get(TTL, "")
    seconds = whole_number(text)
    if seconds is None:
        spans = _SPAN.findall(text) if _SPANS.fullmatch(text) else []
        seconds = int(sum(float(number) * _SECONDS[unit] for number, unit in spans))
    return seconds if 1 <= seconds <= LONGEST_TTL_S else None


def _is_last_of_a_fork(record: Record) -> bool:
    try:
        event = event_of(record)
    except BadRecord:
        return False
    return isinstance(event, Revoked) and event.reason == FORKED


def _position_header(record: Record) -> str | None:
    """The header in which a snapshot or the note on a trim names a position, which is another one in a copy."""
    match record.subject.split("."):
        case [_, _, _, "stream", _, "snapshot"]:
            name = NEXT
        case [_, _, _, "stream", _, "trimmed"]:
            name = POSITION
        case _:
            return None
    return None if whole_number(record.headers.get(name, "")) is None else name
