"""Crashes (architecture.md, section 7): kill -9 of real processes, then no turn is skipped and none doubled."""

import os
import signal
import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from convive.bus import Granted, event_of, open_bus

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

RUN = ("run", "table.py", "--conversation", "soup", "--plain")
SIT = ("sit", "soup", "--as", "amy", "--agent", "table:amy")
COUNTED = ["amy 1", "bob 1", "amy 2", "bob 2"]
"""What the guests say in four turns: one that is skipped, doubled or taken with other knowledge shows."""
TASTING = '''
import dataclasses
from pathlib import Path

from convive.agents import Answer, ToolContext, ToolUse
from convive.agents.testing import crash_after, crash_before


def note(file, line):
    with Path(file).open("a") as notes:
        notes.write(f"{line}\\n")


async def taste(context: ToolContext) -> str:
    """Taste the soup."""
    note("tasted", context.idempotency_key)
    return "salty"


def answer(request):
    own = sum(one.role == "assistant" for one in request.messages)
    tasted = any(part.type == "tool_result" for part in request.messages[-1].parts)
    note("asked", f"{own} {tasted}")
    if tasted:
        return f"amy {own}"
    return Answer(parts=(ToolUse(id="1", name="taste", arguments={}),), stop_reason="tool_use")


class Tasting(Seat):
    def __init__(self):
        self.agent = AgentSeat(Agent("amy", model=ScriptedModel(answer), tools=[taste]))

    async def take_turn(self, turn):
        if "CRASH" not in os.environ:
            return await self.agent.take_turn(turn)
        crash = {"before": crash_before, "after": crash_after}[os.environ["CRASH"]]
        with crash("tool_returned", kill=True).on(turn.conversation) as dying:
            return await self.agent.take_turn(dataclasses.replace(turn, conversation=dying))


party = party.model_copy(update={"guests": (Guest(seat="amy", participant=Tasting()), party.guests[1])})
'''
"""Amy tastes the soup before she speaks; her process kills itself around the record of what it tasted like."""
LEADING = """
import sys

import anyio

from convive.agents import Plan, host_seats, supervise
from convive.agents.testing import crash_after, crash_before
from convive.bus import RunContext, SeatName, open_bus
from table import amy


async def main():
    async with open_bus() as bus, anyio.create_task_group() as tasks:
        conversation = await bus.existing("soup")
        floor = await conversation.floor()
        tasks.start_soon(host_seats, conversation, {SeatName("amy"): amy})
        crash = {"before": crash_before, "after": crash_after}[sys.argv[1]]
        with crash("granted", turn=3, kill=True).on(conversation) as dying:
            await supervise(dying, Plan(turns=4), RunContext.root(floor.opened.run_id))


anyio.run(main)
"""
"""Leads the party on, and kills itself around the grant of turn 3."""


async def guests_said(table: "Person") -> list[str]:
    """What was said between the opening and the toast, each turn once."""
    return (await table.said("soup"))[1:-1]


@pytest.mark.parametrize("moment", ["amy asked", "amy answered"])
async def test_a_seat_that_is_killed_in_its_turn_takes_it_once_when_it_is_started_again(
    table: "Person", door: "Door", moment: str
) -> None:
    """Before the model answered: it is asked again, once. After: the journaled answer is said, nobody is asked."""
    door.shut(moment)
    async with table.starts(*RUN, "--remote", "amy", env=door.env) as run:
        await run.out.until("Host:")
        async with table.starts(*SIT, env=door.env) as amy:
            await door.knocked(moment)
            await amy.kill()
        door.open(moment)
        async with table.starts(*SIT, env=door.env) as amy:
            assert (await amy.ends()).code == 0
        assert (await run.ends()).code == 0
    assert await guests_said(table) == COUNTED
    assert door.knocks["amy asked"] == (3 if moment == "amy asked" else 2)
    assert door.knocks["bob asked"] == 2


async def test_a_seat_that_is_killed_after_its_turn_says_nothing_twice(table: "Person", door: "Door") -> None:
    door.shut("bob asked")
    async with table.starts(*RUN, "--remote", "amy", env=door.env) as run:
        await run.out.until("Host:")
        async with table.starts(*SIT, env=door.env) as amy:
            await run.out.until("Amy: amy 1")
            await amy.kill()
        async with table.starts(*SIT, env=door.env) as amy:
            await amy.err.until("sits in soup")
            door.open("bob asked")
            await amy.ends()
        await run.ends()
    assert await guests_said(table) == COUNTED
    assert door.knocks == {"amy asked": 2, "amy answered": 2, "bob asked": 2, "bob answered": 2}


async def test_a_seat_that_never_comes_back_loses_the_floor_and_the_party_goes_on(
    table: "Person", door: "Door"
) -> None:
    """Nobody ever sits in amy's seat: her turn is taken back after its time and two seconds of grace."""
    done = await table.does(*RUN, "--remote", "amy", env={**door.env, "TURN_S": "0.5", "TURNS": "2"})
    assert done.code == 0
    assert "Amy comes from elsewhere: convive sit soup --as amy\n" in done.err
    assert done.lines[2] == "* the floor is taken back from Amy (no word from amy in time)"
    assert await guests_said(table) == ["bob 1"]


@pytest.mark.parametrize("crash", ["before", "after"])
async def test_a_seat_that_is_killed_when_its_tool_ran_runs_it_again_with_the_same_key_or_not_at_all(
    table: "Person", door: "Door", crash: str
) -> None:
    """Conformance test 3. Before the result was journaled: again, so that a service can drop it. After: never."""
    table.writes("table.py", (table.folder / "table.py").read_text() + TASTING)
    done = await table.does(*RUN, env={**door.env, "CRASH": crash})
    assert done.code == -signal.SIGKILL
    assert len((table.folder / "tasted").read_text().split()) == 1
    done = await table.does(*RUN, env=door.env)
    assert done.code == 0
    assert await guests_said(table) == COUNTED
    tasted = (table.folder / "tasted").read_text().split()
    assert (len(tasted), len(set(tasted))) == (3 if crash == "before" else 2, 2)
    assert tasted[0] == tasted[1] or crash == "after"
    asked = (table.folder / "asked").read_text().splitlines()
    assert asked == ["0 False", "1 True", "1 False", "2 True"]


