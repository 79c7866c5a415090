"""Redrive: a recorded conversation comes out the same, and the first thing that does not is named."""

import re
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    FunctionSeat,
    ModelOverloaded,
    Participant,
    Pass,
    Plan,
    Redriven,
    Say,
    ToolUse,
    Turn,
    host_seats,
    redrive,
    supervise,
    tool,
)
from convive.agents.testing import ScriptedModel
from convive.bus import (
    Bus,
    Chair,
    Conversation,
    Interjected,
    RunContext,
    SeatName,
    UnknownConversation,
    fork,
    memory_bus,
    open_bus,
)

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")
PLAN = Plan(turns=4, opens=False, toasts=False)


@dataclass
class Table:
    """Ada has a tool and an agent to ask; Bob answers by himself and remembers."""

    weighed: list[str] = field(default_factory=list[str])
    models: list[ScriptedModel] = field(default_factory=list[ScriptedModel])
    instructions: str = "You are Ada."
    helper: str = "You help."
    words: str = "So be it"
    kept: str = "heard"
    fails: bool = False

    def seats(self) -> dict[SeatName, Participant]:
        """The participants, made anew, as another process would make them."""

        @tool
        def weigh(what: str) -> str:
            """Weigh something."""
            self.weighed.append(what)
            return f"{len(what)} pounds"

        below = Agent("helper", model=self._model("helper", ["A fig.", "Two figs."]), instructions=self.helper)
        answers: list[Any] = [_calls(1), "Figs it is.", _calls(2), "Figs again."]
        if self.fails:
            answers[2:] = [ModelOverloaded("come back later")]
        ada = Agent(
            "ada",
            model=self._model("ada", answers),
            instructions=self.instructions,
            tools=[weigh, below.as_tool("help", "Ask the helper")],
        )
        return {ADA: AgentSeat(ada), BOB: FunctionSeat(self._bob)}

    async def _bob(self, turn: Turn) -> Say | Pass:
        turn.remember(f"{len(turn.heard)} {self.kept}, {len(turn.memories)} remembered")
        return Say(f"{self.words}: {turn.heard[-1].text}")

    def _model(self, who: str, answers: list[Any]) -> ScriptedModel:
        self.models.append(ScriptedModel(answers, name=f"scripted/{who}"))
        return self.models[-1]


def _calls(number: int) -> Answer:
    weigh = ToolUse(id=f"w{number}", name="weigh", arguments={"what": "figs" * number})
    ask = ToolUse(id=f"h{number}", name="help", arguments={"prompt": f"What is it, {number}?"})
    return Answer(parts=(weigh, ask), stop_reason="tool_use")


async def held(bus: Bus, name: str, table: Table, plan: Plan = PLAN) -> Conversation:
    conversation = await bus.conversation(name)
    run = RunContext.root()
    await conversation.open(run, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, conversation, table.seats())
        tasks.start_soon(supervise, conversation, plan, run)
    return conversation


