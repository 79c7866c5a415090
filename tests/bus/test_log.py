"""The conformance suite on both logs, and what only one of them promises."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from convive.bus import Draft, Guard, Log, MemoryLog, matches, mint_run_id, open_bus
from convive.bus.testing import LOG_CHECKS, Check, read_all, take

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def jetstream(url: str) -> AsyncGenerator[tuple[Log, str]]:
    async with open_bus(url) as bus:
        conversation = await bus.conversation(f"c-{mint_run_id()}")
        yield conversation.log, conversation.subjects.base


@pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)
async def test_the_log_in_memory_keeps_the_contract(check: Check) -> None:
    await check(MemoryLog(), "cv.00.table")


@pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)
async def test_the_log_on_jetstream_keeps_the_contract(check: Check, url: str) -> None:
    async with jetstream(url) as (log, base):
        await check(log, base)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*", "a", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b.>", "a.b.c", True),
        ("a.b.c", "a.b", False),
    ],
)
def test_patterns_match_as_subjects_do_in_nats(pattern: str, subject: str, expected: Literal[True, False]) -> None:
    assert matches(pattern, subject) is expected


async def test_a_guard_with_a_wildcard_looks_in_memory_only_at_what_is_new() -> None:
    """A long party appends every link behind such a guard, among thousands of subjects of other records."""
    log = MemoryLog()
    await log.append_all([Draft(f"run.{number}", b"") for number in range(500)])
    last = await log.append(Draft("floor.host", b"", guard=Guard("floor.*", 0)))
    before = matches.cache_info()
    for number in range(100):
        await log.append(Draft(f"run.{number}", b""))
        last = await log.append(Draft("floor.host", b"", guard=Guard("floor.*", last)))
    after = matches.cache_info()
    assert after.hits + after.misses - before.hits - before.misses <= 1_000


async def test_a_log_in_memory_drops_a_record_when_its_time_is_up() -> None:
    now_s = [1_000.0]
    log = MemoryLog(lambda: now_s[0])
    async with log.follow(">") as tail:
        for subject, ttl_s in (("a", 5), ("a", None), ("b", 3), ("b", 5)):
            await log.append(Draft(subject, b"", ttl_s=ttl_s))
        assert [record.seq for record in await read_all(log, ">")] == [1, 2, 3, 4]
        now_s[0] += 3
        assert [record.seq for record in await read_all(log, ">", since_s=1_000)] == [1, 2, 4]
        assert await log.last("*") == await log.last("b") == (await read_all(log, "b"))[0]
        now_s[0] += 2
        await log.append(Draft("c", b"", guard=Guard("*", 2)))
        assert await log.subjects(">") == {"a": 1, "c": 1}
        assert [record.seq for record in await take(tail, 2)] == [2, 5]
        assert tail.caught_up
