"""What a turn costs: 8 seats, round robin, answers of 200 bytes, every seat sees everything.

Run `uv run python bench/turns.py` (`--json`: one object a line and sync mode). Our side is a supervisor and eight
seats on a conversation. The floor is a bare nats-py script that makes the same two durable appends a turn, waits for
the same deliveries, and does nothing else: no guards, no folds, no runs. Both take turns on the same server, in
processes of their own. Times are medians over rounds, sizes are what the store grew by.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import nats
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy, StorageType, StreamConfig

from convive.agents import Plan, Say, Turn, host_seats, supervise
from convive.bus import Chair, RunContext, SeatName, embedded_server, open_bus

SEATS = 8
TEXT = "x" * 200


class AtOnce:
    """A participant that has its answer ready."""

    async def take_turn(self, turn: Turn) -> Say:
        return Say(TEXT)


class Took(NamedTuple):
    """Seconds: on the clock, and of this process's processor, which is the same whatever else the machine does."""

    wall: float
    cpu: float


class Watch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> Took:
        return Took(time.perf_counter() - self._began[0], time.process_time() - self._began[1])


async def ours(url: str, turns: int) -> Took:
    """A conversation of `turns` turns."""
    async with open_bus(url) as bus:
        conversation = await bus.conversation(f"bench-{time.time_ns()}")
        run = RunContext.root()
        seats = [SeatName(f"s{number}") for number in range(SEATS)]
        await conversation.open(run, "bench", [Chair(seat=seat) for seat in seats])
        watch = Watch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, conversation, dict.fromkeys(seats, AtOnce()))
            tasks.start_soon(supervise, conversation, Plan(turns, opens=False, toasts=False), run)
        took = watch.read()
        floor = await conversation.floor()
        if floor.said_turns != turns or floor.damage:
            raise RuntimeError(f"{floor.said_turns} turns instead of {turns}")
        return took


async def bare(url: str, turns: int) -> Took:
    """The same appends and deliveries with nothing around them."""
    client = await nats.connect(url)
    js = client.jetstream()
    name = f"bare{time.time_ns()}"
    await js.add_stream(StreamConfig(name=name, subjects=[f"{name}.>"], storage=StorageType.FILE))
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    seen = [0] * SEATS

    async def deliver(message: Msg) -> None:
        for seat in range(SEATS):
            seen[seat] += 1
        arrived.put_nowait(message.data)

    await js.subscribe(
        f"{name}.>",
        stream=name,
        cb=deliver,
        ordered_consumer=True,
        config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL),
    )
    watch = Watch()
    for turn in range(turns):
        grant = json.dumps({"type": "granted", "turn": turn, "seat": f"s{turn % SEATS}", "run_id": "0" * 32})
        await js.publish(f"{name}.host", grant.encode(), headers={"Nats-Msg-Id": f"g{turn}"})
        await arrived.get()
        said = json.dumps({"type": "said", "turn": turn, "run_id": "0" * 32, "text": TEXT})
        await js.publish(f"{name}.s{turn % SEATS}", said.encode(), headers={"Nats-Msg-Id": f"s{turn}"})
        await arrived.get()
    took = watch.read()
    await client.close()
    if seen != [2 * turns] * SEATS:
        raise RuntimeError("the bare script missed deliveries")
    return took


async def measure(turns: int, rounds: int, *, fast: bool) -> dict[str, Any]:
    """One object of figures for a sync mode."""
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_server(Path(folder), fast=fast) as server:
            store = Path(folder) / "jetstream"
            sides: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
            for _ in range(rounds):
                for side, figures in sides.items():
                    before = size_of(store)
                    figures.append(child(side, server.url, turns) | {"disk": size_of(store) - before})
    us = statistics.median(figure["s"] for figure in sides["ours"]) / turns * 1e6
    floor_us = statistics.median(figure["s"] for figure in sides["bare"]) / turns * 1e6
    cpu = [a["cpu_s"] / b["cpu_s"] for a, b in zip(sides["ours"], sides["bare"], strict=True)]
    disk = min(figure["disk"] for figure in sides["ours"])
    return {
        "us_per_turn": round(us, 1),
        "floor_us_per_turn": round(floor_us, 1),
        "ratio": round(us / floor_us, 2),
        "cpu_ratio": round(statistics.median(cpu), 2),
        "peak_mb": round(max(figure["mb"] for figure in sides["ours"]), 1),
        "disk_bytes": int(disk),
        "overhead_bytes_per_turn": round(disk / turns - len(TEXT)),
        "sync": "default" if fast else "always",
        "turns": turns,
    }


def child(side: str, url: str, turns: int) -> dict[str, float]:
    """One side in a process of its own, so that its peak memory is its own too."""
    command = [sys.executable, __file__, "--side", side, "--url", url, "--turns", str(turns)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.blk"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=["ours", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        took = asyncio.run((ours if given.side == "ours" else bare)(given.url, given.turns))
        print(
            json.dumps(
                {"s": took.wall, "cpu_s": took.cpu, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
            )
        )
        return
    for fast in (True, False):
        figures = asyncio.run(measure(given.turns, given.rounds, fast=fast))
        if given.json:
            print(json.dumps(figures))
        else:
            print(
                f"sync {figures['sync']:8} {figures['us_per_turn']:7.0f} us a turn, bare "
                f"{figures['floor_us_per_turn']:7.0f} us: ratio {figures['ratio']} "
                f"(client's processor {figures['cpu_ratio']}), peak {figures['peak_mb']:.0f} MB"
            )
            above = figures["overhead_bytes_per_turn"]
            print(f"{'':13} {figures['disk_bytes']:,} bytes on disk, {above} a turn above the text")


if __name__ == "__main__":
    main()
