"""What our connection does in place of nats-py: it must go on being called, and give what nats-py would."""

import asyncio
from typing import Any, cast

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from convive.bus import Draft, mint_run_id, open_bus
from convive.bus.jetstream._connect import connect
from convive.bus.jetstream._jetstream_headers import Headers, written
from convive.bus.testing import read_all

pytestmark = pytest.mark.anyio

LINES = st.lists(st.binary(max_size=12) | st.sampled_from([b"X: 1", b"Nats-Msg-Id:a", b" ", b"X :1", b":", b"A:b:c"]))


@given(LINES, st.text(max_size=3) | st.sampled_from(["X", "A", "Nats-Msg-Id", "Cv-Origin", "\ud800", "?"]))
@example([b"\x1c: what str takes for a blank, and bytes do not"], "\x1c")
def test_headers_are_parsed_as_nats_py_does(lines: list[bytes], name: str) -> None:
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    theirs: Any = Client()
    parsed = theirs._parse_header_lines(raw)
    assert Headers(raw).get(name) == parsed.get(name)
    assert (name in Headers(raw)) == (name in parsed)
    assert Headers(raw) == parsed
    assert dict(Headers(raw)) == parsed


@given(
    LINES, st.lists(st.sampled_from(["X", "A", "", "Nats-Msg-Id", "Nats-Other", "Cv-Run", "\ud800", "ä"]), max_size=5)
)
@example([b"X: 1", b"Nats-Msg-Id: a", b"X: 2", b"A: 3"], ["X", "A", "Nats-Msg-Id"])
@example([b"X: 1", b"Nats-Msg-Id: a", b"A: 3"], ["X", "Nats-Msg-Id", "A"])
@example([b"X: " + b"1" * 600, b"Nats-Msg-Id: a"], ["X", "Nats-Msg-Id"])
def test_headers_say_the_same_in_whatever_order_they_are_asked_for(lines: list[bytes], names: list[str]) -> None:
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    parsed: Any = cast("Any", Client())._parse_header_lines(raw)
    headers = Headers(raw)
    assert [headers.get(name) for name in names] == [parsed.get(name) for name in names]
    assert headers == parsed


async def test_headers_of_records_are_read_only_when_somebody_looks_at_one_that_is_there(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        own = await bus.conversation(mint_run_id())
        await own.log.append(Draft(own.subjects.stream("a"), b"", {"X-Own": "ä"}, id=own.id))
        (record,) = await read_all(own.log, own.subjects.stream("a"))
        assert isinstance(record.headers, Headers), "nats-py does not call what makes them any more"
        assert "X-Other" not in record.headers
        assert record.headers._found is None
        assert record.headers == {"X-Own": "ä", "Nats-Msg-Id": own.id}


def test_headers_are_written_in_a_form_that_is_read_back() -> None:
    headers = {"X-Own": "ä: b", "Nats-Msg-Id": "i", "X-Blank": ""}
    assert Headers(written(headers).removeprefix(b"NATS/1.0\r\n")) == headers


@pytest.mark.parametrize("broken", [{"X": "a\r\nNats-Rollup: all"}, {"X": "a\n"}, {"X\r": "a"}, {"X\r\nY": ""}])
def test_no_header_smuggles_another_one_in(broken: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="line break"):
        written(broken)


async def test_messages_are_handed_on_at_once_and_not_by_a_task_of_each_subscription(nats_url: str) -> None:
    tasks: set[asyncio.Task[Any] | None] = set()

    async def receive(_: Msg) -> None:
        tasks.add(asyncio.current_task())

    async with connect(nats_url) as connection:
        for number in range(3):
            inbox = connection.inbox()
            await connection.subscribe(inbox, receive)
            await connection.client.publish(inbox, str(number).encode(), headers={"X": "1"})
        await connection.client.flush()
    assert len(tasks) == 1, "nats-py does not call what hands messages on any more"


async def test_leaving_while_nats_py_gives_up_a_connection_is_no_cancellation(nats_url: str) -> None:
    """Its reconnecting task waits for the same future as `close`, and takes that with it when it is cancelled."""
    left = False
    async with connect(nats_url) as connection:
        transport: Any = connection.client._transport
        writer = transport._io_writer
        writer.transport.abort()
        writer._protocol._get_close_waiter(writer).cancel()
        with anyio.fail_after(5):
            await cast("Any", connection.client).leave()
        left = True
    assert left


async def test_who_fails_over_a_message_is_given_the_next_one_and_disturbs_nobody(nats_url: str) -> None:
    heard: list[bytes] = []
    done = anyio.Event()

    async def fail(message: Msg) -> None:
        heard.append(message.data)
        raise RuntimeError("cannot read this")

    async def finish(_: Msg) -> None:
        done.set()

    async with connect(nats_url) as connection:
        failing, other = connection.inbox(), connection.inbox()
        await connection.subscribe(failing, fail)
        await connection.subscribe(other, finish)
        for subject, body in ((failing, b"1"), (failing, b"2"), (other, b"")):
            await connection.client.publish(subject, body)
        with anyio.fail_after(10):
            await done.wait()
        await connection.api("INFO")
    assert heard == [b"1", b"2"]
