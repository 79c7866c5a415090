"""A work queue on a JetStream stream with work-queue retention: a job is there until a worker acknowledges it.

All queues of a prefix share a stream; below `<prefix>-queue.<queue>.` a job stands on `job.<id>`, on `later.<id>` while
it is delayed (a message schedule, NATS ADR-51), on `parked.<id>` while it waits to be woken, on `dead.<id>` when it was
given up. Each queue has one durable pull
consumer. nats-py's own `fetch` loses what it has already received when it is cancelled, and waits in vain after a
reconnect; here a worker that waits has one request out, and what arrives for nobody is given back (docs/adr/0009).
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import anyio
import nats.errors
from nats.aio.msg import Msg

from convive.bus.jetstream._connect import CLOSED, ApiError, Connection
from convive.bus.jetstream._jetstream import create_stream
from convive.bus.jetstream._jetstream_direct import last_records
from convive.bus.jetstream._jetstream_own import last_record
from convive.bus.jetstream._jetstream_publisher import Publisher
from convive.bus.log._errors import BusUnavailable, Conflict, ConviveError, WrongStream
from convive.bus.log._log import Draft, Guard, Record, is_header, whole_number
from convive.bus.log._queue import REASON_LENGTH, DeadJob, Job, Lease, check_job, one_line

ASK_S = 5.0
"""How long one request for a job stands; then it is made again, so that none is lost for longer than that."""

SETTLE_S = 5.0
"""How long to try to tell the server what became of a job; after that its lease runs out."""

RETRY_S = 0.1
SPENT, REASON = "Cv-Spent", "Cv-Reason"
"""Headers of our own: the deliveries of an earlier copy of a job that counted; why a job was given up."""

_LARGEST = {SPENT: "9" * 10, REASON: "\N{PARTY POPPER}" * REASON_LENGTH}
"""The most that is added to the headers of a job while it is there."""

_NOBODY_HAS_ONE = ("404", "408")
_STREAM_NOT_FOUND = 10059
_CONSUMER_NOT_FOUND = 10014
_CONSUMER_EXISTS = 10148
_PROMISED: dict[str, Any] = {
    "retention": "workqueue",
    "storage": "file",
    "discard": "old",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "allow_msg_schedules": True,
    "allow_msg_ttl": True,
    "duplicate_window": 600_000_000_000,
}
_COMFORT: dict[str, Any] = {"max_consumers": 10_000, "allow_direct": True, "compression": "s2"}
_ABSENT = ("no_ack", "sealed", "mirror", "sources", "subject_transform", "persist_mode")


class JetStreamWorkQueue:
    """`WorkQueue` on one consumer of the stream. Made by `open_queue`."""

    def __init__(self, connection: Connection, publisher: Publisher, stream: str, base: str, lease_s: float) -> None:
        self._connection = connection
        self._publisher = publisher
        self._stream = stream
        self._base = base
        self._consumer = f"work-{self.name}"
        self._lease_s = lease_s
        self._inbox = connection.inbox()
        self._takers: dict[str, asyncio.Future[Msg | None]] = {}
        self._asked = 0
        self._listening = False
        self._unsure = True
        self._opening = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._base.rpartition(".")[2]

    async def send(self, job: Job, delay_s: float = 0.0) -> None:
        subject = f"{self._base}.job.{job.id}"
        check_job(job, subject, delay_s)
        schedule: dict[str, str] = {}
        target = subject
        if delay_s:
            due = (datetime.now(UTC) + timedelta(seconds=delay_s)).isoformat(timespec="microseconds")
            schedule = {"Nats-Schedule": f"@at {due.replace('+00:00', 'Z')}", "Nats-Schedule-Target": subject}
            target = f"{self._base}.later.{job.id}"
        draft = Draft(target, job.body, job.headers, f"{self.name}/{job.id}", Guard(f"{self._base}.*.{job.id}", 0))
        # A job that could not be given up would come again for ever.
        self._publisher.check(replace(draft, headers={**job.headers, **_LARGEST}))
        # A conflict says that the job waits, is being worked on or was given up: that is one job already.
        with contextlib.suppress(Conflict):
            await self._publisher.append(self._stream, draft, schedule)

    async def take(self) -> Lease:
        loop = asyncio.get_running_loop()
        while True:
            await self._listen()
            self._asked += 1
            reply = f"{self._inbox}.{self._asked}"
            answer: asyncio.Future[Msg | None] = loop.create_future()
            self._takers[reply] = answer
            try:
                await self._ask(reply)
                await asyncio.wait([answer], timeout=ASK_S + 1)  # which leaves the future alone, unlike wait_for
            except BaseException:
                self._takers.pop(reply)
                if answer.done() and (message := answer.result()) is not None:
                    self._give_back(message)
                raise
            self._takers.pop(reply)
            if answer.done() and (message := answer.result()) is not None:
                lease = self.lease(message)
                if lease.deliveries == 1:
                    return lease
                # An acknowledgement of an earlier delivery, however late, would end this one: go on with a copy.
                await lease.release()

    async def waiting(self, id: str) -> Job | None:
        found = await self._last(f"{self._base}.*.{id}")
        return None if found is None else found.job

    async def wake(self, id: str) -> bool:
        parked = await self._last(f"{self._base}.parked.{id}")
        if parked is None:
            return False
        # Without the id of `send`: what was sent in the last ten minutes would not be taken again.
        guard = Guard(f"{self._base}.*.{id}", parked.seq)
        job = parked.job
        with contextlib.suppress(Conflict):  # somebody was first, and may not have got as far as the purge
            await self._publisher.append(
                self._stream, Draft(f"{self._base}.job.{id}", job.body, job.headers, guard=guard)
            )
        # Up to this one: a quick worker may have parked it again.
        upto = {"filter": f"{self._base}.parked.{id}", "seq": parked.seq + 1}
        await self._connection.api(f"STREAM.PURGE.{self._stream}", upto)
        return True

    async def jobs(self) -> list[Job]:
        return [one.job for state in ("later", "job", "parked") for one in await self._found(state)]

    async def dead(self) -> list[DeadJob]:
        return [one.dead for one in await self._found("dead")]

    async def _found(self, state: str) -> list["_Stored"]:
        found = await last_records(self._connection, self._stream, f"{self._base}.{state}.*")
        return [_Stored.of(record) for record in found]

    async def _last(self, subject: str) -> "_Stored | None":
        record = await last_record(self._connection, self._stream, subject)
        return None if record is None else _Stored.of(record)

    async def _listen(self) -> None:
        """Have an inbox and, for all that is known, a consumer. Raises BusUnavailable when the bus is gone for good, or
        when the server has refused for as long as an administrative request may take."""
        async with self._opening:
            if not self._listening:
                await self._connection.subscribe(f"{self._inbox}.*", self._receive)
                self._connection.on_reconnect(self._ask_all_again)
                self._listening = True
            loop = asyncio.get_running_loop()
            deadline = loop.time() + self._connection.patience_s
            while self._unsure:
                try:
                    self._lease_s = await self._ensure_consumer()
                    self._unsure = False
                except BusUnavailable as error:
                    if not isinstance(error, ApiError):  # a server that is away is waited for
                        deadline = loop.time() + self._connection.patience_s
                    if self._connection.client.is_closed or loop.time() >= deadline:
                        raise
                    await asyncio.sleep(RETRY_S)

    async def _ensure_consumer(self) -> float:
        """The lease of this queue's consumer, which is made when there is none: the first one decides on the lease."""
        where = f"{self._stream}.{self._consumer}"
        try:
            found = await self._connection.api(f"CONSUMER.INFO.{where}")
        except ApiError as error:
            if error.code != _CONSUMER_NOT_FOUND:
                raise
            config = {
                "name": self._consumer,
                "durable_name": self._consumer,
                "filter_subject": f"{self._base}.job.*",
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": int(self._lease_s * 1e9),
                "max_deliver": -1,  # attempts are counted by the worker, which records the last one's outcome
                "max_ack_pending": -1,
                "max_waiting": 10_000,
            }
            request = {"stream_name": self._stream, "config": config, "action": "create"}
            try:
                found = await self._connection.api(f"CONSUMER.CREATE.{where}", request)
            except ApiError as refused:
                if refused.code != _CONSUMER_EXISTS:  # another worker was first, with another lease
                    raise
                found = await self._connection.api(f"CONSUMER.INFO.{where}")
        return float(found["config"]["ack_wait"]) / 1e9

    async def _ask(self, reply: str) -> None:
        body = json.dumps({"batch": 1, "expires": int(ASK_S * 1e9)}).encode()
        try:
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
            await self._connection.client.publish(subject, body, reply=reply)
        except nats.errors.OutboundBufferLimitError:
            return  # disconnected; it is asked for again after the reconnect
        except CLOSED:
            raise self._connection.closed() from None

    async def _receive(self, message: Msg) -> None:
        if message.reply.startswith("$JS.ACK."):
            free = next((answer for answer in self._takers.values() if not answer.done()), None)
            if free is None:
                self._give_back(message)
            else:
                free.set_result(message)
            return
        headers: Mapping[str, str] = message.headers or {}
        self._unsure = self._unsure or headers.get("Status", "") not in _NOBODY_HAS_ONE
        answer = self._takers.get(message.subject)
        if answer is not None and not answer.done():
            if self._unsure:  # no consumer, or no leader: not at once again
                asyncio.get_running_loop().call_later(RETRY_S, _wake, answer)
            else:
                _wake(answer)

    def _ask_all_again(self) -> None:
        self._unsure = True
        for answer in self._takers.values():
            _wake(answer)

    def _give_back(self, message: Msg) -> None:
        """A job that arrived for a worker that has gone."""
        if not self._connection.client.is_closed:
            self._connection.tasks.start_soon(self.lease(message).release)

    def lease(self, message: Msg) -> "_JetStreamLease":
        return _JetStreamLease(self._connection, self._publisher, self._stream, message, self._lease_s)


