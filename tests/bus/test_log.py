"""The conformance suite on both logs, and what only one of them promises."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from convive.bus import Log, MemoryLog, matches, mint_run_id, open_bus
from convive.bus.testing import LOG_CHECKS, Check, server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def url() -> AsyncGenerator[str]:
    async with server() as own:
        yield own.url


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
