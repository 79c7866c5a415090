"""Message schedules and work-queue retention, as the work queue uses them (_jetstream_queue.py, ADR 9)."""

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from convive.bus.jetstream._jetstream_queue import _COMFORT, _PROMISED
from convive.bus.jetstream._jetstream_records import stored

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tests.engine.conftest import Engine, Stream

pytestmark = pytest.mark.anyio

REFUSED = 10071
QUEUE: dict[str, Any] = {**_PROMISED, **_COMFORT, "deny_delete": False, "allow_rollup_hdrs": False}


def at(stream: "Stream", subject: str, delay_s: float) -> dict[str, str]:
    due = (datetime.now(UTC) + timedelta(seconds=delay_s)).isoformat(timespec="microseconds")
    return {
        "Nats-Schedule": f"@at {due.replace('+00:00', 'Z')}",
        "Nats-Schedule-Target": stream.subject(subject),
    }


async def fired(stream: "Stream", subject: str) -> dict[str, Any]:
    """Wait until there is a record on the subject."""
    with anyio.fail_after(15):
        while "err_code" in (record := await stream.get(last_by_subj=stream.subject(subject))):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        return record


async def test_a_schedule_becomes_a_plain_record_on_its_target_when_it_is_due(engine: "Engine") -> None:
    """A delayed job: its own headers stay, its id and its guard do not, and nothing is left of the schedule."""
    async with engine.stream(**QUEUE) as stream:
        own = {"X-Own": "yes", "Nats-Msg-Id": "job", **stream.guard(0, "*", "1")}
        await stream.append("later.1", b"work", {**own, **at(stream, "job.1", 0.5)})
        assert await stream.subjects() == {"later.1": 1}
        record = await fired(stream, "job.1")
        headers = _headers(record)
        assert headers["X-Own"] == "yes"
        assert headers["Nats-Scheduler"] == stream.subject("later.1")
        assert not headers.keys() & {"Nats-Msg-Id", "Nats-Schedule", "Nats-Expected-Last-Subject-Sequence"}
        assert await stream.subjects() == {"job.1": 1}


async def test_a_schedule_in_the_past_is_due_at_once(engine: "Engine") -> None:
    """The time is the sender's clock: one that is late only costs the delay."""
    async with engine.stream(**QUEUE) as stream:
        await stream.append("later.1", b"", at(stream, "job.1", -5))
        await fired(stream, "job.1")


async def test_a_guard_over_the_job_sees_it_while_it_is_delayed_and_when_it_is_due(engine: "Engine") -> None:
    """One job of an id, whether it waits or not (`JetStreamWorkQueue.send`)."""
    async with engine.stream(**QUEUE) as stream:
        guard = stream.guard(0, "*", "1")
        await stream.append("later.1", b"", {**guard, **at(stream, "job.1", 0.5)})
        assert await stream.refusal("job.1", b"", guard) == REFUSED
        await fired(stream, "job.1")
        assert await stream.refusal("later.1", b"", {**guard, **at(stream, "job.1", 9)}) == REFUSED


async def test_a_target_that_the_stream_does_not_take_is_refused(engine: "Engine") -> None:
    """Queue and delayed jobs share a stream for that reason."""
    async with engine.stream(**QUEUE) as stream:
        headers = {**at(stream, "job", 9), "Nats-Schedule-Target": "elsewhere.job"}
        assert await stream.refusal("later.1", b"", headers) == 10190


async def test_without_the_streams_leave_there_are_no_schedules(engine: "Engine") -> None:
    """Hence `allow_msg_schedules` is promised of the queue's stream, and of it alone."""
    async with engine.stream() as stream:
        assert await stream.refusal("later.1", b"", at(stream, "job.1", 9)) == 10188