@pytest.mark.parametrize("crash", ["before", "after"])
async def test_a_supervisor_that_is_killed_around_its_grant_leaves_one_grant(
    table: "Person", door: "Door", crash: str
) -> None:
    """Before it lands: nothing is seen of it, and whoever leads on decides anew, on the same link. After: it holds."""
    door.shut("amy asked")
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked("amy asked")
        await run.kill()
    door.open("amy asked")
    table.writes("lead.py", LEADING)
    command = [sys.executable, "lead.py", crash]
    with anyio.fail_after(40):
        done = await anyio.run_process(command, cwd=table.folder, env=table.env(door.env), check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    async with open_bus(data=table.folder / ".convive") as bus:
        soup = await bus.existing("soup")
        floor = await soup.floor()
        last = await soup.log.last(soup.subjects.floor)
    assert last is not None
    assert isinstance(event_of(last), Granted) is (crash == "after")
    assert (floor.turn, floor.open_grant is None) == ((2, True) if crash == "before" else (3, False))
    assert (await table.does(*RUN, env=door.env)).code == 0
    assert await guests_said(table) == COUNTED
    async with open_bus(data=table.folder / ".convive") as bus, (await bus.existing("soup")).read() as records:
        events = [event_of(record) async for record in records]
    assert [event.link for event in events if isinstance(event, Granted) and event.turn == 3] == [5]
    assert door.knocks == {"amy asked": 3, "amy answered": 2, "bob asked": 2, "bob answered": 2}


@pytest.mark.parametrize("moment", ["while a seat has the floor", "when it is due to grant"])
async def test_a_supervisor_that_is_killed_leaves_the_turn_to_its_seat_and_goes_on_when_it_is_started_again(
    table: "Person", door: "Door", moment: str
) -> None:
    door.shut("amy asked")
    async with table.starts(*RUN, "--remote", "amy", env=door.env) as run:
        await run.out.until("Host:")
        async with table.starts(*SIT, env=door.env) as amy:
            await door.knocked("amy asked")
            await run.kill()  # and with it the server, which amy's process takes over
            if moment == "when it is due to grant":
                door.open("amy asked")
                async with table.starts("follow", "soup", "--plain") as follow:
                    await follow.out.until("Amy: amy 1")
            async with table.starts(*RUN, env=door.env) as again:
                await again.err.until("going on")
                door.open("amy asked")
                assert (await again.ends()).code == 0
            await amy.ends()
    assert await guests_said(table) == COUNTED
    assert door.knocks == {"amy asked": 2, "amy answered": 2, "bob asked": 2, "bob answered": 2}


async def test_a_standby_leads_on_when_the_supervisor_is_killed(table: "Person", door: "Door") -> None:
    door.shut("amy asked")
    async with table.starts(*RUN, "--remote", "amy", env=door.env) as run:
        await run.out.until("Host:")
        async with (
            table.starts(*RUN, "--standby", "0.3", env=door.env) as standby,
            table.starts(*SIT, env=door.env) as amy,
        ):
            await door.knocked("amy asked")
            await standby.out.until("Host:")
            await run.kill()
            door.open("amy asked")
            assert (await standby.ends()).code == 0
            await amy.ends()
    assert await guests_said(table) == COUNTED
    assert door.knocks == {"amy asked": 2, "amy answered": 2, "bob asked": 2, "bob answered": 2}


@pytest.mark.parametrize("moment", ["bob asked", "bob answered"])
async def test_a_party_that_is_killed_whole_is_gone_on_with_where_it_stopped(
    table: "Person", door: "Door", moment: str
) -> None:
    door.shut(moment)
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked(moment)
        await run.kill()
    door.open(moment)
    done = await table.does(*RUN, env=door.env)
    assert done.code == 0
    assert [line.partition(": ")[2] for line in done.lines if not line.startswith(("*", "Host:"))] == COUNTED
    assert await guests_said(table) == COUNTED
    assert door.knocks["bob asked"] == (3 if moment == "bob asked" else 2)
    assert door.knocks["amy asked"] == 2


async def test_a_server_that_is_killed_in_a_turn_comes_back_and_the_party_goes_on(
    table: "Person", door: "Door"
) -> None:
    door.shut("amy asked")
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked("amy asked")
        os.kill(run.server, signal.SIGKILL)
        door.open("amy asked")
        done = await run.ends()
    assert done.code == 0
    assert await guests_said(table) == COUNTED
    assert door.knocks == {"amy asked": 2, "amy answered": 2, "bob asked": 2, "bob answered": 2}


async def test_a_reader_that_is_killed_goes_on_behind_the_last_record_it_had(table: "Person", door: "Door") -> None:
    door.shut("bob asked")
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked("bob asked")
        async with table.starts("follow", "soup", "--json") as follow:
            await follow.out.until('"turn": 3')
            await follow.kill()
            first = (await follow.ends()).rows
        async with table.starts("follow", "soup", "--json", "--from", str(first[-1]["seq"] + 1)) as follow:
            door.open("bob asked")
            done = await follow.ends()
        await run.ends()
    assert done.code == 0
    whole = (await table.does("replay", "soup", "--json")).rows
    assert first + done.rows == whole
    assert whole[-1]["event"]["type"] == "closed"
