"""Many listeners, many conversations, many records, a long memory: what grows with them, and what does not.

Run `uv run python bench/scale.py` (about two minutes; `--full`: a million records over ten thousand conversations;
`--part NAME`: only that; `--json`: one object a line). Each figure stands beside bare nats-py that does the same on the
same server, in turns with it; both sides are processes of their own. Ratios above 1 mean that ours is faster, or takes
more memory; they are medians over rounds. The server syncs now and then, not before each acknowledgement.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import DeliverPolicy, StorageType, StreamConfig

from convive.agents import Plan, Say, Turn, host_seats, supervise
from convive.bus import HOST, Chair, Conversation, Draft, Noted, RunContext, embedded_server, open_bus
from scale_store import memory, opening, part_memory, part_records, records
from sides import SEATS, TEXT, Figures, Site, median, memory_mb, ordered, ratio, stream_of

PROCESSES = 4


# Listeners: each is a task that counts what it hears


class Hall:
    """Listeners of one conversation, each of which reports when it has heard `until` records in all."""

    def __init__(self, listeners: int) -> None:
        self.listeners = listeners
        self.until = 0
        self._missing = 0
        self._all = asyncio.Event()

    def expect(self, records: int) -> asyncio.Event:
        """Set when every listener has heard so many more."""
        self.until += records
        self._missing, self._all = self.listeners, asyncio.Event()
        return self._all

    def report(self, listeners: int) -> None:
        self._missing -= listeners
        if self._missing == 0:
            self._all.set()


@asynccontextmanager
async def our_hall(url: str, name: str, listeners: int) -> AsyncGenerator[Hall]:
    """Each is a task that follows the conversation."""
    hall = Hall(listeners)

    async def listen(conversation: Conversation, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        heard = 0
        async with conversation.follow() as tail:
            task_status.started()
            async for _ in tail:
                heard += 1
                if heard == hall.until:
                    hall.report(1)

    async with open_bus(url) as bus, anyio.create_task_group() as tasks:
        conversation = await bus.conversation(name)
        async with anyio.create_task_group() as coming:
            for _ in range(listeners):
                coming.start_soon(tasks.start, listen, conversation)
        yield hall
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def bare_hall(url: str, subject: str, listeners: int, *, consumers: int) -> AsyncGenerator[Hall]:
    """Each is a list, to which one of the `consumers` of nats-py appends what it receives."""
    hall, client = Hall(listeners), await nats.connect(url)

    def part(lists: list[list[Msg]]) -> Callable[[Msg], Awaitable[None]]:
        async def receive(message: Msg) -> None:
            for each in lists:
                each.append(message)
            if len(lists[0]) == hall.until:
                hall.report(len(lists))

        return receive

    for _ in range(consumers):
        lists = [list[Msg]() for _ in range(listeners // consumers)]
        await ordered(client, stream_of(subject), subject, part(lists), DeliverPolicy.ALL)
    yield hall
    await client.close()


async def listeners(url: str, side: str, count: int, records: int) -> Figures:
    """How many deliveries a second, and how long until the last listener has one record."""
    name = f"hall-{time.time_ns()}"
    async with open_bus(url) as bus:
        spoken = await bus.conversation(name)
        bare = {"list": 1, "each": count}
        hall = bare_hall(url, spoken.subjects.bus, count, consumers=bare[side]) if side in bare else None
        async with hall or our_hall(url, name, count) as heard:
            await speak(spoken, 20, heard)  # both sides warm
            rate = records * count / (await speak(spoken, records, heard))
            late_ms = [await speak(spoken, 1, heard) * 1e3 for _ in range(50)]
    return {"per_s": rate, "late_ms": statistics.median(late_ms)}


async def speak(conversation: Conversation, records: int, hall: Hall) -> float:
    """Seconds until everybody has heard so many new records."""
    drafts = notes(conversation, records)
    done = hall.expect(records)
    began = time.perf_counter()
    await conversation.log.append_all(drafts)
    await done.wait()
    return time.perf_counter() - began


def notes(conversation: Conversation, records: int) -> list[Draft]:
    subject, body = conversation.subjects.aside(HOST), Noted(text=TEXT).body()
    return [Draft(subject, body, RunContext.root().headers()) for _ in range(records)]


async def crowd(url: str, name: str, count: int, records: int) -> Figures:
    """One of several processes: says that its listeners are there, and when the last one has heard all."""
    async with our_hall(url, name, count) as hall:
        done = hall.expect(records)
        print("ready", flush=True)
        await done.wait()
        return {"at": time.time()}


async def crowds(site: Site, count: int, records: int) -> float:
    """Deliveries a second to so many listeners in `PROCESSES` processes."""
    name = f"crowd-{time.time_ns()}"
    command = site.command("crowd", name, count // PROCESSES, records)
    async with open_bus(site.url) as bus:
        pipes = [await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(PROCESSES)]
        for each in pipes:
            assert each.stdout is not None
            await each.stdout.readline()
        began = time.time()
        conversation = await bus.conversation(name)
        await conversation.log.append_all(notes(conversation, records))
        ends = [float(json.loads((await each.communicate())[0])["at"]) for each in pipes]
    return count * records / (max(ends) - began)


async def part_listeners(site: Site) -> AsyncGenerator[Figures]:
    for count in (1, 10, 100, 1_000):
        records = max(500, 20_000 // count) if site.full else max(300, 5_000 // count)
        # A consumer for each of a thousand takes so long that fewer records must do.
        sizes = {"ours": records, "list": records, "each": max(20, 20_000 // count // 10)}
        found = await site.in_turns("listeners", {side: [count, size] for side, size in sizes.items()})
        yield {
            "listeners": count,
            **{f"{side}_per_s": round(median(found[side], "per_s")) for side in sizes},
            **{f"{side}_late_ms": round(median(found[side], "late_ms"), 2) for side in sizes},
            "ratio_to_a_list": ratio(found["ours"], found["list"], "per_s"),
            "ratio_to_a_consumer_each": ratio(found["ours"], found["each"], "per_s"),
        }
    rates = [await crowds(site, 1_000, 500) for _ in range(site.rounds)]
    yield {"listeners": 1_000, "processes": PROCESSES, "ours_per_s": round(statistics.median(rates))}


# Parties: a supervisor and four seats each, all in one process


class AtOnce:
    """A participant that has its answer ready."""

    async def take_turn(self, turn: Turn) -> Say:
        return Say(TEXT)


async def parties(url: str, side: str, count: int, turns: int) -> Figures:
    name = f"p{time.time_ns()}"
    before = memory_mb()
    began = time.perf_counter(), time.process_time()
    await (our_parties if side == "ours" else bare_parties)(url, name, count, turns)
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    grown_kb = (memory_mb() - before) * 1024 / count
    return {"per_s": count * turns / wall, "cpu_s": cpu, "mb": memory_mb(), "kb_each": grown_kb}


async def our_parties(url: str, name: str, count: int, turns: int) -> None:
    """Raises what goes wrong in any of them."""
    async with open_bus(url) as bus, anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(our_party, await bus.conversation(f"{name}-{number}"), turns)


async def our_party(conversation: Conversation, turns: int) -> None:
    run = RunContext.root()
    await conversation.open(run, "bench", [Chair(seat=seat) for seat in SEATS])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, conversation, dict.fromkeys(SEATS, AtOnce()))
        tasks.start_soon(supervise, conversation, Plan(turns, opens=False, toasts=False), run)
    floor = await conversation.floor()
    if floor.said_turns != turns or floor.damaged:
        raise RuntimeError(f"{conversation.id}: {floor.said_turns} of {turns} turns, {floor.damaged} damaged")


async def bare_parties(url: str, name: str, count: int, turns: int) -> None:
    """The same appends and deliveries, with nothing around them."""
    client = await nats.connect(url)
    await client.jetstream().add_stream(StreamConfig(name=name, subjects=[f"{name}.>"], storage=StorageType.FILE))
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(bare_party, client, f"{name}.{number}", turns)
    await client.close()


async def bare_party(client: Client, subject: str, turns: int) -> None:
    js, arrived = client.jetstream(), asyncio.Queue[bytes]()

    async def receive(message: Msg) -> None:
        arrived.put_nowait(message.data)

    await ordered(client, subject.split(".")[0], f"{subject}.>", receive, DeliverPolicy.ALL)
    for turn in range(turns):
        grant = json.dumps({"type": "granted", "turn": turn, "seat": f"s{turn % 4}", "run_id": "0" * 32})
        said = json.dumps({"type": "said", "turn": turn, "run_id": "0" * 32, "text": TEXT})
        for author, body in (("host", grant), (f"s{turn % 4}", said)):
            await js.publish(
                f"{subject}.{author}", body.encode(), headers={"Nats-Msg-Id": f"{subject}.{author}.{turn}"}
            )
            await arrived.get()


async def part_parties(site: Site) -> AsyncGenerator[Figures]:
    for count in (1, 10, 100, 1_000):
        turns = max(8, (8_000 if site.full else 1_000) // count)
        found = await site.in_turns("parties", {side: [count, turns] for side in ("ours", "bare")})
        yield {
            "conversations": count,
            "turns_each": turns,
            **{f"{side}_turns_per_s": round(median(found[side], "per_s")) for side in found},
            "ratio": ratio(found["ours"], found["bare"], "per_s"),
            "cpu_ratio": ratio(found["ours"], found["bare"], "cpu_s"),
            **{f"{side}_mb": round(median(found[side], "mb")) for side in found},
            "ours_kb_each": round(median(found["ours"], "kb_each")),
            "server_mb": site.server_mb(),
        }


# All of it


PARTS: dict[str, Callable[[Site], AsyncGenerator[Figures]]] = {
    "listeners": part_listeners,
    "parties": part_parties,
    "records": part_records,
    "memory": part_memory,
}
CHILDREN: dict[str, Callable[..., Awaitable[Figures]]] = {
    "listeners": listeners,
    "crowd": crowd,
    "parties": parties,
    "records": records,
    "opening": opening,
    "memory": memory,
}


async def one_side(url: str, what: str, *args: object) -> Figures:
    return await CHILDREN[what](url, *args)


async def measure(part: str, rounds: int, *, full: bool, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_server(Path(folder), fast=True) as server:
            assert server.pid is not None
            async for figures in PARTS[part](Site(server.url, server.pid, rounds, full)):
                told = [f"{name.replace('_', ' ')} {value:,}" for name, value in figures.items()]
                print(json.dumps({"part": part, **figures}) if as_json else f"{part}: {', '.join(told)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be given again")
    parser.add_argument("--full", action="store_true", help="a million records, and more turns and deliveries")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(asyncio.run(one_side(given.url, *json.loads(given.child)))))
        return
    for part in given.part or PARTS:
        asyncio.run(measure(part, given.rounds, full=given.full, as_json=given.json))


if __name__ == "__main__":
    main()
