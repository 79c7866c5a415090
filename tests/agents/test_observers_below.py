"""Who hears of the runs below a run."""

import pytest

from convive.agents import Agent, Answer, Observers, ToolUse
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._events import RunStarted

pytestmark = pytest.mark.anyio


def ask() -> Answer:
    return Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use")


class Heard(Observers):
    """Observers that note which agents ran."""

    def __init__(self) -> None:
        super().__init__()
        self.agents: list[str] = []
        self.subscribe(self._note)

    def _note(self, event: object) -> None:
        if isinstance(event, RunStarted):
            self.agents.append(event.agent)


async def test_each_agents_observers_hear_of_the_runs_below_it_whoever_else_does() -> None:
    """G65"""
    top, middle, everywhere = Heard(), Heard(), Heard()
    leaf = Agent("leaf", model=ScriptedModel(["leaf"] * 2), observers=everywhere)
    clerk = Agent("clerk", model=ScriptedModel([ask(), "clerk"]), tools=[leaf.as_tool("ask", "Ask.")], observers=middle)
    chief = Agent("chief", model=ScriptedModel([ask(), "chief"]), tools=[clerk.as_tool("ask", "Ask.")], observers=top)
    await chief.prompt("x")
    assert (top.agents, middle.agents, everywhere.agents) == (["chief", "clerk", "leaf"], ["clerk", "leaf"], ["leaf"])


async def test_observers_of_several_agents_hear_of_each_run_once() -> None:
    """G65"""
    shared = Heard()
    leaf = Agent("leaf", model=ScriptedModel(["leaf"]), observers=shared)
    clerk = Agent("clerk", model=ScriptedModel([ask(), "clerk"]), tools=[leaf.as_tool("ask", "Ask.")], observers=shared)
    chief = Agent(
        "chief", model=ScriptedModel([ask(), "chief"]), tools=[clerk.as_tool("ask", "Ask.")], observers=shared
    )
    await chief.prompt("x")
    assert shared.agents == ["chief", "clerk", "leaf"]
