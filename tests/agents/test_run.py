"""The trip loop, from outside: what is asked, what is carried out, how a run ends."""

from collections.abc import Callable

import anyio
import pytest

from convive.agents.journal._journal import JournalEvent, Place, journal_event_of
from convive.agents.models._errors import BadModelRequest, ModelAnswerBroken, ModelOverloaded
from convive.agents.models._messages import Text, ToolResult, ToolUse
from convive.agents.models._model import Answer, Request, Usage
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent
from convive.agents.runs._limits import Limits
from convive.agents.runs._result import RunCancelled, RunFailed
from convive.agents.runs._settings import Retry
from convive.agents.tools._tools import ToolContext, tool
from convive.bus import MemoryLog, RunContext, run_of

pytestmark = pytest.mark.anyio


def calls(*names: str, text: str = "") -> Answer:
    """An answer that calls these tools, without arguments."""
    said = (Text(text=text),) if text else ()
    uses = (ToolUse(id=f"id{place}", name=name, arguments={}) for place, name in enumerate(names))
    return Answer(parts=(*said, *uses), stop_reason="tool_use", usage=Usage(input_tokens=10, output_tokens=5))


def results(request: Request) -> list[ToolResult]:
    return [part for part in request.messages[-1].parts if isinstance(part, ToolResult)]


async def journal(place: Place, run: RunContext) -> list[JournalEvent]:
    async with place.log.read(place.journal(run)) as records:
        return [journal_event_of(record) async for record in records]


def memory_place() -> Place:
    return Place(MemoryLog(), "cv.00.test", live=False)


async def test_a_run_is_journaled_step_by_step_with_its_place_in_the_tree_of_runs() -> None:
    """W2"""

    @tool
    async def look() -> str:
        return "nothing"

    place = memory_place()
    run = RunContext.root().child()
    await Agent("ada", model=ScriptedModel([calls("look"), "done"]), tools=[look]).prompt("x", run=run, place=place)
    assert [event.type for event in await journal(place, run)] == [
        "run_started",
        "trip_started",
        "model_answered",
        "tool_called",
        "tool_returned",
        "trip_started",
        "model_answered",
        "run_finished",
    ]
    async with place.log.read(">") as records:
        assert {run_of(record.headers) async for record in records} == {run}


async def test_the_journal_grows_linearly_with_the_trips() -> None:
    """G42: no record holds the list of messages"""

    @tool
    async def look() -> str:
        return "nothing" * 20

    async def size(trips: int) -> int:
        place, run = memory_place(), RunContext.root()
        ada = Agent("ada", model=ScriptedModel([*[calls("look")] * trips, "done"]), tools=[look])
        await ada.prompt("x", run=run, place=place, limits=Limits(trips=100))
        async with place.log.read(">") as records:
            return sum([len(record.body) async for record in records])

    assert await size(41) - await size(21) <= 1.1 * (await size(21) - await size(1))


async def test_tools_of_one_answer_run_side_by_side_and_their_results_stand_in_order() -> None:
    """G77"""
    second_done = anyio.Event()

    @tool
    async def first() -> str:
        await second_done.wait()
        return "first"

    @tool
    async def second() -> str:
        second_done.set()
        return "second"

    model = ScriptedModel([calls("first", "second"), "done"])
    await Agent("ada", model=model, tools=[first, second]).prompt("x")
    assert [part.content for part in results(model.requests[1])] == ["first", "second"]


