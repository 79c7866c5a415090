"""`convive pending`, `approve`, `deny`, `answer` and `resume` (item 6 of the issue), in processes of their own."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from convive.agents import (
    Agent,
    Answer,
    Interrupt,
    Place,
    RunUpdate,
    ToolUse,
    client_tool,
    find_queued,
    pending,
    queued,
    tool,
)
from convive.agents.testing import ScriptedModel
from convive.bus import Bus, RunContext, open_bus
from convive.scenarios.cli._calls import is_called, short_ids, short_runs

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

AGENTS = '''
from convive.agents import Agent, Answer, ToolUse, client_tool, tool
from convive.agents.testing import ScriptedModel


@tool(needs_approval=True)
async def refund(order: str, amount: float) -> str:
    """Give money back."""
    return f"{amount:g} for {order}"


locate = client_tool("locate", "Where the user is.", output=list[str])


def reply(request):
    heard = [part for message in request.messages for part in message.parts if part.type == "tool_result"]
    return " | ".join(part.content for part in heard) if heard else Answer(parts=CALLS, stop_reason="tool_use")


CALLS = (ToolUse(id="1", name="refund", arguments={"order": "A7", "amount": 500}),)
shop = Agent("shop", model=ScriptedModel(reply), tools=[refund, locate])
'''
REFUND = ToolUse(id="1", name="refund", arguments={"order": "A7", "amount": 500})
SECOND = ToolUse(id="2", name="refund", arguments={"order": "\x1b[2JB" * 60, "amount": 1})
LOCATE = ToolUse(id="3", name="locate", arguments={})


@pytest.fixture
def shop(person: "Person") -> "Person":
    person.writes("my_agents.py", AGENTS)
    return person


@asynccontextmanager
async def store(person: "Person") -> AsyncGenerator[Bus]:
    async with open_bus(data=person.folder / ".convive") as bus:
        yield bus


async def wait(bus: Bus, *calls: ToolUse, where: str = "desk") -> str:
    """A run of the shop's agent that waits for these calls."""

    @tool(needs_approval=True)
    async def refund(order: str, amount: float) -> str:
        """Give money back."""
        raise AssertionError(order, amount)

    locate = client_tool("locate", "Where the user is.", output=list[str])
    conversation = await bus.conversation(where)
    agent = Agent("shop", model=ScriptedModel([Answer(parts=calls, stop_reason="tool_use")]), tools=[refund, locate])
    result = await agent.prompt("go", place=Place(conversation.log, conversation.subjects.base))
    assert result.status == "suspended"
    return result.run_id


async def test_what_waits_is_listed_and_approved_by_the_beginning_of_its_id(shop: "Person") -> None:
    """Item 6: the approval is given by one process, the run executed by another"""
    async with store(shop) as bus:
        run, other = await wait(bus, REFUND), await wait(bus, LOCATE, where="elsewhere")
        listed = await shop.does("pending")
        assert [line.split()[1:3] for line in listed.lines] == [
            ["where", "who"],
            ["desk", "shop"],
            ["elsewhere", "shop"],
        ]
        assert 'refund(order="A7", amount=500)' in listed.lines[1]
        short = listed.lines[1].split()[0]
        assert run.startswith(short)
        rows = (await shop.does("pending", "elsewhere", "--json")).rows
        assert [(row["run_id"], row["interrupts"][0]["kind"]) for row in rows] == [(other, "client_tool")]
        assert "token" not in json.dumps(rows)
        done = await shop.does("approve", short)
        assert (done.code, done.out) == (0, "")
        assert 'Approved: refund(order="A7", amount=500). Nobody executes the run now' in done.err
        assert f"convive resume {run} --agent module:name" in done.err
        assert "does not wait for an answer any more" in (await shop.does("approve", run)).complaint
        went_on = await shop.does("resume", run, "--agent", "my_agents:shop")
        assert (went_on.code, went_on.out) == (0, "500 for A7\n")
        answered = await shop.does("answer", other, '["Ghent"]', "--agent", "my_agents")
        assert (answered.code, answered.out) == (0, '["Ghent"]\n')
    assert "Nothing waits for an answer." in (await shop.does("pending")).err


