"""The embedded server: a real nats-server of our own, shared by all processes that open its data directory.

Whoever gets the lock starts the server and hands the lock over to it: the lock is held if and only if a
server is alive (or about to be). So there is one rule for start, crash, takeover and restart: if the lock is
free, take it and start a server on the port that the clients know; if not, use the server that is there.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from zlib import crc32

import anyio

from convive.bus.log._errors import BusUnavailable
from convive.bus.log._tasks import background_tasks
from convive.bus.server._data_dir import CONFIG, LOCK, LOG, Place, prepare, read_place, try_lock, write, write_place
from convive.bus.server._server_config import server_config
from convive.bus.server._server_process import HOST, ServerProcess, answers, is_free, server_binary

_POLL_S = 0.1
"""How often a process looks whether there is still a server: the larger part of the time a takeover needs."""

_JOIN_POLL_S = 0.02
_START_S = 60.0
"""A server is ready in some 20 ms; one that died with a large store reads it through before it answers."""

_PORT_WAIT_S = 1.0
"""The lock of a killed server can be free a moment before its port is."""

_GOOD_START_S = 1.0
_BAD_STARTS = 5
_BACKOFF_S = 0.1

# Below the ports that Linux gives to outgoing connections (from 32768): a client that reconnects to a port
# among those can meet itself there (TCP simultaneous open), and then keeps the server from coming back.
_FIRST_PORT, _PORTS = 20_000, 10_000


class EmbeddedServer:
    """The server of a data directory, as one process sees it. Made by `embedded_server`."""

    def __init__(self, data: Path, binary: Path, *, fast: bool, port: int | None) -> None:
        self._data = data
        self._binary = binary
        self._wants_fast = fast
        self._wants_port = port
        self._place: Place | None = None
        self._process: ServerProcess | None = None

    @property
    def data(self) -> Path:
        """The data directory, its real path."""
        return self._data

    @property
    def url(self) -> str:
        """Where clients connect. Keeps its value across crashes and takeovers."""
        assert self._place is not None  # noqa: S101 - nobody sees this object before the server has answered
        return f"nats://{HOST}:{self._place.port}"

    @property
    def fast(self) -> bool:
        """Whether the server that runs, whoever started it, may lose acknowledged records in a power cut."""
        return self._place is not None and self._place.fast

    @property
    def owned(self) -> bool:
        """Whether this process runs the server."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The server's process id, if this process runs it."""
        return None if self._process is None else self._process.pid

    async def _join(self) -> None:
        """Start the server or find the one that runs."""
        deadline = anyio.current_time() + _START_S
        while not await self._try_start() and not await self._try_follow():
            if anyio.current_time() > deadline:
                raise BusUnavailable(
                    f"another process holds {self._data / LOCK}, but no server has answered for {_START_S:g} "
                    f"s. What is stored is safe; stop that process and try again ({self._data / LOG} may help)."
                )
            await anyio.sleep(_JOIN_POLL_S)

    async def _try_follow(self) -> bool:
        place = read_place(self._data)
        if place is None or not await answers(self._data, place.port):
            return False
        if self._wants_port not in (None, place.port):
            raise BusUnavailable(
                f"the server of {self._data} already runs on port {place.port}, not on {self._wants_port}. "
                f"Nothing was changed; use nats://{HOST}:{place.port}, or stop what runs it and try again."
            )
        self._place = place
        return True

    async def _try_start(self) -> bool:
        lock = try_lock(self._data)
        if lock is None:
            return False
        try:
            await self._start(lock)
        finally:
            # Our copy only: from here on the server's copy is the lock.
            os.close(lock)
        return True

    async def _start(self, lock: int) -> None:
        while True:
            place = Place(await self._choose_port(), self._wants_fast)
            write(self._data, CONFIG, server_config(self._data, place.port, fast=place.fast))
            write_place(self._data, place)
            process = ServerProcess(self._binary, self._data, lock)
            try:
                if await process.ready(place.port, _START_S):
                    self._process, self._place = process, place
                    return
                died = not process.alive
                what = "died at its start" if died else f"has not answered for {_START_S:g} s"
                failure = self._failure(what, process.last_words())
            finally:
                if self._process is not process:
                    await process.close()
            # Somebody took the port between our look and the server's: choose again.
            if not died or is_free(place.port):
                raise failure

    async def _choose_port(self) -> int:
        """The port that clients know, else the one asked for, else the last one, else a free one."""
        fixed = self._wants_port if self._place is None else self._place.port
        if fixed is not None:
            if await _comes_free(fixed):
                return fixed
            raise BusUnavailable(
                f"port {fixed} of {HOST} is taken by another program, or not allowed for this user. "
                "What is stored is safe; stop that program, or start again with another port."
            )
        last = read_place(self._data)
        if last is not None and await _comes_free(last.port):
            return last.port
        start = crc32(os.fsencode(self._data))
        for step in range(_PORTS):
            port = _FIRST_PORT + (start + step) % _PORTS
            if is_free(port):
                return port
        raise BusUnavailable(f"no port of {HOST} from {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1} is free.")

    async def _keep(self) -> None:
        """Look after the server while the context is open. Raises BusUnavailable when that is hopeless."""
        bad_starts = 0
        while True:
            await anyio.sleep(_POLL_S)
            if self._process is not None and self._process.alive:
                if self._process.age_s >= _GOOD_START_S:
                    bad_starts = 0
                continue
            try:
                await self._tend()
            except BusUnavailable:
                bad_starts += 1
                if bad_starts >= _BAD_STARTS:
                    raise
                await anyio.sleep(_BACKOFF_S * 2**bad_starts)

    async def _tend(self) -> None:
        """Without a living server of our own: put one in its place, or keep to that of another process."""
        died = self._process
        if died is not None:
            failure = self._failure("died", died.last_words())
            await self._close_process()
            if died.age_s < _GOOD_START_S:
                raise failure
        if not await self._try_start():
            self._place = read_place(self._data) or self._place

    async def _close_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.close()

    def _failure(self, what: str, words: str) -> BusUnavailable:
        return BusUnavailable(
            f"the server of {self._data} {what}; its last words: {words}. What was acknowledged is safe; "
            f"{self._data / LOG} has more. Cure the cause and start again."
        )


