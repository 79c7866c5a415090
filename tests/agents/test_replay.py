"""Replaying what models said once."""

import pytest

from convive.agents.journal._journal import Place
from convive.agents.journal._replay import ReplayModel
from convive.agents.models._errors import ModelOverloaded
from convive.agents.models._messages import Text, ToolUse, user
from convive.agents.models._model import Answer, Request, TextDelta, Usage
from convive.agents.models._scripted import ScriptedModel, UnexpectedRequest
from convive.agents.runs._agent import Agent
from convive.agents.runs._prices import Cost, shipped_prices
from convive.agents.runs._settings import Retry
from convive.agents.tools._tools import tool
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio

LOOK = Answer(
    parts=(ToolUse(id="t1", name="look", arguments={"where": None}),),
    stop_reason="tool_use",
    usage=Usage(input_tokens=7, output_tokens=3),
    model="claude-opus-5",
)


@tool
async def look(where: str | None = None) -> str:
    """Look somewhere."""
    return "nothing"


def place() -> Place:
    return Place(MemoryLog(), "cv.00.test", live=False)


async def test_a_recorded_run_runs_again_from_its_journal_without_its_model() -> None:
    """3.4: the same text, calls, usage and messages"""
    recorded, run = place(), RunContext.root()
    model = ScriptedModel([LOOK, "It is not here."], name="anthropic/claude-opus-5")
    before = await Agent("ada", model=model, tools=[look]).prompt("Where?", run=run, place=recorded)

    replay = await ReplayModel.read(recorded.log, recorded.journal(run))
    assert (replay.name, replay.left) == ("replay/anthropic/claude-opus-5", 2)
    after = await Agent("ada", model=replay, tools=[look]).prompt("Where?")
    assert (after.text, after.messages, after.usage) == (before.text, before.messages, before.usage)
    assert [trip.answer and trip.answer.parts for trip in after.report.trips] == [
        trip.answer and trip.answer.parts for trip in before.report.trips
    ]
    assert replay.requests == model.requests
    assert replay.left == 0
    assert shipped_prices().cost_of_trips(after.report.trips, replay.name) == Cost(0.0)


async def test_an_answer_that_was_rejected_is_replayed_as_the_model_gave_it() -> None:
    """3.4"""
    recorded, run = place(), RunContext.root()
    model = ScriptedModel(["bad", "good"])

    def refine(text: str) -> str | Retry:
        return Retry(reason="no", feedback="Again.") if text == "bad" else text.upper()

    await Agent("ada", model=model, refine=refine).prompt("x", run=run, place=recorded)
    replay = await ReplayModel.read(recorded.log, recorded.journal(run))
    assert (await Agent("ada", model=replay, refine=refine).prompt("x")).text == "GOOD"
    assert (replay.left, len(replay.requests)) == (0, 2)


async def test_sub_agents_that_ran_in_turn_are_replayed_from_all_journals_of_their_tree() -> None:
    """3.4"""
    recorded, run = place(), RunContext.root()

    def agents(model: ScriptedModel | ReplayModel) -> Agent:
        inner = Agent("inner", model=model)

        @tool
        async def look(where: str | None = None) -> str:
            return (await inner.prompt("Look.")).text

        return Agent("outer", model=model, tools=[look])

    await agents(ScriptedModel([LOOK, "from inside", "done"])).prompt("x", run=run, place=recorded)
    replay = await ReplayModel.read(recorded.log, f"{recorded.base}.run.{run.root_run_id}.*")
    assert (await agents(replay).prompt("x")).text == "done"
    assert [request.messages[-1].text for request in replay.requests] == ["x", "Look.", ""]


async def test_deltas_come_again_and_answers_may_be_given_as_a_list() -> None:
    """3.4"""
    whole = Answer(parts=(Text(text="Hello there."),), stop_reason="length", usage=Usage(output_tokens=2), model="m")
    replay = ReplayModel([whole])
    async with replay.stream(Request("", (user("x"),))) as items:
        assert [item async for item in items] == [TextDelta("Hello"), TextDelta(" there."), whole]


async def test_one_request_too_many_says_what_was_recorded_and_what_was_asked() -> None:
    """3.4: strict by count"""
    replay = ReplayModel([LOOK], name="replay/a/b")
    with pytest.raises(UnexpectedRequest, match="replay/a/b holds 1 recorded answers and was asked for number 2: ''"):
        await Agent("ada", model=replay, tools=[look]).prompt("x")
    assert replay.left == 0
    with pytest.raises(UnexpectedRequest, match="holds 0 recorded answers and was asked for number 1: 'Where\\?'"):
        await Agent("ada", model=ReplayModel([])).prompt("Where?")


async def test_another_question_gets_the_same_answer_because_questions_are_not_recorded() -> None:
    """3.4: what the replay does not promise"""
    answer = Answer(parts=(Text(text="Four."),), stop_reason="end")
    assert (await Agent("ada", model=ReplayModel([answer])).prompt("Who are you?")).text == "Four."


async def test_a_journal_that_is_not_there_is_an_error_and_one_without_answers_is_not() -> None:
    """3.4"""
    with pytest.raises(LookupError, match=r"no run's journal at 'cv\.00\.test\.run\.a\.b'"):
        await ReplayModel.read(MemoryLog(), "cv.00.test.run.a.b")
    recorded, run = place(), RunContext.root()
    await Agent("ada", model=ScriptedModel([ModelOverloaded("busy")])).execute("x", run=run, place=recorded)
    assert (await ReplayModel.read(recorded.log, recorded.journal(run))).left == 0
