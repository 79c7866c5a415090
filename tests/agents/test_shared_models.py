"""Models that agents look up by name: in a process one object for each name, whatever the agent is made of."""

import pytest

from convive.agents import Agent, Limits, agent
from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._models import Models, default_models
from convive.agents.models._scripted import ScriptedModel
from convive.agents.testing import fake_models
from tests.agents.provider import run_python

pytestmark = pytest.mark.anyio

NAME = "anthropic/claude-sonnet-4-6"


def test_a_call_with_options_of_its_own_opens_no_model_of_its_own() -> None:
    """Each would have a client, or for `local/...` an engine of 100 MB, that nobody closes."""
    ada = Agent("ada", model=NAME)
    model = ada.settings().model
    assert isinstance(model, AnthropicModel)
    assert ada.settings(limits=Limits(trips=3)).model is model
    assert ada.settings(model=NAME, instructions="Be brief.").model is model


def test_agents_for_one_use_share_the_model_of_their_name() -> None:
    """G6, G7"""
    assert agent("You sum up.", model=NAME).settings().model is agent("You count.", model=NAME).settings().model


def test_models_of_ones_own_and_fakes_are_kept_apart() -> None:
    own, made = Models({"anthropic": lambda name: ScriptedModel([], name=f"anthropic/{name}")}), default_models()
    shared = Agent("ada", model=NAME).settings().model
    assert Agent("ada", model=NAME, models=own).settings().model is own.resolve(NAME)
    assert made.resolve(NAME) is not shared
    with fake_models() as fake:
        assert Agent("ada", model=NAME).settings().model is fake.resolve(NAME)
    assert Agent("ada", model=NAME).settings().model is shared


async def test_a_key_that_is_mended_in_the_environment_is_taken_from_then_on() -> None:
    script = """
import os, anyio
from convive.agents import Agent, prompt
from convive.agents.testing import MessagesServer, Refused

async def main():
    async with MessagesServer([Refused(401, "no"), "Hello.", "Once more."]) as server:
        os.environ["ANTHROPIC_BASE_URL"] = server.url
        ada = Agent("ada", model="anthropic/claude-test")
        for key in ("a-wrong-key", "the-right-key"):
            os.environ["ANTHROPIC_API_KEY"] = key
            result = await ada.execute("x")
        print(result.text, (await prompt("x", model="anthropic/claude-test")).text)
        print(*(asked.headers.get("x-api-key") or asked.headers["authorization"] for asked in server.requests))
        print(len({asked.connection for asked in server.requests[1:]}))
        await ada.settings().model.aclose()

anyio.run(main)
"""
    said, keys, connections = (await run_python(script)).splitlines()
    assert said == "Hello. Once more."
    assert keys.count("the-right-key") == 2
    assert connections == "1"
