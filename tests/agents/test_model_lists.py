"""`model=[...]`: several models, asked in that order, in every shape of an agent."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import (
    Agent,
    Answer,
    FailoverModel,
    Model,
    ModelOverloaded,
    Models,
    Request,
    Text,
    UnknownModel,
    agent,
    default_models,
    prompt,
)
from convive.agents.models._anthropic import AnthropicModel
from convive.agents.queues._worker import _Patient  # pyright: ignore[reportPrivateUsage]
from convive.agents.runs._events import ModelFailed
from convive.agents.runs._result import AgentResult
from convive.agents.testing import Interrupted, MessagesServer, ScriptedModel, Streamed, fake_models

pytestmark = pytest.mark.anyio

NAMES = ["anthropic/claude-sonnet-4-6", "local/small"]


class AsAttribute(Agent):
    model = NAMES


class AsMethod(Agent):
    def model(self) -> tuple[str, ...]:
        return tuple(NAMES)


class AsModels(Agent):
    def model(self) -> list[Model]:
        return [default_models().resolve(name) for name in NAMES]


SHAPES: dict[str, Callable[[], Awaitable[AgentResult[Any]]]] = {
    "instance": lambda: Agent("ada", model=NAMES).prompt("x"),
    "tuple": lambda: Agent("ada", model=tuple(NAMES)).prompt("x"),
    "attribute": lambda: AsAttribute().prompt("x"),
    "method": lambda: AsMethod().prompt("x"),
    "objects": lambda: AsModels().prompt("x"),
    "call": lambda: Agent("ada", model="scripted/party").prompt("x", model=NAMES),
    "inline": lambda: agent("Be brief.", model=NAMES).prompt("x"),
    "module": lambda: prompt("x", model=NAMES),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_list_of_models_is_asked_in_its_order_in_every_shape(shape: str) -> None:
    """G93, G10: instance, class attribute, method, call, `agent(...)`, `prompt(...)`"""
    with fake_models([ModelOverloaded("busy"), "Hello."]) as fake:
        result = await SHAPES[shape]()
    assert result.text == "Hello."
    assert [asked.model for asked in fake.asked] == NAMES
    assert [trip.answer and trip.answer.model for trip in result.report.trips] == ["local/small"]


async def test_a_list_may_mix_names_and_objects_and_names_come_from_the_registry_given() -> None:
    """G4, G93"""
    mine = Models({"mine": lambda name: ScriptedModel([ModelOverloaded("busy")], name=f"mine/{name}")})
    ada = Agent("ada", model=["mine/a", ScriptedModel(["Hello."], name="local/b")], models=mine)
    assert ada.settings().model.name == "mine/a|local/b"
    assert (await ada.prompt("x")).text == "Hello."
    await mine.aclose()


async def test_a_model_that_is_named_twice_is_asked_once() -> None:
    """G93: de-duplicated; what is left alone is that model itself"""
    with fake_models([ModelOverloaded("busy"), "Hello."]) as fake:
        await Agent("ada", model=[*NAMES, NAMES[0]]).prompt("x")
        assert [asked.model for asked in fake.asked] == NAMES
        model = ScriptedModel([])
        assert Agent("ada", model=[model, model]).settings().model is model
        assert not isinstance(Agent("ada", model=[NAMES[0]] * 2).settings().model, FailoverModel)


def test_a_list_that_cannot_be_is_refused_when_the_agent_is_made() -> None:
    """G5, G93: also where only the last name is wrong, before anything is asked"""
    with pytest.raises(UnknownModel, match="does not say which provider"):
        Agent("ada", model=["scripted/party", "claude-sonnet-4-6"])
    with pytest.raises(UnknownModel, match="names no model"):
        Agent("ada", model=[])


async def test_a_name_that_cannot_be_looked_up_is_an_error_and_no_reason_to_ask_the_next() -> None:
    """G5, G93: a list that was meant differently had better not work by chance"""
    fallback = ScriptedModel(["never"])
    with pytest.raises(UnknownModel, match="cannot read"):
        await Agent("ada", model=["local/no/such/file.gguf", fallback]).execute("x")
    assert fallback.requests == []


def test_an_anonymous_agent_is_named_after_all_of_its_models() -> None:
    """W9, G93"""
    both, one = Agent(model=NAMES), Agent(model=NAMES[:1])
    assert both.name == Agent(model=tuple(NAMES)).name
    assert both.name.startswith("anon-anthropic-claude-sonnet-4-6")
    assert both.name != one.name


@pytest.mark.parametrize("deltas", [0, 1])
async def test_calling_a_run_off_never_asks_the_next_model(deltas: int) -> None:
    """G93: neither before the first delta nor behind it"""
    reached, shown = anyio.Event(), list[str]()

    async def pause() -> None:
        if len(shown) == deltas:
            reached.set()
            await anyio.sleep_forever()

    first, second = ScriptedModel(["One two."], name="a/a", pause=pause), ScriptedModel(["x"], name="b/b")
    ada = Agent("ada", model=[first, second], on={"text_delta": lambda event: shown.append(event.text)})
    async with ada.stream("x") as run:
        await reached.wait()
        run.cancel("enough")
    assert (await run.result()).status == "cancelled"
    assert (len(first.requests), second.requests) == (1, [])


async def test_calling_a_run_off_while_a_provider_is_asked_aborts_that_request_and_asks_nobody_else() -> None:
    """G93, with a request on the wire"""
    second = ScriptedModel(["x"], name="b/b")
    async with MessagesServer([Interrupted(Streamed("never"), 0, "hang")]) as server:
        first = AnthropicModel("anthropic/claude-test", base_url=server.url, api_key="test")
        async with Agent("ada", model=[first, second]).stream("x") as run:
            await server.asked(1)
            run.cancel("enough")
        assert (await run.result()).status == "cancelled"
        with anyio.fail_after(5):
            await server.requests[0].hung_up.wait()
        await first.aclose()
    assert second.requests == []


async def test_each_model_that_gave_no_answer_is_an_event() -> None:
    """G93: attempts can be observed"""
    told: list[ModelFailed] = []
    models = [ScriptedModel([ModelOverloaded("busy")], name="a/a"), ScriptedModel(["Hello."], name="b/b")]
    result = await Agent("ada", model=models, on={"model_failed": told.append}).prompt("x")
    assert [(event.run_id, event.trip, event.model, event.error, event.message) for event in told] == [
        (result.run_id, 0, "a/a", "ModelOverloaded", "busy")
    ]


class Held(ScriptedModel):
    structured_output = True


class Number(BaseModel):
    number: int


@pytest.mark.parametrize("all_hold", [True, False])
async def test_a_schema_goes_to_the_provider_only_where_each_model_of_the_list_is_held_to_it(all_hold: bool) -> None:
    """W12, W13, G93"""

    def said(request: Request) -> Answer:
        return Answer(parts=(Text(text='{"number": 4}'),), stop_reason="end")

    first, second = Held(said, name="a/a"), (Held if all_hold else ScriptedModel)(said, name="b/b")
    result = await Agent("ada", model=[first, second], output=Number).prompt("x")
    assert result.data == Number(number=4)
    assert (first.requests[0].output_schema is not None) is all_hold
    assert ("JSON Schema" in first.requests[0].system) is not all_hold


def test_the_model_of_a_worker_can_what_the_one_in_it_can() -> None:
    """W12: a queued run is held to its schema as any other"""
    assert _Patient(Held([])).structured_output
    assert not _Patient(ScriptedModel([])).structured_output
