"""A work queue: each job is carried out by one worker, and by another one when that worker is lost.

`JetStreamWorkQueue` and `MemoryWorkQueue` keep this contract; `convive.bus.testing` holds the checks that prove it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from convive.bus.log._errors import BadName, NotAppended
from convive.bus.log._ids import is_slug, slugify
from convive.bus.log._log import Draft, check_draft

LEASE_S = 10.0
"""How long a worker may be silent before its job goes to another one."""

QUEUE_NAME_LENGTH = 57
"""So that `queue-<name>`, where the runs of a queue keep their journals, is the name of a conversation."""

REASON_LENGTH = 500
"""The most characters that are kept of why a job was given up."""

_JOB_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker gets to do. `id` makes it one job however often it is sent: 1 to 128 of `a-z A-Z 0-9 _ -`."""

    id: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class DeadJob:
    """A job that was given up."""

    job: Job
    reason: str


class Lease(Protocol):
    """A job in a worker's hands. Settle it with one of `done`, `retry`, `release`, `park` and `bury`.

    A lease that is neither extended nor settled within `lease_s` runs out, and the job is delivered again. Nothing
    stops the worker that was too slow: what it does must be safe to be done twice, or fenced, as a run's journal is.
    What it says of the job when that was delivered again changes nothing: the job is in other hands.
    """

    @property
    def job(self) -> Job: ...

    @property
    def attempt(self) -> int:
        """Which delivery of the job this is, from 1; those that ended in `release` do not count.

        A server that is killed may forget the latest deliveries, and count lower.
        """
        ...

    @property
    def lease_s(self) -> float: ...

    async def extend(self) -> None:
        """The work goes on: the lease begins anew. Not acknowledged, never raises for a server that is away."""
        ...

    async def done(self) -> None:
        """The job is finished. When the server cannot be told, it is delivered again after its lease."""
        ...

    async def retry(self, delay_s: float = 0.0) -> None:
        """It did not work out: deliver it again, not before `delay_s`. Otherwise as `done`."""
        ...

    async def release(self) -> None:
        """This worker stops: deliver the job to another one at once, as if it had not been delivered here."""
        ...

    async def park(self) -> None:
        """It waits for something else: keep the job, and deliver it again when it is woken. Raises as `bury`."""
        ...

    async def bury(self, reason: str) -> None:
        """Give the job up, and keep it with the reason. Raises MaybeAppended or NotAppended: the lease goes on."""
        ...


class WorkQueue(Protocol):
    """Jobs that wait. Order is that of sending, but for delays and repetitions."""

    @property
    def name(self) -> str: ...

    async def send(self, job: Job, delay_s: float = 0.0) -> None:
        """Store a job durably, to be delivered after `delay_s`.

        A job whose id waits, is being worked on, parked or given up is not stored again, nor one whose id was sent in
        the last ten minutes; a job that was done long ago is. Raises BadName, NotAppended (too large) or MaybeAppended
        (sending it again is safe).
        """
        ...

    async def take(self) -> Lease:
        """The next job, when there is one. Cancelling it loses none. Survives reconnects.

        Raises BusUnavailable when the bus is gone for good, or the server goes on to refuse (somebody has deleted the
        stream).
        """
        ...

    async def waiting(self, id: str) -> Job | None:
        """The job of that id, delayed, waiting, being worked on, parked or given up; None for one that is done or
        unknown."""
        ...

    async def wake(self, id: str) -> bool:
        """Deliver a parked job, as one that was not delivered before; says whether there was one.

        Waking one twice is waking it once. Raises MaybeAppended or NotAppended.
        """
        ...

    async def jobs(self) -> list[Job]:
        """All jobs that are there and not given up: delayed, waiting, being worked on or parked, in no order. One that
        is delivered or woken meanwhile may be missing, or come twice. A request for a thousand of them.
        """
        ...

    async def dead(self) -> list[DeadJob]:
        """The jobs that were given up, the oldest first. They are kept until somebody purges them. A request for a
        thousand of them."""
        ...


def queue_name(text: str) -> str:
    """Check the name of a queue: 1 to 57 of `a-z 0-9 -`, not starting with a hyphen. Raises BadName."""
    if is_slug(text) and len(text) <= QUEUE_NAME_LENGTH:
        return text
    hint = slugify(text)[:QUEUE_NAME_LENGTH].strip("-")
    raise BadName(
        f"{text[:80]!r} is not the name of a queue: use 1 to {QUEUE_NAME_LENGTH} of a-z, 0-9 and '-', starting with a "
        f"letter or digit.{f' Did you mean {hint!r}?' if hint else ''}"
    )


def check_job(job: Job, subject: str, delay_s: float) -> None:
    """Refuse what no queue could give back as it is. Raises BadName or NotAppended."""
    if not _JOB_ID.fullmatch(job.id):
        raise BadName(f"{job.id[:80]!r} is not the id of a job: use 1 to 128 of a-z, A-Z, 0-9, '_' and '-'.")
    if not 0 <= delay_s < 10 * 366 * 86_400:
        raise NotAppended(f"{subject}: a delay of {delay_s} s is not one of 0 s to 10 years. Nothing was sent.")
    check_draft(Draft(subject, job.body, job.headers))


def one_line(text: str) -> str:
    """A reason in the form that a header can carry."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:REASON_LENGTH].rstrip() or "no reason was given"
