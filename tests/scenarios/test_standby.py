"""`convive run --standby` and doubled seats, with kill -9, SIGSTOP and SIGCONT: no turn is skipped and none doubled."""

import signal
import sys
from typing import TYPE_CHECKING

import anyio
import pytest
from typer.testing import CliRunner

from convive.scenarios.cli._cli import app
from tests.scenarios.conftest import COUNTED, Output

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

RUN = ("run", "table.py", "--conversation", "soup", "--plain")
SIT = ("sit", "soup", "--as", "amy", "--agent", "table:amy")
LEADING = """
import os
import signal

import anyio

from convive.agents import Plan, supervise
from convive.bus import Conflict, Conversation, RunContext, open_bus


class Stopping:
    '''A log whose process is stopped when it has decided to grant the third turn, and before it does.'''

    def __init__(self, log):
        self.log = log

    def __getattr__(self, name):
        return getattr(self.log, name)

    async def append(self, draft):
        if b'"granted"' in draft.body and b'"turn":3' in draft.body:
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            return await self.log.append(draft)
        except Conflict:
            print("refused", flush=True)
            raise


async def main():
    async with open_bus() as bus:
        there = await bus.existing("soup")
        stopping = Conversation(Stopping(there.log), there.id, there.subjects)
        run = RunContext.root((await there.floor()).opened.run_id)
        changed = lambda leads, turn: print("leads" if leads else "listens", turn, flush=True)
        await supervise(stopping, Plan(turns=4), run, on_change=changed)
    print("over", flush=True)


anyio.run(main)
"""
"""Leads the party as `convive run` does, and is stopped with a decision in its hand."""


async def test_a_standby_says_when_it_takes_over_and_the_one_that_comes_back_does_not_fight(
    table: "Person", door: "Door"
) -> None:
    door.shut("amy asked")
    async with table.starts(*RUN, "--remote", "amy", env=door.env) as run:
        await run.out.until("Host:")
        async with (
            table.starts(*RUN, "--standby", "0.3", env=door.env) as standby,
            table.starts(*SIT, env=door.env) as amy,
        ):
            await standby.err.until("standing by: this process leads when whoever leads is 0.3 s late")
            await door.knocked("amy asked")
            await run.kill()
            door.shut("bob asked")
            door.open("amy asked")
            await standby.err.until("took over at turn 3\n")
            async with table.starts(*RUN, env=door.env) as again:
                await again.err.until("going on")
                door.open("bob asked")
                ends = [await standby.ends(), await again.ends(), await amy.ends()]
    assert [done.code for done in ends] == [0, 0, 0], [done.err for done in ends]
    assert ends[0].err.count("took over") == 1
    assert ends[1].err.count("took over") == 0
    assert sum(done.err.count("another process leads") for done in ends) <= 1
    assert ends[0].out == ends[1].out
    assert (await table.said("soup"))[1:-1] == COUNTED


async def test_a_leader_that_was_stopped_with_a_decision_in_its_hand_is_refused_and_listens(
    table: "Person", door: "Door"
) -> None:
    """SIGSTOP for longer than a standby waits, then SIGCONT: its grant comes too late, and it becomes a standby."""
    door.shut("amy asked")
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked("amy asked")
        await run.kill()
    table.writes("lead.py", LEADING)
    async with (
        table.starts("server"),
        await anyio.open_process(
            [sys.executable, "lead.py"], cwd=table.folder, env=table.env(door.env), stdin=None
        ) as process,
        anyio.create_task_group() as tasks,
    ):
        assert process.stdout is not None
        out = Output()
        tasks.start_soon(out.pump, process.stdout)
        async with table.starts(*RUN, "--standby", "3", env=door.env) as standby:
            door.shut("bob asked")
            door.open("amy asked")
            await standby.err.until("took over at turn 3\n")
            await door.knocked("bob asked")
            process.send_signal(signal.SIGCONT)
            await out.until("listens 3\n")
            door.open("bob asked")
            done = await standby.ends()
            assert (done.code, done.err.count("took over")) == (0, 1)
        assert await out.all() == "refused\nlistens 3\nover\n"
    assert (await table.said("soup"))[1:-1] == COUNTED


