"""Bad input: one clear line, nothing lost, nothing changed."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
from anyio.abc import SocketAttribute, SocketStream
from nats.aio.msg import Msg

from convive.bus import (
    BadName,
    BusUnavailable,
    Draft,
    NotAppended,
    RunContext,
    UnknownConversation,
    WrongStream,
    conversation_id,
    open_bus,
    seat_name,
)
from convive.bus.jetstream._connect import _without_secrets, connect
from convive.bus.log._subjects import partition_of
from convive.bus.server import _server_child
from convive.bus.server._server_process import is_free, server_binary
from convive.bus.testing import server

pytestmark = pytest.mark.anyio


def is_one_line(error: pytest.ExceptionInfo[Exception]) -> bool:
    return len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 400


def free_port() -> int:
    return next(port for port in range(19_000 - os.getpid() % 900, 20_000) if is_free(port))


async def test_no_server_at_a_url_says_where_and_what_to_do() -> None:
    port = free_port()
    with (
        anyio.fail_after(5),
        pytest.raises(BusUnavailable, match=f"no NATS server at nats://127.0.0.1:{port}") as error,
    ):
        async with open_bus(f"nats://127.0.0.1:{port}"):
            pass
    assert "leave out the URL" in str(error.value)
    assert is_one_line(error)


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is not None, reason="what it needs is installed")
async def test_a_url_that_needs_what_is_not_installed_says_what() -> None:
    with anyio.fail_after(5), pytest.raises(BusUnavailable, match="pip install aiohttp") as error:
        async with open_bus(f"ws://127.0.0.1:{free_port()}"):
            pass
    assert is_one_line(error)


@pytest.mark.parametrize("url", ["nats://", "http://[", "nats://127.0.0.1:notaport", "nats://nowhere.invalid:4222"])
async def test_a_url_that_is_none_is_no_server(url: str) -> None:
    with anyio.fail_after(15), pytest.raises(BusUnavailable) as error:
        async with open_bus(url):
            pass
    assert is_one_line(error)


async def test_a_password_in_a_url_is_not_shown() -> None:
    port = free_port()
    with pytest.raises(BusUnavailable) as error:
        async with open_bus(f"nats://ada:sesame@127.0.0.1:{port}"):
            pass
    assert "sesame" not in str(error.value)


CREDENTIALS = [
    *("ZED:QQ,XX", "ZED:77,88", "ZED:QQ://XX", "ZED:QQ@XX", "ZED:QQ@XX,88", "ZED:77,88@XX", "ZED:77@XX,QQ@XX"),
    *("ZED:QQ/XX", "ZED:77/88", "ZED:QQ?XX", "ZED:QQ#XX", "ZED:77?88", "ZED:[QQ", "QQ", ":QQ,77:88", "ZED:QQ\n88"),
    *("ZED:77,tls://88", "ZED:77,88://XX", "ZED://QQ:77,XX"),
]


@pytest.mark.parametrize("credentials", CREDENTIALS)
def test_no_part_of_a_password_is_shown_whatever_is_in_it(credentials: str) -> None:
    for before in ("", "nats://", "tls://h:1,nats://", "nats://a:QQ@h:1, nats://", "soup://"):
        for after in ("", ",h:2", "/88?XX"):
            shown = _without_secrets(f"{before}{credentials}@127.0.0.1:1{after}")
            assert not [part for part in ("ZED", "QQ", "XX", "77", "88") if part in shown]


@pytest.mark.parametrize("credentials", ["bob:ses,ame", "bob:ses://ame", "bob:ses/ame"])
async def test_a_url_that_its_password_breaks_is_refused_without_it(credentials: str) -> None:
    with pytest.raises(BusUnavailable, match="what was given is not the URL of a NATS server") as error:
        async with open_bus(f"nats://{credentials}@127.0.0.1:1"):
            pass
    assert not [part for part in ("bob", "ses") if part in str(error.value)]
    assert is_one_line(error)


@pytest.mark.parametrize("url", ["nats://bob:sesame", "bob:sesame", "nats://[bob:sesame", "nats://h:1,bob:sesame"])
async def test_nothing_is_shown_of_a_url_that_does_not_parse(url: str) -> None:
    with pytest.raises(BusUnavailable, match="what was given is not the URL of a NATS server") as error:
        async with open_bus(url):
            pass
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("nats://ada:sesame@127.0.0.1:1", "nats://127.0.0.1:1"),
        ("nats://127.0.0.1:1, nats://127.0.0.1:2", "nats://127.0.0.1:1,nats://127.0.0.1:2"),
        ("nats://a:b@127.0.0.1:1,nats://a:b@127.0.0.1:2", "nats://127.0.0.1:1,nats://127.0.0.1:2"),
        ("nats://a:b@127.0.0.1:1,127.0.0.1:2/x?y", "nats://127.0.0.1:1,127.0.0.1:2"),
    ],
)
async def test_where_it_looked_is_shown_without_what_is_nobodys_business(url: str, shown: str) -> None:
    with pytest.raises(BusUnavailable, match=f"^no NATS server at {shown} ") as error:
        async with open_bus(url):
            pass
    assert is_one_line(error)


async def test_a_server_without_jetstream_is_refused(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-I", "-S", _server_child.__file__, str(os.getpid()), str(server_binary())]
    process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [*command, "-a", "127.0.0.1", "-p", str(port)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with anyio.fail_after(10):
            while is_free(port):  # noqa: ASYNC110 - another process sets no event
                await anyio.sleep(0.005)
        with pytest.raises(BusUnavailable, match="nats-server -js") as error:
            async with open_bus(f"nats://127.0.0.1:{port}"):
                pass
        assert is_one_line(error)
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def impostor(first_line: bytes) -> AsyncGenerator[str]:
    """Something that listens, says `first_line`, and answers a PING as a server does."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.send(first_line)
            try:
                async for chunk in stream:
                    if b"PING" in chunk:
                        await stream.send(b"PONG\r\n")
            except anyio.BrokenResourceError:
                return

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        yield f"nats://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610 - anyio, not Django
        tasks.cancel_scope.cancel()


