"""Live text that is none of ours, beside a queued run."""

import anyio
import pytest

from convive.agents import follow_channel, queued
from convive.agents.queues._queue import place_of
from convive.bus import Bus, Draft, RunContext
from tests.agents.queues import echo, updates_of, worker

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("body", [b"no json", b"[1]", b""])
async def test_it_is_passed_over_by_those_who_follow_the_run_or_its_channel(bus: Bus, name: str, body: bytes) -> None:
    run, place = RunContext.root(), await place_of(bus, name)
    await place.log.append(Draft(place.live_text(run), body, run.headers()))
    sent = await queued("echo", "hello", queue=name, run=run, channel=name).send(bus)
    async with worker(bus, echo(), queue=name):
        assert [update.name for update in await updates_of(sent)][-1] == "done"
        with anyio.fail_after(20):
            async with follow_channel(bus, name) as updates:
                async for update in updates:
                    if update.name == "done":
                        break
