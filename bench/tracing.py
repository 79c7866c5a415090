"""What tracing costs: the same party without it, with nothing to export to, with a collector, and with a dead one.

Run `uv run python bench/tracing.py` (`--json`: one object, `--memory`: the log in memory). Two seats whose agents call
an agent that calls a tool, nine nodes a turn, on an embedded server. The collector is another process. The sides take
turns, forwards and backwards, and a figure is the median over rounds of the difference to the side without.

A difference of two parties is noise of tens of microseconds a node, so what is small is measured by itself, in CPU
time: `thread` is that of all threads but the party's own, the last batch included; `read` is that of reading the
party's records once more, which the exporter has the party's thread do; `ids` is what every node pays whether anybody
exports or not, an id and the headers of a record. For turns on the clock the side with nothing to export to, which is
idle, shows the noise: all ratios come with their quartiles.
"""

import argparse
import asyncio
import gc
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from convive.agents import AgentSeat, Plan, exporting, host_seats, supervise
from convive.agents.testing import otlp_receiver
from convive.bus import Chair, Conversation, RunContext, SeatName, embedded_server, memory_bus, open_bus
from nested import guest

SEATS = (SeatName("ada"), SeatName("bob"))
NODES = 9
"""Of a turn: itself, a run and its two answers, a call, a run below it with two answers and a call."""
DEAD = "http://127.0.0.1:9"

Figure = float | list[float]
"""A median, or the two quartiles with it in the middle."""


@dataclass(frozen=True, slots=True)
class Took:
    """Microseconds: of a turn on the clock until the party was over; a node, of CPU until all was sent, of all threads
    and of those beside the party's; and of reading all of it once."""

    turn_us: float
    cpu_us: float
    thread_us: float
    read_us: float


@asynccontextmanager
async def nothing() -> AsyncGenerator[None]:
    yield


async def party(turns: int, environ: Mapping[str, str] | None, server: str | None) -> Took:
    """One party; `environ` says where to export to, None: no exporter at all."""
    seat = AgentSeat(guest)
    async with memory_bus() if server is None else open_bus(server) as bus:
        conversation: Conversation = await bus.conversation(f"bench-{time.time_ns()}")
        run = RunContext.root()
        await conversation.open(run, "bench", [Chair(seat=each) for each in SEATS])
        gc.collect()
        cpu_s, own_s, began_s = time.process_time(), time.thread_time(), time.perf_counter()
        async with nothing() if environ is None else exporting(conversation, environ=environ, warn=lambda words: None):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(host_seats, conversation, dict.fromkeys(SEATS, seat))
                tasks.start_soon(supervise, conversation, Plan(turns, opens=False, toasts=False), run)
            took_s = time.perf_counter() - began_s
        cpu_s, own_s = time.process_time() - cpu_s, time.thread_time() - own_s
        floor = await conversation.floor()
        if floor.said_turns != turns:
            raise RuntimeError(f"{floor.said_turns} turns instead of {turns}")
        read_s = time.thread_time()
        async with conversation.log.read(
            f"{conversation.subjects.base}.run.*.*", conversation.subjects.floor
        ) as all_of_it:
            async for _ in all_of_it:
                pass
        read_s = time.thread_time() - read_s
    per_node = 1e6 / turns / NODES
    return Took(took_s / turns * 1e6, cpu_s * per_node, (cpu_s - own_s) * per_node, read_s * per_node)


def ids_us(times: int = 20_000) -> float:
    """Microseconds for the id of a run and the headers that its records carry."""
    root = RunContext.root()
    began = time.perf_counter()
    for _ in range(times):
        root.child().headers()
    return (time.perf_counter() - began) / times * 1e6


