"""The log: one totally ordered, durable sequence of records, filtered by subject.

`MemoryLog` and `JetStreamLog` keep this contract; `convive.bus.testing` holds the suite that proves it.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from convive.bus.log._errors import NotAppended

MESSAGE_ID = "Nats-Msg-Id"
"""The header that carries a record's idempotency key."""

TTL = "Nats-TTL"
"""The header that carries how many seconds a record was to live from when it was appended."""

BATCH = 1_000
"""The most records of one batch: what a NATS server takes."""

BATCH_BYTES = 16_777_216
"""The most bytes of all bodies of a batch, which a server holds until it is complete."""

LONGEST_TTL_S = 3_155_760_000
"""A hundred years. A server counts in nanoseconds of 63 bits: it takes more, and has such a record expire at once."""

_SUBJECT = re.compile(r"[^\s.*>\x00]+(\.[^\s.*>\x00]+)*")
_SUBJECT_BYTES = 1_024  # a NATS server closes a connection over a line of 4 KB
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2

RESERVED_HEADERS = "nats-"
"""Header names that start so (in any case) belong to the server; a draft may not set them itself."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as the log holds it: `seq` counts from 1 in its log, `time_s` is the server's, in seconds since 1970."""

    subject: str
    seq: int
    time_s: float
    headers: Mapping[str, str]
    body: bytes

    def __hash__(self) -> int:
        return hash((self.subject, self.seq))


