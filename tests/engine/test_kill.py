"""kill -9 of the only node, or of the one of three that leads everything, in the middle of work. Then it comes back."""

import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from convive.bus.jetstream._jetstream_consumer import _SETTINGS
from convive.bus.jetstream._jetstream_queue import _COMFORT, _PROMISED
from convive.bus.jetstream._jetstream_records import delivered

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tests.engine.conftest import Engine, Stream

pytestmark = pytest.mark.anyio

REFUSED = 10071
NO_CONSUMER = 10014
LOAD = 1_000
QUEUE: dict[str, Any] = {**_PROMISED, **_COMFORT, "deny_delete": False, "allow_rollup_hdrs": False}


@dataclass
class Scene:
    """What was there when the node was killed."""

    stream: "Stream"
    queue: "Stream"
    unheard: dict[str, int]
    """Records whose acknowledgement nobody has heard: their places by their subjects."""
    load: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """Acknowledged records: their places by their bodies."""
    consumer: str = ""
    """A push consumer with the settings of ours, on the node that was killed."""
    heard: list["Msg"] = field(default_factory=list["Msg"])
    """What that consumer has delivered."""


@pytest.fixture(scope="module")
async def scene(lasting_engine: "Engine") -> AsyncGenerator[Scene]:
    engine = lasting_engine
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(engine.stream(allow_atomic=True))
        queue = await stack.enter_async_context(engine.stream(**QUEUE))
        leader = await stream.leader()
        made = Scene(stream, queue, {})
        await fill_queue(queue)
        await lead(queue, leader)
        await begin_batch(stream)
        await start_consumer(made, leader)
        await publish_unheard(made)
        with anyio.fail_after(60):
            await publish_load_until_killed(made, lambda: engine.nodes.kill(leader))
            await engine.nodes.start(leader)
            await stream.api("STREAM.INFO")
        yield made


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(30):
        while not await condition():  # noqa: ASYNC110 - another process sets no event
            await anyio.sleep(0.02)


