"""A log that is one JetStream stream. Only the `_jetstream*` and `_connect` files know nats-py."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from convive.bus.jetstream._connect import ApiError, Connection
from convive.bus.jetstream._jetstream_own import end_if_empty, first_record, last_record, subjects_of
from convive.bus.jetstream._jetstream_presence import is_present, present
from convive.bus.jetstream._jetstream_publisher import Publisher
from convive.bus.jetstream._jetstream_reader import BoundedReader, EachOnce, FreshReader
from convive.bus.jetstream._jetstream_tail import Hub, Hubs, LiveTail
from convive.bus.log._errors import BusUnavailable, WrongStream
from convive.bus.log._log import Draft, Record

CLOSING_S = 1.0
"""How long a reader may take to say goodbye to the server, also when it is being cancelled."""

_STREAM_NOT_FOUND = 10059
_NAME_IN_USE = 10058

NO_PEERS = 10005
"""A cluster has not as many nodes now as the stream is to have copies."""
PEERS_S = 5.0
"""How long a stream waits to be made for a node that is away."""

_PROMISED: dict[str, Any] = {
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "max_consumers": 100_000,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "allow_atomic": True,
    "allow_direct": True,
    "allow_rollup_hdrs": True,
    "allow_msg_ttl": True,
    "deny_delete": True,
    "duplicate_window": 600_000_000_000,
    "compression": "s2",
}
_MAY_DIFFER = {
    "max_consumers",
    "compression",
    "duplicate_window",  # may be longer, see below
    "allow_direct",
    "deny_delete",
    "allow_atomic",  # added when the stream is opened
    "allow_rollup_hdrs",
}
"""Settings whose difference costs speed or comfort but breaks no promise."""

_ADDED = {"allow_atomic": True, "allow_rollup_hdrs": True}
"""Settings that a stream of an earlier version lacks: batches, and records that replace others, need them."""

_ABSENT = ("no_ack", "sealed", "mirror", "sources", "subject_transform", "subject_delete_marker_ttl", "persist_mode")
"""Settings that must not be there: records that are not acknowledged or not synced, somebody else's, or moved."""

