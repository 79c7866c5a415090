"""What a run costs beside the model: one `prompt` on a scripted model with the log in memory.

Run `uv run python bench/agents.py` (`--json`: one object). The floor is a bare loop that builds the same request and
the same answer objects and asks the same model, without a journal, limits or events. Both take turns in one process.
Histories of several lengths show that a turn costs no more than in proportion to what it is given, and a run of many
tool trips that a journal grows by the trip.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from convive.agents import Agent, Answer, Limits, Message, Place, Request, ToolUse, assistant, user
from convive.agents.testing import ScriptedModel
from convive.bus import MemoryLog, RunContext

HISTORIES = (0, 100, 500, 1_000)
TRIPS = (10, 40, 160)


def model() -> ScriptedModel:
    return ScriptedModel(lambda request: "Twenty-seven letters, give or take.")


async def ours(agent: Agent, history: list[Message]) -> None:
    await agent.prompt("How many letters?", history=history)


async def bare(asked: ScriptedModel, history: list[Message]) -> None:
    request = Request("You count letters.", (*history, user("How many letters?")))
    answer: Answer | None = None
    async with asked.stream(request) as items:
        async for item in items:
            if isinstance(item, Answer):
                answer = item
    assert answer is not None
    messages = (*request.messages, assistant(answer.text))
    assert len(messages) == len(history) + 2


async def timed(work: Callable[[], Awaitable[None]], times: int) -> float:
    """Microseconds for one."""
    began = time.perf_counter()
    for _ in range(times):
        await work()
    return (time.perf_counter() - began) / times * 1e6


async def compare(length: int, rounds: int, times: int) -> tuple[float, float]:
    """Microseconds of ours and of the bare loop, with a history of `length` messages."""
    history = [message for number in range(length // 2) for message in (user(f"word {number}"), assistant("four"))]
    agent, asked = Agent("counter", model=model(), instructions="You count letters."), model()
    sides: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        sides[0].append(await timed(lambda: ours(agent, history), times))
        sides[1].append(await timed(lambda: bare(asked, history), times))
    return statistics.median(sides[0]), statistics.median(sides[1])


async def journal_bytes(trips: int) -> int:
    """The size of the journal of a run with that many tool trips."""

    async def count(word: str) -> int:
        """Count letters."""
        return len(word)

    def answers(request: Request) -> str | Answer:
        done = sum(message.role == "assistant" for message in request.messages)
        if done == trips:
            return "done"
        return Answer(parts=(ToolUse(id=f"c{done}", name="count", arguments={"word": "w"}),), stop_reason="tool_use")

    log = MemoryLog()
    agent = Agent("counter", model=ScriptedModel(answers), tools=[count], limits=Limits(trips=trips + 1))
    await agent.prompt("count", place=Place(log, "bench", live=False), run=RunContext.root())
    size = 0
    async with log.read(">") as records:
        async for record in records:
            size += len(record.body)
    return size


async def measure(rounds: int, times: int) -> dict[str, Any]:
    found = {length: await compare(length, rounds, times) for length in HISTORIES}
    us, floor = found[0]
    return {
        "us_per_prompt": round(us, 1),
        "floor_us_per_prompt": round(floor, 1),
        "ratio": round(us / floor, 2),
        "us_by_history": {str(length): round(pair[0], 1) for length, pair in found.items()},
        "journal_bytes_by_trips": {str(trips): await journal_bytes(trips) for trips in TRIPS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = asyncio.run(measure(given.rounds, given.times))
    if given.json:
        print(json.dumps(figures))
        return
    print(
        f"one prompt {figures['us_per_prompt']:.0f} us, bare loop {figures['floor_us_per_prompt']:.0f} us: "
        f"ratio {figures['ratio']}"
    )
    print("by messages of history, us:", figures["us_by_history"])
    print("journal by tool trips, bytes:", figures["journal_bytes_by_trips"])


if __name__ == "__main__":
    main()
