"""Ways to sit in a seat: any agent, and any async function."""

from collections.abc import Awaitable, Callable
from typing import Any, Unpack

from pydantic import JsonValue

from convive.agents.journal._waiting import until_answered
from convive.agents.models._messages import Message, assistant, user
from convive.agents.runs._agent import Agent
from convive.agents.runs._options import RunOptions
from convive.agents.runs._result import AgentResult
from convive.agents.seats._turn import Pass, Say, Turn
from convive.agents.tools._output import Data

TurnFunction = Callable[[Turn], Awaitable[str | Say | Pass | None]]
"""What a turn is answered with: words, or nothing to pass."""


class FunctionSeat:
    """A participant that is a function: returns words, a Say or a Pass; None or an empty text passes."""

    def __init__(self, function: TurnFunction) -> None:
        self._function = function

    async def take_turn(self, turn: Turn) -> Say | Pass:
        said = await self._function(turn)
        if isinstance(said, str):
            return Say(said) if said.strip() else Pass()
        return said or Pass()


class AgentSeat:
    """A participant that is an agent. It reads the conversation as a chat: its own words as the assistant's.

    The run of the turn is the agent's run, journaled beside the conversation; after a restart it is continued. A run
    that fails passes the turn, one that needs an answer waits for it with the floor. `lines` is how much of the
    conversation the agent sees: at least so many utterances, and at most half as many again, so that a prompt keeps its
    beginning for a while and can be cached.
    """

    def __init__(self, agent: Agent, lines: int = 400) -> None:
        if not isinstance(agent, Agent):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"AgentSeat takes an Agent, not {type(agent).__name__}.")
        self.agent = agent
        self._lines = lines

    async def take_turn(self, turn: Turn) -> Say | Pass:
        result = await run_in_turn(self.agent, turn, history=chat(turn, self._lines), deps=turn)
        if result.error is not None:
            return Pass(result.error.message)
        if result.interrupts:
            return Pass(f"nobody answered about {', '.join(each.tool for each in result.interrupts)} in time")
        text = result.text.strip()
        return Say(text) if text else Pass("had nothing to say")


async def run_in_turn(agent: Agent[Data], turn: Turn, **options: Unpack[RunOptions]) -> AgentResult[Data]:
    """Execute an agent in a turn, as `run_options` says. While it waits for answers, this waits with the floor for
    them, and then goes on: in this process, in one that takes the seat after a restart, or in its double.

    The result is `suspended` when the time to answer is over. Raises as `Agent.execute`.
    """
    given: Any = {**run_options(turn), **options}
    result: AgentResult[Data] = await agent.execute(**given)
    while result.interrupts and await until_answered(given["place"], given["run"]):
        given["fresh"] = False
        result = await agent.execute(**given)
    return result


def run_options(turn: Turn) -> RunOptions:
    """How an agent executes the run of a turn: journaled beside the conversation, continued after a restart."""
    source: JsonValue = {"conversation": turn.conversation.id, "seat": turn.seat, "turn": turn.grant.turn}
    return {
        "source": source,
        "run": turn.run,
        "place": turn.place,
        "fresh": not turn.resumed,
        "on_cancel": "leave",
    }


def first_seen(heard: int, lines: int) -> int:
    """Where a view of at least `lines` of `heard` utterances begins. It moves in steps of half of that."""
    step = max(1, lines // 2)
    return max(0, heard - lines) // step * step


def chat(turn: Turn, lines: int) -> list[Message]:
    """A conversation as a history that ends with the user. What was said before never changes, so that prompts keep
    their prefix; what changes from turn to turn (cue, whispers, memories) stands at the end."""
    messages: list[Message] = []
    others: list[str] = []
    for utterance in turn.heard[first_seen(len(turn.heard), lines) :]:
        if utterance.seat == turn.seat and utterance.turn is not None:
            messages += [user("\n".join(others) or "(The conversation begins.)"), assistant(utterance.text)]
            others = []
        else:
            others.append(f"{utterance.seat}: {utterance.text}")
    topic = turn.floor.opened.topic if turn.floor.opened else ""
    others.append(f"(You are {turn.seat}. The topic: {topic})")
    others += [f"({whisper.sender} whispers to you: {whisper.text})" for whisper in turn.whispers[-lines:]]
    others += [f"(You remember: {memory.event.text})" for memory in turn.memories[-lines:]]
    others.append(f"(You have the floor{f', to {turn.cue}' if turn.cue else ''}. Say what {turn.seat} says next.)")
    messages.append(user("\n".join(others)))
    return messages
