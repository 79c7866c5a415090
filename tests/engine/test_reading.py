"""Reading: direct gets and consumers, what they say of the end, and what a delivery carries."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from convive.bus.jetstream._jetstream_consumer import _SETTINGS
from convive.bus.jetstream._jetstream_records import delivered

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tests.engine.conftest import Engine, Stream

pytestmark = pytest.mark.anyio


async def direct_get(stream: "Stream", **query: Any) -> tuple[list["Msg"], dict[str, str]]:
    """The records that a direct get answers with, and the headers of what ends it."""
    with anyio.fail_after(20):
        while True:
            found, end = await _direct_get(stream, query)
            if end["Status"] != "503":  # this node has not heard yet of who answers
                return found, end
            await anyio.sleep(0.01)


async def _direct_get(stream: "Stream", query: Mapping[str, Any]) -> tuple[list["Msg"], dict[str, str]]:
    client = stream.client
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(f"$JS.API.DIRECT.GET.{stream.name}", json.dumps(query).encode(), reply=inbox)
    found: list[Msg] = []
    try:
        while True:
            message = await subscription.next_msg(10)
            headers: dict[str, str] = message.headers or {}
            if "Status" in headers:
                return found, headers
            found.append(message)
    finally:
        await subscription.unsubscribe()


def places(messages: list["Msg"]) -> list[int]:
    return [int((message.headers or {})["Nats-Sequence"]) for message in messages]


async def filled(stream: "Stream") -> None:
    """a, b and c in turn, on the places 1 to 30."""
    for number in range(30):
        await stream.append("abc"[number % 3], str(number).encode())
    await replicated(stream)


async def replicated(stream: "Stream") -> None:
    """Wait until every copy has everything: any of them may answer a direct get."""
    with anyio.fail_after(10):
        while True:
            replicas: list[dict[str, Any]] = (await stream.api("STREAM.INFO")).get("cluster", {}).get("replicas") or []
            if all(one["current"] and not one.get("lag") for one in replicas):
                return
            await anyio.lowlevel.checkpoint()


async def test_a_direct_get_pages_through_a_subject_and_says_how_much_is_left(engine: "Engine") -> None:
    """Streams are made with `allow_direct` for readers of pages (_jetstream.py `_PROMISED`)."""
    async with engine.stream() as stream:
        await filled(stream)
        wanted = {"next_by_subj": stream.subject("b"), "batch": 4}
        first, end = await direct_get(stream, seq=1, **wanted)
        assert places(first) == [2, 5, 8, 11]
        assert (end["Status"], end["Nats-Num-Pending"], end["Nats-Last-Sequence"]) == ("204", "6", "11")
        rest, end = await direct_get(stream, seq=12, next_by_subj=stream.subject("b"), batch=100)
        assert places(rest) == [14, 17, 20, 23, 26, 29]
        assert (end["Nats-Num-Pending"], end["Nats-Last-Sequence"]) == ("0", "29")
        nothing, end = await direct_get(stream, seq=30, **wanted)
        assert (nothing, end["Status"]) == ([], "404")


async def test_the_last_records_of_several_subjects_are_read_as_they_were_at_a_place(engine: "Engine") -> None:
    """Any place is a consistent cut (architecture.md section 3): `multi_last` with `up_to_seq`."""
    async with engine.stream() as stream:
        await filled(stream)
        both = [stream.subject("a"), stream.subject("c")]
        for cut, expected in ((30, [28, 30]), (20, [18, 19]), (2, [1])):
            found, end = await direct_get(stream, multi_last=both, up_to_seq=cut)
            assert places(found) == expected
            assert end["Status"] == "204"
        found, _ = await direct_get(stream, multi_last=[stream.subject("*")])
        assert places(found) == [28, 29, 30]


async def test_the_last_records_of_more_than_1024_subjects_are_refused(engine: "Engine") -> None:
    """Whoever asks for the last record of each must ask in parts."""
    async with engine.stream() as stream:
        await stream.append("many.0")  # from now on this node takes what comes without waiting for an answer
        for number in range(1, 1_025):
            await stream.client.publish(stream.subject("many", str(number)))
        await stream.append("end")
        await replicated(stream)
        found, end = await direct_get(stream, multi_last=[stream.subject("many.*")])
        assert (found, end["Status"]) == ([], "413")
        found, end = await direct_get(stream, multi_last=[stream.subject("many.*")], up_to_seq=1_024)
        assert (len(found), end["Status"]) == (1_024, "204")


async def test_a_new_consumer_says_how_many_records_there_are_for_it(engine: "Engine") -> None:
    """So a reader knows its end without another request (_jetstream_consumer.py `_count`)."""
    async with engine.stream() as stream:
        await filled(stream)
        a, b, ab = stream.subject("a"), stream.subject("b"), [stream.subject("a"), stream.subject("b")]
        for config, expected in (
            ({"filter_subjects": [a]}, 10),
            ({"filter_subjects": ab}, 20),
            ({"filter_subjects": [stream.subject("*")]}, 30),
            ({"filter_subjects": [stream.subject("none")]}, 0),
            ({"filter_subjects": ab, "deliver_policy": "by_start_sequence", "opt_start_seq": 16}, 10),
            ({"filter_subjects": [b], "deliver_policy": "by_start_sequence", "opt_start_seq": 30}, 0),
            ({"filter_subjects": [b], "deliver_policy": "by_start_sequence", "opt_start_seq": 999}, 0),
            ({"filter_subjects": ab, "deliver_policy": "last_per_subject"}, 2),
        ):
            made = await stream.consumer(ack_policy="none", mem_storage=True, num_replicas=1, **config)
            assert (made["num_pending"], made["delivered"]["consumer_seq"]) == (expected, 0), config


async def test_a_consumer_says_which_node_delivers(engine: "Engine") -> None:
    """So a reader knows that this node has what another consumer of it has delivered (_jetstream_reader.py)."""
    async with engine.stream() as stream:
        await filled(stream)
        there: dict[str, Any] = (await stream.api("STREAM.INFO")).get("cluster", {})
        nodes: set[str] = {there.get("leader", ""), *(one["name"] for one in there.get("replicas", []))}
        found = [
            await stream.consumer(
                ack_policy="none", mem_storage=True, num_replicas=1, filter_subjects=[stream.subject(name)]
            )
            for name in "abcabcabc"
        ]
        told: set[str] = {made.get("cluster", {}).get("leader", "") for made in found}
        assert told == {""} if len(nodes) == 1 else told <= nodes


async def push(stream: "Stream", **config: Any) -> Any:
    """A subscription that a consumer with the settings of ours delivers to."""
    inbox = stream.client.new_inbox()
    subscription = await stream.client.subscribe(inbox)
    made = await stream.consumer(deliver_subject=inbox, **{**_SETTINGS, **config})
    assert "error" not in made, made
    return subscription


async def records(subscription: Any, count: int) -> list["Msg"]:
    found: list[Msg] = []
    with anyio.fail_after(10):
        while len(found) < count:
            message: Msg = await subscription.next_msg(10)
            if delivered(message) is not None:
                found.append(message)
            elif message.reply:
                await message.respond(b"")
    return found


async def test_a_delivery_says_its_place_in_the_stream_and_in_the_consumer_and_what_is_left(engine: "Engine") -> None:
    """The form of `$JS.ACK` (_jetstream_records.py `delivered`); gaps show in the consumer's own count."""
    async with engine.stream() as stream:
        await filled(stream)
        subscription = await push(stream, filter_subjects=[stream.subject("b"), stream.subject("c")])
        found = await records(subscription, 20)
        fields = found[0].reply.split(".")
        assert (len(fields), fields[:3]) == (9, ["$JS", "ACK", stream.name])
        told = [one for one in map(delivered, found) if one is not None]
        assert [one.record.seq for one in told] == [seq for seq in range(1, 31) if seq % 3 != 1]
        assert [one.place for one in told] == list(range(1, 21))
        assert [one.pending for one in told] == list(range(19, -1, -1))
        newest = await stream.get(last_by_subj=stream.subject("c"))
        assert newest["time"].startswith(_second(told[-1].record.time_s))