async def measure(turns: int, rounds: int, url: str, server: str | None) -> dict[str, Figure]:
    """The figures. The first round loads what is loaded once, and does not count."""
    sides: dict[str, Mapping[str, str] | None] = {
        "without": None,
        "off": {},
        "on": {"OTEL_EXPORTER_OTLP_ENDPOINT": url},
        "dead": {"OTEL_EXPORTER_OTLP_ENDPOINT": DEAD},
    }
    figures: dict[str, list[Took]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        order = list(sides.items())
        for side, environ in order if number % 2 else reversed(order):
            took = await party(turns, environ, server)
            if number:
                figures[side].append(took)

    def above(side: str, what: str) -> list[float]:
        pairs = zip(figures[side], figures["without"], strict=True)
        return quartiles(getattr(one, what) - getattr(base, what) for one, base in pairs)

    def turns_of(side: str) -> list[float]:
        pairs = zip(figures[side], figures["without"], strict=True)
        return quartiles(one.turn_us / base.turn_us for one, base in pairs)

    party_us = statistics.median(took.cpu_us for took in figures["without"])
    thread_us = above("on", "thread_us")[1]
    read_us = statistics.median(took.read_us for took in figures["on"])
    return {
        "node_us": round(statistics.median(took.turn_us for took in figures["without"]) / NODES, 1),
        "node_cpu_us": round(party_us, 1),
        "ids_us": round(ids_us(), 2),
        "on_thread_us": round(thread_us, 1),
        "on_read_us": round(read_us, 1),
        "on_cpu_us": round(thread_us + read_us, 1),
        "on_cpu_ratio": round(1 + (thread_us + read_us) / party_us, 3),
        "on_cpu_difference_us": [round(each, 1) for each in above("on", "cpu_us")],
        "dead_thread_us": round(above("dead", "thread_us")[1], 1),
        "turn_ratio_off": [round(each, 3) for each in turns_of("off")],
        "turn_ratio_on": [round(each, 3) for each in turns_of("on")],
        "turn_ratio_dead": [round(each, 3) for each in turns_of("dead")],
        "turns": turns,
        "rounds": rounds,
        "memory": server is None,
    }


def quartiles(values: Iterable[float]) -> list[float]:
    """The lower quartile, the median and the upper one."""
    return statistics.quantiles(values, n=4, method="inclusive")


async def measured(turns: int, rounds: int, url: str, memory: bool) -> dict[str, Figure]:
    """The same, with the server that it takes."""
    if memory:
        return await measure(turns, rounds, url, None)
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_server(Path(folder)) as server:
            return await measure(turns, rounds, url, server.url)


def collect() -> None:
    """A collector in a process of its own, until its input ends."""
    with otlp_receiver() as receiver:
        print(receiver.url, flush=True)
        sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", action="store_true", help="the log in memory, so that nothing is ever waited for")
    parser.add_argument("--collect", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.collect:
        collect()
        return
    logging.disable()
    command = [sys.executable, __file__, "--collect"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as collector:
        assert collector.stdout is not None
        assert collector.stdin is not None
        figures = asyncio.run(measured(given.turns, given.rounds, collector.stdout.readline().strip(), given.memory))
        collector.stdin.close()
    if given.json:
        print(json.dumps(figures))
        return
    off, on, dead = (_shown(figures[f"turn_ratio_{side}"]) for side in ("off", "on", "dead"))
    print(
        f"a node of this party takes {figures['node_us']} us, {figures['node_cpu_us']} us of CPU, of which "
        f"{figures['ids_us']} us are its ids"
    )
    print(f"nothing exported: a turn takes {off} times as long, which is the noise")
    print(
        f"to a collector:   {figures['on_cpu_us']} us of CPU a node, {figures['on_thread_us']} us of them in a thread "
        f"beside the party ({figures['on_cpu_ratio']} times the CPU in all); a turn takes {on} times as long"
    )
    print(f"a dead collector: {figures['dead_thread_us']} us of CPU a node in that thread; a turn takes {dead} times")


def _shown(found: Figure) -> str:
    assert isinstance(found, list)
    return f"{found[1]} ({found[0]} to {found[2]})"


if __name__ == "__main__":
    main()
