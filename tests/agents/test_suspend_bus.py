"""Suspended runs on a real server, and after a crash at each of their records."""

import time

import pytest

from convive.agents import (
    Agent,
    AlreadyResumed,
    Answer,
    Approve,
    NotSuspended,
    Place,
    Request,
    ToolUse,
    peek,
    pending,
    resume,
    run_events,
    tool,
)
from convive.agents.models._messages import ToolResult
from convive.agents.models._scripted import ScriptedModel
from convive.bus import Draft, MemoryLog, RunContext, open_bus

pytestmark = pytest.mark.anyio


def chief(done: list[str]) -> Agent:
    """An agent whose agent's tool waits for an approval; any process can make it."""

    @tool(needs_approval=True)
    async def publish(what: str) -> str:
        done.append(what)
        return f"published {what}"

    def write(request: Request) -> Answer | str:
        if isinstance(request.messages[-1].parts[0], ToolResult):
            return "written"
        use = ToolUse(id="1", name="publish", arguments={"what": "news"})
        return Answer(parts=(use,), stop_reason="tool_use")

    def lead(request: Request) -> Answer | str:
        if isinstance(request.messages[-1].parts[0], ToolResult):
            return f"heard: {request.messages[-1].parts[0].content}"
        use = ToolUse(id="1", name="write", arguments={"prompt": "write"})
        return Answer(parts=(use,), stop_reason="tool_use")

    writer = Agent("writer", model=ScriptedModel(write), tools=[publish])
    return Agent("chief", model=ScriptedModel(lead), tools=[writer.as_tool("write", "Write.")])


async def test_a_run_that_waits_on_a_server_is_answered_over_another_connection(nats_url: str) -> None:
    """G26, G31, G40, C1, C4"""
    name, done = f"suspend-{time.time_ns()}", list[str]()
    async with open_bus(nats_url) as bus:
        conversation = await bus.conversation(name)
        place = Place(conversation.log, conversation.subjects.base)
        result = await chief(done).prompt("go", place=place)
        assert result.status == "suspended"
    async with open_bus(nats_url) as bus:
        conversation = await bus.conversation(name)
        (waiting,) = await pending(conversation)
        assert waiting == await peek(conversation, result.run_id)
        answers = {waiting.interrupts[0].id: Approve()}
        after = await resume(conversation, waiting.run_id, answers, token=waiting.token, agent=chief(done))
        assert (after.text, done) == ("heard: written", ["news"])
        with pytest.raises(AlreadyResumed):
            await resume(conversation, waiting.run_id, answers, token=waiting.token, agent=chief(done))
        async with run_events(conversation, waiting.run_id, tree=True) as events:
            kinds = [each.event.type async for each in events]
        assert (kinds.count("run_suspended"), kinds.count("run_finished")) == (2, 2)
        assert await pending(conversation) == []


class Killed(BaseException):
    """The process is gone."""


class Dying(MemoryLog):
    """A log whose process dies at an append: before it is stored, or behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10_000
        self.stored = True

    async def append(self, draft: Draft) -> int:
        self.left -= 1
        if self.left == 0 and not self.stored:
            raise Killed
        seq = await super().append(draft)
        if self.left == 0:
            raise Killed
        return seq


@pytest.mark.parametrize("stored", [False, True])
async def test_a_crash_at_any_record_loses_no_answer_and_repeats_no_approved_effect_knowingly(stored: bool) -> None:
    """C3, G46"""
    for at in range(1, 40):
        log, done = Dying(), list[str]()
        place, run = Place(log, "base", live=False), RunContext.root()
        log.left, log.stored = at, stored
        crashes = 0
        result = None
        while result is None or result.status == "suspended":
            try:
                result = await chief(done).execute("go", run=run, place=place)
                if result.interrupts:
                    answers = {result.interrupts[0].id: Approve()}
                    result = await resume(place, run.run_id, answers, token=result.resume_token, agent=chief(done))
            except Killed:
                crashes += 1
                result = None
            except (AlreadyResumed, NotSuspended):
                result = None
        assert result.text == "heard: written"
        assert 1 <= len(done) <= 1 + crashes
        if not crashes:
            return
    pytest.fail("a run does not have that many records")