def info(version: str) -> bytes:
    said = {"server_id": "X", "version": version, "max_payload": 1_048_576, "headers": True}
    return f"INFO {json.dumps(said)}\r\n".encode()


@pytest.mark.parametrize("version", ["2.9.0", "2.11.4", "1.4.1"])
async def test_a_server_that_is_too_old_is_refused(version: str) -> None:
    async with impostor(info(version)) as url:
        with anyio.fail_after(10), pytest.raises(BusUnavailable, match=f"version {version}.* needs 2.12") as error:
            async with open_bus(url):
                pass
    assert is_one_line(error)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {not json}\r\n", info("newest")])
async def test_something_else_that_listens_is_no_server(greeting: bytes) -> None:
    async with impostor(greeting) as url:
        with anyio.fail_after(10), pytest.raises(BusUnavailable) as error:
            async with open_bus(url):
                pass
    assert is_one_line(error)


async def test_a_server_that_asks_for_a_password_says_so() -> None:
    async with impostor(b"-ERR 'Authorization Violation'\r\n") as url:
        with anyio.fail_after(10), pytest.raises(BusUnavailable) as error:
            async with open_bus(url):
                pass
    assert is_one_line(error)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("storage", "memory"),
        ("retention", "workqueue"),
        ("max_age", 10**12),
        ("max_msgs", 5),
        ("allow_msg_ttl", None),
        ("duplicate_window", 599 * 10**9),
        ("no_ack", True),
        ("sealed", True),
        ("max_msg_size", 1_000_000),
        ("sources", [{"name": "EVENTS"}]),
        ("subject_transform", {"src": "cv.03.*.>", "dest": "cv.03.x.>"}),
        ("subject_delete_marker_ttl", 10**9),
        ("persist_mode", "async"),
    ],
)
async def test_a_stream_of_our_name_with_other_settings_is_refused_and_left_as_it_is(setting: str, value: Any) -> None:
    async with server() as own, connect(own.url) as connection:
        config: dict[str, Any] = {"name": "CONVIVE_03", "subjects": ["cv.03.>"], "storage": "file"}
        config |= {"allow_msg_ttl": True, "duplicate_window": 600 * 10**9}
        config[setting] = value
        before = (await connection.api("STREAM.CREATE.CONVIVE_03", {**config, "sealed": False}))["config"]
        if setting == "sealed":  # not at its creation
            before = (await connection.api("STREAM.UPDATE.CONVIVE_03", config))["config"]
        with pytest.raises(WrongStream, match=f"CONVIVE_03 exists with {setting}") as error:
            async with open_bus(own.url):
                pass
        assert (await connection.api("STREAM.INFO.CONVIVE_03"))["config"] == before
    assert is_one_line(error)


async def test_a_mirror_of_our_name_is_refused() -> None:
    async with server() as own, connect(own.url) as connection:
        config = {"name": "CONVIVE_06", "mirror": {"name": "EVENTS"}, "allow_msg_ttl": True}
        await connection.api("STREAM.CREATE.CONVIVE_06", config)
        async with open_bus(own.url) as bus:
            with pytest.raises(WrongStream, match="CONVIVE_06 exists with mirror") as error:
                await bus.conversation("table")
    assert is_one_line(error)


