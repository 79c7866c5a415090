"""Structured output of queued runs."""

import secrets

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import Agent, Answer, ModelAnswerBroken, Price, Prices, Request, Text, Usage, work
from convive.agents.models._scripted import ScriptedModel
from convive.bus import memory_bus

pytestmark = pytest.mark.anyio


class Native(ScriptedModel):
    structured_output = True


class Ticket(BaseModel):
    title: str


async def test_a_worker_tells_of_each_model_that_gave_no_answer() -> None:
    """G93: as every other way to run the agent does, and what a broken answer may have cost is not forgotten"""
    told: list[str] = []
    models = [
        ScriptedModel([ModelAnswerBroken("cut")], name="acme/a"),
        ScriptedModel(
            [Answer(parts=(Text(text="hi"),), stop_reason="end", usage=Usage(input_tokens=9))], name="acme/b"
        ),
    ]
    prices = Prices({"acme/*": Price(3, 15)})
    ada = Agent("ada", model=models, cost=prices, on={"model_failed": lambda event: told.append(event.model)})
    async with memory_bus() as bus, anyio.create_task_group() as tasks:
        run = await ada.queue("x").send(bus)
        tasks.start_soon(work, bus, {"ada": ada})
        with anyio.fail_after(20):
            result = await run.result()
        assert (told, result.text, result.cost) == (["acme/a"], "hi", None)
        tasks.cancel_scope.cancel()


async def test_a_worker_leaves_a_native_output_to_the_provider() -> None:
    """Rule 6 of the design: as every other way to run the agent does, with the same request."""
    model = Native(['{"title":"a"}'] * 2)
    ada = Agent("ada", model=model, output=Ticket)
    name = f"q-{secrets.token_hex(6)}"
    async with memory_bus() as bus, anyio.create_task_group() as tasks:
        run = await ada.queue("x", queue=name).send(bus)

        async def working() -> None:
            await work(bus, {"ada": ada}, queue=name)

        tasks.start_soon(working)
        with anyio.fail_after(10):
            assert (await run.result()).text == '{"title":"a"}'
        tasks.cancel_scope.cancel()
    await ada.prompt("x")
    requests: list[Request] = model.requests
    assert requests[0] == requests[1]
