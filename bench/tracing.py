"""What tracing costs: the same party without it, with nothing to export to, with a collector, and with a dead one.

Run `uv run python bench/tracing.py` (`--json`: one object, `--memory`: the log in memory). Two seats whose agents call
an agent that calls a tool, nine nodes a turn, on an embedded server. The collector is another process. The sides take
turns; a figure is the median over rounds of the difference to the side without, per node: on the clock until the party
was over, and in CPU time of this process, all threads and the last batch included. A log in memory never waits: there
the thread that exports and the party share one interpreter, and the clock shows all of its work. `ids_us` is what every
node pays whether anybody exports or not: an id, and the headers of a record.
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
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from convive.agents import Agent, AgentSeat, Answer, Plan, Request, ToolUse, exporting, host_seats, supervise, tool
from convive.agents.testing import ScriptedModel, otlp_receiver
from convive.bus import Chair, Conversation, RunContext, SeatName, embedded_server, memory_bus, open_bus

SEATS = (SeatName("ada"), SeatName("bob"))
NODES = 9
"""Of a turn: itself, a run and its two answers, a call, a run below it with two answers and a call."""
DEAD = "http://127.0.0.1:9"


def once(name: str) -> ScriptedModel:
    def answer(request: Request) -> Answer | str:
        if request.messages[-1].text:
            return Answer(parts=(ToolUse(id="c", name=name, arguments={}),), stop_reason="tool_use")
        return "done"

    return ScriptedModel(answer, keep=0)


@tool
async def look() -> str:
    """Look."""
    return "seen"


helper = Agent("helper", model=once("look"), tools=[look])


@tool
async def ask() -> str:
    """Ask."""
    return (await helper.prompt("go")).text


@dataclass(frozen=True, slots=True)
class Took:
    """Microseconds a node: on the clock until the party was over, and of CPU until all was sent."""

    wall_us: float
    cpu_us: float
    turn_us: float


@asynccontextmanager
async def nothing() -> AsyncGenerator[None]:
    yield


async def party(turns: int, environ: Mapping[str, str] | None, server: str | None) -> Took:
    """One party; `environ` says where to export to, None: no exporter at all."""
    guest = AgentSeat(Agent("guest", model=once("ask"), tools=[ask]))
    async with memory_bus() if server is None else open_bus(server) as bus:
        conversation: Conversation = await bus.conversation(f"bench-{time.time_ns()}")
        run = RunContext.root()
        await conversation.open(run, "bench", [Chair(seat=seat) for seat in SEATS])
        gc.collect()
        cpu_s, began_s = time.process_time(), time.perf_counter()
        async with nothing() if environ is None else exporting(conversation, environ=environ, warn=lambda words: None):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(host_seats, conversation, dict.fromkeys(SEATS, guest))
                tasks.start_soon(supervise, conversation, Plan(turns, opens=False, toasts=False), run)
            took_s = time.perf_counter() - began_s
        cpu_s = time.process_time() - cpu_s
        floor = await conversation.floor()
        if floor.said_turns != turns:
            raise RuntimeError(f"{floor.said_turns} turns instead of {turns}")
    nodes = turns * NODES
    return Took(took_s / nodes * 1e6, cpu_s / nodes * 1e6, took_s / turns * 1e6)


def ids_us(times: int = 20_000) -> float:
    """Microseconds for the id of a run and the headers that its records carry."""
    root = RunContext.root()
    began = time.perf_counter()
    for _ in range(times):
        root.child().headers()
    return (time.perf_counter() - began) / times * 1e6


async def measure(turns: int, rounds: int, url: str, server: str | None) -> dict[str, float]:
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

    def above(side: str, what: str) -> float:
        pairs = zip(figures[side], figures["without"], strict=True)
        return float(statistics.median(getattr(one, what) - getattr(base, what) for one, base in pairs))

    def ratio(side: str) -> float:
        pairs = zip(figures[side], figures["without"], strict=True)
        return statistics.median(one.turn_us / base.turn_us for one, base in pairs)

    return {
        "node_us": round(statistics.median(took.wall_us for took in figures["without"]), 1),
        "ids_us": round(ids_us(), 2),
        "off_us": round(above("off", "wall_us"), 2),
        "on_cpu_us": round(above("on", "cpu_us"), 1),
        "on_wall_us": round(above("on", "wall_us"), 1),
        "dead_cpu_us": round(above("dead", "cpu_us"), 1),
        "turn_ratio_off": round(ratio("off"), 3),
        "turn_ratio_on": round(ratio("on"), 3),
        "turn_ratio_dead": round(ratio("dead"), 3),
        "turns": turns,
        "memory": server is None,
    }


async def measured(turns: int, rounds: int, url: str, memory: bool) -> dict[str, float]:
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
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
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
    print(f"a node of this party takes {figures['node_us']} us, of which {figures['ids_us']} us are its ids")
    print(f"nothing exported: {figures['off_us']:+} us a node, a turn takes {figures['turn_ratio_off']} times as long")
    print(
        f"to a collector:   {figures['on_cpu_us']:+} us of CPU a node, {figures['on_wall_us']:+} us on the clock, a "
        f"turn takes {figures['turn_ratio_on']} times as long"
    )
    print(f"a dead collector: {figures['dead_cpu_us']:+} us of CPU a node, a turn {figures['turn_ratio_dead']} times")


if __name__ == "__main__":
    main()
