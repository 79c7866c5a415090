"""An agent that asks another one, which looks: nine nodes a turn. For benchmarks and tests."""

from convive.agents import Agent, Answer, Request, ToolUse, Usage, tool
from convive.agents.testing import ScriptedModel


def use(name: str) -> Answer:
    """An answer that calls the tool of that name, and was not free."""
    usage = Usage(input_tokens=10, output_tokens=3)
    return Answer(parts=(ToolUse(id="c1", name=name, arguments={}),), stop_reason="tool_use", usage=usage)


def once(name: str) -> ScriptedModel:
    """Calls the tool of that name, and then is done."""

    def answer(request: Request) -> Answer | str:
        return use(name) if request.messages[-1].text else "so be it"

    return ScriptedModel(answer, keep=0)


@tool
async def look() -> str:
    """Look."""
    return "seen"


helper = Agent("helper", model=once("look"), tools=[look])


@tool
async def ask() -> str:
    """Ask."""
    return (await helper.prompt("go")).text


guest = Agent("guest", model=once("ask"), tools=[ask])
