"""Real servers for the tests: one from the wheel for everybody, and three nodes from `deploy/nats.conf`."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from anyio.from_thread import start_blocking_portal

from convive.agents.testing import OtlpReceiver, otlp_receiver
from convive.bus.server import _server_child
from convive.bus.server._server import embedded_server
from convive.bus.server._server_process import HOST, is_free, server_binary

ROOT = Path(__file__).parents[1]
# How long an example takes is a matter of the machine, and of what else runs on it: `bench/` measures.
hypothesis.settings.register_profile("convive", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("convive")

NODES: tuple[str, ...] = ("nats-1", "nats-2", "nats-3")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that all tests of the session share: use conversations of your own."""
    data = tmp_path_factory.mktemp("nats") / "data"
    with (
        start_blocking_portal() as portal,  # a thread that lives as long as the server
        portal.wrap_async_context_manager(embedded_server(data)) as server,
    ):
        yield server.url


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A collector of a test's own."""
    with otlp_receiver() as made:
        yield made


class Cluster:
    """Three local nodes of one JetStream cluster, started from the file that docker-compose.yml mounts."""

    def __init__(self, data: Path) -> None:
        ports = _free_ports(3 * len(NODES))
        self._data = data
        self._detours: dict[str, dict[str, str]] = {}
        self._client = dict(zip(NODES, ports[0:3], strict=True))
        self._routes = dict(zip(NODES, ports[3:6], strict=True))
        self._monitor = dict(zip(NODES, ports[6:9], strict=True))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> dict[str, str]:
        """The URL of each node, by its name."""
        return {name: f"nats://{HOST}:{port}" for name, port in self._client.items()}

    @property
    def url(self) -> str:
        """The URLs of all nodes, separated by commas."""
        return ",".join(self.urls.values())

    def environment(self, name: str) -> dict[str, str]:
        """What `deploy/nats.conf` takes from the environment."""
        client = f"{HOST}:{self._client[name]}"
        routes = {f"ROUTE_{n}": f"nats://{HOST}:{port}" for n, port in enumerate(self._routes.values(), 1)}
        return {
            "NODE_NAME": name,
            "CLIENT_LISTEN": client,
            "CLIENT_ADVERTISE": client,
            "MONITOR_LISTEN": f"{HOST}:{self._monitor[name]}",
            "CLUSTER_LISTEN": f"{HOST}:{self._routes[name]}",
            "STORE_DIR": str(self._data / name),
            **routes,
        }

    def route_port(self, name: str) -> int:
        """Where a node listens for the others."""
        return self._routes[name]

    def detour(self, name: str, routes: Mapping[str, int]) -> None:
        """Before `start`: let a node reach each other one by another port, and by no way that they tell it of."""
        self._detours[name] = {f"ROUTE_{NODES.index(one) + 1}": f"nats://{HOST}:{port}" for one, port in routes.items()}

    def start(self, name: str) -> None:
        """Start a node that does not run, without waiting. The node dies with the thread that calls this."""
        log = self._data / f"{name}.log"
        command = [sys.executable, "-I", "-S", _server_child.__file__, str(os.getpid()), str(server_binary())]
        detours = self._detours.get(name, {})
        # Nodes tell one another how to be reached: port 1 is nobody's.
        advertised = ["--cluster_advertise", f"{HOST}:1"] if detours else []
        with log.open("ab") as output:
            self._running[name] = subprocess.Popen(
                [*command, "--config", str(ROOT / "deploy" / "nats.conf"), *advertised],
                env={**os.environ, **self.environment(name), **detours},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """kill -9, and wait until the node is gone."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def end(self, name: str) -> None:
        """Ask a node to stop, as `docker compose stop` does, and wait until it has."""
        process = self._running.pop(name)
        process.terminate()
        process.wait()

    def pause(self, name: str) -> None:
        """Stop the time of a node: its connections stay, and it does nothing until `resume`."""
        process = self._running[name]
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # on a busy machine its threads go on for a moment

    def resume(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        for name in tuple(self._running):
            self.kill(name)

    def restore(self) -> None:
        """Start what was stopped, resume what was paused, and wait until all of it is healthy."""
        for name in NODES:
            if name in self._running:
                self.resume(name)
            else:
                self.start(name)
        self.wait_until_healthy()

    def wait_until_healthy(self, within_s: float = 30, *, caught_up: bool = False) -> None:
        """Wait until each node that runs is in touch with a leader of the cluster. Blocks the thread.

        `caught_up`: and until it has all that its streams and consumers had when it was started.
        """
        path = "/healthz" if caught_up else "/healthz?js-server-only=true"
        for name in self._running:
            _until(partial(_healthy, self._monitor[name], path), within_s, f"{name} is not healthy")
        if len(self._running) > 1:
            _until(self._all_online, within_s, "the leader of the cluster still takes a node for gone")

    def _all_online(self) -> bool:
        """Whether the leader of the cluster knows that each node that runs is there: it places no copy on others."""
        for name in self._running:
            replicas: list[dict[str, Any]] = _jsz(self._monitor[name]).get("meta_cluster", {}).get("replicas") or []
            if replicas:  # only the leader lists them
                online = {name, *(one["name"] for one in replicas if not one.get("offline"))}
                return self._running.keys() <= online
        return False


@pytest.fixture(scope="session")
def new_cluster(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager[Cluster]]:
    """Makes three nodes of one's own, which are not started yet."""

    @contextmanager
    def nodes() -> Generator[Cluster]:
        made = Cluster(tmp_path_factory.mktemp("cluster"))
        try:
            yield made
        finally:
            made.stop()

    return nodes


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[[], AbstractContextManager[Cluster]]) -> Iterator[Cluster]:
    """Three healthy nodes, shared by the tests of a module: a test that kills one starts it again."""
    with new_cluster() as nodes:
        nodes.restore()
        yield nodes


def _healthy(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _jsz(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", "/jsz")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    else:
        return found
    finally:
        connection.close()


def _until(condition: Callable[[], bool], within_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{otherwise} within {within_s:g} s")
        time.sleep(0.02)


def _free_ports(number: int) -> list[int]:
    # Below the range of the embedded servers and of outgoing connections.
    first = 10_000 + os.getpid() * 97 % 9_000
    free = [port for port in range(first, first + 900) if is_free(port)]
    return free[:number]
