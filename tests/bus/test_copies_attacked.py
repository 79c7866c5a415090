"""Copies that are interrupted at a bad moment, and archives that somebody has written to do harm."""

import base64
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import nats
import pytest

from convive.bus import (
    BadArchive,
    BeyondTail,
    Bus,
    Fenced,
    Interjected,
    MaybeAppended,
    MemoryLog,
    RunContext,
    fork,
    happened_s,
    import_archive,
    memory_bus,
    open_archive,
    open_bus,
)
from convive.bus.copies._copying import Copy
from convive.bus.log._log import TTL
from convive.bus.testing import read_all
from tests.bus.test_copies import ADA, BOB, Breaking, bus_on, exported, held

pytestmark = pytest.mark.anyio


def written(to: Path, *records: dict[str, Any], name: str = "archive") -> Path:
    """An archive with these records, with the digest that belongs to it: anybody can write one."""
    lines: list[dict[str, Any]] = [{"convive": "conversation", "version": 1, "conversation": name}]
    lines += [{"seq": seq, "time_s": 1.0, "headers": {}, **record} for seq, record in enumerate(records, 1)]
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    end = json.dumps({"records": len(records), "sha256": hashlib.sha256(text).hexdigest()}, separators=(",", ":"))
    to.write_bytes(text + end.encode() + b"\n")
    return to


async def test_a_fork_of_what_goes_on_is_completed_although_it_went_on() -> None:
    """Without a place the cut is where the origin stood at first, not where it stands when the fork is made again."""
    log = Breaking(crowded=True)
    bus = bus_on(log)
    origin = await held(bus, "origin", close=False)
    log.takes = 1
    with pytest.raises(MaybeAppended):
        await fork(bus, origin, "copy")
    log.takes = 1_000_000
    before = await origin.world()
    await origin.aside(BOB, Interjected(text="meanwhile"), RunContext.root())
    copy = await fork(bus, origin, "copy")
    after = await copy.world()
    assert (after.heard, after.floor.links, after.floor.damaged) == (before.heard, before.floor.links, 0)


async def test_a_fork_at_a_place_that_is_not_there_yet_is_refused() -> None:
    async with memory_bus(partitions=1) as bus:
        origin = await held(bus, "origin")
        end = await origin.log.end()
        with pytest.raises(BeyondTail, match=f"origin: position {end + 1} is beyond"):
            await fork(bus, origin, "copy", end + 1)
        assert list(await bus.conversations()) == ["origin"]


async def test_a_fork_that_was_interrupted_when_all_was_done_is_complete() -> None:
    """The grant that was open is revoked last of all; making the fork again finds nothing left to do."""
    async with memory_bus() as bus:
        origin = await held(bus, "origin", close=False)
        await origin.grant(await origin.floor(), ADA, RunContext.root(), 2e9)
        copy = await fork(bus, origin, "copy")
        before = await copy.floor()
        await fork(bus, origin, "copy")
        assert await copy.floor() == before
        assert before.open_grant is None


async def test_what_was_kept_of_an_unfinished_copy_is_in_nobodys_way(tmp_path: Path) -> None:
    """Somebody looks at a memory while the import is interrupted, and a fold is kept beside it."""
    async with memory_bus() as bus:
        origin = await held(bus, "archive", turns=300)
        archive = open_archive(await exported(origin, tmp_path / "a"))
    log = Breaking()
    log.takes = 0
    with pytest.raises(MaybeAppended):
        await import_archive(bus_on(log), archive)
    log.takes = 1_000_000
    place = await bus_on(log).conversation("archive")
    await place.memory(ADA)
    assert [subject for subject in await log.subjects(">") if ".fold." in subject]
    copy = await import_archive(bus_on(log), archive)
    assert len(await copy.memory(ADA)) == 151


@pytest.mark.parametrize(
    "on", ["fold.memory-ada.0", "fold.floor.0", "stream.notes.fold.count.0", f"live.{'0' * 32}.{'1' * 32}"]
)
async def test_an_archive_brings_nothing_that_follows_from_the_rest(on: str, tmp_path: Path) -> None:
    """A kept fold is believed by whoever folds: one from a file could say anything."""
    path = written(tmp_path / "a", {"on": "bus.aside.ada", "text": "x"}, {"on": on, "text": "forged"})
    with pytest.raises(BadArchive, match=r"line 3: .*follows from the other records"):
        open_archive(path)