@pytest.mark.parametrize("which", [0, 1])
async def test_either_process_of_a_doubled_seat_may_be_killed_in_its_turn(
    table: "Person", door: "Door", which: int
) -> None:
    """The other one takes the turn over when the one that has it is silent, and leaves it to that one until then."""
    env = {**door.env, "TURN_S": "3600"}
    door.shut("amy asked")
    async with table.starts(*RUN, "--remote", "amy", env=env) as run:
        await run.out.until("Host:")
        async with table.starts(*SIT, env=env) as one:
            await door.knocked("amy asked")
            async with table.starts(*SIT, "--standby", "0.5", env=env) as two:
                await two.err.until("amy sits in soup")
                await (one, two)[which].kill()
                if which == 0:
                    with anyio.fail_after(4):  # and not after 5 s, as it would be without the option
                        await door.knocked("amy asked", times=2)
                door.open("amy asked")
                ends = [await (one, two)[1 - which].ends(), await run.ends()]
    assert [done.code for done in ends] == [0, 0], [done.err for done in ends]
    assert (await table.said("soup"))[1:-1] == COUNTED
    assert door.knocks["amy asked"] == (3 if which == 0 else 2)


@pytest.mark.parametrize(("when", "asked"), [("amy asked", 3), ("amy answered", 2)])
async def test_a_standby_takes_over_the_turn_in_which_the_leader_is_killed(
    table: "Person", door: "Door", when: str, asked: int
) -> None:
    """After `--standby` seconds, however long a turn may take. What the journal holds is not asked for again."""
    env = {**door.env, "TURN_S": "86400"}
    door.shut(when)
    async with table.starts(*RUN, env=env) as run:
        await door.knocked(when)
        async with table.starts(*RUN, "--standby", "1", env=env) as standby:
            await standby.err.until("and takes over a guest's turn when the process that has it is silent for 1 s\n")
            await standby.out.until("Host:")
            await run.kill()
            await door.knocked(when, times=2)
            door.open(when)
            done = await standby.ends()
    assert (done.code, done.err.count("took over at turn 3")) == (0, 1), done.err
    assert (await table.said("soup"))[1:-1] == COUNTED
    assert door.knocks["amy asked"] == asked


@pytest.mark.parametrize("when", ["while the other asks", "when all is said"])
async def test_a_host_that_was_stopped_in_its_turn_comes_back_too_late_and_is_refused(
    table: "Person", door: "Door", when: str
) -> None:
    """SIGSTOP while its model is asked: the standby takes the turn over, and the late answer counts for nothing."""
    env = {**door.env, "TURN_S": "86400"}
    door.shut("amy asked")
    async with table.starts("server"), table.starts(*RUN, env=env) as run:
        await door.knocked("amy asked")
        async with table.starts(*RUN, "--standby", "2", env=env) as standby:
            await standby.out.until("Host:")
            run.send(signal.SIGSTOP)
            await door.knocked("amy asked", times=2)
            if when == "while the other asks":
                run.send(signal.SIGCONT)
                door.open("amy asked")
                done = await standby.ends()
            else:
                door.open("amy asked")
                done = await standby.ends()
                run.send(signal.SIGCONT)
            late = await run.ends()
    assert (done.code, late.code) == (0, 0), (done.err, late.err)
    assert late.out == done.out
    assert (await table.said("soup"))[1:-1] == COUNTED
    assert door.knocks["amy asked"] == 3  # the first turn's twice


async def test_of_three_standbys_two_are_killed_and_the_last_one_finishes(table: "Person", door: "Door") -> None:
    """Nobody else leads: one of them opens the party, and each hosts all seats."""
    env = {**door.env, "TURN_S": "12"}
    door.shut("amy asked", "bob asked")
    async with (
        table.starts(*RUN, "--standby", "0.3", env=env) as first,
        table.starts(*RUN, "--standby", "0.3", env=env) as second,
        table.starts(*RUN, "--standby", "0.3", env=env) as third,
    ):
        for one in (first, second, third):
            await one.out.until("Host:")
        await door.knocked("amy asked")
        await first.kill()
        door.open("amy asked")
        await door.knocked("bob asked")
        await second.kill()
        door.open("bob asked")
        done = await third.ends()
    assert done.code == 0, done.err
    assert (await table.said("soup"))[1:-1] == COUNTED


@pytest.mark.parametrize(
    "words", [("--standby", "table.py"), ("table.py", "--standby"), ("table.py", "--standby", "5")]
)
async def test_a_standby_needs_no_number(table: "Person", door: "Door", words: tuple[str, ...]) -> None:
    door.shut("amy asked")
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked("amy asked")
        async with table.starts("run", *words, "--conversation", "soup", "--plain", env=door.env) as standby:
            await standby.err.until("standing by: this process leads when whoever leads is 5 s late")
            door.open("amy asked")
            assert (await standby.ends()).code == 0
        await run.ends()
    assert (await table.said("soup"))[1:-1] == COUNTED


@pytest.mark.parametrize("seconds", ["0", "-1", "1e9", "inf", "soon"])
def test_a_standby_with_no_time_is_refused(seconds: str) -> None:
    done = CliRunner().invoke(app, ["run", f"--standby={seconds}"])
    assert done.exit_code == 2
    assert "no number of seconds up to a day" in " ".join(done.output.split())