@asynccontextmanager
async def embedded_server(
    data: str | Path, *, fast: bool = False, port: int | None = None
) -> AsyncGenerator[EmbeddedServer]:
    """Use the server of a data directory for as long as the context is open; start it if nobody runs it.

    The server listens on 127.0.0.1 only, on `port`, else on the port of the last time, else on a free one. It
    syncs every record unless `fast`, which counts for a server that this process starts (`.fast` tells what
    runs). If it crashes, or if the process that runs it leaves or is killed, one process that has the context
    open puts another one on the same port; clients have to reconnect by themselves. Leaving the context stops
    the server if this process runs it.

    Raises BusUnavailable, whose one line says what to do: no program, a directory that cannot be used, a port
    that is taken, a server that dies at its start; and out of the block, after cancelling what runs in it,
    when the server has died again and again. If a stranger has the port of the last time when a process opens
    the context, the server moves and `.url` changes in all processes; connected clients do not follow.
    """
    if port is not None and (type(port) is not int or not 0 < port < 65_536):
        raise BusUnavailable(f"{port!r} is not a port. Nothing was changed; give one from 1 to 65535.")
    server = EmbeddedServer(prepare(data), server_binary(), fast=fast, port=port)
    try:
        await server._join()
        async with background_tasks() as tasks:
            tasks.start_soon(server._keep)
            yield server
    finally:
        await server._close_process()


async def _comes_free(port: int) -> bool:
    """Whether the port is free, or becomes free within a moment."""
    with anyio.move_on_after(_PORT_WAIT_S):
        while not is_free(port):  # noqa: ASYNC110 - nothing sets an event
            await anyio.sleep(_JOIN_POLL_S)
    return is_free(port)
