"""Plain streams against bare nats-py: what a producer appends and a reader reads in a second.

Run `uv run python bench/streams.py` (`--json`: one object a sync mode). Appending: a producer with its batches, against
nats-py's `publish_async` with the same records and no ids, guards or order over restarts. Reading: `stream.read` with
the JSON of every body decoded, against an ordered consumer of nats-py with a callback that does nothing. Both take
turns on the same server; ratios are medians over rounds.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

import nats
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy

from convive.bus import Bus, embedded_server, open_bus

BODY = {"kind": "delta", "text": "x" * 170}
RAW = json.dumps(BODY, separators=(",", ":")).encode()


async def produce(bus: Bus, name: str, count: int) -> None:
    stream = await bus.stream(name)
    async with stream.producer("bench") as producer:
        for _ in range(count):
            await producer.submit(BODY)


async def publish(url: str, subject: str, count: int) -> None:
    client = await nats.connect(url)
    js = client.jetstream()
    for _ in range(count):
        await js.publish_async(subject, RAW)
    await js.publish_async_completed()
    await client.close()


async def read(bus: Bus, name: str, count: int) -> None:
    stream = await bus.stream(name)
    seen = 0
    async with stream.read() as records:
        async for record in records:
            seen += record.json()["kind"] == "delta"
    assert seen == count, f"{seen} of {count}"


async def deliver(url: str, subject: str, count: int) -> None:
    client = await nats.connect(url)
    seen, done = 0, asyncio.Event()

    async def receive(_: Msg) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            done.set()

    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
    number = subject.split(".")[1]
    await client.jetstream().subscribe(
        subject, stream=f"CONVIVE_{number}", cb=receive, ordered_consumer=True, config=config, pending_bytes_limit=0
    )
    await done.wait()
    await client.close()


async def rate(count: int, work: Awaitable[None]) -> float:
    """Records a second."""
    began = time.perf_counter()
    await work
    return count / (time.perf_counter() - began)


async def measure(count: int, rounds: int, *, fast: bool) -> dict[str, float | str]:
    """One object of figures for a sync mode."""
    sides: dict[str, list[float]] = {name: [] for name in ("produce", "publish_async", "read", "callback")}
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_server(Path(folder), fast=fast) as server, open_bus(server.url) as bus:
            for number in range(rounds):
                ours, bare = f"ours-{number}", f"bare-{number}"
                subjects = {name: (await bus.stream(name)).subject for name in (ours, bare)}
                for side, work in {
                    "produce": produce(bus, ours, count),
                    "publish_async": publish(server.url, subjects[bare], count),
                    "read": read(bus, ours, count),
                    "callback": deliver(server.url, subjects[ours], count),
                }.items():
                    sides[side].append(await rate(count, work))
    middle = {name: statistics.median(values) for name, values in sides.items()}
    return {
        "sync": "default" if fast else "always",
        "records": count,
        **{f"{name}_per_s": round(value) for name, value in middle.items()},
        "append_ratio": round(statistics.median(map(_over, sides["produce"], sides["publish_async"])), 2),
        "read_ratio": round(statistics.median(map(_over, sides["read"], sides["callback"])), 2),
    }


def _over(ours: float, bare: float) -> float:
    return ours / bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for fast in (True, False):
        # With a sync before every acknowledgement, appending one by one is slow.
        found = asyncio.run(measure(given.records if fast else given.records // 5, given.rounds, fast=fast))
        if given.json:
            print(json.dumps(found))
            continue
        print(
            f"sync {found['sync']:8} append {found['produce_per_s']:8,}/s, publish_async "
            f"{found['publish_async_per_s']:8,}/s: ratio {found['append_ratio']}"
        )
        print(
            f"{'':13} read   {found['read_per_s']:8,}/s, callback      {found['callback_per_s']:8,}/s: ratio "
            f"{found['read_ratio']}"
        )


if __name__ == "__main__":
    main()
