"""What hosts of entities do goes to a collector while they do it: the same spans that are sent from the log."""

import signal
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from convive.agents import Agent, export_trace
from convive.agents.entities import Context, Entities, Wake, find, follow, host, send, spawn
from convive.agents.testing import OtlpReceiver, ScriptedModel, otlp_receiver
from convive.bus import Bus, memory_bus, open_bus
from convive.scenarios.cli._exporting import exporting_wakes
from tests.scenarios.test_entities import READY, SHOP

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[1, 16])
async def bus(request: pytest.FixtureRequest) -> AsyncGenerator[Bus]:
    async with memory_bus(partitions=request.param) as made:
        yield made


def chain() -> Entities:
    """Each asks an agent and spawns the next one, up to the third."""
    entities = Entities()
    ada = Agent("ada", model=ScriptedModel(lambda request: "on"))

    @entities.define("link")
    async def link(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            await ada.prompt(context.name)
            number = int(context.name.partition("/")[2])
            if number < 3:
                context.spawn(f"link/{number + 1}")
            else:
                context.finish()
        elif wake.kind == "finished":
            context.finish()

    return entities


async def over(bus: Bus, name: str) -> None:
    with anyio.fail_after(20):
        async with follow(bus, name) as states:
            async for state in states:
                if state.is_over and not state.waiting:
                    return


def told(receiver: OtlpReceiver) -> set[Any]:
    return {(span.trace_id, span.span_id, span.parent_id, span.name) for span in receiver.spans}


async def test_what_arrives_live_is_what_is_sent_afterwards_over_all_partitions(
    bus: Bus, receiver: OtlpReceiver
) -> None:
    async with exporting_wakes(receiver.environ) as begun, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: host(bus, chain(), begun=begun))
        await spawn(bus, "link/1")
        await over(bus, "link/1")
        tasks.cancel_scope.cancel()
    live = told(receiver)
    assert receiver.points == []  # metrics of several exporters in one process would stand in for one another
    assert len([name for *_, name in live if name.endswith("ada")]) == 3
    (root,) = {trace for trace, *_ in live}
    with otlp_receiver() as other:
        await export_trace(bus, root, other.environ)
        assert live <= told(other)
        assert len(told(other)) - len(live) <= 3  # wakes whose end the host had not written yet when it was stopped


async def test_a_worker_exports_the_wakes_that_it_takes_up(person: "Person", receiver: OtlpReceiver) -> None:
    person.writes("my_shop.py", SHOP)
    async with person.starts("worker", "my_shop", env=receiver.environ) as worker:
        await worker.err.until(READY)
        async with open_bus(data=person.folder / ".convive") as bus:
            await spawn(bus, "shop/main")
            await send(bus, "shop/main", "bread")
            await receiver.until(lambda there: any(span.name == "invoke_agent scribe" for span in there.spans))
            assert {state.name for state in await find(bus)} == {"shop/main", "baker/main-bread"}
        worker.send(signal.SIGINT)
        assert (await worker.ends()).code == 130
    names = [span.name for span in receiver.spans]
    assert names.count("invoke_agent scribe") == 1
    assert [name for name in names if "shop/main" in name]
    assert len({span.span_id for span in receiver.spans}) == len(names)
    assert {point.name for point in receiver.points} == {"convive.append.duration"}


async def test_without_a_collector_nothing_is_exported_and_nothing_is_slower_for_it(bus: Bus) -> None:
    async with exporting_wakes({}) as begun, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: host(bus, chain(), begun=begun))
        await spawn(bus, "link/1")
        await over(bus, "link/1")
        tasks.cancel_scope.cancel()