async def test_a_stream_that_only_costs_speed_or_comfort_is_used() -> None:
    async with server() as own, connect(own.url) as connection:
        config = {"name": "CONVIVE_06", "subjects": ["cv.06.>"], "allow_msg_ttl": True, "max_msg_size": 2**20}
        await connection.api("STREAM.CREATE.CONVIVE_06", {**config, "duplicate_window": 3_600 * 10**9})
        async with open_bus(own.url) as bus:
            conversation = await bus.conversation("table")
            await conversation.log.append(Draft(f"{conversation.subjects.base}.a", b"1"))


async def test_a_strangers_stream_on_our_subjects_is_refused() -> None:
    async with server() as own:
        async with connect(own.url) as connection:
            await connection.api("STREAM.CREATE.EVENTS", {"name": "EVENTS", "subjects": ["cv.>"]})
        with pytest.raises((BusUnavailable, WrongStream), match="EVENTS") as error:
            async with open_bus(own.url):
                pass
    assert is_one_line(error)


async def test_a_store_keeps_its_number_of_partitions() -> None:
    async with server() as own:
        async with open_bus(own.url, partitions=4) as bus:
            await bus.conversation("table")
        with pytest.raises(WrongStream, match="partitions = 4") as error:
            async with open_bus(own.url, partitions=16):
                pass
        assert is_one_line(error)
        async with open_bus(own.url, partitions=4) as bus:
            assert await bus.conversations() == {}


@pytest.mark.parametrize("prefix", ["", "a.b", "A", "a b", "*", ">"])
async def test_a_prefix_that_is_no_token_is_refused(prefix: str) -> None:
    with pytest.raises(BadName):
        async with open_bus("nats://127.0.0.1:1", prefix=prefix):
            pass


async def test_names_that_cannot_be_part_of_a_subject_are_refused_before_anything_is_sent() -> None:
    async with server() as own, open_bus(own.url) as bus:
        for name in ("dinner party", "", "a.b", "a*", ">", "-a", "A", "ä", "x" * 64, "a\nb"):
            with pytest.raises(BadName) as error:
                await bus.conversation(name)
            assert is_one_line(error)
            with pytest.raises(BadName):
                await bus.existing(name)
        assert await bus.conversations() == {}


def test_a_bad_name_comes_with_a_suggestion_when_there_is_one() -> None:
    with pytest.raises(BadName, match="Did you mean 'dinner-party'"):
        conversation_id("Dinner Party!")
    with pytest.raises(BadName) as error:
        seat_name("???")
    assert "Did you mean" not in str(error.value)


async def test_a_conversation_that_was_never_opened_is_unknown_and_not_created() -> None:
    async with server() as own, open_bus(own.url) as bus:
        with pytest.raises(UnknownConversation, match=r"'table'.*convive ls"):
            await bus.existing("table")
        async with connect(own.url) as connection:
            assert (await connection.api("STREAM.NAMES"))["streams"] is None
        with pytest.raises(UnknownConversation):
            await (await bus.conversation("table")).floor()


async def test_looking_for_one_conversation_asks_for_its_partition_only() -> None:
    names = [f"table-{number}" for number in range(12)]
    async with server() as own, connect(own.url) as admin:
        async with open_bus(own.url, partitions=4) as bus:
            for name in names:
                await (await bus.conversation(name)).open(RunContext.root(), "figs")
        asked: list[str] = []

        async def note(message: Msg) -> None:
            if ".STREAM." in message.subject:
                asked.append(message.subject.removeprefix("$JS.API.STREAM."))

        wanted = next(name for name in names if partition_of(conversation_id(name), 4) == 3)
        await admin.subscribe("$JS.API.>", note)
        await admin.client.flush()
        async with open_bus(own.url, partitions=4) as bus:
            found = await bus.existing(wanted)
            with anyio.fail_after(10):
                while asked[-1:] != ["MSG.GET.CONVIVE_03"]:  # noqa: ASYNC110 - nats-py sets no event
                    await anyio.sleep(0.005)
            opening = ["NAMES", "INFO.CONVIVE_00"]
            assert asked == [*opening, "INFO.CONVIVE_03", "MSG.GET.CONVIVE_03"]
            assert (await found.floor()).is_open
            assert sorted(await bus.conversations()) == sorted(names)


async def test_a_record_over_the_servers_limit_is_refused_and_the_bus_goes_on() -> None:
    async with server() as own, open_bus(own.url) as bus:
        conversation = await bus.conversation("table")
        subject = f"{conversation.subjects.base}.stream.a"
        client = await nats.connect(own.url)
        most = client.max_payload
        await client.close()
        headers = {"X-Filler": "ü" * 500}
        for size in range(most - 1_500, most + 1, 100):
            with suppress(NotAppended):
                await conversation.log.append(Draft(subject, b"x" * size, headers))
        with pytest.raises(NotAppended, match="shorten it") as error:
            await conversation.log.append(Draft(subject, b"x" * (most + 1)))
        assert is_one_line(error)
        assert await conversation.log.append(Draft(subject, b"after")) > 0
