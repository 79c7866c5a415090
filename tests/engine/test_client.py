"""Limits of the protocol, and what nats-py does with a connection: what our connection is built around."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import nats
import nats.errors
import pytest

from convive.bus.jetstream._jetstream_publisher import _size
from convive.bus.server._server_process import is_free
from convive.bus.testing import Server, server

if TYPE_CHECKING:
    from nats.aio.client import Client

    from tests.engine.conftest import Engine

pytestmark = pytest.mark.anyio


async def lost(client: "Client") -> None:
    """Wait until the server has closed the connection."""
    with anyio.fail_after(10):
        while client.is_connected:
            await anyio.lowlevel.checkpoint()


async def test_headers_count_as_payload_and_a_byte_too_much_costs_the_connection(engine: "Engine") -> None:
    """nats-py lets it pass, so the publisher counts (_jetstream_publisher.py `_publish`, `_size`)."""
    headers = {"X-Own": "ä" * 100}
    async with engine.stream() as stream, engine.another() as client:
        own, room = stream.on(client), client.max_payload - _size(headers)
        assert await own.append("a", bytes(room), headers) == 1
        await client.publish(stream.subject("a"), bytes(room + 1), headers=headers)
        await lost(client)
        assert "maximum payload" in str(client.last_error).lower()
        assert await stream.subjects() == {"a": 1}


async def test_a_body_alone_that_is_too_large_is_refused_by_the_client(engine: "Engine") -> None:
    """Not relied on: `_publish` has refused it before."""
    with pytest.raises(nats.errors.MaxPayloadError):
        await engine.client.publish("a", bytes(engine.client.max_payload + 1))


async def test_headers_of_more_than_64_kb_are_not_stored(engine: "Engine") -> None:
    """Headers of ours are some hundred bytes; what a user adds is refused by the server (`_refusal`)."""
    async with engine.stream() as stream:
        assert await stream.append("a", b"", {"X": "y" * 65_000}) == 1
        assert await stream.refusal("a", b"", {"X": "y" * 66_000}) > 0
        assert await stream.subjects() == {"a": 1}


async def test_a_subject_of_more_than_4_kb_costs_the_connection(engine: "Engine") -> None:
    """Hence a subject has 1,024 bytes at most (_log.py `check_draft`)."""
    async with engine.stream() as stream, engine.another() as client:
        assert await stream.append("a" * 1_024) == 1
        await client.publish(stream.subject("a" * 5_000), b"")
        await lost(client)


async def test_nobody_takes_a_subject_is_told_at_once_and_means_that_nothing_was_stored(engine: "Engine") -> None:
    """Status 503: a stream that is being made, or elects its leader (_jetstream_publisher.py `_acknowledged`)."""
    with anyio.fail_after(2), pytest.raises(nats.errors.NoRespondersError):
        await engine.client.request("nobody.takes.this", b"", timeout=10)


async def test_who_has_an_answer_to_a_request_finds_the_subscription_before_it_in_place(engine: "Engine") -> None:
    """A barrier (_jetstream_publisher.py `start`, _jetstream_consumer.py `_start`). nats-py's `flush` is none:
    it sends the PING before the SUB that waits with it.
    """
    async with engine.another() as client, engine.another() as elsewhere:
        for number in range(100):
            got = anyio.Event()
            await client.subscribe(f"here.{number}", cb=_setting(got))
            await client.request("$JS.API.INFO", b"", timeout=5)
            await elsewhere.publish(f"here.{number}", b"")
            await elsewhere.flush()
            with anyio.fail_after(5):
                await got.wait()


async def test_a_callback_gets_messages_one_by_one_in_their_order(engine: "Engine") -> None:
    """Tails and acknowledgements count on it (_jetstream_consumer.py `_receive`)."""
    seen: list[int] = []
    running = 0

    async def receive(message: Any) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await anyio.lowlevel.checkpoint()
        seen.append(int(message.data))
        running -= 1

    async with engine.another() as client:
        await client.subscribe("order", cb=receive)
        for number in range(500):
            await client.publish("order", str(number).encode())
        with anyio.fail_after(10):
            while len(seen) < 500:
                await anyio.lowlevel.checkpoint()
    assert seen == list(range(500))


async def test_what_is_published_without_a_server_is_stored_when_it_is_back() -> None:
    """A ghost: an append that has timed out is stored later. Hence ids and guards (_jetstream_publisher.py)."""
    async with server() as own:
        client = await nats.connect(own.url, reconnect_time_wait=0, max_reconnect_attempts=-1, error_cb=_ignored)
        await client.jetstream().add_stream(name="S", subjects=["s.>"])
        own.kill()
        await lost(client)
        with pytest.raises(nats.errors.TimeoutError):
            await client.request("s.a", b"ghost", timeout=0.1)
        await own.start()
        with anyio.fail_after(10):
            while not client.is_connected:  # noqa: ASYNC110 - another process sets no event
                await anyio.sleep(0.005)
            while (await client.jetstream().stream_info("S")).state.messages != 1:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        await client.close()


async def test_a_second_server_opens_a_store_that_is_in_use(tmp_path: Path) -> None:
    """No lock of the server's own keeps it from that, so ours must (_data_dir.py, _server.py)."""
    free = (port for port in range(18_000 + os.getpid() % 900, 19_000) if is_free(port))
    first, second = (Server(tmp_path, next(free), fast=True) for _ in range(2))
    try:
        # Each is started with the settings that were written last.
        await second.start()
        Server(tmp_path, int(first.url.rpartition(":")[2]), fast=True)
        await first.start()
        for one in (first, second):
            client = await nats.connect(one.url)
            assert (await client.jetstream().account_info()).streams == 0
            await client.close()
    finally:
        first.kill()
        second.kill()


def _setting(event: anyio.Event) -> Any:
    async def receive(_: Any) -> None:
        event.set()

    return receive


async def _ignored(_: Exception) -> None:
    """A server is killed on purpose."""