class _JetStreamLease:
    def __init__(self, connection: Connection, publisher: Publisher, stream: str, message: Msg, lease_s: float) -> None:
        self._connection = connection
        self._publisher = publisher
        self._stream = stream
        self._subject = message.subject
        self._reply = message.reply
        fields = message.reply.split(".")  # NATS ADR-15, see `delivered`
        deliveries = 4 if len(fields) == 9 else 6
        self._seq = int(fields[deliveries + 1])
        found = _Stored(message.subject, self._seq, message.headers or {}, message.data)
        self.job = found.job
        self.deliveries = int(fields[deliveries])
        self.attempt = found.spent + self.deliveries
        self.lease_s = lease_s

    async def extend(self) -> None:
        with contextlib.suppress(nats.errors.Error):
            await self._connection.client.publish(self._reply, b"+WPI")

    async def done(self) -> None:
        await self._settle(b"+ACK")

    async def retry(self, delay_s: float = 0.0) -> None:
        await self._settle(b"-NAK " + json.dumps({"delay": int(delay_s * 1e9)}).encode() if delay_s else b"-NAK")

    async def release(self) -> None:
        # A refused delivery would count, and a run that outlives a few deployments would be given up.
        headers = {**self.job.headers, SPENT: str(self.attempt - 1)}
        try:
            copy = Draft(self._subject, self.job.body, headers, guard=self._guard)
            await self._publisher.append(self._stream, copy)
        except Conflict:
            pass  # it goes on as another copy
        except ConviveError:
            return  # its lease runs out
        await self._settle(b"+ACK")

    async def park(self) -> None:
        await self._set_aside("parked", self.job.headers)

    async def bury(self, reason: str) -> None:
        await self._set_aside("dead", {**self.job.headers, REASON: one_line(reason)})

    async def _set_aside(self, what: str, headers: Mapping[str, str]) -> None:
        base, _, _ = self._subject.rpartition(".job.")
        with contextlib.suppress(Conflict):  # it is set aside already, or goes on as another copy
            draft = Draft(f"{base}.{what}.{self.job.id}", self.job.body, headers, guard=self._guard)
            await self._publisher.append(self._stream, draft)
        await self._settle(b"+ACK")

    @property
    def _guard(self) -> Guard:
        """Holds while this is the latest that the stream has of the job: no copy of it, and not set aside."""
        base, _, _ = self._subject.rpartition(".job.")
        return Guard(f"{base}.*.{self.job.id}", self._seq)

    async def _settle(self, word: bytes) -> None:
        with anyio.move_on_after(SETTLE_S):
            while True:
                try:
                    await self._connection.client.request(self._reply, word, timeout=1)
                except CLOSED:
                    return
                except nats.errors.Error:
                    await asyncio.sleep(RETRY_S)
                else:
                    return


