"""What the parts of `bench/scale.py` share: sides as processes of their own, and reading with bare nats-py."""

import asyncio
import json
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy

from convive.bus import SeatName

Figures = dict[str, Any]
SCALE = Path(__file__).with_name("scale.py")
SEATS = [SeatName(f"s{number}") for number in range(4)]
TEXT = "x" * 200


@dataclass(frozen=True, slots=True)
class Site:
    """Where to measure: a server, how often, and whether with the full numbers."""

    url: str
    pid: int
    rounds: int
    full: bool

    def server_mb(self) -> int:
        """The most memory that the server has had (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        return round(int(peak[1]) / 1024) if peak else 0

    async def child(self, what: str, *args: object) -> Figures:
        """A side in a process of its own, so that its memory and its collector are its own too."""
        done = await asyncio.to_thread(subprocess.run, self.command(what, *args), check=True, stdout=subprocess.PIPE)
        found: Figures = json.loads(done.stdout)
        return found

    async def in_turns(self, what: str, sides: dict[str, list[Any]]) -> dict[str, list[Figures]]:
        found: dict[str, list[Figures]] = {side: [] for side in sides}
        for _ in range(self.rounds):
            for side, args in sides.items():
                found[side].append(await self.child(what, side, *args))
        return found

    def command(self, what: str, *args: object) -> list[str]:
        return [sys.executable, str(SCALE), "--url", self.url, "--child", json.dumps([what, *args])]


def median(rounds: Sequence[Figures], figure: str) -> float:
    return statistics.median(float(each[figure]) for each in rounds)


def ratio(ours: Sequence[Figures], bare: Sequence[Figures], figure: str) -> float:
    return round(statistics.median(float(a[figure]) / float(b[figure]) for a, b in zip(ours, bare, strict=True)), 2)


def memory_mb() -> float:
    """The most that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def stream_of(subject: str) -> str:
    """The stream that holds a subject of the bus."""
    return f"CONVIVE_{subject.split('.')[1]}"


async def ordered(
    client: Client, stream: str, subject: str, receive: Callable[[Msg], Awaitable[None]], policy: DeliverPolicy
) -> Callable[[], Awaitable[None]]:
    """An ordered consumer of nats-py; returns what ends it."""
    subscribed = await client.jetstream().subscribe(
        subject,
        stream=stream,
        cb=receive,
        ordered_consumer=True,
        config=ConsumerConfig(deliver_policy=policy),
        pending_bytes_limit=0,
        pending_msgs_limit=0,
    )
    return subscribed.unsubscribe


async def deliveries(client: Client, stream: str, subject: str, count: int) -> None:
    """So many records with a callback that does nothing."""
    seen, done = 0, asyncio.Event()

    async def receive(_: Msg) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            done.set()

    end = await ordered(client, stream, subject, receive, DeliverPolicy.ALL)
    await done.wait()
    await end()