async def test_of_an_archive_with_a_record_that_the_log_never_takes_nothing_is_imported(tmp_path: Path) -> None:
    small = {"on": "bus.aside.ada", "text": "x"}
    large = {"on": "stream.notes", "base64": base64.b64encode(b"\0" * 2_000_000).decode()}
    path = written(tmp_path / "a", small, large)
    async with memory_bus() as bus:
        with pytest.raises(BadArchive, match=r"line 3: .*the body has 2000000 bytes.*Nothing was imported"):
            await import_archive(bus, open_archive(path))
        place = await bus.conversation("archive")
        assert await place.log.subjects(">") == {}


async def test_of_an_archive_with_a_subject_that_gets_too_long_nothing_is_imported(tmp_path: Path) -> None:
    path = written(tmp_path / "a", {"on": "bus.aside.ada", "text": "x"}, {"on": "x" * 1_020, "text": "x"})
    async with memory_bus() as bus:
        with pytest.raises(BadArchive, match=r"line 3: .*Nothing was imported"):
            await import_archive(bus, open_archive(path))
        place = await bus.conversation("archive")
        assert await place.log.subjects(">") == {}


@pytest.mark.parametrize(
    "record",
    [
        {"time_s": float("inf")},
        {"time_s": float("nan")},
        {"time_s": -1.0},
        {"time_s": 1e300},
        {"seq": 10**30},
        {"headers": {"Cv-Origin": "1 inf"}},
        {"headers": {"Cv-Origin": "1 nan"}},
        {"headers": {"Cv-Origin": "1 1e300"}},
    ],
    ids=str,
)
async def test_a_time_that_is_none_is_refused_or_not_believed(record: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "a", {"on": "bus.aside.ada", "text": "x", **record})
    if "headers" not in record:
        with pytest.raises(BadArchive, match="line 2"):
            open_archive(path)
        return
    archive = open_archive(path)
    async with memory_bus() as bus:
        copy = await import_archive(bus, archive)
        async with copy.read() as records:
            assert [happened_s(one) async for one in records] == [1.0]


async def test_a_header_of_somebody_elses_is_left_as_it_is(tmp_path: Path) -> None:
    """Only a snapshot's and a trim's own records name positions."""
    async with memory_bus() as bus:
        origin = await held(bus, "archive")
        await (await bus.stream("archive/notes")).append("x", {"Cv-Next": "7", "Cv-Position": "3"})
        async with memory_bus(partitions=1) as elsewhere:
            await held(elsewhere, "before")
            copy = await import_archive(elsewhere, open_archive(await exported(origin, tmp_path / "a")))
        last = await copy.log.last(copy.subjects.stream("notes"))
    assert last is not None
    assert (last.headers["Cv-Next"], last.headers["Cv-Position"]) == ("7", "3")


async def test_a_fork_of_a_fork_of_an_import_tells_what_was_told(tmp_path: Path) -> None:
    async with memory_bus() as bus, memory_bus() as there:
        origin = await held(bus, "archive")
        copy = await import_archive(there, open_archive(await exported(origin, tmp_path / "a")))
        first = await fork(there, copy, "first")
        second = await fork(there, first, "second")
        again = await import_archive(bus, open_archive(await exported(second, tmp_path / "b")), "third")
        copies = (copy, first, second, again)
        worlds = [await one.world(ADA, BOB) for one in (origin, *copies)]
        assert len({tuple(world.heard) for world in worlds}) == 1
        assert len({tuple(memory.text for memory in world.private[ADA].memory.held) for world in worlds}) == 1
        assert [world.floor.damaged for world in worlds] == [0] * 5
        runs = [world.floor.opened.run_id for world in worlds if world.floor.opened]
        assert (runs[0] == runs[1], len(set(runs))) == (True, 4)
        async with origin.read() as first_told, again.read() as last_told:
            times = [one.time_s async for one in first_told]
            assert [happened_s(one) async for one in last_told] == times[:-1]  # without the end


