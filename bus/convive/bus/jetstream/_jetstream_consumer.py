"""One ordered push consumer that heals itself: no gap, no duplicate, whatever happens to the connection.

nats-py has such a thing; it leaves a silent hole for a slow reader and stays dark for up to 20 s after a
server restart (docs/adr/0005). This one checks that the consumer's own count is contiguous, asks for a heartbeat
every half second, and starts a new consumer behind the last record whenever in doubt.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from convive.bus.jetstream._connect import ApiError, Connection, NoAnswer
from convive.bus.jetstream._jetstream_records import Delivered, delivered
from convive.bus.log._errors import BusUnavailable
from convive.bus.log._log import Record

HEARTBEAT_S = 0.5
SILENCE_S = 1.6
"""Three heartbeats without a sign of life: the consumer is gone."""

RETRY_S = 0.1
NAME_S = 1.0
"""How long to wait for a consumer under its first name; each further name has half as long again."""

_LAST_S = 9_223_372_036
"""As far as a server counts, in nanoseconds of 63 bits: the year 2262."""


class Consumer:
    """Delivers the records of some subjects of one stream, in order, from behind `after` on.

    `deliver` is called on the event loop and must not block: with each record, and with None when `last` or `complete`
    has changed without one. `held` says whether the receiver has more than it can take; while it does, flow control
    keeps the server from sending more. `latest`: only the last record of each subject.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subjects: tuple[str, ...],
        after: int,
        since_s: float | None,
        deliver: Callable[[Record | None], None],
        held: Callable[[], bool],
        *,
        latest: bool = False,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subjects = subjects
        self._since_s = since_s
        self._deliver = deliver
        self._held = held
        self._latest = latest
        self._generation = 0
        self._subscription: Subscription | None = None
        self._name = ""
        self._place: int = 0
        self._heard = 0.0
        self._owed = ""
        self._forget: Callable[[], None] = _nothing
        self._due: int | None = None
        self._asking = asyncio.Lock()
        self._asked = self._answered = 0
        self.node = ""
        """The server that delivers, by its name."""
        self.last = after
        """The sequence number of the last record that was delivered."""
        self.trouble = asyncio.Event()
        """Set when the consumer must be replaced; `replace` clears it."""

    async def open(self) -> None:
        """Start delivering. Raises BusUnavailable."""
        self._forget = self._connection.on_reconnect(self.trouble.set)
        await self._start()

    async def replace(self, *, wait_for_server: bool) -> None:
        """Start a new consumer behind the last record, as often as it takes.

        Raises BusUnavailable when the connection is closed for good, when the server has refused for as long as an
        administrative request may take (a stream that is being recovered refuses, too), and, unless
        `wait_for_server`, when it has not answered for so long.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._connection.patience_s
        while True:
            self.trouble.clear()
            await self.stop()
            try:
                await self._start()
            except BusUnavailable as error:
                if wait_for_server and not isinstance(error, ApiError):
                    deadline = loop.time() + self._connection.patience_s
                if self._connection.client.is_closed or loop.time() >= deadline:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def recount(self) -> None:
        """Ask the server anew what there is, for whoever begins now. Many who ask at once share an answer."""
        asked_before = self._asked
        async with self._asking:
            if self._answered > asked_before:
                return
            self._asked += 1
            await self._ask()
            self._answered = self._asked

    async def _ask(self) -> None:
        generation = self._generation
        try:
            answer = await self._connection.api(f"CONSUMER.INFO.{self._stream}.{self._name}")
        except BusUnavailable:  # the consumer is gone, or the server; the next one will know
            if generation == self._generation:
                self._due = None
                self.trouble.set()
            return
        if generation == self._generation:
            self._count(answer)

    @property
    def complete(self) -> bool:
        """Everything was delivered that was there when the server was last asked: at the start, or by `recount`."""
        return self._due == 0

    @property
    def silent(self) -> bool:
        """No sign of life for so long that the consumer must be gone."""
        return asyncio.get_running_loop().time() - self._heard > SILENCE_S

    async def close(self) -> None:
        """End the delivery. The server drops the consumer by itself when it cannot be told."""
        self._forget()
        await self.stop()

    @property
    def is_held(self) -> bool:
        """Whether the server waits until there is room again, for `resume`."""
        return bool(self._owed)

    async def resume(self) -> None:
        """Answer the flow-control request that was held back, now that there is room again."""
        if self._owed:
            reply, self._owed = self._owed, ""
            await self._reply(reply)

    async def _start(self) -> None:
        """Make a consumer, under another name when there is no answer: a cluster places one on a node that it has not
        yet found to be lost, and keeps to that for the name. Raises BusUnavailable."""
        loop = asyncio.get_running_loop()
        deadline, patience_s = loop.time() + self._connection.patience_s, NAME_S
        while True:
            left_s = deadline - loop.time()
            try:
                await self._create(min(patience_s, left_s))
            except NoAnswer:
                if left_s <= patience_s:
                    raise
            else:
                return
            await self.stop()
            patience_s *= 1.5

    async def _create(self, patience_s: float) -> None:
        self._generation += 1
        self._place = 0
        inbox = self._connection.inbox()
        generation = self._generation

        async def receive(message: Msg) -> None:
            if generation != self._generation:
                return
            self._heard = asyncio.get_running_loop().time()
            arrived = delivered(message)
            if arrived is None:
                await self._control(message)
            else:
                self._receive(arrived)

        self._subscription = await self._connection.subscribe(inbox, receive)
        self._name = inbox.rpartition(".")[2]
        self._heard = asyncio.get_running_loop().time()
        # The request goes out behind the subscription on the same connection, so no message can be missed.
        config = {"name": self._name, "deliver_subject": inbox, **self._start_policy(), **_SETTINGS}
        config["filter_subjects"] = list(self._subjects)
        answer = await self._connection.api(
            f"CONSUMER.CREATE.{self._stream}.{self._name}",
            {"stream_name": self._stream, "config": config, "action": "create"},
            patience_s=patience_s,
        )
        self.node = str(answer.get("cluster", {}).get("leader", ""))
        self._count(answer)

    def _count(self, answer: dict[str, Any]) -> None:
        there = int(answer.get("num_pending", 0)) + int(answer["delivered"]["consumer_seq"])
        self._due = max(0, there - self._place)
        if self._due == 0:
            self._deliver(None)

    def _start_policy(self) -> dict[str, Any]:
        if self._latest:  # a new consumer begins anew; what was delivered before is dropped on arrival
            return {"deliver_policy": "last_per_subject"}
        if self.last == 0 and self._since_s is not None:
            # Rounded down, since a float holds half a microsecond at best; what comes too early is dropped on arrival.
            start_us = max(0, math.floor(min(max(self._since_s, 0.0), _LAST_S) * 1e6) - 1)
            moment = datetime.fromtimestamp(start_us // 1_000_000, UTC).replace(microsecond=start_us % 1_000_000)
            start = moment.isoformat(timespec="microseconds")
            return {"deliver_policy": "by_start_time", "opt_start_time": start.replace("+00:00", "Z")}
        if self.last == 0:
            return {"deliver_policy": "all"}
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": self.last + 1}

    async def stop(self) -> None:
        """Deliver nothing more, until `replace`."""
        subscription, self._subscription = self._subscription, None
        self._generation += 1
        self._owed = ""
        if subscription is None:
            return
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
            # Nobody waits for the answer: without interest in its subject the consumer expires by itself.
            await self._connection.client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}")

    def _receive(self, arrived: Delivered) -> None:
        if arrived.place != self._place + 1:
            self.trouble.set()
            return
        self._place = arrived.place
        was_complete = self.complete
        # What arrives before the answer to the consumer's creation tells how many were there, too.
        self._due = arrived.pending if self._due is None else max(0, min(self._due - 1, arrived.pending))
        # A server that has not got as far as `last` itself (a replica that lags) begins where it stands.
        wanted = arrived.record.seq > self.last and (self._since_s is None or arrived.record.time_s >= self._since_s)
        self.last = max(self.last, arrived.record.seq)
        self._deliver(arrived.record if wanted else None)
        if wanted and self.complete and not was_complete:
            self._deliver(None)

    async def _control(self, message: Msg) -> None:
        headers: dict[str, str] = message.headers or {}
        if int(headers.get("Nats-Last-Consumer", self._place)) != self._place:
            self.trouble.set()
        reply = message.reply or headers.get("Nats-Consumer-Stalled", "")
        if not reply:
            return
        if self._held():
            self._owed = reply
        else:
            await self._reply(reply)

    async def _reply(self, reply: str) -> None:
        with contextlib.suppress(nats.errors.Error):
            await self._connection.client.publish(reply)


def _nothing() -> None:
    """There is no hook to forget yet."""


_SETTINGS: dict[str, Any] = {
    "ack_policy": "none",
    "max_deliver": 1,
    "flow_control": True,
    "idle_heartbeat": int(HEARTBEAT_S * 1e9),
    "inactive_threshold": 10_000_000_000,
    "mem_storage": True,
    "num_replicas": 1,
}