async def fill_queue(queue: "Stream") -> None:
    """A job that is done, one in a worker's hands, one that waits, and one that is delayed."""
    for name in ("done", "held", "waiting"):
        await queue.append(f"job.{name}", b"", {"Nats-Msg-Id": name})
    due = (datetime.now(UTC) + timedelta(seconds=3)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    schedule = {"Nats-Schedule": f"@at {due}", "Nats-Schedule-Target": queue.subject("job.later")}
    await queue.append("later.later", b"", schedule)
    await queue.consumer(
        name="work",
        durable_name="work",
        filter_subject=queue.subject("job.*"),
        ack_policy="explicit",
        ack_wait=2_000_000_000,
    )
    for name in ("done", "held"):
        job = await pull(queue)
        assert job.subject == queue.subject("job", name)
        if name == "done":
            await queue.client.request(job.reply, b"+ACK", timeout=5)


async def pull(queue: "Stream") -> "Msg":
    """The next job, however long it takes."""
    body = json.dumps({"batch": 1, "expires": 1_000_000_000}).encode()
    with anyio.fail_after(30):
        while True:
            inbox = queue.client.new_inbox()
            subscription = await queue.client.subscribe(inbox)
            await queue.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{queue.name}.work", body, reply=inbox)
            with anyio.move_on_after(2):
                message = await subscription.next_msg(None)
                if "Status" not in (message.headers or {}):
                    await subscription.unsubscribe()
                    return message
            await subscription.unsubscribe()


async def lead(queue: "Stream", node: str) -> None:
    """Have a node lead the queue and its consumer as well."""
    if not node:
        return
    for kind, of in (("STREAM", ""), ("CONSUMER", "work")):

        async def led(kind: str = kind, of: str = of) -> bool:
            found = await queue.api(f"{kind}.INFO", of=of)
            if found["cluster"].get("leader") == node:
                return True
            await queue.api(f"{kind}.LEADER.STEPDOWN", {"placement": {"preferred": node}}, of)
            return False

        await until(led)


async def begin_batch(stream: "Stream") -> None:
    """A batch that is never committed, and one whose answer nobody hears."""
    for name, commit in (("abandoned", {}), ("unheard", {"Nats-Batch-Commit": "1"})):
        marks = {"Nats-Batch-Id": name, "Nats-Batch-Sequence": "1"}
        await stream.ask(f"batch.{name}", b"", {**marks, "Nats-Msg-Id": f"{name}-1"})
        marks = {**marks, "Nats-Batch-Sequence": "2", **commit}
        await stream.client.publish(stream.subject("batch", name), b"", headers=marks)

    async def stored() -> bool:
        return (await stream.subjects()).get("batch.unheard") == 2

    await until(stored)


async def start_consumer(scene: Scene, node: str) -> None:
    """A consumer of one copy in memory, as ours are; on three nodes it is where chance puts it."""

    async def receive(message: "Msg") -> None:
        scene.heard.append(message)

    for _ in range(60):
        inbox = scene.stream.client.new_inbox()
        subscription = await scene.stream.client.subscribe(inbox, cb=receive)
        filters = [scene.stream.subject("load"), scene.stream.subject("once.*")]
        made = await scene.stream.consumer(deliver_subject=inbox, filter_subjects=filters, **_SETTINGS)
        if not node or made["cluster"]["leader"] == node:
            scene.consumer = made["name"]
            return
        await subscription.unsubscribe()
    raise AssertionError("no consumer came to stand on the leader's node")


async def publish_unheard(scene: Scene) -> None:
    stream = scene.stream
    for subject, headers in (
        ("once.id", {"Nats-Msg-Id": "once"}),
        ("once.guard", stream.guard(0)),
        ("once.nothing", {}),
    ):
        await stream.client.publish(stream.subject(subject), b"once", headers=headers or None)

        async def stored(subject: str = subject) -> bool:
            found = await stream.get(last_by_subj=stream.subject(subject))
            scene.unheard[subject] = found.get("seq", 0)
            return "seq" in found

        await until(stored)


async def publish_load_until_killed(scene: Scene, kill: Callable[[], None]) -> None:
    """Pipelined publishing; the server is killed when the first tenth is acknowledged, and the rest on its way."""
    client = scene.stream.client
    inbox = client.new_inbox()
    killed = anyio.Event()

    async def acknowledged(message: "Msg") -> None:
        answer: dict[str, Any] = json.loads(message.data) if message.data else {}
        if "seq" in answer:
            scene.load[message.subject.rpartition(".")[2].encode()] = answer["seq"]
        if len(scene.load) == LOAD // 10:
            kill()
            killed.set()

    subscription = await client.subscribe(f"{inbox}.*", cb=acknowledged)
    for number in range(LOAD):
        await client.publish(scene.stream.subject("load"), str(number).encode(), reply=f"{inbox}.{number}")
    await killed.wait()
    await subscription.unsubscribe()


async def test_every_acknowledged_record_is_at_its_place(scene: Scene) -> None:
    """`sync_interval: always`, or a majority (docs/guarantees.md); kill -9 alone loses nothing without it either."""
    assert len(scene.load) >= LOAD // 10
    for body, place in list(scene.load.items())[-200:]:
        found = await scene.stream.get(seq=place)
        assert (found["subject"], _body(found)) == (scene.stream.subject("load"), body)


async def test_a_record_that_was_stored_unheard_is_told_by_its_id(scene: Scene) -> None:
    """The ids of ten minutes are known after a restart (_jetstream_publisher.py `_send_all_again`)."""
    again = await scene.stream.ask("once.id", b"once", {"Nats-Msg-Id": "once"})
    assert (again["seq"], again["duplicate"]) == (scene.unheard["once.id"], True)


async def test_a_record_that_was_stored_unheard_is_found_behind_its_guard(scene: Scene) -> None:
    """Both on one node and on three (_jetstream_publisher.py `own_record`)."""
    stream, subject = scene.stream, scene.stream.subject("once.guard")
    assert await stream.refusal("once.guard", b"once", stream.guard(0)) == REFUSED
    found = await stream.get(seq=1, next_by_subj=subject)
    assert (found["seq"], _body(found)) == (scene.unheard["once.guard"], b"once")


async def test_without_id_and_guard_it_is_stored_again(scene: Scene) -> None:
    """Hence every draft has one of them (_jetstream_publisher.py `_send`)."""
    await scene.stream.append("once.nothing", b"once")
    assert (await scene.stream.subjects())["once.nothing"] == 2


async def test_a_batch_is_there_whole_or_not_at_all(scene: Scene) -> None:
    """What was committed is; what was not, is gone, and its name free again."""
    assert (await scene.stream.subjects())["batch.unheard"] == 2
    marks = {"Nats-Batch-Id": "unheard", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"}
    assert await scene.stream.refusal("batch.unheard", b"", {**marks, "Nats-Msg-Id": "unheard-1"}) == 10201
    assert "batch.abandoned" not in await scene.stream.subjects()
    marks = {**marks, "Nats-Batch-Id": "abandoned", "Nats-Msg-Id": "abandoned-1"}
    await scene.stream.append("batch.abandoned", b"", marks)


async def test_a_push_consumer_of_ours_is_gone_or_begins_again_at_its_beginning(scene: Scene) -> None:
    """Its own count tells (_jetstream_consumer.py `_receive`), and a reader makes a new one behind its last record.

    One node has forgotten it; three nodes know that it should be there, and make it anew.
    """
    if scene.stream.replicated:

        async def began_again() -> bool:
            await anyio.lowlevel.checkpoint()
            return [one.place for one in map(delivered, scene.heard) if one].count(1) == 2

        await until(began_again)
    else:
        assert (await scene.stream.api("CONSUMER.INFO", of=scene.consumer))["error"]["err_code"] == NO_CONSUMER


async def test_a_new_consumer_goes_on_behind_any_place(scene: Scene) -> None:
    """What every reader does in doubt (_jetstream_consumer.py `_start_policy`)."""
    inbox = scene.stream.client.new_inbox()
    subscription = await scene.stream.client.subscribe(inbox)
    _, second, third = scene.unheard.values()
    start = {"deliver_policy": "by_start_sequence", "opt_start_seq": second}
    filters = [scene.stream.subject("once.*")]
    await scene.stream.consumer(deliver_subject=inbox, filter_subjects=filters, **{**_SETTINGS, **start})
    found = [delivered(await subscription.next_msg(10)) for _ in range(2)]
    assert [one.record.seq for one in found if one is not None] == [second, third]


async def test_jobs_that_are_not_done_come_again_and_those_that_are_do_not(scene: Scene) -> None:
    """A durable consumer, and a schedule that was not due yet (_jetstream_queue.py)."""
    prefix = scene.queue.subject("job.")
    jobs: list[str] = []
    while {"held", "waiting", "later"} - set(jobs):
        job = await pull(scene.queue)
        jobs.append(job.subject.removeprefix(prefix))
        await scene.queue.client.request(job.reply, b"+ACK", timeout=5)
    assert set(jobs) == {"held", "later", "waiting"}

    async def empty() -> bool:
        return await scene.queue.subjects() == {}

    await until(empty)


def _body(record: dict[str, Any]) -> bytes:
    return base64.b64decode(record.get("data", ""))