async def pulled(stream: "Stream", consumer: str, expires_s: float = 5) -> "Msg | None":
    """One job, or None when there is none in time."""
    body = json.dumps({"batch": 1, "expires": int(expires_s * 1e9)}).encode()
    with anyio.fail_after(30):
        while True:
            inbox = stream.client.new_inbox()
            subscription = await stream.client.subscribe(inbox)
            await stream.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.{consumer}", body, reply=inbox)
            message = await subscription.next_msg(expires_s + 10)
            await subscription.unsubscribe()
            status = (message.headers or {}).get("Status")
            if status != "503":  # this node has not heard of the consumer yet
                return None if status else message
            await anyio.sleep(0.01)


async def worker(stream: "Stream", lease_s: float = 30) -> str:
    made = await stream.consumer(
        name="work",
        durable_name="work",
        filter_subject=stream.subject("job.*"),
        ack_policy="explicit",
        ack_wait=int(lease_s * 1e9),
        max_deliver=-1,
        max_ack_pending=-1,
    )
    return str(made["name"])


async def test_a_job_is_one_workers_until_it_is_acknowledged_and_then_it_is_gone(engine: "Engine") -> None:
    """Work-queue retention; an acknowledgement that is answered was taken (`_JetStreamLease._settle`)."""
    async with engine.stream(**QUEUE) as stream:
        for number in range(2):
            await stream.append(f"job.{number}")
        name = await worker(stream)
        first, second = await pulled(stream, name), await pulled(stream, name)
        assert first is not None
        assert second is not None
        assert await pulled(stream, name, 0.2) is None
        assert (await stream.client.request(first.reply, b"+ACK", timeout=5)).data == b""
        with anyio.fail_after(10):
            while await stream.subjects() != {"job.1": 1}:  # three nodes say so before they have removed it
                await anyio.lowlevel.checkpoint()


async def test_a_job_comes_again_when_its_lease_runs_out_is_refused_or_is_refused_for_a_while(
    engine: "Engine",
) -> None:
    """`ack_wait`, `-NAK` and `-NAK {"delay": ...}`; the delivery is counted (`_JetStreamLease.attempt`)."""
    async with engine.stream(**QUEUE) as stream:
        await stream.append("job.1")
        name = await worker(stream, lease_s=1)
        deliveries: list[int] = []
        for word in (None, b"-NAK", b'-NAK {"delay": 300000000}', b"+ACK"):
            message = await pulled(stream, name)
            assert message is not None
            deliveries.append(int(message.reply.split(".")[4]))
            if word is not None:
                await stream.client.request(message.reply, word, timeout=5)
        assert deliveries[0] == 1
        assert deliveries == sorted(set(deliveries))  # a machine that is busy may let a lease run out once more


async def test_an_acknowledgement_of_an_earlier_delivery_ends_the_job_of_who_has_it_now(engine: "Engine") -> None:
    """Hence a job that comes again goes on as a copy (`JetStreamWorkQueue.take`)."""
    async with engine.stream(**QUEUE) as stream:
        await stream.append("job.1")
        name = await worker(stream, lease_s=1)
        late, now = await pulled(stream, name), await pulled(stream, name)
        assert late is not None
        assert now is not None
        await stream.client.request(late.reply, b"+ACK", timeout=5)
        assert await pulled(stream, name, 3) is None
        assert await stream.subjects() == {}


async def test_a_lease_is_held_by_saying_that_the_work_goes_on(engine: "Engine") -> None:
    """`+WPI` (`_JetStreamLease.extend`)."""
    async with engine.stream(**QUEUE) as stream:
        await stream.append("job.1")
        name = await worker(stream, lease_s=2)
        message = await pulled(stream, name)
        assert message is not None
        for _ in range(5):
            await stream.client.publish(message.reply, b"+WPI")
            assert await pulled(stream, name, 0.5) is None
        again = await pulled(stream, name)
        assert again is not None
        assert again.subject == message.subject


def _headers(record: dict[str, Any]) -> dict[str, str]:
    return dict(stored({"message": record}).headers)