@pytest.mark.parametrize("everything", [True, False])
async def test_a_sequential_tool_runs_alone_and_in_its_place(everything: bool) -> None:
    """G77"""
    running: list[str] = []
    seen: list[list[str]] = []

    def noisy(name: str, *, sequential: bool) -> Callable[[], object]:
        async def handler() -> None:
            running.append(name)
            await anyio.lowlevel.checkpoint()
            seen.append(list(running))
            running.remove(name)

        return tool(name=name, sequential=sequential)(handler)

    tools = [noisy(name, sequential=name == "c") for name in "abcde"]
    model = ScriptedModel([calls(*"abcde"), "done"])
    await Agent("ada", model=model, tools=tools, parallel_tools=not everything).prompt("x")
    alone = [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert seen == (alone if everything else [["a", "b"], ["b"], ["c"], ["d", "e"], ["e"]])


async def test_what_goes_wrong_with_a_call_is_told_to_the_model_and_its_siblings_go_on() -> None:
    """W20, G75, G79"""

    @tool
    async def fail() -> None:
        raise OSError("the shelf is empty")

    @tool
    async def work() -> str:
        return "fine"

    model = ScriptedModel([calls("fail", "work", "nosuch"), "sorry"])
    result = await Agent("ada", model=model, tools=[fail, work]).prompt("x")
    assert [(part.is_error, part.content[:24]) for part in results(model.requests[1])] == [
        (True, '{"error":"tool_failed","'),
        (False, "fine"),
        (True, '{"error":"unknown_tool",'),
    ]
    assert result.text == "sorry"


async def test_a_tool_sees_its_run_its_key_and_what_the_caller_handed_in() -> None:
    """G72, W21"""
    seen: list[ToolContext] = []

    @tool
    async def work(context: ToolContext) -> None:
        seen.append(context)
        context.artifacts.add("chart", [1, 2])

    run = RunContext.root().child()
    model = ScriptedModel([calls("work", "work"), "done"])
    result = await Agent("ada", model=model, tools=[work]).prompt("x", run=run, deps="deps", session_id="u42")
    assert [(c.run_id, c.root_run_id, c.parent_run_id) for c in seen] == [
        (run.run_id, run.root_run_id, run.parent_run_id)
    ] * 2
    assert [(c.trip, c.attempt, c.tool_call_id, c.deps, c.session_id) for c in seen] == [
        (0, 1, "id0", "deps", "u42"),
        (0, 1, "id1", "deps", "u42"),
    ]
    assert len({c.idempotency_key for c in seen}) == 2
    assert [(artifact.key, artifact.value) for artifact in result.artifacts] == [("chart", [1, 2])] * 2
    assert "chart" not in str(model.requests)


async def test_the_limit_of_trips_returns_the_latest_text_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """G11, C16, W3, W6"""

    @tool
    async def look() -> str:
        return "nothing"

    def ada() -> Agent:
        return Agent("ada", model=ScriptedModel(lambda request: calls("look", text="looking")), tools=[look])

    result = await ada().prompt("x")
    assert (result.text, result.finish_reason, len(result.report.trips)) == ("looking", "limit", 10)
    assert result.report.warnings == ("the limit of 10 trips was reached",)
    assert "limit of 10 trips" in caplog.text
    with pytest.raises(RunFailed, match="limit of 2 trips") as caught:
        await ada().prompt("x", limits=Limits(trips=2, on_limit="raise"))
    assert len(caught.value.result.report.trips) == 2


async def test_usage_is_summed_over_the_trips() -> None:
    """W7"""

    @tool
    async def look() -> str:
        return "nothing"

    result = await Agent("ada", model=ScriptedModel([calls("look"), calls("look"), "done"]), tools=[look]).prompt("x")
    assert result.usage == Usage(input_tokens=20, output_tokens=10)


async def test_a_model_error_fails_the_run_and_prompt_raises_where_execute_returns() -> None:
    """G2, W7"""
    place, run = memory_place(), RunContext.root()
    ada = Agent("ada", model=ScriptedModel([BadModelRequest("too long"), BadModelRequest("too long")]))
    result = await ada.execute("x", run=run, place=place)
    assert (result.status, result.error and result.error.error) == ("failed", "BadModelRequest")
    assert [trip.finish_reason for trip in result.report.trips] == ["unanswered"]
    assert [event.type for event in await journal(place, run)] == ["run_started", "trip_started", "run_failed"]
    with pytest.raises(RunFailed, match="agent 'ada' failed: too long") as caught:
        await ada.prompt("x")
    assert isinstance(caught.value.__cause__, BadModelRequest)


async def test_a_provider_that_asks_to_come_back_later_has_been_asked_again_already() -> None:
    model = ScriptedModel([ModelOverloaded("later"), "never asked for"])
    result = await Agent("ada", model=model).execute("x")
    assert result.error
    assert (result.error.error, result.error.transient, len(model.requests)) == ("ModelOverloaded", True, 1)


async def test_a_broken_answer_is_asked_for_again_twice_and_then_the_run_fails() -> None:
    broken = ModelAnswerBroken("cut off")
    place, run = memory_place(), RunContext.root()
    result = await Agent("ada", model=ScriptedModel([broken, broken, "whole"])).execute("x", run=run, place=place)
    assert result.text == "whole"
    attempts = [event.attempt for event in await journal(place, run) if event.type == "trip_started"]
    assert attempts == [1, 2, 3]
    assert (await Agent("ada", model=ScriptedModel([broken] * 3)).execute("x")).status == "failed"


async def test_an_error_of_the_applications_own_code_fails_the_run_and_is_raised() -> None:
    def refine(text: str) -> str:
        raise ZeroDivisionError("a mistake")

    place, run = memory_place(), RunContext.root()
    with pytest.raises(ZeroDivisionError):
        await Agent("ada", model=ScriptedModel(["hi"]), refine=refine).execute("x", run=run, place=place)
    assert [event.type for event in await journal(place, run)][-1] == "run_failed"


async def test_refine_makes_the_text_of_the_answer_and_the_history_keeps_that() -> None:
    result = await Agent("ada", model=ScriptedModel(["Ada: hello. And th"]), refine=lambda text: text[5:11]).prompt("x")
    assert (result.text, result.messages[-1].text) == ("hello.", "hello.")
    assert result.report.trips[0].answer
    assert result.report.trips[0].answer.parts == (Text(text="Ada: hello. And th"),)


async def test_an_answer_that_refine_finds_unusable_is_asked_for_again_within_the_trips() -> None:
    def refine(text: str) -> str | Retry:
        return Retry("an echo") if text == "x" else text

    model = ScriptedModel(["x", "x", "something new"])
    result = await Agent("ada", model=model, refine=refine).prompt("x")
    assert (result.text, len(result.report.trips)) == ("something new", 3)
    assert all(request.messages == model.requests[0].messages for request in model.requests)
    with pytest.raises(RunFailed, match="no usable answer after 2 trips: an echo"):
        await Agent("ada", model=ScriptedModel(["x"] * 2), refine=refine, limits=Limits(reasks=1)).prompt("x")


async def test_a_result_that_is_too_large_for_the_log_is_told_to_the_model() -> None:
    @tool
    async def flood() -> str:
        return "x" * 2_000_000

    model = ScriptedModel([calls("flood"), "done"])
    assert (await Agent("ada", model=model, tools=[flood]).prompt("x")).text == "done"
    assert "result_too_large" in results(model.requests[1])[0].content


async def test_an_answer_that_is_too_large_for_the_log_fails_the_run() -> None:
    place, run = memory_place(), RunContext.root()
    result = await Agent("ada", model=ScriptedModel(["x" * 2_000_000])).execute("x", run=run, place=place)
    assert (result.status, result.error and result.error.error) == ("failed", "NotAppended")
    assert [event.type for event in await journal(place, run)][-1] == "run_failed"


async def test_a_thousand_runs_of_one_agent_share_nothing() -> None:
    """C29, W10"""

    @tool
    async def look() -> str:
        await anyio.lowlevel.checkpoint()
        return "nothing"

    def answer(request: Request) -> Answer | str:
        return f"{request.messages[0].text} done" if len(request.messages) > 1 else calls("look")

    ada = Agent("ada", model=ScriptedModel(answer), tools=[look])
    texts: dict[int, str] = {}

    async def one(number: int) -> None:
        texts[number] = (await ada.prompt(f"run {number}")).text

    async with anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(one, number)
    assert texts == {number: f"run {number} done" for number in range(1000)}


async def cancelled_at(point: str, *, leave: bool) -> list[str]:
    """The journal of a run that is cancelled while the model is asked or while two tools run."""
    reached = anyio.Event()

    async def hang() -> None:
        reached.set()
        await anyio.sleep_forever()

    @tool
    async def wait() -> None:
        await hang()

    @tool
    async def quick() -> str:
        return "quick"

    place, run = memory_place(), RunContext.root()
    pause = hang if point == "model" else anyio.lowlevel.checkpoint
    script = ["never heard"] if point == "model" else [calls("quick", "wait")]
    ada = Agent("ada", model=ScriptedModel(script, pause=pause), tools=[wait, quick])
    async with anyio.create_task_group() as group:

        async def execute() -> None:
            await ada.execute("x", run=run, place=place, on_cancel="leave" if leave else "record")

        group.start_soon(execute)
        await reached.wait()
        group.cancel_scope.cancel()
    return [event.type for event in await journal(place, run)]


@pytest.mark.parametrize("point", ["model", "tool"])
async def test_cancelling_the_callers_task_records_exactly_one_end(point: str) -> None:
    """W32, W33"""
    types = await cancelled_at(point, leave=False)
    assert types[-1] == "run_cancelled"
    assert sum(kind in ("run_finished", "run_failed", "run_cancelled") for kind in types) == 1
    assert types.count("tool_returned") == (point == "tool")


@pytest.mark.parametrize("point", ["model", "tool"])
async def test_a_run_that_is_to_be_left_has_no_end_after_cancellation(point: str) -> None:
    types = await cancelled_at(point, leave=True)
    assert types[-1] in ("trip_started", "tool_returned")


async def test_a_run_that_was_cancelled_stays_so() -> None:
    place, run = memory_place(), RunContext.root()
    ada = Agent("ada", model=ScriptedModel(["hi"], pause=anyio.sleep_forever))
    with anyio.move_on_after(0.01):
        await ada.execute("x", run=run, place=place)
    with pytest.raises(RunCancelled):
        await ada.prompt("x", run=run, place=place)