async def test_an_idle_consumer_says_that_it_is_there_and_where_it_is(engine: "Engine") -> None:
    """Silence means a lost consumer, and a count that is off a lost record (_jetstream_consumer.py `_control`)."""
    async with engine.stream() as stream:
        await filled(stream)
        subscription = await push(stream, filter_subjects=[stream.subject("a")], idle_heartbeat=100_000_000)
        await records(subscription, 10)
        with anyio.fail_after(10):
            beats = [await subscription.next_msg(10) for _ in range(2)]
        for beat in beats:
            assert (beat.headers["Status"], beat.headers["Nats-Last-Consumer"]) == ("100", "10")


async def test_a_reader_that_does_not_answer_is_not_sent_more_than_it_can_take(engine: "Engine") -> None:
    """Flow control: whoever holds an answer back holds the server back (_jetstream_consumer.py `_held`)."""
    count, size = 12, 900_000
    async with engine.stream() as stream:
        for _ in range(count):
            await stream.append("a", bytes(size))
        inbox = stream.client.new_inbox()
        subscription = await stream.client.subscribe(inbox, pending_bytes_limit=0)
        await stream.consumer(deliver_subject=inbox, filter_subjects=[stream.subject("a")], **_SETTINGS)
        owed, got = "", 0
        with anyio.fail_after(20):
            while True:  # until the server, with requests of its own open, only beats
                message = await subscription.next_msg(10)
                headers = message.headers or {}
                if delivered(message) is not None:
                    got += 1
                elif message.reply:
                    owed = message.reply
                elif "Nats-Consumer-Stalled" in headers:
                    break
            assert 0 < got < count
            await stream.client.publish(owed or headers["Nats-Consumer-Stalled"])
            while got < count:
                message = await subscription.next_msg(10)
                if delivered(message) is not None:
                    got += 1
                elif reply := message.reply or (message.headers or {}).get("Nats-Consumer-Stalled", ""):
                    await stream.client.publish(reply)


async def test_a_consumer_can_deliver_just_the_last_record_of_each_subject_and_then_what_comes(
    engine: "Engine",
) -> None:
    """What is current, and then live (_jetstream_consumer.py `_start_policy`)."""
    async with engine.stream() as stream:
        await filled(stream)
        subscription = await push(
            stream, filter_subjects=[stream.subject("*")], deliver_policy="last_per_subject", max_deliver=1
        )
        assert [one.record.seq for one in map(delivered, await records(subscription, 3)) if one] == [28, 29, 30]
        await stream.append("a")
        assert [one.record.seq for one in map(delivered, await records(subscription, 1)) if one] == [31]


async def test_a_consumer_may_start_at_a_time(engine: "Engine") -> None:
    """`since_s` (_jetstream_consumer.py `_start_policy`): the first record at or behind that moment."""
    async with engine.stream() as stream:
        await filled(stream)
        moment = (await stream.get(seq=20))["time"]
        subscription = await push(
            stream, filter_subjects=[stream.subject(">")], deliver_policy="by_start_time", opt_start_time=moment
        )
        told = [one.record.seq for one in map(delivered, await records(subscription, 11)) if one]
        assert told == list(range(20, 31))


def _second(time_s: float) -> str:
    return datetime.fromtimestamp(int(time_s), UTC).isoformat().removesuffix("+00:00")
