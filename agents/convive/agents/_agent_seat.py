"""Ways to sit in a seat: any agent, and any async function."""

from collections.abc import Awaitable, Callable, Sequence

from pydantic import JsonValue

from convive.agents._agent import Agent
from convive.agents._journal import Place
from convive.agents._messages import Message, assistant, user
from convive.agents._result import unwrap
from convive.agents._seat import Pass, Say, Turn
from convive.bus import Utterance

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

    The run of the turn is the agent's run, journaled beside the conversation; after a restart it is continued.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def take_turn(self, turn: Turn) -> Say | Pass:
        source: JsonValue = {"conversation": turn.conversation.id, "seat": turn.seat, "turn": turn.grant.turn}
        result = await self._agent.execute(
            history=chat(turn.heard, turn),
            source=source,
            run=turn.run,
            place=Place(turn.conversation.log, turn.conversation.subjects.base),
            on_cancel="leave",
            deps=turn,
        )
        if result.error is not None and result.error.transient:
            return Pass(result.error.message)
        text = unwrap(result).text.strip()
        return Say(text) if text else Pass("had nothing to say")


def chat(heard: Sequence[Utterance], turn: Turn) -> list[Message]:
    """A conversation as a history that ends with the user. What was said before never changes, so that prompts keep
    their prefix; what changes from turn to turn (cue, whispers, memories) stands at the end."""
    messages: list[Message] = []
    lines: list[str] = []
    for utterance in heard:
        if utterance.seat == turn.seat and utterance.turn is not None:
            messages += [user("\n".join(lines) or "(The conversation begins.)"), assistant(utterance.text)]
            lines = []
        else:
            lines.append(f"{utterance.seat}: {utterance.text}")
    topic = turn.floor.opened.topic if turn.floor.opened else ""
    if not messages:
        lines.insert(0, f"(You are {turn.seat}. The topic: {topic})")
    lines += [f"({whisper.sender} whispers to you: {whisper.text})" for whisper in turn.whispers]
    lines += [f"(You remember: {memory.text})" for memory in turn.memories]
    lines.append(f"(You have the floor{f', to {turn.cue}' if turn.cue else ''}. Say what {turn.seat} says next.)")
    messages.append(user("\n".join(lines)))
    return messages