class _Stored:
    """A job as the stream holds it."""

    def __init__(self, subject: str, seq: int, headers: Mapping[str, str], body: bytes) -> None:
        own = {name: value for name, value in headers.items() if is_header(name, value) and name not in (SPENT, REASON)}
        self.subject = subject
        self.seq = seq
        self.job = Job(subject.rpartition(".")[2], body, own)
        self.dead = DeadJob(self.job, headers.get(REASON, ""))
        self.spent = whole_number(headers.get(SPENT, "")) or 0

    @classmethod
    def of(cls, record: Record) -> Self:
        return cls(record.subject, record.seq, record.headers, record.body)


def _wake(answer: asyncio.Future[Msg | None]) -> None:
    if not answer.done():
        answer.set_result(None)


async def open_queue(
    connection: Connection, publisher: Publisher, prefix: str, name: str, *, replicas: int, lease_s: float
) -> JetStreamWorkQueue:
    """The queue of that name; the stream of all queues is made when there is none. Raises WrongStream."""
    head = "CONVIVE" if prefix == "cv" else f"CONVIVE_{prefix.upper()}"
    stream, subjects = f"{head}-QUEUE", f"{prefix}-queue.>"
    wanted = {"subjects": [subjects], **_PROMISED}
    try:
        found = await connection.api(f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.code != _STREAM_NOT_FOUND:
            raise
        found = await create_stream(connection, stream, {"num_replicas": replicas, **wanted, **_COMFORT})
    config = {"max_age": 0, **found["config"]}
    wrong = [name for name, value in wanted.items() if config.get(name) != value]
    wrong += [name for name in _ABSENT if config.get(name)]
    if wrong:
        raise WrongStream(
            f"the stream {stream} exists with {wrong[0]} = {str(config.get(wrong[0]))[:80]}, Convive needs "
            f"{wanted.get(wrong[0], 'none')}. Nothing was changed. Use another server or prefix, or move that stream "
            "away."
        )
    return JetStreamWorkQueue(connection, publisher, stream, f"{prefix}-queue.{name}", lease_s)
