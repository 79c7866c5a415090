"""A party that nobody leads any more says so, wherever it is listed or shown, and how to go on with it."""

import json
import time
from typing import TYPE_CHECKING

import pytest

from convive.agents import read_trace
from convive.bus import Bus, Draft, RunContext, SeatName, memory_bus, open_bus
from convive.scenarios import Guest, Party
from convive.scenarios.cli._commands import show_list
from convive.scenarios.cli._leading import nobody_leads
from convive.scenarios.cli._play import open_party
from convive.scenarios.cli._spending import show_runs
from convive.scenarios.cli._tracing import View, show_trace
from tests.agents.traces import began
from tests.scenarios.screens import terminal

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

PARTY = Party(turns=1, guests=(Guest(seat="ada", name="Ada", about="a diver"),), model="scripted/party")
GO_ON = "convive run --conversation soup"


async def _left(bus: Bus, name: str = "soup", ago_s: float = 200.0, setting: Party = PARTY) -> None:
    """A party whose first turn was over so long ago, and nobody has done anything about it."""
    evening = await open_party(bus, name, setting)
    there = evening.conversation
    deadline_s = time.time() - ago_s
    await there.grant(await there.floor(), SeatName("ada"), evening.run.child(), deadline_s)


async def test_a_party_that_nobody_leads_says_so_until_somebody_does(person: "Person") -> None:
    async with open_bus(data=person.folder / ".convive") as bus:
        await _left(bus)
    listed = await person.does("ls")
    assert (listed.code, "stopped?" in listed.out, GO_ON in listed.err) == (0, True, True)
    ran = await person.does("runs")
    assert ("stopped?" in ran.out, GO_ON in ran.err) == (True, True)
    shown = await person.does("trace", "soup")
    assert GO_ON in shown.err
    said = await person.does("say", "soup", "--as", "Mara", "Hello?")
    assert ("Heard by everybody in soup." in said.err, GO_ON in said.err) == (True, True)
    async with person.starts("follow", "soup") as follow:
        await follow.err.until(GO_ON)
    gone_on = await person.does("run", "--conversation", "soup", "--plain")
    assert gone_on.code == 0, gone_on.err
    for command in (("ls",), ("runs",), ("trace", "soup")):
        done = await person.does(*command)
        assert ("stopped?" in done.out, done.err) == (False, "")


async def test_the_bars_of_what_nobody_leads_end_where_it_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    async with memory_bus() as bus:
        await _left(bus)
        (root,) = (await read_trace(bus, "soup")).roots
        await show_trace(bus, "soup", View())
    took_ms = capsys.readouterr().out.splitlines()[1].split("━ ")[1].split()[0]
    assert took_ms == f"{(root.last_s - root.started_s) * 1000:.0f}"


async def test_where_somebody_may_well_lead_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    async with memory_bus() as bus:
        await _left(bus, "in-time", ago_s=-60.0)
        await _left(bus, "gone-on-with")
        there = await bus.existing("gone-on-with")
        own = there.run_of(await there.floor())
        assert own is not None
        run = own.child()
        await there.log.append(Draft(there.journal(run), began(run).body(), run.headers()))
        await _left(bus, "slow", setting=PARTY.model_copy(update={"turn_s": 86_400.0}), ago_s=-9e4)
        over = await open_party(bus, "over", PARTY)
        await over.conversation.close(await over.conversation.floor(), over.run)
        await (await bus.conversation("not-ours")).open(RunContext.root(), "salt", [])
        await show_list(bus, "", as_json=False)
        await show_runs(bus, 20, as_json=False)
        await show_trace(bus, "in-time", View())
    told = capsys.readouterr()
    assert ("stopped?" in told.out, told.err) == (False, "")


async def test_json_says_for_how_long_something_was_due(capsys: pytest.CaptureFixture[str]) -> None:
    async with memory_bus() as bus:
        await _left(bus)
        await show_list(bus, "", as_json=True)
        await show_runs(bus, 20, as_json=True)
    listed, ran = map(json.loads, capsys.readouterr().out.splitlines())
    assert (listed["state"], ran["status"]) == ("with ada", "running")
    # The clock that says when it is due is this one, and a turn has two seconds of grace.
    assert 190 < listed["overdue_s"] <= ran["overdue_s"] < 260


def test_of_many_a_few_are_named() -> None:
    said = nobody_leads([f"party-{number}" for number in range(9)], " --data there")
    assert "party-0, party-1, party-2 and 6 more" in said
    assert said.endswith("convive run --conversation ID --data there")


async def test_a_run_that_has_told_nothing_for_long_is_quiet_and_not_running(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with memory_bus() as bus:
        there, run = await bus.conversation("shop"), RunContext.root()
        for clerk, ago_s in ((run, 7_200.0), (RunContext.root(), 5.0)):
            headers = {**clerk.headers(), "Cv-Origin": f"1 {time.time() - ago_s}"}
            await there.log.append(Draft(there.journal(clerk), began(clerk).body(), headers))
        await show_runs(bus, 20, as_json=False)
    _, quiet, running = capsys.readouterr().out.splitlines()
    assert "  quiet 2 h " in quiet
    assert "  running  " in running


async def test_the_list_of_runs_fits_a_terminal(person: "Person", door: "Door") -> None:
    name = "a-party-of-which-the-name-is-as-long-as-a-name-may-be-and-longer"[:60]
    async with open_bus(data=person.folder / ".convive") as bus:
        await _left(bus, name)
    async with terminal(person, "runs", door=door) as screen:
        assert await screen.ends() == 0
    assert screen.screen.wrapped == []
    head, row = screen.screen.lines[:2]
    assert (head.split()[0], head.split()[-1], row.split()[1]) == ("run", "cost", f"{name[:19]}…")
