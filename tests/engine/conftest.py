"""A plain nats-py client of one node and of three: what nats-server and nats-py do, without any code of our own."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import nats
import nats.errors
import pytest
from anyio.from_thread import start_blocking_portal
from nats.aio.client import Client

from convive.bus import mint_run_id
from convive.bus.jetstream._jetstream import _PROMISED
from convive.bus.testing import server

if TYPE_CHECKING:
    from tests.conftest import Cluster

RECONNECT_WAIT_S: Any = 0.05  # nats-py says int, and sleeps for what it gets
DEADLINE_S = 30.0
"""Longer than an election among three nodes takes."""


class Nodes:
    """The servers: their URLs, how many copies of a stream they keep, and how to kill one and start it again."""

    def __init__(
        self, urls: Sequence[str], kill: Callable[[str], None], start: Callable[[str], Awaitable[None]]
    ) -> None:
        self.urls = urls
        self.replicas = len(urls)
        self.kill = kill
        self.start = start


class Stream:
    """A stream of a test's own, with the settings of a conversation's unless the test wants others."""

    def __init__(self, client: Client, name: str, replicas: int) -> None:
        self.client = client
        self.name = name
        self.replicas = replicas

    @property
    def replicated(self) -> bool:
        return self.replicas > 1

    def on(self, client: Client) -> "Stream":
        """The same stream over another connection."""
        return Stream(client, self.name, self.replicas)

    def subject(self, *tokens: str) -> str:
        return ".".join([self.name, *tokens])

    def guard(self, last: int, *tokens: str) -> dict[str, str]:
        """The headers of a compare-and-set: on the record's own subject, or on the one that the tokens name."""
        headers = {"Nats-Expected-Last-Subject-Sequence": str(last)}
        return {**headers, "Nats-Expected-Last-Subject-Sequence-Subject": self.subject(*tokens)} if tokens else headers

    async def ask(self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Publish below the stream's name; the server's answer as it comes, a refusal included."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                try:
                    sent = self.client.request(self.subject(subject), body, timeout=5, headers=dict(headers or {}))
                    found: dict[str, Any] = json.loads((await sent).data or b"{}")
                except nats.errors.NoRespondersError:  # this node has not heard of the stream yet
                    await anyio.sleep(0.01)
                else:
                    return found

    async def append(self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """Publish, and expect that it is stored: where."""
        answer = await self.ask(subject, body, headers)
        assert "error" not in answer, answer
        return int(answer["seq"])

    async def refusal(self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """Publish, and expect that it is refused: the `err_code`."""
        answer = await self.ask(subject, body, headers)
        assert "error" in answer, answer
        return int(answer["error"]["err_code"])

    async def api(self, verb: str, payload: Mapping[str, Any] | None = None, of: str = "") -> dict[str, Any]:
        """A request about the stream, or about the consumer `of` it."""
        return await api(self.client, f"{verb}.{self.name}.{of}".rstrip("."), payload)

    async def get(self, **query: Any) -> dict[str, Any]:
        """`STREAM.MSG.GET`: the record as the leader holds it, or the error."""
        found = await self.api("STREAM.MSG.GET", query)
        record: dict[str, Any] = found.get("message") or found["error"]
        return record

    async def state(self) -> dict[str, Any]:
        info: dict[str, Any] = (await self.api("STREAM.INFO", {"subjects_filter": ">"}))["state"]
        return info

    async def subjects(self) -> dict[str, int]:
        """How many records there are on each subject, without the stream's name."""
        found: dict[str, int] = (await self.state()).get("subjects") or {}
        return {name.removeprefix(f"{self.name}."): count for name, count in found.items()}

    async def leader(self) -> str:
        """The name of the node that leads the stream; empty on one node."""
        info = await self.api("STREAM.INFO")
        return str(info["cluster"]["leader"]) if self.replicated else ""

    async def consumer(self, **config: Any) -> dict[str, Any]:
        """Create a consumer; the server's answer."""
        name = config.setdefault("name", f"C_{mint_run_id()}")
        request = {"stream_name": self.name, "config": config, "action": "create"}
        return await api(self.client, f"CONSUMER.CREATE.{self.name}.{name}", request)


class Engine:
    """Connections to the nodes, and streams on them."""

    def __init__(self, client: Client, nodes: Nodes) -> None:
        self.client = client
        self.nodes = nodes

    @property
    def replicated(self) -> bool:
        return self.nodes.replicas > 1

    @asynccontextmanager
    async def stream(self, **settings: Any) -> AsyncGenerator[Stream]:
        name = f"T_{mint_run_id()}"
        config = {"name": name, "subjects": [f"{name}.>"], "num_replicas": self.nodes.replicas, **_PROMISED, **settings}
        made = await api(self.client, f"STREAM.CREATE.{name}", config)
        assert "error" not in made, made
        yield Stream(self.client, name, self.nodes.replicas)
        await api(self.client, f"STREAM.DELETE.{name}")

    @asynccontextmanager
    async def another(self, number: int = 0) -> AsyncGenerator[Client]:
        """A connection of its own: to each node in turn, by its number."""
        async with connected([self.nodes.urls[number % len(self.nodes.urls)]]) as client:
            yield client


async def api(client: Client, verb: str, payload: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A request to JetStream, asked again while a leader is being elected."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            try:
                answer = await client.request(f"$JS.API.{verb}", json.dumps(payload or {}).encode(), timeout=1)
                found: dict[str, Any] = json.loads(answer.data)
                if found.get("error", {}).get("err_code") != 10008:
                    return found
            except nats.errors.Error:
                pass
            await anyio.sleep(0.05)


@asynccontextmanager
async def connected(urls: Sequence[str]) -> AsyncGenerator[Client]:
    async def ignore(_: Exception) -> None:
        """A node is killed on purpose: what the client says about it is no news."""

    client = await nats.connect(
        list(urls), max_reconnect_attempts=-1, reconnect_time_wait=RECONNECT_WAIT_S, error_cb=ignore
    )
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture(scope="session")
def three_nodes(new_cluster: Callable[[], AbstractContextManager["Cluster"]]) -> Iterator["Cluster"]:
    with new_cluster() as cluster:
        cluster.restore()
        yield cluster


@pytest.fixture(scope="session", params=["one node", "three nodes"])
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    if request.param == "one node":
        with (
            start_blocking_portal() as portal,  # an event loop of the tests' thread would last as long as the server
            portal.wrap_async_context_manager(server(fast=False)) as own,
        ):

            async def start_again(_: str) -> None:
                await anyio.to_thread.run_sync(portal.call, own.start)

            yield Nodes([own.url], lambda _: portal.call(own.kill), start_again)
        return
    cluster: Cluster = request.getfixturevalue("three_nodes")

    async def start(name: str) -> None:
        cluster.start(name)
        await anyio.to_thread.run_sync(cluster.wait_until_healthy)

    yield Nodes(list(cluster.urls.values()), cluster.kill, start)


@pytest.fixture(scope="module")
async def lasting_engine(nodes: Nodes) -> AsyncGenerator[Engine]:
    """For fixtures that several tests of a module share."""
    async with connected(nodes.urls) as client:
        yield Engine(client, nodes)


@pytest.fixture
async def engine(nodes: Nodes) -> AsyncGenerator[Engine]:
    async with connected(nodes.urls) as client:
        yield Engine(client, nodes)
