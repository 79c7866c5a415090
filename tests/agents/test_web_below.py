"""A page is asked to approve what an agent below another would do, and its answer reaches the run that waits."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from convive.agents import (
    Agent,
    Answer,
    Approve,
    Deny,
    Edit,
    Place,
    Request,
    Resolution,
    accept_answers,
    client_tool,
    run_events,
    tool,
)
from convive.agents.testing import ScriptedModel
from convive.agents.web import ui_stream
from convive.bus import MemoryLog
from tests.agents.test_web import Chunk, chunks, sound, use, whole
from tests.agents.test_web_sdk import calls_of, read

pytestmark = pytest.mark.anyio


class House:
    """A chief who asks an editor who asks writers, each of whom publishes what somebody approves of."""

    def __init__(self, *, calls: Sequence[str] = ("red",)) -> None:
        self.done: list[str] = []
        self._calls = calls
        self.place = Place(MemoryLog(), "cv.00.web")

    def chief(self) -> Agent:
        @tool(needs_approval=True)
        async def publish(what: str) -> str:
            """Publish."""
            self.done.append(what)
            return f"published {what}"

        writer = Agent("writer", model=ScriptedModel(self._writing), tools=[publish, client_tool("locate", "Where.")])

        @tool
        async def write(what: str) -> str:
            """Have something written, or several things side by side."""
            said: dict[str, str] = {}

            async def one(each: str) -> None:
                said[each] = (await writer.prompt(each)).text

            async with anyio.create_task_group() as tasks:
                for each in what.split(","):
                    tasks.start_soon(one, each)
            return "; ".join(said[each] for each in sorted(said))

        editor = Agent("editor", model=ScriptedModel(self._editing), tools=[write])
        edit = editor.as_tool("edit", "Have something edited.")
        return Agent("chief", model=ScriptedModel(self._leading), tools=[edit])

    def _leading(self, request: Request) -> Answer | str:
        if len(request.messages) > 1:
            return "All is done."
        return use(*((f"c{number}", "edit", {"prompt": each}) for number, each in enumerate(self._calls)))

    def _editing(self, request: Request) -> Answer | str:
        what = request.messages[0].text
        return "edited" if len(request.messages) > 1 else use(("c0", "write", {"what": what}))

    def _writing(self, request: Request) -> Answer | str:
        what = request.messages[0].text
        if len(request.messages) > 1:
            return "written"
        return use(("c0", "locate", {})) if what == "map" else use(("c0", "publish", {"what": what}))

    async def asked(self) -> tuple[bytes, str]:
        """The stream of a run that waits, and its id."""
        async with self.chief().stream("x", place=self.place) as run:
            return await whole(ui_stream(run)), run.run_id

    async def answered(self, run_id: str, answers: dict[str, Resolution]) -> bytes:
        """The stream of what comes when this is what somebody says."""
        agent = self.chief()
        options = await accept_answers(self.place, run_id, answers, agent=agent)
        async with agent.stream(**options) as run:
            return await whole(ui_stream(run))


def requests(body: bytes) -> list[Chunk]:
    return [chunk for chunk in chunks(body) if chunk["type"] == "tool-approval-request"]


def outcomes(body: bytes) -> dict[str, Any]:
    return {
        chunk["toolCallId"]: chunk["output"]
        for chunk in chunks(body)
        if chunk["type"] == "tool-output-available" and "preliminary" not in chunk
    }


async def test_the_call_that_leads_there_asks_for_an_approval_of_a_run_below() -> None:
    house = House()
    body, run_id = await house.asked()
    types = sound(chunks(body))
    (request,) = requests(body)
    assert request["toolCallId"] == "c0"
    shown = request["approvalDescriptor"]
    assert (shown["agent"], shown["tool"], shown["arguments"]) == ("writer", "publish", {"what": "red"})
    assert shown["run_id"] != run_id
    assert types.index("tool-input-available") < types.index("tool-approval-request") < types.index("finish")
    after = await house.answered(run_id, {request["approvalId"]: Approve()})
    assert house.done == ["red"]
    assert outcomes(after) == {"c0": "edited"}
    assert requests(after) == []
    assert chunks(after)[-1]["finishReason"] == "stop"


async def test_of_several_calls_each_asks_for_what_waits_below_it_and_each_answer_reaches_its_run() -> None:
    house = House(calls=("red", "green", "blue"))
    body, run_id = await house.asked()
    asked = {each["approvalDescriptor"]["arguments"]["what"]: each for each in requests(body)}
    assert {what: each["toolCallId"] for what, each in asked.items()} == {"red": "c0", "green": "c1", "blue": "c2"}
    answers: dict[str, Resolution] = {
        asked["red"]["approvalId"]: Deny("no"),
        asked["green"]["approvalId"]: Approve(),
        asked["blue"]["approvalId"]: Edit({"what": "black"}),
    }
    after = await house.answered(run_id, answers)
    assert sorted(house.done) == ["black", "green"]
    assert outcomes(after) == {"c0": "edited", "c1": "edited", "c2": "edited"}


async def test_a_call_below_which_several_wait_asks_for_one_after_the_other() -> None:
    """A part of a message holds one approval: a second one would replace it unseen."""
    house = House(calls=("red,green,blue",))
    body, run_id = await house.asked()
    for _ in range(3):
        (request,) = requests(body)
        assert request["toolCallId"] == "c0"
        assert request["approvalDescriptor"]["arguments"]["what"] not in house.done
        body = await house.answered(run_id, {request["approvalId"]: Approve()})
    assert sorted(house.done) == ["blue", "green", "red"]
    assert outcomes(body) == {"c0": "edited"}


async def test_who_follows_the_log_is_asked_the_same() -> None:
    house = House(calls=("red", "green,blue"))
    body, run_id = await house.asked()
    async with run_events(house.place, run_id) as events:
        later = await whole(ui_stream(events))
    assert requests(later) == requests(body)
    assert len(requests(body)) == 2


async def test_a_tool_that_runs_elsewhere_is_not_asked_of_the_page_when_it_is_of_a_run_below() -> None:
    """It would be carried out for another call."""
    body, _ = await House(calls=("map",)).asked()
    types = sound(chunks(body))
    assert types.count("tool-input-available") == 1
    assert requests(body) == []
    assert chunks(body)[-1]["finishReason"] == "tool-calls"


@pytest.mark.ai_sdk
async def test_the_ai_sdk_asks_for_what_waits_below_and_goes_on_with_the_message() -> None:
    house = House(calls=("red,green", "blue"))
    body, run_id = await house.asked()
    bodies = [body]
    message = await read(*bodies)
    asked = [part["approval"]["descriptor"] for part in message["parts"] if part["type"] == "tool-edit"]
    assert [each["tool"] for each in asked] == ["publish", "publish"]
    states: list[list[str]] = []
    while waiting := [part for part in message["parts"] if part.get("state") == "approval-requested"]:
        states.append([state for _, state, *_ in calls_of(message)])
        answers: dict[str, Resolution] = {part["approval"]["id"]: Approve() for part in waiting}
        bodies.append(await house.answered(run_id, answers))
        message = await read(*bodies)
    assert states == [["approval-requested", "approval-requested"], ["approval-requested", "output-available"]]
    assert [call[1:] for call in calls_of(message)] == [
        ("output-available", {"prompt": "red,green"}, "edited"),
        ("output-available", {"prompt": "blue"}, "edited"),
    ]
    assert message["id"] == run_id
    assert sorted(house.done) == ["blue", "green", "red"]