async def test_of_several_calls_each_is_named_by_an_id_that_stays(shop: "Person") -> None:
    """G83: partial answers; the table shows no control characters of what a model wrote"""
    async with store(shop) as bus:
        run = await wait(bus, REFUND, SECOND, LOCATE)
        table = await shop.does("pending")
        assert "\x1b" not in table.out
        assert [line.split()[5] for line in table.lines[1:]] == ["0-0", "0-1", "0-2"]
        asked = await shop.does("approve", run)
        assert "the run waits for 3 answers; say which" in asked.complaint
        assert "0-2 locate()" in asked.err
        for wrong in ("0-7", "1", "7-0"):
            assert "is none of them" in (await shop.does("approve", run, wrong)).complaint
        assert "waits for its result" in (await shop.does("approve", run, "0-2")).complaint
        assert "waits for an approval" in (await shop.does("answer", run, "0-1", "5")).complaint
        denied = await shop.does("deny", run, "0-1", "--message", "too much", "--agent", "my_agents:shop")
        assert "It waits again, for refund" in denied.err
        edit = await shop.does(
            "approve", run, "0-0", "--edit", '{"order": "A8", "amount": 2}', "--agent", "my_agents:shop"
        )
        assert "It waits again, for locate()" in edit.err
        last = await shop.does("answer", run, '["Ghent", "Ypres"]', "--agent", "my_agents:shop")
    assert last.out == '2 for A8 | {"rejected":true,"reason":"too much"} | ["Ghent","Ypres"]\n'


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("approve", "zz"), "no run that waits has an id that begins with 'zz'"),
    (("approve", "f" * 32), f"there is no run {'f' * 32} on the bus"),
    (("approve", "RUN", "--edit", "{"), "the new arguments are not JSON"),
    (("approve", "RUN", "--edit", "[1]"), "have to be a JSON object"),
    (("approve", "RUN", "--edit", '{"amount": "much"}', "--agent", "my_agents:shop"), "does not fit"),
    (("approve", "RUN", "--agent", "nowhere:shop"), "no module 'nowhere' is here"),
    (("answer", "RUN", '{"a": '), "this looks like JSON and is none"),
    (("answer", "RUN", "0-0", "two", "words"), "give one value"),
    (("resume", "abc", "--agent", "my_agents:shop"), "is not a run id"),
    (("pending", "Two Words"), "Did you mean 'two-words'?"),
    (("pending", "nosuch"), "there is no conversation 'nosuch'"),
]


async def test_a_wrong_answer_says_what_is_wrong_and_changes_nothing(shop: "Person") -> None:
    """Conformance test 2"""
    async with store(shop) as bus:
        run = await wait(bus, REFUND)
        (before,) = await pending(bus)
        for arguments, complaint in WRONG:
            done = await shop.does(*(run if word == "RUN" else word for word in arguments))
            assert complaint in done.complaint
        assert await pending(bus) == [before]


async def test_a_run_that_a_worker_paused_is_approved_from_another_shell_and_the_worker_finishes_it(
    shop: "Person",
) -> None:
    """G58, item 8 of the issue: `paused` and `done`, each once"""
    updates: list[RunUpdate] = []
    async with store(shop) as bus:
        run = await queued("shop", "go").send(bus)

        async def follow() -> None:
            async with (await find_queued(bus, run.run_id)).events() as events:
                updates.extend([event async for event in events if event.name != "chunk"])

        async with shop.starts("worker", "my_agents"), anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            with anyio.fail_after(40):
                assert (await run.result()).status == "suspended"
            done = await shop.does("approve", run.run_id)
            assert "A worker goes on with it (queue-default)." in done.err
    assert [event.name for event in updates] == ["paused", "done"]
    assert updates[-1].data["text"] == "500 for A7"


