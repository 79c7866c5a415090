"""The embedded server with real processes, really killed."""

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import anyio
import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from convive.bus import BusUnavailable
from convive.bus.server._data_dir import unusable
from convive.bus.server._open import connect_embedded
from convive.bus.server._server import embedded_server
from convive.bus.server._server_process import answers

pytestmark = pytest.mark.anyio

TAKEOVER_S = 2.0

HOLDER = """
import json, sys
from pathlib import Path
import anyio
from convive.bus.server._server import embedded_server

async def main():
    async with embedded_server(Path(sys.argv[1])) as server:
        print(json.dumps({"url": server.url, "pid": server.pid}), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)

anyio.run(main)
"""


@dataclass
class Holder:
    """Another process that has the server's context open until its standard input ends."""

    process: subprocess.Popen[str]
    stdin: IO[str]
    stdout: IO[str]
    url: str = ""
    server_pid: int | None = None

    def report(self) -> None:
        found = json.loads(self.stdout.readline())
        self.url, self.server_pid = found["url"], found["pid"]

    def leave(self) -> None:
        self.stdin.close()
        assert self.process.wait(10) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def starting_holder(data: Path) -> Generator[Holder]:
    command = [sys.executable, "-W", "error", "-c", HOLDER, str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Holder(process, process.stdin, process.stdout)
        finally:
            process.kill()


@contextmanager
def holder(data: Path) -> Generator[Holder]:
    with starting_holder(data) as other:
        other.report()
        yield other


@asynccontextmanager
async def client_of(url: str) -> AsyncGenerator[Client]:
    client = await nats.connect(url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=_ignore)
    try:
        yield client
    finally:
        await client.close()


async def _ignore(_: Exception) -> None:
    """Servers are killed on purpose here: what the client says about it is no news."""


async def append(client: Client, body: bytes) -> int:
    """The sequence number of a record; tried again while the server is away."""
    with anyio.fail_after(10):
        while True:
            try:
                return (await client.jetstream(timeout=0.5).publish("kept", body)).seq
            except NatsError:
                await anyio.sleep(0.01)


async def until(condition: Callable[[], bool], within_s: float = TAKEOVER_S) -> None:
    with anyio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await anyio.sleep(0.005)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def state_of(pid: int | None) -> str:
    """The letter that proc(5) gives for the state of a process, Z also for one that is no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def is_gone(pid: int | None) -> bool:
    """Whether a process is dead; one that nobody has reaped yet counts as dead."""
    return state_of(pid) == "Z"


def listening_addresses(port: int) -> set[str]:
    """The local addresses, in the kernel's hexadecimal, on which somebody listens on the port."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}


async def test_it_starts_in_well_under_a_second_and_is_gone_afterwards(tmp_path: Path) -> None:
    began = time.monotonic()
    async with embedded_server(tmp_path / "data") as server:
        assert time.monotonic() - began < 1
        assert server.owned
        assert not server.fast
        pid = server.pid
        assert not is_gone(pid)
    assert is_gone(pid)


async def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    async with embedded_server(tmp_path / "data") as server:
        assert listening_addresses(port_of(server.url)) == {"0100007F"}


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    async with embedded_server(tmp_path / "data") as server:
        assert server.pid is not None
        assert os.getsid(server.pid) != os.getsid(0)


async def test_the_directory_is_private_and_hidden_from_git(tmp_path: Path) -> None:
    async with embedded_server(tmp_path / "new" / "data") as server:
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
        assert stat.S_IMODE((server.data / "server.json").stat().st_mode) == 0o600
        assert (server.data / ".gitignore").read_text() == "*\n"


async def test_a_directory_with_other_files_in_it_is_not_hidden_from_git(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    async with embedded_server(tmp_path) as server:
        assert not (server.data / ".gitignore").exists()


async def test_a_path_with_quotes_blanks_and_dollars_is_a_path(tmp_path: Path) -> None:
    async with embedded_server(tmp_path / 'a "b" $c # é') as server:
        assert (server.data / "jetstream").is_dir()


async def test_processes_share_one_server(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        async with embedded_server(tmp_path) as server:
            assert server.url == other.url
            assert not server.owned
        assert await answers(tmp_path, port_of(other.url))


async def test_of_processes_that_start_at_once_one_runs_the_server(tmp_path: Path) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(starting_holder(tmp_path)) for _ in range(4)]
        for other in others:
            other.report()
        assert len({other.url for other in others}) == 1
        assert sum(other.server_pid is not None for other in others) == 1


async def test_when_its_owner_is_killed_another_process_takes_over_on_the_same_port(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        async with embedded_server(tmp_path) as server, client_of(server.url) as client:
            await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
            assert await append(client, b"before") == 1

            other.kill()
            await until(lambda: server.owned)

            assert is_gone(other.server_pid)
            assert server.url == other.url
            # A publication that hung between the two servers may be stored twice: this test sends no ids.
            last = await append(client, b"after")
            assert last >= 2
            assert (await client.jetstream().get_msg("KEPT", 1)).data == b"before"
            assert (await client.jetstream().get_msg("KEPT", last)).data == b"after"


async def test_when_its_owner_leaves_another_process_takes_over_on_the_same_port(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        async with embedded_server(tmp_path) as server:
            other.leave()
            await until(lambda: server.owned)
            assert server.url == other.url
            assert is_gone(other.server_pid)
            assert await answers(server.data, port_of(server.url))


async def test_a_bus_opens_although_the_owner_of_its_server_has_just_left(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        async with embedded_server(tmp_path) as server, AsyncExitStack() as stack:
            other.leave()  # blocks this process as well: it cannot have noticed
            assert not server.owned
            connection = await connect_embedded(stack, server, 10)
            assert server.owned
            assert not connection.lost


async def test_a_server_that_is_killed_comes_back_on_the_same_port(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as server, client_of(server.url) as client:
        await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
        await append(client, b"before")
        url, pid = server.url, server.pid
        assert pid is not None

        os.kill(pid, signal.SIGKILL)
        await until(lambda: server.owned and server.pid != pid)
        await append(client, b"after")

        assert server.url == url
        assert (await client.jetstream().get_msg("KEPT", 1)).data == b"before"
        pid = server.pid
    assert is_gone(pid)


async def test_a_killed_process_leaves_no_orphan_and_the_next_one_finds_its_port_and_records(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        async with client_of(other.url) as client:
            await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
            await append(client, b"before")
        other.kill()
        await until(lambda: is_gone(other.server_pid))
    async with embedded_server(tmp_path) as server, client_of(server.url) as client:
        assert server.url == other.url
        assert (await client.jetstream().get_msg("KEPT", 1)).data == b"before"


async def test_a_stopped_server_keeps_the_lock_so_that_no_second_one_opens_its_store(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        await until(lambda: state_of(server.pid) == "T")
        try:
            with anyio.move_on_after(0.5) as scope:
                async with embedded_server(tmp_path):
                    pytest.fail("a second server was started, or a stopped one answered")
            assert scope.cancelled_caught
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_a_stranger_on_the_port_of_the_last_time_makes_it_move(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as server:
        before = server.url
    with socket.create_server(("127.0.0.1", port_of(before))):
        async with embedded_server(tmp_path) as server:
            assert server.url != before
            assert await answers(server.data, port_of(server.url))


async def test_a_port_that_was_asked_for_is_used_or_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port: int = stranger.getsockname()[1]
        with pytest.raises(BusUnavailable, match=f"port {port} .* is taken by another program"):
            async with embedded_server(tmp_path, port=port):
                pass
    async with embedded_server(tmp_path, port=port) as server:
        assert port_of(server.url) == port
        with pytest.raises(BusUnavailable, match=f"already runs on port {port}"):
            async with embedded_server(tmp_path, port=port + 1):
                pass
    with pytest.raises(BusUnavailable, match="70000 is not a port"):
        async with embedded_server(tmp_path, port=70_000):
            pass


async def test_another_nats_server_is_not_taken_for_that_of_the_directory(tmp_path: Path, nats_url: str) -> None:
    place = {"port": port_of(nats_url), "fast": False}
    (tmp_path / "server.json").write_text(json.dumps(place))
    async with embedded_server(tmp_path) as server:
        assert server.owned
        assert server.url != nats_url


@pytest.mark.parametrize("text", ["", "{", "[]", '{"port": "x"}', '{"port": 0, "fast": 1}', '{"port": 1e9, "fast": 0}'])
async def test_a_damaged_port_file_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    async with embedded_server(tmp_path) as server:
        assert json.loads((tmp_path / "server.json").read_text()) == {"port": port_of(server.url), "fast": False}


@pytest.mark.parametrize("below", ["file", "file/data"])
async def test_a_data_path_that_is_or_leads_through_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BusUnavailable, match=r"is a file and not a directory.* Nothing was changed; give another"):
        async with embedded_server(tmp_path / below):
            pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("path", ["/proc/convive", "/sys/convive", "/proc/self/fd/../attr"])
async def test_a_data_path_that_takes_no_files_is_refused_in_one_line(path: str) -> None:
    with pytest.raises(BusUnavailable, match=r"cannot be used: .*give another directory") as raised:
        async with embedded_server(Path(path)):
            pass
    assert "\n" not in str(raised.value)


def test_a_full_disk_is_named_and_says_that_the_past_is_safe() -> None:
    text = str(unusable(Path("data"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert text == (
        "the data directory data cannot be used: the disk is full. "
        "What was acknowledged is safe; make room and start again."
    )


async def test_a_server_that_dies_at_its_start_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("not a store")
    with pytest.raises(BusUnavailable, match=r"died at its start; its last words: .*not a directory") as raised:
        async with embedded_server(tmp_path):
            pass
    assert "\n" not in str(raised.value)


async def test_a_server_that_cannot_come_back_ends_the_block_with_its_last_words(tmp_path: Path) -> None:
    data = tmp_path / "data"

    async def break_it() -> None:
        async with embedded_server(data) as server:
            assert server.pid is not None
            (data / "jetstream").rename(tmp_path / "elsewhere")
            (data / "jetstream").write_text("not a store")
            os.kill(server.pid, signal.SIGKILL)
            await anyio.sleep_forever()

    with pytest.raises(BusUnavailable, match=r"died at its start; its last words: .*not a directory"):
        await break_it()


async def test_what_is_raised_in_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with embedded_server(tmp_path):
            raise LookupError("mine")


async def test_a_cancelled_block_stops_the_server(tmp_path: Path) -> None:
    pid: int | None = None
    with anyio.CancelScope() as scope:
        async with embedded_server(tmp_path) as server:
            pid = server.pid
            scope.cancel()
            await anyio.sleep_forever()
    assert pid is not None
    assert is_gone(pid)