@dataclass(frozen=True, slots=True)
class Guard:
    """Append only if the last record on `subjects` (a subject, `*` and `>` allowed) is at sequence `last` (0: none).

    `Nats-Expected-Last-Subject-Sequence` and `...-Subject` of JetStream (NATS ADR-8 and server 2.11).
    """

    subjects: str
    last: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A record to append.

    `id` is its idempotency key: a second append with the same id is answered with the first one's place. A draft whose
    guard watches its own subject needs none: when the first record behind the guard has the same body, that one is its
    place. Without either, the log makes an id up, so that its own retries are safe. A log remembers ids for ten minutes
    at least; what may be appended again after that needs a guard. `ttl_s` (whole seconds, at most `LONGEST_TTL_S`) lets
    the record expire: soon after that time it is not read any more, and guards do not see it. One that `replaces`
    removes all earlier records on its subject; its acknowledgement lost, it comes to MaybeAppended where another has
    replaced it meanwhile. `at` is the only place at which it may be stored: whatever is appended there before it, on
    any subject of the log, makes it a Conflict. So a batch can name its own places. Such a draft has to have an id to
    be appended again.
    """

    subject: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    id: str | None = None
    guard: Guard | None = None
    ttl_s: int | None = None
    replaces: bool = False
    at: int | None = None


class Tail(Protocol):
    """A live view of a log: first what is there, then what comes, in order, without a gap or a duplicate."""

    @property
    def caught_up(self) -> bool:
        """True while everything that was there when the tail began, and what has arrived since, was handed out."""
        ...

    async def catch_up(self) -> Record | None:
        """The next record as long as the tail is not `caught_up`, then None. Waits for no record that is yet to be
        written, only for those that are on their way. Cancelling it loses nothing.

        Raises BusUnavailable when the bus is gone for good.
        """
        ...

    async def next(self, timeout_s: float | None = None) -> Record | None:
        """The next record, or None when none came within `timeout_s`; a tail that has fallen behind may take a second
        longer. Cancelling it loses nothing.

        Raises BusUnavailable when the bus is gone for good.
        """
        ...

    def __aiter__(self) -> AsyncIterator[Record]: ...


class Log(Protocol):
    """One totally ordered log. Sequence numbers of two logs have nothing to do with one another."""

    async def append(self, draft: Draft) -> int:
        """Append one record durably and return its sequence number.

        Raises Conflict (the guard does not hold), NotAppended (refused, for example too large) or MaybeAppended (no
        answer in time; appending the same draft again is safe if it has an id, or moves its own guard).
        """
        ...

    async def append_all(self, drafts: Sequence[Draft]) -> list[int]:
        """Append several records, pipelined, and return the sequence number of each.

        They are stored in the order given, unless the connection breaks meanwhile: then what was lost on the way is
        sent again and may come behind what was not. Where the order matters even so, append one by one, or guard.
        Records of other writers may come between them. Not atomic: after an error, some may be stored, and
        appending the same drafts again stores the rest, if they carry ids.
        """
        ...

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        """Append up to `BATCH` records of `BATCH_BYTES`, all or none, and return their sequence numbers.

        They follow one another. Guards see the log as it was before the batch. The first draft stands for the whole: by
        its id, or by its guard when that watches its own subject, a batch that is appended again is answered with the
        places of the first time. Without either, the log makes an id up for its own retries. Costs about as much as
        twenty appends, whatever its length.

        Raises Conflict, MaybeAppended, or NotAppended: also for a batch that is too long, that has an id or `at` on
        another draft than the first, or replaces, or has a guard on, a subject that an earlier draft of it writes to.
        """
        ...

    def check(self, draft: Draft) -> None:
        """Raises NotAppended for a draft that this log would never take: too large, or not well formed."""
        ...

    async def post(self, draft: Draft) -> None:
        """Send a record without waiting for an answer. It may be lost; nothing that matters goes this way."""
        ...

    def read(
        self, *subjects: str, after: int = 0, until: int | None = None, since_s: float | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """The records on `subjects` with `after < seq <= until` that are there now; then it ends. At least one subject;
        none that overlap.

        `since_s` (seconds since 1970) starts at the first record not older than that. Costs one request, not one a
        record; with replicas two or three more a subject, since the server that delivers may lag behind the leader.
        Raises BusUnavailable when the server stays away.
        """
        ...

    def latest(self, *subjects: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """The last record of each subject that matches, in the order of the log; then it ends.

        A subject that is written to meanwhile may come a second time, with the newer record. Costs as much as `read`,
        and raises the same. With replicas nothing is handed out before all is there, up to 8,192 records or 64 MB;
        where there is more, that much is read twice.
        """
        ...

    def follow(self, *subjects: str, after: int = 0, since_s: float | None = None) -> AbstractAsyncContextManager[Tail]:
        """The records on `subjects` with `seq > after`, and then those that come, until the context is left.

        Survives a reconnect or a server restart. Raises BusUnavailable out of `next` when the bus is gone for good.
        """
        ...

    async def last(self, subject: str) -> Record | None:
        """The last record on a subject (`*` and `>` allowed), read from the leader, or None."""
        ...

    async def subjects(self, pattern: str) -> dict[str, int]:
        """The subjects that match the pattern and how many records each holds."""
        ...

    async def end(self) -> int:
        """The highest sequence number that the log has given out, on whatever subject; 0 when it is new."""
        ...

    async def purge(self, subject: str, until: int) -> int:
        """Remove the records on a subject with `seq <= until`, for good, and return how many that were.

        Guards and readers do not see them any more. A reader that is behind `until` goes on with what is left. On
        replicas, one of several subjects, or from a time on, may for a moment still be given what was removed behind
        the first record that is left. Raises BusUnavailable; asking again is safe.
        """
        ...

    def present(self, subject: str) -> AbstractAsyncContextManager[None]:
        """Within the block, who asks `is_present` for this very subject is answered that somebody is.

        Nothing is stored, and it is no lock: any number may be present. Who finds a record that was appended within the
        block finds its author present; on another node, a moment later. It ends with the process or its connection, and
        goes on when the connection comes back. Raises BusUnavailable when the bus is gone for good.
        """
        ...

    async def is_present(self, subject: str, timeout_s: float) -> bool | None:
        """Whether somebody is present, in this process or another, at this moment.

        False when the log knows of nobody, at once. None when there was no answer within `timeout_s`: whoever was
        present is stopped or gone, or the server is. Raises BusUnavailable when the bus is gone for good.
        """
        ...


def check_draft(draft: Draft) -> None:
    """Refuse what no log could give back as it is. Raises NotAppended."""
    if not _is_subject(draft.subject):
        raise NotAppended(f"{draft.subject[:80]!r} is not a subject to append to. Nothing was appended.")
    if draft.id is not None and not (draft.id and _is_header_value(draft.id)):
        raise NotAppended(f"{draft.subject}: {draft.id[:80]!r} is not an id for a record. Nothing was appended.")
    if draft.ttl_s is not None and not (f"{draft.ttl_s}".isdecimal() and 1 <= draft.ttl_s <= LONGEST_TTL_S):
        raise NotAppended(
            f"{draft.subject}: a record lives for 1 to {LONGEST_TTL_S} whole seconds, not for {draft.ttl_s!r:.80}. "
            "Nothing was appended; leave it out for one that does not expire."
        )
    for name, value in draft.headers.items():
        if not _is_header_name(name):
            raise NotAppended(
                f"{draft.subject}: {name[:80]!r} is not a name for a header of your own: use letters, digits and '-', "
                f"and do not begin with {RESERVED_HEADERS!r}. Nothing was appended."
            )
        if value.isascii() and value.isprintable() and value == value.strip():
            continue
        if not _is_header_value(value):
            raise NotAppended(
                f"{draft.subject}: the value of the header {name} has a line break, blanks at an end or half a "
                "character. Nothing was appended; put it into the body."
            )


def is_header(name: str, value: str) -> bool:
    """Whether a draft may carry this header. On the wire anybody may write others."""
    return _is_header_name(name) and _is_header_value(value)


def check_batch(drafts: Sequence[Draft]) -> None:
    """Refuse what no log could append as one. Raises NotAppended; the drafts themselves are checked elsewhere."""
    size = sum(len(draft.body) for draft in drafts)
    if len(drafts) > BATCH or size > BATCH_BYTES:
        raise NotAppended(
            f"{len(drafts)} records of {size} bytes are too much for one batch: {BATCH} of {BATCH_BYTES} bytes at most."
            " Nothing was appended."
        )
    written: set[str] = set()
    for place, draft in enumerate(drafts):
        if place and draft.id is not None:
            raise NotAppended(f"{draft.subject}: only the first record of a batch has an id. Nothing was appended.")
        if place and draft.at is not None:
            raise NotAppended(f"{draft.subject}: only the first record of a batch has a place. Nothing was appended.")
        if draft.replaces and draft.subject in written:
            raise NotAppended(f"{draft.subject}: replaces a record of the same batch. Nothing was appended.")
        watched = draft.guard.subjects if draft.guard else None
        if watched is not None and any(matches(watched, subject) for subject in written):
            raise NotAppended(f"{watched}: guarded behind a record of the same batch. Nothing was appended.")
        written.add(draft.subject)


def whole_number(text: str) -> int | None:
    """What a header says that holds a place or a count, or None: such a number has 19 digits at most.

    Python refuses to read very long ones, and anybody may write any header.
    """
    return int(text) if text.isdecimal() and len(text) <= 19 else None


def guards_itself(draft: Draft) -> bool:
    """Whether the record itself moves its guard, so that it can be stored but once."""
    return draft.guard is not None and matches(draft.guard.subjects, draft.subject)


@lru_cache(maxsize=8192)
def _is_subject(text: str) -> bool:
    return _SUBJECT.fullmatch(text) is not None and len(_encoded(text)) in range(1, _SUBJECT_BYTES)


@lru_cache(maxsize=1024)
def _is_header_name(text: str) -> bool:
    return _HEADER_NAME.fullmatch(text) is not None and not text.lower().startswith(RESERVED_HEADERS)


def _is_header_value(text: str) -> bool:
    raw = _encoded(text)
    return (raw != b"" or not text) and raw == raw.strip() and not {13, 10, 0} & set(raw) and text == text.strip()


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return b""


@lru_cache(maxsize=8192)
def matches(pattern: str, subject: str) -> bool:
    """Whether a subject matches a pattern: `*` is one token, a final `>` one or more (NATS subject wildcards)."""
    if pattern == subject:
        return True
    wanted, given = pattern.split("."), subject.split(".")
    for place, part in enumerate(wanted):
        if part == ">":
            return len(given) > place
        if place >= len(given) or part not in ("*", given[place]):
            return False
    return len(wanted) == len(given)
