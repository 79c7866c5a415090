"""Questions at the terminal of a running party: approvals, edits, and results of tools that run elsewhere."""

from typing import TYPE_CHECKING

import pytest

from tests.scenarios.screens import terminal

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

CELLAR = '''
"""A steward who opens bottles when somebody allows it, and asks which one when told to."""

import os
import anyio
from convive.agents import Agent, AgentSeat, Answer, ToolUse, client_tool, tool
from convive.agents.testing import ScriptedModel
from convive.scenarios import Guest, Party

TOOL = os.environ.get("TOOL", "open_bottle")

async def knock(what):
    async with await anyio.connect_tcp("127.0.0.1", int(os.environ["DOOR"])) as stream:
        await stream.send(what.encode())
        await stream.receive()

@tool(needs_approval=True)
async def open_bottle(year: int, why: str) -> str:
    """Open a bottle."""
    return f"a {year}"

def pour(request):
    last = request.messages[-1].parts[-1]
    if last.type == "tool_result":
        return f"Then {last.content}."
    given = {"year": 1982, "why": "for the soup"} if TOOL == "open_bottle" else {}
    return Answer(parts=(ToolUse(id="1", name=TOOL, arguments=given),), stop_reason="tool_use")

class Steward(AgentSeat):
    async def take_turn(self, turn):
        await knock("steward asked")
        return await super().take_turn(turn)

steward = Agent("steward", model=ScriptedModel(pour), tools=[open_bottle, client_tool("which", "Which one?")])
guest = Guest(seat="steward", participant=Steward(steward))
party = Party(topic="Wine?", turns=1, turn_s=1, model="scripted/party", guests=(guest,))
'''
QUESTION = "Allow it? y, n, e to edit, or say why not:"


async def test_a_guest_that_waits_for_an_approval_asks_the_person_at_the_terminal(
    person: "Person", door: "Door"
) -> None:
    """Item 7 of the issue: who wants to call what, with which arguments; what was typed before is no answer"""
    person.writes("cellar.py", CELLAR)
    door.shut("steward asked")
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as run:
        await run.until("Wine? At the table")
        await door.knocked("steward asked")
        run.types("y\n")
        door.open("steward asked")
        await run.until(QUESTION)
        assert 'Steward wants to call open_bottle year: 1982 why: "for the soup"' in run.screen.text
        run.types("\n")
        await run.until(f"{QUESTION} {QUESTION}")
        run.types("it is  too good\n")
        assert await run.ends() == 0
    assert 'Then {"rejected":true,"reason":"it is too good"}.' in run.screen.text
    assert run.screen.wrapped == []
    assert run.screen.lines[-2] == "All of it is kept. See it again: convive replay wine"


async def test_arguments_are_edited_at_the_terminal_and_checked_at_once(person: "Person", door: "Door") -> None:
    """G32: the agent that sits in this process knows its tools"""
    person.writes("cellar.py", CELLAR)
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as run:
        await run.until(QUESTION)
        for times, wrong in enumerate(('{"year": 19', "[]", '{"year": "old", "why": "x"}', ""), start=2):
            run.types("e\n")
            await run.until_times("The arguments to use instead", times - 1)
            run.types(f"{wrong}\n")
            await run.until_times(QUESTION, times)
        assert "the new arguments are not JSON" in run.screen.text
        assert "have to be a JSON object" in run.screen.text
        assert "does not fit: year: Input should be a valid integer" in run.screen.text
        run.types("e\n")
        await run.until_times("The arguments to use instead", 5)
        run.types('{"year": 1990, "why": "for me"}\n')
        assert await run.ends() == 0
    assert "Then a 1990." in run.screen.text


async def test_a_question_goes_away_when_somebody_answers_in_another_shell(person: "Person", door: "Door") -> None:
    """Item 7 of the issue"""
    person.writes("cellar.py", CELLAR)
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as run:
        await run.until(QUESTION)
        run.types("no, becau")
        (row,) = (await person.does("pending", "wine", "--json")).rows
        assert (await person.does("approve", row["run_id"])).code == 0
        assert await run.ends() == 0
    assert "It does not wait any more: somebody else answered, or its time was over." in run.screen.text
    assert "Then a 1982." in run.screen.text


async def test_ctrl_c_at_a_question_ends_the_party_below_it(person: "Person", door: "Door") -> None:
    person.writes("cellar.py", CELLAR)
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as run:
        await run.until(QUESTION)
        run.types("\x03")
        assert await run.ends() == 130
    assert run.screen.lines[-4:] == [
        f"{QUESTION} ^C",
        "Stopped. All that was said is kept; go on with:",
        "  convive run cellar.py --conversation wine",
        "",
    ]
    listed = await person.does("pending")
    assert listed.err == "Answer with: convive approve RUN | convive deny RUN\n"


async def test_the_result_of_a_tool_that_runs_elsewhere_is_asked_for(person: "Person", door: "Door") -> None:
    """G24, G41"""
    person.writes("cellar.py", CELLAR)
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door, env={"TOOL": "which"}) as run:
        await run.until("Steward needs the result of which")
        # What is typed before the question stands there does not count.
        await run.until_times("Its result, as JSON or plain text:", 1)
        run.types("[1,\n")
        await run.until("this looks like JSON and is none")
        await run.until_times("Its result, as JSON or plain text:", 2)
        run.types("the red one\n")
        assert await run.ends() == 0
    assert "Then the red one." in run.screen.text


async def test_ctrl_c_and_ctrl_d_at_a_question_leave_it_to_be_answered_later(person: "Person", door: "Door") -> None:
    person.writes("cellar.py", CELLAR)
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as run:
        await run.until(QUESTION)
        run.types("\x03")
        assert await run.ends() == 130
    assert "Traceback" not in run.screen.text
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as again:
        await again.until(QUESTION)
        again.types("\x04")
        await again.until("From another shell: convive approve")
        (row,) = (await person.does("pending", "wine", "--json")).rows
        assert (await person.does("deny", row["run_id"])).code == 0
        assert await again.ends() == 0
    assert "the call was not allowed" in again.screen.text