_BODY_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The stream that a log lives in: its name, the subjects it binds, its replicas and what to note on it."""

    name: str
    subjects: str
    replicas: int
    notes: dict[str, str]


class JetStreamLog:
    """`Log` on one stream of a JetStream server. Made by `open_log`."""

    def __init__(self, connection: Connection, publisher: Publisher, stream: str, *, replicated: bool) -> None:
        self._connection = connection
        self._publisher = publisher
        self._stream = stream
        self._replicated = replicated
        self._hubs = Hubs()
        self._opening = asyncio.Lock()

    async def append(self, draft: Draft) -> int:
        return await self._publisher.append(self._stream, draft)

    async def append_all(self, drafts: Sequence[Draft]) -> list[int]:
        return await self._publisher.append_all(self._stream, drafts)

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        return await self._publisher.append_batch(self._stream, drafts)

    def check(self, draft: Draft) -> None:
        self._publisher.check(draft)

    async def post(self, draft: Draft) -> None:
        await self._publisher.post(draft)

    @asynccontextmanager
    async def read(
        self, *subjects: str, after: int = 0, until: int | None = None, since_s: float | None = None
    ) -> AsyncGenerator[AsyncIterator[Record]]:
        def newest() -> Awaitable[int]:
            return self._newest(subjects, after, since_s)

        begin = await self._begin(subjects, after, since_s)
        reader = BoundedReader(self._connection, self._stream, subjects, begin, until, since_s, newest)
        async with _opened_reader(reader):
            yield reader

    @asynccontextmanager
    async def latest(self, *subjects: str) -> AsyncGenerator[AsyncIterator[Record]]:
        def newest() -> Awaitable[int]:
            return self._newest(subjects, 0, None)

        reader = BoundedReader(self._connection, self._stream, subjects, 0, None, None, newest, latest=True)
        async with contextlib.AsyncExitStack() as stack:

            async def fresh() -> BoundedReader:
                await reader.close()
                other = FreshReader(self._connection, self._stream, subjects, newest)
                await stack.enter_async_context(_opened_reader(other))
                return other

            await stack.enter_async_context(_opened_reader(reader))
            yield EachOnce(reader, fresh) if self._replicated else reader

    async def _newest(self, subjects: tuple[str, ...], after: int, since_s: float | None) -> int:
        """The place of the newest record that a reader must see, as the leader knows it. One request a subject.

        0 when there is none, or when the leader is the only one who could deliver it.
        """
        if not self._replicated:
            return 0
        found = [await self.last(subject) for subject in subjects]
        places = [one.seq for one in found if one is not None and (since_s is None or one.time_s >= since_s)]
        newest = max(places, default=0)
        return newest if newest > after else 0

    async def _begin(self, subjects: tuple[str, ...], after: int, since_s: float | None) -> int:
        """Where a reader from behind `after` on begins: behind what the leader has removed there.

        The server that delivers may be a replica that has not heard of the removal yet. With several subjects this is
        where the first of them begins. A reader that begins at a time stays with its time, which the server looks up.
        """
        if not self._replicated or since_s is not None:
            return after
        begin: int | None = None
        for subject in subjects:
            own = await self._begin_on(subject, after)
            begin = own if begin is None else min(begin, own)
            if begin == after:  # nothing to gain from the others
                break
        return after if begin is None else begin

    async def _begin_on(self, subject: str, after: int) -> int:
        """A place behind which every record of a subject is that stands behind `after`, now or later."""
        first = await first_record(self._connection, self._stream, subject, after)
        if first is not None:
            return first.seq - 1
        return max(after, await end_if_empty(self._connection, self._stream, subject))

    @asynccontextmanager
    async def follow(self, *subjects: str, after: int = 0, since_s: float | None = None) -> AsyncGenerator[LiveTail]:
        async def newest() -> int:
            return await self._newest(subjects, after, since_s)

        begin = await self._begin(subjects, after, since_s)
        wanted = await newest()
        async with self._opening:
            hub = shared = self._hubs.find(subjects, since_s)
            if hub is None:
                hub = await self._open_hub(subjects, begin, since_s)
                self._hubs.add(hub)
                self._connection.tasks.start_soon(hub.keep)

        def read(first: int, last: int) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
            return self.read(*subjects, after=first, until=last, since_s=since_s)

        tail = LiveTail(hub, subjects, begin, read, newest, wanted)
        hub.tails.add(tail)
        try:
            if shared is not None:
                await shared.consumer.recount()
            yield tail
        finally:
            hub.tails.discard(tail)
            if not hub.tails:
                self._hubs.remove(hub)
                with anyio.move_on_after(CLOSING_S, shield=True):
                    await hub.close()

    async def _open_hub(self, subjects: tuple[str, ...], after: int, since_s: float | None) -> Hub:
        if after:  # a tail may begin behind what is yet to come; others that join its hub may not want to miss that
            found = await self._connection.api(f"STREAM.INFO.{self._stream}")
            after = min(after, int(found["state"]["last_seq"]))
        hub = Hub(self._connection, self._stream, subjects, after, since_s)
        try:
            await hub.consumer.open()
        except BaseException:
            with anyio.move_on_after(CLOSING_S, shield=True):
                await hub.close()
            raise
        return hub

    async def last(self, subject: str) -> Record | None:
        return await last_record(self._connection, self._stream, subject)

    async def subjects(self, pattern: str) -> dict[str, int]:
        return await subjects_of(self._connection, self._stream, pattern)

    async def end(self) -> int:
        found = await self._connection.api(f"STREAM.INFO.{self._stream}")
        return int(found["state"]["last_seq"])

    def present(self, subject: str) -> AbstractAsyncContextManager[None]:
        return present(self._connection, subject)

    async def is_present(self, subject: str, timeout_s: float) -> bool | None:
        return await is_present(self._connection, subject, timeout_s)

    async def purge(self, subject: str, until: int) -> int:
        if until < 1:  # the server takes 0 for everything
            return 0
        # Up to this sequence number, and without it.
        answer = await self._connection.api(f"STREAM.PURGE.{self._stream}", {"filter": subject, "seq": until + 1})
        return int(answer["purged"])


@asynccontextmanager
async def _opened_reader(reader: BoundedReader) -> AsyncGenerator[None]:
    try:
        await reader.open()
        yield
    finally:
        with anyio.move_on_after(CLOSING_S, shield=True):
            await reader.close()


async def open_log(connection: Connection, publisher: Publisher, plan: StreamPlan) -> JetStreamLog:
    """The log of a stream, created when it does not exist.

    Raises WrongStream when a stream of that name has settings that would break a promise of the bus.
    """
    config = {"subjects": [plan.subjects], "num_replicas": plan.replicas, "metadata": plan.notes, **_PROMISED}
    found = await _info(connection, plan) or await create_stream(connection, plan.name, config)
    log = _opened(connection, publisher, plan, found["config"])
    if any(not found["config"].get(name) for name in _ADDED):
        # Who may not change the stream can use all of it but batches, which the server then refuses with a reason.
        with contextlib.suppress(ApiError):
            await connection.api(f"STREAM.UPDATE.{plan.name}", {**found["config"], **_ADDED})
    return log


async def find_log(connection: Connection, publisher: Publisher, plan: StreamPlan) -> JetStreamLog | None:
    """The log of a stream that exists, or None. Raises WrongStream, as `open_log` does; creates nothing."""
    found = await _info(connection, plan)
    return None if found is None else _opened(connection, publisher, plan, found["config"])


async def stream_names(connection: Connection, pattern: str) -> list[str]:
    """The names of the streams that bind subjects matching `pattern`, in order."""
    names: list[str] = []
    while True:
        answer = await connection.api("STREAM.NAMES", {"subject": pattern, "offset": len(names)})
        page: list[str] = answer.get("streams") or []
        names += page
        if not page or len(names) >= int(answer.get("total", 0)):
            return sorted(names)


async def _info(connection: Connection, plan: StreamPlan) -> dict[str, Any] | None:
    try:
        return await connection.api(f"STREAM.INFO.{plan.name}")
    except ApiError as error:
        if error.code == _STREAM_NOT_FOUND:
            return None
        raise


def _opened(connection: Connection, publisher: Publisher, plan: StreamPlan, config: dict[str, Any]) -> JetStreamLog:
    _check(plan, config)
    replicated = int(config.get("num_replicas", 1)) > 1
    return JetStreamLog(connection, publisher, plan.name, replicated=replicated)


async def create_stream(connection: Connection, stream: str, config: dict[str, Any]) -> dict[str, Any]:
    """Make a stream, or find it made by another process, maybe with other settings: look at what is returned.

    Raises WrongStream when the server refuses it, BusUnavailable when the cluster has not the nodes for its copies.
    """
    try:
        return await _created(connection, stream, {"name": stream, **config})
    except ApiError as error:
        if error.code == _NAME_IN_USE:
            return await connection.api(f"STREAM.INFO.{stream}")
        raise WrongStream(
            f"the server refused to create the stream {stream}: {error.description} ({error.code}). Nothing was "
            "changed. Use another server, or another prefix if these subjects belong to somebody else."
        ) from None


async def _created(connection: Connection, stream: str, config: dict[str, Any]) -> dict[str, Any]:
    """Ask for a stream. Raises ApiError, and BusUnavailable when the cluster has not the nodes for its copies.

    A node that has just come back counts as gone for a moment, so that one which is known and away is waited for.
    """
    deadline = anyio.current_time() + min(PEERS_S, connection.patience_s)
    while True:
        try:
            return await connection.api(f"STREAM.CREATE.{stream}", config)
        except ApiError as error:
            if error.code != NO_PEERS:
                raise
            if "offline" not in error.description or anyio.current_time() > deadline:
                raise BusUnavailable(
                    f"the cluster cannot make the stream {stream}: {error.description} ({error.code}). Nothing was "
                    "changed, and streams that exist go on; try again when more of its nodes are there, or ask for "
                    "fewer replicas."
                ) from None
        await anyio.sleep(PEERS_S / 20)


def _check(plan: StreamPlan, config: dict[str, Any]) -> None:
    for name, needed in _objections(plan, config):
        raise WrongStream(
            f"the stream {plan.name} exists with {name} = {str(config.get(name))[:80]}, Convive needs {needed}. "
            "Nothing was changed. Use another server or prefix, or move that stream away."
        )
    for name, value in plan.notes.items():
        if (config.get("metadata") or {}).get(name, value) != value:
            raise WrongStream(
                f"the stream {plan.name} was made with {name} = {config['metadata'][name]}, this process uses {value}. "
                f"The number is fixed for the life of a store: open the bus with {config['metadata'][name]}."
            )


def _objections(plan: StreamPlan, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings that break a promise of the bus, and what they have to be."""
    wanted = {"subjects": [plan.subjects], **{k: v for k, v in _PROMISED.items() if k not in _MAY_DIFFER}}
    found = {"max_age": 0, "allow_msg_ttl": False, **config}
    yield from ((name, "none") for name in _ABSENT if config.get(name))
    yield from ((name, str(value)) for name, value in wanted.items() if found.get(name) != value)
    if int(config.get("duplicate_window", 0)) < _PROMISED["duplicate_window"]:
        yield "duplicate_window", f"{_PROMISED['duplicate_window']} (600 s) or more"
    if 0 <= int(config.get("max_msg_size", -1)) < _BODY_BYTES:
        yield "max_msg_size", f"-1, or {_BODY_BYTES} or more"