async def test_a_conversation_comes_out_the_same_and_nothing_is_asked_or_done(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        conversation = await held(bus, "redrive-same", Table())
        before = await conversation.log.subjects(f"{conversation.subjects.base}.>")
        again = Table()
        assert await redrive(conversation, again.seats(), PLAN) == Redriven(4, 0, 6, 0, None)
        assert again.weighed == []
        assert [model.requests for model in again.models] == [[], []]
        assert await conversation.log.subjects(f"{conversation.subjects.base}.>") == before


async def test_a_fork_comes_out_the_same_as_well() -> None:
    async with memory_bus() as bus:
        copy = await fork(bus, await held(bus, "one", Table()), "other")
        assert await redrive(copy, Table().seats(), PLAN) == Redriven(4, 0, 6, 0, None)


CHANGED: dict[str, tuple[Table, str, int]] = {
    "a prompt": (Table(instructions="You are Ada, a poet."), "in the turn of ada, .* the instructions changed", 1),
    "a prompt below": (Table(helper="You help much."), "in the turn of ada, .* the instructions changed", 1),
    "what is said": (Table(words="Not so"), "bob answers the turn with something else", 2),
    "what is kept": (Table(kept="heard of"), "bob remembers something else", 2),
}


@pytest.mark.parametrize("kind", CHANGED)
async def test_the_first_thing_that_differs_is_named(kind: str) -> None:
    table, what, turn = CHANGED[kind]
    async with memory_bus() as bus:
        conversation = await held(bus, "one", Table())
        found = await redrive(conversation, table.seats(), PLAN)
        assert found.deviation is not None
        assert found.deviation.turn == turn
        assert found.turns == turn - 1
        assert re.match(what, found.deviation.what)
        record = await _record(conversation, found.deviation.seq)
        assert ("run" if "ada" in what else "bus") in record


async def _record(conversation: Conversation, seq: int) -> str:
    async with conversation.log.read(">", after=seq - 1, until=seq) as records:
        return await anext(record.subject.split(".")[3] async for record in records)


async def test_what_is_said_differently_is_quoted() -> None:
    async with memory_bus() as bus:
        found = await redrive(await held(bus, "one", Table()), Table(words="Not so").seats(), PLAN)
        assert found.deviation is not None
        assert (found.deviation.was, found.deviation.now) == (
            "says: So be it: Figs it is.",
            "says: Not so: Figs it is.",
        )


async def test_another_supervisor_is_noticed_and_no_plan_compares_none() -> None:
    async with memory_bus() as bus:
        conversation = await held(bus, "one", Table())
        longer = Plan(turns=9, opens=False, toasts=False)
        found = await redrive(conversation, Table().seats(), longer)
        assert found.deviation is not None
        assert (found.turns, found.deviation.was, found.deviation.now) == (4, "the end", "the floor to ada")
        assert (await redrive(conversation, Table().seats())).deviation is None


async def test_a_model_that_failed_fails_again() -> None:
    async with memory_bus() as bus:
        conversation = await held(bus, "one", Table(fails=True))
        assert (await conversation.world(BOB)).heard[-1].text == "So be it: So be it: Figs it is."
        assert await redrive(conversation, Table(fails=True).seats(), PLAN) == Redriven(4, 0, 3, 0, None)


async def test_turns_of_seats_that_nobody_sits_in_are_taken_over() -> None:
    async with memory_bus() as bus:
        conversation = await held(bus, "one", Table())
        alone = {ADA: Table().seats()[ADA]}
        assert await redrive(conversation, alone, PLAN) == Redriven(2, 2, 6, 0, None)
        assert (await redrive(conversation, {}, PLAN)).copied == 4


async def test_a_part_is_redriven_up_to_a_place() -> None:
    async with memory_bus() as bus:
        conversation = await held(bus, "one", Table())
        cut = (await conversation.floor()).seq - 3
        assert (await redrive(conversation, Table().seats(), PLAN, until=cut)).turns == 3
        with pytest.raises(UnknownConversation):
            await redrive(await bus.conversation("nobody"), {})


async def test_a_word_from_beside_the_table_is_heard_again_at_its_place() -> None:
    """A policy that listens decides by what was there when it decided, or by what came just after."""

    async def loud(turn: Turn) -> str:
        if turn.grant.turn == 2:
            await turn.conversation.aside(SeatName("eve"), Interjected(text="Ada, again!"), turn.run)
        return f"I heard {len(turn.heard)}"

    async with memory_bus() as bus:
        conversation = await bus.conversation("one")
        run, seats = RunContext.root(), {ADA: FunctionSeat(loud), BOB: FunctionSeat(loud)}
        await conversation.open(run, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, conversation, seats)
            tasks.start_soon(supervise, conversation, PLAN, run)

        async def quiet(turn: Turn) -> str:
            return f"I heard {len(turn.heard)}"

        again: dict[SeatName, Participant] = {ADA: FunctionSeat(quiet), BOB: FunctionSeat(quiet)}
        assert await redrive(conversation, again, PLAN) == Redriven(4, 0, 0, 0, None)
