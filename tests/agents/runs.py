"""What tests of runs share: scripted answers that call tools, a place in memory, and what came of it."""

from collections.abc import Callable
from typing import Any

from pydantic import JsonValue

from convive.agents import Agent, Answer, Place, Request, Text, ToolContext, ToolResult, ToolUse, tool
from convive.agents.journal._journal import journal_event_of
from convive.agents.testing import ScriptedModel
from convive.bus import MemoryLog

Given = dict[str, JsonValue]


def place() -> Place:
    """A place of its own in memory."""
    return Place(MemoryLog(), "cv.00.test", live=False)


def use(*calls: tuple[str, Given], text: str = "") -> Answer:
    """An answer that calls these tools, with ids c0, c1, ..."""
    said = (Text(text=text),) if text else ()
    uses = (ToolUse(id=f"c{n}", name=name, arguments=arguments) for n, (name, arguments) in enumerate(calls))
    return Answer(parts=(*said, *uses), stop_reason="tool_use")


def told(request: Request) -> list[ToolResult]:
    """The results of tools that end a request."""
    return [part for part in request.messages[-1].parts if isinstance(part, ToolResult)]


async def types(where: Place, run_id: str) -> list[str]:
    """The types of a run's records, in order."""
    async with where.log.read(f"{where.base}.run.*.{run_id}") as records:
        return [journal_event_of(record).type async for record in records]


async def bodies(where: Place) -> list[bytes]:
    """Every record of a place, byte for byte."""
    async with where.log.read(f"{where.base}.>") as records:
        return [record.body async for record in records]


class Shop:
    """A tool that waits for approval, and what it did."""

    def __init__(self, needs_approval: bool | Callable[[ToolContext, Any], bool] = True) -> None:
        self.done: list[float] = []
        done = self.done

        @tool(needs_approval=needs_approval)
        async def refund(amount: float) -> str:
            """Give money back."""
            done.append(amount)
            return f"refunded {amount:g}"

        self.refund = refund

    def agent(self, *script: Answer | str, **options: Any) -> tuple[Agent, ScriptedModel]:
        model = ScriptedModel(list(script))
        return Agent("shop", model=model, tools=[self.refund, *options.pop("more", ())], **options), model