async def test_what_goes_with_a_stream_called_fold_is_copied(tmp_path: Path) -> None:
    async with memory_bus() as bus, memory_bus() as there:
        origin = await held(bus, "archive")
        stream = await bus.stream("archive/fold")
        position = await stream.append("x")
        await stream.fence("mine")
        await stream.snapshot({"n": 1}, covers=position)
        await import_archive(there, open_archive(await exported(origin, tmp_path / "a")))
        copy = await there.stream("archive/fold")
        assert await copy.latest_snapshot() is not None
        with pytest.raises(Fenced):
            await copy.append("y", token="another")  # noqa: S106


async def test_a_record_that_expires_does_so_in_each_copy_when_it_would_have(tmp_path: Path) -> None:
    """Whoever gave a record a time to live meant it to be gone then, also where somebody has made a copy."""
    now_s = [1_000_000.0]

    def clock() -> float:
        return now_s[0]

    bus, elsewhere, late = (bus_on(MemoryLog(clock)) for _ in range(3))
    origin, notes = await held(bus, "origin"), await bus.stream("origin/notes")
    await notes.append("brief", ttl_s=100)
    await notes.append("lasting")
    archive = open_archive(await exported(origin, tmp_path / "a"))

    async def there(place: Bus, name: str) -> list[object]:
        async with (await place.stream(name)).read() as records:
            return [record.json() async for record in records]

    now_s[0] += 39.5
    again = await fork(elsewhere, await import_archive(elsewhere, archive, clock=clock), "again", clock=clock)
    (brief,) = [one for one in await read_all(again.log, again.subjects.stream("notes")) if TTL in one.headers]
    assert brief.headers[TTL] == "61"
    assert await there(elsewhere, "again/notes") == await there(elsewhere, "origin/notes") == ["brief", "lasting"]
    now_s[0] += 61
    assert await there(elsewhere, "again/notes") == await there(elsewhere, "origin/notes") == ["lasting"]
    await import_archive(late, archive, clock=clock)
    await import_archive(elsewhere, archive, clock=clock)
    assert await there(late, "origin/notes") == await there(elsewhere, "origin/notes") == ["lasting"]


@pytest.mark.parametrize(
    ("ttl", "left_s"), [("1h", 3600), ("1h30m", 5400), ("90.5s", 90), ("never", None), ("1000000000000", None)]
)
async def test_a_copy_expires_however_the_time_to_live_was_written(nats_url: str, ttl: str, left_s: int | None) -> None:
    """Another client may give it as Go writes spans, or so long that it never comes."""
    name = f"ttl-{ttl.replace('.', '-')}"
    async with open_bus(nats_url) as bus, await nats.connect(nats_url) as client:
        origin = await held(bus, name, close=False)
        subject = origin.subjects.stream("notes")
        await client.jetstream().publish(subject, b"brief", headers={TTL: ttl})
        copy = await fork(bus, origin, f"{name}-copy")
        (brief,) = await read_all(copy.log, copy.subjects.stream("notes"))
        assert brief.headers.get(TTL) in ([None] if left_s is None else [str(left_s), str(left_s - 1)])


async def test_who_completes_a_copy_does_not_hold_all_of_it() -> None:
    async with memory_bus() as bus:
        origin = await held(bus, "origin")
        await (await bus.stream("origin/notes")).append_all(["x" * 100_000] * 5)
        copy = await fork(bus, origin, "copy")
        records = await read_all(copy.log, f"{copy.subjects.base}.>")
        before = [sys.getrefcount(one) for one in records]
        begun = await Copy.begin(copy, time.time)
        assert begun.begun_at(origin.id) is not None
        after = [sys.getrefcount(one) for one in records]
        assert sum(after) - sum(before) <= 2, "but for the opening"


async def test_a_copy_on_a_server_expires_too(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        origin = await held(bus, "expiring", close=False)
        await (await bus.stream("expiring/notes")).append("brief", ttl_s=600)
        copy = await fork(bus, origin, "expiring-copy")
        (brief,) = await read_all(copy.log, copy.subjects.stream("notes"))
        assert 500 < int(brief.headers[TTL]) <= 600
