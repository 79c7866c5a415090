"""What a run of an agent costs beside the model: a `prompt` on a scripted model, a log in memory, nobody watching.

Run `uv run python bench/agents.py` (`--json`: one object). The floor is a bare loop that asks the same model and builds
the same messages, without a journal, limits or results. Times are medians of rounds, in microseconds a run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Awaitable, Callable

import anyio

from convive.agents import Agent, Answer, Message, Request, Text, ToolResult, ToolUse, assistant, tool, user
from convive.agents.testing import ScriptedModel

RUNS = 300
ROUNDS = 7
CALL = Answer(parts=(ToolUse(id="1", name="look", arguments={"where": "here"}),), stop_reason="tool_use")


@tool
async def look(where: str) -> str:
    """Look somewhere."""
    return f"nothing in {where}"


def plain(request: Request) -> Answer:
    return Answer(parts=(Text(text="hello"),), stop_reason="end")


def with_tool(request: Request) -> Answer:
    answered = any(isinstance(part, ToolResult) for part in request.messages[-1].parts)
    return plain(request) if answered else CALL


async def bare(answers: Callable[[Request], Answer], history: tuple[Message, ...]) -> str:
    """The same requests and messages, with nothing around them."""
    model = ScriptedModel(answers)
    messages = (*history, user("x"))
    while True:
        answer: Answer | None = None
        async with model.stream(Request("", messages, (look.spec,))) as items:
            async for item in items:
                if isinstance(item, Answer):
                    answer = item
        assert answer is not None
        messages = (*messages, Message(role="assistant", parts=answer.parts))
        uses = [part for part in answer.parts if isinstance(part, ToolUse)]
        if not uses:
            return answer.text
        results = [ToolResult(tool_use_id=use.id, content=str(await look("here"))) for use in uses]
        messages = (*messages, Message(role="user", parts=tuple(results)))


async def timed(work: Callable[[], Awaitable[object]], runs: int) -> float:
    """Microseconds for one, the median of rounds."""
    rounds: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(runs):
            await work()
        rounds.append((time.perf_counter() - began) / runs * 1e6)
    return statistics.median(rounds)


async def measure() -> dict[str, dict[str, float]]:
    """Each case: ours, bare, and the ratio."""
    cases: dict[str, tuple[Callable[[Request], Answer], int]] = {
        "prompt": (plain, 0),
        "prompt with a tool call": (with_tool, 0),
        "prompt after 500 messages": (plain, 500),
    }
    found: dict[str, dict[str, float]] = {}
    for name, (answers, length) in cases.items():
        history = tuple(user("hi") if at % 2 == 0 else assistant("hello") for at in range(length))
        agent = Agent("bench", model=ScriptedModel(answers), tools=[look])

        async def run(agent: Agent = agent, history: tuple[Message, ...] = history) -> object:
            return await agent.prompt("x", history=history)

        async def floor(
            answers: Callable[[Request], Answer] = answers, history: tuple[Message, ...] = history
        ) -> object:
            return await bare(answers, history)

        runs = RUNS // 10 if length else RUNS
        ours_us, bare_us = await timed(run, runs), await timed(floor, runs)
        found[name] = {"ours_us": round(ours_us, 1), "bare_us": round(bare_us, 1), "ratio": round(ours_us / bare_us, 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object")
    asked = parser.parse_args()
    found = anyio.run(measure)
    if asked.json:
        print(json.dumps(found))
        return
    for name, figures in found.items():
        print(
            f"{name:28} {figures['ours_us']:8.1f} us   bare {figures['bare_us']:8.1f} us   ratio {figures['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
