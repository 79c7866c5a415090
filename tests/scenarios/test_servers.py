"""The servers that a command may meet: the one that the environment names, and those that cannot carry the bus."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from convive.bus import URL_VARIABLE, RunContext, open_bus
from convive.bus.jetstream._connect import connect
from convive.bus.server import _server_child
from convive.bus.server._server_process import is_free, server_binary
from convive.bus.testing import server

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

NOBODY = "nats://127.0.0.1:1"
LAZY = "The server acknowledges before it writes to disk (--fast): a power cut can cost two minutes."
PARTY = ("run", "--model", "scripted/party", "--guests", "ada", "--turns", "1", "--plain")


async def test_a_command_finds_the_server_that_the_environment_names(person: "Person") -> None:
    async with server() as own:
        async with open_bus(own.url) as bus:
            await (await bus.conversation("soup")).open(RunContext.root(), "figs")
        named = {URL_VARIABLE: own.url}
        done = await person.does("ls", "--json", env=named)
        assert [row["conversation"] for row in done.rows] == ["soup"], done
        explicit = await person.does("ls", "--json", "--url", own.url, env={URL_VARIABLE: NOBODY})
        assert explicit.out == done.out
        elsewhere = await person.does("ls", "--data", "store", env=named)
        assert elsewhere.complaint.startswith("convive: nothing is kept in store yet.")
    assert f"no NATS server at {NOBODY}" in (await person.does("ls", env={URL_VARIABLE: NOBODY})).complaint
    assert list(person.folder.iterdir()) == []


async def refusal(person: "Person", *arguments: str) -> str:
    """All that a command writes: one line on standard error."""
    done = await person.does(*arguments)
    assert (done.code, done.out) == (1, ""), done
    assert done.err == f"{done.complaint}\n"
    return done.complaint


@asynccontextmanager
async def without_jetstream(folder: Path) -> AsyncGenerator[str]:
    """A nats-server that was started without `-js`."""
    port = next(port for port in range(18_000 + os.getpid() % 900, 19_000) if is_free(port))
    guarded = [sys.executable, "-I", "-S", _server_child.__file__, str(os.getpid()), str(server_binary())]
    process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [*guarded, "-a", "127.0.0.1", "-p", str(port)], cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with anyio.fail_after(10):
            while is_free(port):  # noqa: ASYNC110 - another process sets no event
                await anyio.sleep(0.005)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def of_version(version: str) -> AsyncGenerator[str]:
    """Something that introduces itself as a nats-server of that version, and answers a PING."""
    said = {"server_id": "X", "version": version, "max_payload": 1_048_576, "headers": True}

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.send(f"INFO {json.dumps(said)}\r\n".encode())
            try:
                async for chunk in stream:
                    if b"PING" in chunk:
                        await stream.send(b"PONG\r\n")
            except anyio.BrokenResourceError:
                return

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"nats://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610 - anyio, not Django
        tasks.cancel_scope.cancel()


async def test_a_server_without_jetstream_is_told_in_one_line(person: "Person", tmp_path: Path) -> None:
    async with without_jetstream(tmp_path) as url:
        for command in (("ls",), PARTY):
            line = await refusal(person, *command, "--url", url)
            assert line.startswith(f"convive: the server at {url} does not answer for JetStream. Start it with ")
            assert "`nats-server -js`" in line


async def test_a_server_that_is_too_old_is_told_in_one_line(person: "Person") -> None:
    async with of_version("2.11.4") as url:
        for command in (("ls",), PARTY):
            line = await refusal(person, *command, "--url", url)
            assert line.startswith(f"convive: the server at {url} is version 2.11.4; Convive needs 2.12 or newer.")


async def test_a_strangers_stream_is_told_in_one_line_and_left_as_it_is(person: "Person") -> None:
    async with server() as own, connect(own.url) as admin:
        await admin.api("STREAM.CREATE.EVENTS", {"name": "EVENTS", "subjects": ["cv.>"]})
        for command in (("ls",), PARTY):
            line = await refusal(person, *command, "--url", own.url)
            assert line.startswith(f"convive: the stream EVENTS on {own.url} takes the subjects cv.>, which the bus")
        assert (await admin.api("STREAM.NAMES"))["streams"] == ["EVENTS"]


async def test_a_stream_of_our_name_with_other_settings_is_told_in_one_line(person: "Person") -> None:
    async with server() as own, connect(own.url) as admin:
        await admin.api("STREAM.CREATE.CONVIVE_03", {"name": "CONVIVE_03", "subjects": ["cv.03.>"], "max_msgs": 5})
        line = await refusal(person, "ls", "--url", own.url)
    assert line.startswith("convive: the stream CONVIVE_03 exists with ")


async def test_a_party_on_a_fast_server_says_what_that_can_cost(person: "Person") -> None:
    fast = await person.does(*PARTY, "--fast")
    assert fast.code == 0, fast.err
    assert fast.err.splitlines().count(LAZY) == 1
    synced = await person.does(*PARTY)
    assert synced.code == 0, synced.err
    assert LAZY not in synced.err
