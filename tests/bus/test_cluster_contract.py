"""The conformance suites of the log and of the work queue on three nodes, through each of them in turn."""

import pytest

from convive.bus import Bus, mint_run_id
from convive.bus.testing import CHECK_LEASE_S, LOG_CHECKS, QUEUE_CHECKS, Check, QueueCheck

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)
async def test_the_log_on_three_nodes_keeps_the_contract(check: Check, buses: list[Bus]) -> None:
    conversation = await buses[LOG_CHECKS.index(check) % 3].conversation(f"c-{mint_run_id()}")
    await check(conversation.log, conversation.subjects.base)


@pytest.mark.parametrize("check", QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_a_queue_on_three_nodes_keeps_the_contract(check: QueueCheck, buses: list[Bus]) -> None:
    bus = buses[QUEUE_CHECKS.index(check) % 3]
    await check(await bus.work_queue(f"q-{str(mint_run_id())[-16:]}", lease_s=CHECK_LEASE_S))
