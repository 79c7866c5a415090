"""Servers that can be killed, and a line to each that can be cut."""

import asyncio
import contextlib
import http.client
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from convive.bus.server import _server_child
from convive.bus.server._data_dir import CONFIG, write
from convive.bus.server._server_config import server_config
from convive.bus.server._server_process import HOST, answers, is_free, server_binary

ROOT = Path(__file__).parents[1]
_READY_S = 60.0


class Node:
    """One nats-server. Dies with this process."""

    def __init__(self, name: str, port: int, config: Path, env: dict[str, str], log: Path, monitor: int | None) -> None:
        self.name = name
        self.port = port
        self._config = config
        self._env = env
        self._log = log
        self._monitor = monitor
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it without waiting."""
        command = [sys.executable, "-I", "-S", _server_child.__file__, str(os.getpid()), str(server_binary())]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "--config", str(self._config)],
                env={**os.environ, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    async def ready(self) -> None:
        """Wait until it answers; in a cluster, until it is in touch with the leader. Raises TimeoutError."""
        with anyio.fail_after(_READY_S):
            while not await self._healthy():  # noqa: ASYNC110 - another process sets no event
                await anyio.sleep(0.02)

    async def _healthy(self) -> bool:
        if self._monitor is None:
            return await answers(self._config.parent, self.port)
        return await anyio.to_thread.run_sync(_is_healthy, self._monitor)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", "/healthz?js-server-only=true")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Line:
    """A TCP proxy in front of a node. `cut` breaks all connections; while `deaf`, what the server says is lost."""

    def __init__(self, upstream: int) -> None:
        self.deaf = False
        self._upstream = upstream
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Carry one connection until either side is gone."""
        try:
            server, to_server = await asyncio.open_connection(HOST, self._upstream)
        except OSError:
            to_client.close()
            return
        both = {to_client, to_server}
        self._open |= both
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(client, to_server, both))
                tasks.create_task(self._pump(server, to_client, both, answers=True))
        finally:
            self._open -= both

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        both: set[asyncio.StreamWriter],
        *,
        answers: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(65_536):
                if not (answers and self.deaf):
                    sink.write(chunk)
                    await sink.drain()
        for one in both:
            one.close()

    def cut(self) -> None:
        """Break every connection, as a router that was switched off does: what is under way is lost."""
        for one in list(self._open):
            one.transport.abort()


class Cluster:
    """One node or three, each behind its line. `url`: the lines, `direct`: the nodes themselves."""

    def __init__(self, nodes: Sequence[Node], lines: Sequence[Line], url: str) -> None:
        self.nodes = nodes
        self.lines = lines
        self.url = url
        self.direct = ",".join(f"nats://{HOST}:{node.port}" for node in nodes)


@asynccontextmanager
async def cluster(number: int, folder: Path) -> AsyncGenerator[Cluster]:
    """Servers that sync each record before they acknowledge it, ready for use."""
    ports = _free_ports(4 * number)
    taken, listening = ports[:number], ports[number : 2 * number]
    nodes = [_single(folder, taken[0])] if number == 1 else _three(folder, ports)
    lines = [Line(port) for port in taken]
    async with contextlib.AsyncExitStack() as stack:
        for line, port in zip(lines, listening, strict=True):
            await stack.enter_async_context(await asyncio.start_server(line.serve, HOST, port))
        try:
            for node in nodes:
                node.start()
            for node in nodes:
                await node.ready()
            yield Cluster(nodes, lines, ",".join(f"nats://{HOST}:{port}" for port in listening))
        finally:
            for node in nodes:
                node.kill()
            for line in lines:
                line.cut()


def _single(folder: Path, port: int) -> Node:
    data = folder / "server"
    data.mkdir()
    write(data, CONFIG, server_config(data, port, fast=False))
    return Node("server", port, data / CONFIG, {}, folder / "server.log", None)


def _three(folder: Path, ports: Sequence[int]) -> list[Node]:
    """From the file that docker-compose.yml mounts; the address that a node tells its clients is that of its line."""
    nodes: list[Node] = []
    clients, lines, routes, monitors = (ports[start : start + 3] for start in (0, 3, 6, 9))
    shared = {f"ROUTE_{number}": f"nats://{HOST}:{port}" for number, port in enumerate(routes, 1)}
    for number in range(3):
        name = f"nats-{number + 1}"
        env = {
            "NODE_NAME": name,
            "CLIENT_LISTEN": f"{HOST}:{clients[number]}",
            "CLIENT_ADVERTISE": f"{HOST}:{lines[number]}",
            "MONITOR_LISTEN": f"{HOST}:{monitors[number]}",
            "CLUSTER_LISTEN": f"{HOST}:{routes[number]}",
            "STORE_DIR": str(folder / name),
            **shared,
        }
        config = ROOT / "deploy" / "nats.conf"
        nodes.append(Node(name, clients[number], config, env, folder / f"{name}.log", monitors[number]))
    return nodes


def _free_ports(number: int) -> list[int]:
    # Below the ports of embedded servers and of outgoing connections, and off those of the tests.
    first = 3_000 + os.getpid() * 61 % 6_000
    return [port for port in range(first, first + 900) if is_free(port)][:number]
