"""A part of `bench/scale.py`: many records over many conversations, the way back to an old one, a long memory."""

import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import anyio
import nats
from nats.js.api import StorageType, StreamConfig

from convive.bus import (
    HOST,
    Bus,
    Chair,
    Draft,
    Granted,
    Opened,
    Remembered,
    RunContext,
    Said,
    SeatName,
    open_bus,
)
from sides import SEATS, TEXT, Figures, Site, deliveries, memory_mb, stream_of

ADA = SeatName("ada")
OLD = 20
"""Conversations of a hundred turns, written before all others."""
KEPT, TAIL = 10_000, 500


# Records: a store of many conversations, and the way back to an old one


def party_records(turns: int) -> list[tuple[SeatName, bytes, dict[str, str]]]:
    """The links of a conversation that went on for so many turns: author, body and headers."""
    run = RunContext.root()
    opened = Opened(run_id=run.run_id, topic="bench", chairs=tuple(Chair(seat=seat) for seat in SEATS))
    found = [(HOST, opened.body(), run.headers())]
    for turn in range(1, turns + 1):
        seat, own, link = SEATS[turn % 4], run.child(), 2 * turn - 1
        granted = Granted(link=link, turn=turn, seat=seat, run_id=own.run_id, deadline_s=2e9)
        said = Said(link=link + 1, turn=turn, run_id=own.run_id, text=TEXT)
        found += [(HOST, granted.body(), own.headers()), (seat, said.body(), own.headers())]
    return found


async def fill(bus: Bus, names: Sequence[str], turns: int, alternate: Callable[[], Awaitable[None]]) -> list[float]:
    """Conversations that go on at the same time, record by record. Returns records a second for each twentieth."""
    conversations = [await bus.conversation(name) for name in names]
    rates: list[float] = []
    every = party_records(turns)
    share = max(1, len(every) // 20)
    for start in range(0, len(every), share):
        links = every[start : start + share]
        began = time.perf_counter()
        for author, body, headers in links:
            drafts: dict[int, list[Draft]] = {}
            logs = {id(each.log): each.log for each in conversations}
            for each in conversations:
                drafts.setdefault(id(each.log), []).append(Draft(each.subjects.link(author), body, headers))
            async with anyio.create_task_group() as tasks:
                for log, own in drafts.items():
                    tasks.start_soon(logs[log].append_all, own)
        rates.append(len(links) * len(names) / (time.perf_counter() - began))
        await alternate()
    return rates


async def records(url: str, count: int, conversations: int) -> Figures:
    client = await nats.connect(url)
    js = client.jetstream()
    await js.add_stream(StreamConfig(name="BARE", subjects=["bare.>"], storage=StorageType.FILE))
    bare: list[float] = []
    own = party_records(2)[2]
    names = [f"c{number}" for number in range(conversations)]

    async def publish() -> None:
        """As many records as there are conversations, to subjects like ours."""
        began = time.perf_counter()
        for name in names[:5_000]:
            await js.publish_async(f"bare.{name}.bus.floor.s1", own[1], headers=own[2])
        await js.publish_async_completed()
        bare.append(len(names[:5_000]) / (time.perf_counter() - began))

    async with open_bus(url) as bus:
        old = [f"old-{number}" for number in range(OLD)]
        await fill(bus, old, 100, nothing)
        rates = await fill(bus, names, (count // conversations - 1) // 2, publish)
    for each in range(OLD):
        for _, body, headers in party_records(100):
            await js.publish_async(f"bare.old-{each}.bus.floor.s1", body, headers=headers)
    await js.publish_async_completed()
    await client.close()
    return {"per_s": statistics.median(rates), "bare_per_s": statistics.median(bare), "mb": memory_mb()}


async def nothing() -> None:
    """There is nobody to take turns with."""


async def opening(url: str) -> Figures:
    """Milliseconds to find and fold an old conversation of a hundred turns, and to read as much with nats-py."""
    client = await nats.connect(url)
    ours_ms, bare_ms = list[float](), list[float]()
    async with open_bus(url) as bus:
        for number in range(OLD):
            began = time.perf_counter()
            floor = await (await bus.existing(f"old-{number}")).floor()
            ours_ms.append((time.perf_counter() - began) * 1e3)
            assert (floor.said_turns, floor.damaged) == (100, 0)
            began = time.perf_counter()
            await deliveries(client, "BARE", f"bare.old-{number}.>", 201)
            bare_ms.append((time.perf_counter() - began) * 1e3)
    await client.close()
    return {"ours_ms": ours_ms, "bare_ms": bare_ms}


async def part_records(site: Site) -> AsyncGenerator[Figures]:
    count, conversations = (1_000_000, 10_000) if site.full else (200_000, 2_000)
    found = await site.child("records", count, conversations)
    opened = await site.child("opening")
    ours_ms = opened["ours_ms"]
    yield {
        "records": count,
        "conversations": conversations,
        "append_per_s": round(found["per_s"]),
        "publish_async_per_s": round(found["bare_per_s"]),
        "append_ratio": round(found["per_s"] / found["bare_per_s"], 2),
        "client_mb": round(found["mb"]),
        "server_mb": site.server_mb(),
        "open_old_ms": round(statistics.median(ours_ms), 1),
        "open_old_worst_ms": round(max(ours_ms), 1),
        "read_ms": round(statistics.median(opened["bare_ms"]), 1),
    }


# A memory of ten thousand records


async def memory(url: str) -> Figures:
    client = await nats.connect(url)
    ours_ms, whole_ms, bare_ms = list[float](), list[float](), list[float]()
    async with open_bus(url) as bus:
        conversation, run = await bus.conversation(f"memory-{time.time_ns()}"), RunContext.root()
        await conversation.open(run, "bench", [Chair(seat=ADA)])
        for start in range(0, KEPT + TAIL, 500):
            if start == KEPT:
                await conversation.memory(ADA)  # and keeps it
            numbers = range(start, start + 500)
            await conversation.remember(ADA, [Remembered(text=f"{number}: too much salt") for number in numbers], run)
        subject = conversation.subjects.memory(ADA)
        for _ in range(7):
            began = time.perf_counter()
            held = await conversation.memory(ADA)
            ours_ms.append((time.perf_counter() - began) * 1e3)
            assert len(held) == KEPT + TAIL
            began = time.perf_counter()
            await conversation.world(ADA)
            whole_ms.append((time.perf_counter() - began) * 1e3)
            began = time.perf_counter()
            await deliveries(client, stream_of(subject), subject, KEPT + TAIL)
            bare_ms.append((time.perf_counter() - began) * 1e3)
    await client.close()
    return {"ours_ms": ours_ms, "whole_ms": whole_ms, "bare_ms": bare_ms}


async def part_memory(site: Site) -> AsyncGenerator[Figures]:
    found = await site.child("memory")
    yield {
        "memories": KEPT + TAIL,
        "kept_ms": round(statistics.median(found["ours_ms"]), 1),
        "kept_worst_ms": round(max(found["ours_ms"]), 1),
        "from_the_beginning_ms": round(statistics.median(found["whole_ms"]), 1),
        "bare_read_ms": round(statistics.median(found["bare_ms"]), 1),
    }
