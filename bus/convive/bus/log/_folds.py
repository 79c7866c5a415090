"""Event-sourced state: a fold over records, kept now and then, so that nobody has to begin at the beginning.

What is kept of a fold is derived: it may be missing, old or of another version, and then more records are read.
"""

import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from convive.bus.log._errors import BadName, ConviveError, Trimmed
from convive.bus.log._ids import is_slug
from convive.bus.log._log import Draft, Guard, Log, Record

State = TypeVar("State")

_PART = 256 * 1024
"""Bytes of a part of what is kept: well below what a server takes."""
_FEWEST = 256
"""Records that are folded anew each time before keeping is worth a write."""
_SHARE = 16
"""A fold is kept again when this part of what it covers has come on top, so that all keeping together stays linear."""
_COVERS, _RECORDS, _PARTS = "Cv-Covers", "Cv-Records", "Cv-Parts"
_VERSION, _DIGEST = "Cv-Version", "Cv-Digest"
_log = logging.getLogger("convive.bus")


@dataclass(frozen=True)
class Fold(Generic[State]):
    """How records become a state.

    `step` depends on its arguments alone, and is given each record once, in order; it may change the state that it is
    given and return it. `type` is anything that pydantic can write down and read
    back (a model, a dataclass, `dict[str, int]`). `name` (a slug) is that of what is kept; raise `version` whenever
    `step` or `type` changes, so that what older code has kept is not believed.
    """

    name: str
    type: Any
    start: Callable[[], State]
    step: Callable[[State, Record], State]
    version: int = 1

    def __post_init__(self) -> None:
        if not is_slug(self.name):
            raise BadName(f"{self.name[:80]!r} is not a name for a fold: use 1 to 63 of a-z, 0-9 and '-'.")

    @cached_property
    def adapter(self) -> TypeAdapter[State]:
        """What writes a state down and reads it back. Made once: that costs as much as to read a thousand records."""
        return TypeAdapter(self.type)


@dataclass(frozen=True, slots=True)
class Folded(Generic[State]):
    """A state, and where it is from: `seq` is the last record in it, `kept` up to where it had been kept (0: it had
    not), `folded` how many records were folded on top."""

    state: State
    seq: int
    kept: int
    folded: int


@dataclass(frozen=True, slots=True)
class FoldBase(Generic[State]):
    """Where records were trimmed: the subject on which the state stands that takes their place, and how its record is
    read, as the state and the last sequence number that it covers. Unlike what is kept, it follows from nothing."""

    subject: str
    load: Callable[[Record], tuple[State, int]]


async def fold_records(
    log: Log,
    subjects: Sequence[str],
    fold: Fold[State],
    beside: str,
    *,
    until: int | None = None,
    keep: bool = True,
    forgotten: Callable[[], Awaitable[int]] | None = None,
    base: FoldBase[State] | None = None,
) -> Folded[State]:
    """The state of the records on `subjects`, up to a sequence number or as it is now.

    Begins with what was kept below `beside`, when that is of these subjects and this version and not behind `until`,
    and keeps the state there again when enough has come on top (`keep`, and no `until`). `forgotten` says up to where
    records were removed: what was kept before that does not count, since those between are missing. Two requests and
    the records that are new, with a `base` three. Raises what `step` raises, Trimmed for an `until` before the end of
    what `base` stands for, and errors of the bus; that a state could not be kept is no error.
    """
    place = f"{beside}.{fold.name}"
    # Two seats, or two uses of a fold, may come to the same name.
    version = f"{fold.version} {_digest(' '.join(subjects).encode())}"
    while True:
        kept = await _read(log, place, version, fold, until, base)
        found = await _fold(log, subjects, fold, kept, until)
        if base is None or await _place(log, base.subject) == kept.base:
            break  # else it was trimmed meanwhile, and what was read may be a part
    # Asked behind the reading: what is removed from now on was read.
    if forgotten is not None and 0 < kept.covers < await forgotten():
        kept = _Kept(fold.start(), guard=kept.guard)
        found = await _fold(log, subjects, fold, kept, until)
    if keep and until is None and found.folded >= max(_FEWEST, kept.records // _SHARE):
        body = fold.adapter.dump_json(found.state, by_alias=True)
        await _keep(log, place, version, body, found.seq, kept.records + found.folded, kept.guard)
    return found


async def _place(log: Log, subject: str) -> int:
    last = await log.last(subject)
    return 0 if last is None else last.seq


@dataclass(frozen=True, slots=True)
class _Kept(Generic[State]):
    """What stands beside the records: `guard` is the place of its first part, whether the rest is of use or not; `base`
    that of what takes the place of what was trimmed."""

    state: State
    covers: int = 0
    records: int = 0
    guard: int = 0
    base: int = 0


async def _fold(
    log: Log, subjects: Sequence[str], fold: Fold[State], kept: _Kept[State], until: int | None
) -> Folded[State]:
    """What was kept, and the records behind it."""
    state, seq, folded = kept.state, kept.covers, 0
    async with log.read(*subjects, after=seq, until=until) as records:
        async for record in records:
            state, seq, folded = fold.step(state, record), record.seq, folded + 1
    return Folded(state, seq, kept.covers, folded)


async def _read(
    log: Log, beside: str, version: str, fold: Fold[State], until: int | None, base: FoldBase[State] | None
) -> _Kept[State]:
    """What was kept, if it is whole, of this version and not behind `until`; else the beginning, or the base."""
    parts: dict[str, Record] = {}
    state, trimmed, whole = fold.start(), 0, 0
    async with log.latest(f"{beside}.*", *(() if base is None else (base.subject,))) as records:
        async for record in records:
            if base is not None and record.subject == base.subject:
                (state, trimmed), whole = base.load(record), record.seq
            else:
                parts[record.subject.rpartition(".")[2]] = record
    if until is not None and until < trimmed:
        raise Trimmed(beside, until, trimmed)
    first = parts.get("0")
    nothing = _Kept(state, trimmed, 0, 0 if first is None else first.seq, whole)
    if first is None:
        return nothing
    try:
        covers, count, number = (int(first.headers[name]) for name in (_COVERS, _RECORDS, _PARTS))
        body = b"".join(parts[str(part)].body for part in range(number))
        if first.headers[_VERSION] != version or first.headers[_DIGEST] != _digest(body):
            return nothing
        # A state is kept behind the records that are in it.
        if not max(1, trimmed) <= covers < first.seq or (until is not None and covers > until):
            return nothing
        return _Kept(fold.adapter.validate_json(body), covers, count, first.seq, whole)
    except (KeyError, ValueError):  # another one is being kept at this moment, or it is none of ours
        return nothing


async def _keep(log: Log, beside: str, version: str, body: bytes, covers: int, records: int, guard: int) -> None:
    """Keep a state, all of its parts or none, unless somebody else did since it was read."""
    parts = [body[start : start + _PART] for start in range(0, len(body), _PART)] or [b""]
    about = {
        _COVERS: str(covers),
        _RECORDS: str(records),
        _PARTS: str(len(parts)),
        _VERSION: version,
        _DIGEST: _digest(body),
    }
    drafts = [Draft(f"{beside}.{number}", part, replaces=True) for number, part in enumerate(parts)]
    drafts[0] = replace(drafts[0], headers=about, id=secrets.token_hex(8), guard=Guard(f"{beside}.0", guard))
    try:
        await (log.append(drafts[0]) if len(drafts) == 1 else log.append_batch(drafts))
    except ConviveError as error:
        _log.info("a fold up to %d was not kept on %s: %s", covers, beside, error)


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()
