"""Opening a bus: an explicit URL, `CONVIVE_NATS_URL`, or the embedded server."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio

from convive.bus.conversation._bus import Bus, Sync, check_partitions
from convive.bus.jetstream._connect import API_PATIENCE_S, RETRY_S, Connection, connect
from convive.bus.jetstream._jetstream import StreamPlan, find_log, open_log, stream_names
from convive.bus.jetstream._jetstream_publisher import Publisher
from convive.bus.jetstream._jetstream_queue import open_queue
from convive.bus.log._errors import BadName, BusUnavailable
from convive.bus.log._log import Log
from convive.bus.log._queue import WorkQueue
from convive.bus.server._server import EmbeddedServer, embedded_server

URL_VARIABLE = "CONVIVE_NATS_URL"
DEFAULT_DATA = Path(".convive")
PARTITIONS = 16
TAKEOVER_S = 5.0
"""How long to look for the successor of a process that ran the embedded server and left."""


@asynccontextmanager
async def open_bus(
    url: str | None = None,
    *,
    data: str | Path | None = None,
    fast: bool = False,
    prefix: str = "cv",
    partitions: int = PARTITIONS,
    replicas: int | None = None,
    patience_s: float = 30.0,
    environ: Mapping[str, str] = os.environ,
) -> AsyncGenerator[Bus]:
    """A bus on a JetStream server.

    Without a `url` and without `CONVIVE_NATS_URL`, the embedded server runs on the directory `data`
    (default `.convive`). `partitions` is fixed for the life of a store. `replicas` counts for streams that are made
    now; by default three on a cluster of three or more servers, else one. `fast` lets the embedded server acknowledge
    before it has synced to disk. `patience_s` is how long an append waits for a server that is away;
    reads wait ten seconds at most.

    Raises BusUnavailable or WrongStream.
    """
    if url is not None and not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        # Not shown: there may be a password in it.
        kind = type(url).__name__
        raise TypeError(f"url= takes a text such as nats://127.0.0.1:4222, not {kind}. A directory is given as data=.")
    check_partitions(partitions)
    if not prefix.isalnum() or not prefix.islower():
        raise BadName(f"{prefix!r} is not a prefix for subjects: use lower-case letters and digits.")
    async with AsyncExitStack() as stack:
        wanted = url or (None if data is not None else environ.get(URL_VARIABLE))
        sync: Sync = "unknown"
        api_patience_s = min(patience_s, API_PATIENCE_S)
        if wanted:
            connection = await stack.enter_async_context(connect(wanted, api_patience_s))
        else:
            server = await stack.enter_async_context(embedded_server(data or DEFAULT_DATA, fast=fast))
            connection = await connect_embedded(stack, server, api_patience_s)
            sync = "lazy" if server.fast else "always"
        publisher = Publisher(connection, patience_s)
        await publisher.start()
        store = _Store(connection, publisher, prefix, partitions, replicas or connection.replicas)
        await store.check()
        where = connection.url
        yield Bus(
            store.partition,
            store.found,
            store.existing,
            store.queue,
            prefix=prefix,
            partitions=partitions,
            where=where,
            sync=sync,
        )


async def connect_embedded(stack: AsyncExitStack, server: EmbeddedServer, patience_s: float) -> Connection:
    """A connection to the embedded server, left with `stack`.

    The process that runs it may have left just now: this one or another then takes it over, in a fraction of a second.
    Raises BusUnavailable when nobody has within `TAKEOVER_S`.
    """
    deadline = anyio.current_time() + TAKEOVER_S
    while True:
        try:
            return await stack.enter_async_context(connect(server.url, patience_s))
        except BusUnavailable:
            if anyio.current_time() > deadline:
                raise
            await anyio.sleep(RETRY_S)


class _Store:
    """The partition streams of one prefix, opened as they are needed."""

    def __init__(
        self, connection: Connection, publisher: Publisher, prefix: str, partitions: int, replicas: int
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._prefix = prefix
        self._partitions = partitions
        self._replicas = replicas
        self._logs: dict[int, Log] = {}
        self._queues: dict[str, WorkQueue] = {}
        self._opening = anyio.Lock()

    async def check(self) -> None:
        """Refuse a store that was made with another number of partitions."""
        existing = await stream_names(self._connection, f"{self._prefix}.>")
        for name in existing[:1]:
            head, _, number = name.rpartition("_")
            if head != self._head or not number.isdigit():
                raise BusUnavailable(
                    f"the stream {name} on {self._connection.url} takes the subjects {self._prefix}.>, which the bus "
                    "needs. Nothing was changed. Use another prefix or server."
                )
            await self.found(int(number))

    async def partition(self, number: int) -> Log:
        """The log of a partition, created when it does not exist."""
        async with self._opening:  # one log a stream, so that its readers share their consumers
            log = self._logs.get(number)
            if log is None:
                log = self._logs[number] = await open_log(self._connection, self._publisher, self._plan(number))
            return log

    async def found(self, number: int) -> Log | None:
        """The log of a partition that exists; creates nothing."""
        async with self._opening:
            log = self._logs.get(number) or await find_log(self._connection, self._publisher, self._plan(number))
            if log is not None:
                self._logs[number] = log
            return log

    async def queue(self, name: str, lease_s: float) -> WorkQueue:
        async with self._opening:  # one queue a name, so that its takers share an inbox
            found = self._queues.get(name)
            if found is None:
                found = self._queues[name] = await open_queue(
                    self._connection, self._publisher, self._prefix, name, replicas=self._replicas, lease_s=lease_s
                )
            return found

    async def existing(self) -> Mapping[int, Log]:
        """The logs of all partitions that exist; creates nothing."""
        for name in await stream_names(self._connection, f"{self._prefix}.>"):
            number = name.rpartition("_")[2]
            if number.isdigit():
                await self.found(int(number))
        return self._logs

    def _plan(self, number: int) -> StreamPlan:
        return StreamPlan(
            f"{self._head}_{number:02d}",
            f"{self._prefix}.{number:02d}.>",
            self._replicas,
            {"convive.partitions": str(self._partitions)},
        )

    @property
    def _head(self) -> str:
        return "CONVIVE" if self._prefix == "cv" else f"CONVIVE_{self._prefix.upper()}"