PARTY = (
    AGENTS
    + """
from convive.agents import AgentSeat
from convive.scenarios import Guest, Party

party = Party(
    topic="soup", turns=1, model="scripted/party", guests=(Guest(seat="shop", participant=AgentSeat(shop)),),
    turn_s=0.2,  # an answer may take longer
)
"""
)


async def test_a_guest_whose_process_is_killed_while_it_waits_goes_on_with_the_answer_after_a_restart(
    shop: "Person",
) -> None:
    """G46: kill -9 of the seat, the supervisor and the server; the answer is given to a log that nobody executes"""
    shop.writes("table.py", PARTY)
    party = ("run", "table.py", "--conversation", "soup", "--plain")
    async with shop.starts(*party) as first:
        await first.err.until("From another shell: convive approve ")
        await first.kill()
    (row,) = (await shop.does("pending", "--json")).rows
    assert (row["seat"], row["conversation"]) == ("shop", "soup")
    done = await shop.does("approve", row["run_id"])
    assert "shop goes on in soup, as soon as a process sits there." in done.err
    refused = await shop.does("resume", row["run_id"], "--agent", "my_agents:shop")
    assert "has its input elsewhere" in refused.complaint
    again = await shop.does(*party)
    assert (again.code, again.lines[2]) == (0, "Shop: 500 for A7")


async def test_the_command_that_a_party_without_a_terminal_names_is_the_one_to_use(shop: "Person") -> None:
    """Item 7: one line says how to answer; a turn is not revoked meanwhile"""
    shop.writes("table.py", PARTY)
    async with shop.starts("run", "table.py", "--conversation", "soup", "--plain") as party:
        told = await party.err.until("From another shell: convive approve ")
        while not (line := told.partition("From another shell: convive ")[2]).endswith("\n"):
            told = await party.err.until("\n", told.count("\n") + 1)
        done = await shop.does(*line.split())
        assert "shop goes on in soup" in done.err
        assert (await party.ends()).lines[2] == "Shop: 500 for A7"


def an_interrupt(run: str, trip: int, index: int) -> Interrupt:
    given: dict[str, Any] = {"run_id": run, "agent": "a", "tool": "t", "call_id": "1", "args_hash": "x"}
    id = f"{run}-{trip}-{index}-approval"
    return Interrupt(id=id, kind="approval", trip=trip, index=index, arguments={}, **given)


async def test_a_run_of_a_guest_is_executed_with_the_agent_in_its_seat(person: "Person") -> None:
    person.writes(
        "my_seats.py",
        "from convive.agents import Agent, AgentSeat\nseat = AgentSeat(Agent('clerk', model='scripted/party'))\n",
    )
    held = ("run", "--model", "scripted/party", "--turns", "1", "--guests", "1", "--conversation", "eve")
    assert (await person.does(*held)).code == 0
    found = await person.does("resume", "0" * 32, "--agent", "my_seats:seat")
    assert "no agent" not in found.complaint
    none = await person.does("resume", "0" * 32, "--agent", "my_seats:Agent")
    assert none.complaint.endswith("no agent is there, such as `support = Agent('support', ...)`.")


def test_short_ids_tell_calls_apart_and_are_understood() -> None:
    one, other = RunContext.root().run_id, RunContext.root().child().run_id
    calls = [an_interrupt(one, 0, 1), an_interrupt(one, 10, 1), an_interrupt(other, 0, 2), an_interrupt(one, 0, 2)]
    short = short_ids(calls)
    assert short[:2] == ["0-1", "10-1"]
    assert short[2] == f"{other[-4:]}-0-2"
    for place, name in enumerate(short):
        assert [is_called(each, name) for each in calls] == [each is calls[place] for each in calls]
        assert is_called(calls[place], calls[place].id)
    assert not any(is_called(each, "1") or is_called(each, "") for each in calls)


def test_short_runs_tell_runs_apart() -> None:
    runs = ["0" * 31 + "1", "0" * 31 + "2", "0" * 12 + "f" * 20, "a" * 32]
    assert list(short_runs(runs).values()) == [runs[0], runs[1], "0" * 12 + "f", "a" * 12]
    assert short_runs([]) == {}
