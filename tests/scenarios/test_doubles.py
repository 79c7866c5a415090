"""The same party led twice at the same time: one chain, every turn once, and everybody sees the same."""

from typing import TYPE_CHECKING

import anyio
import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

RUN = ("run", "table.py", "--conversation", "soup", "--plain")
SIT = ("sit", "soup", "--as", "amy", "--agent", "table:amy")
COUNTED = ["amy 1", "bob 1", "amy 2", "bob 2"]


async def test_a_party_that_is_run_twice_has_every_turn_once_and_both_show_the_same(
    table: "Person", door: "Door"
) -> None:
    """Who comes in amy's first turn leaves it to the one that is at it, and no answer is paid for twice."""
    door.shut("amy asked")
    async with table.starts(*RUN, env=door.env) as first:
        await door.knocked("amy asked")
        async with table.starts(*RUN, env=door.env) as second:
            await second.out.until("Host:")
            door.open("amy asked")
            ends = [await first.ends(), await second.ends()]
    assert [done.code for done in ends] == [0, 0], [done.err for done in ends]
    assert ends[0].out == ends[1].out
    assert (await table.said("soup"))[1:-1] == COUNTED
    assert (door.knocks["amy asked"], door.knocks["bob asked"]) == (2, 2)


async def test_a_party_that_is_opened_twice_at_once_is_one_party(table: "Person", door: "Door") -> None:
    ends: list[tuple[int, str]] = []

    async def run() -> None:
        done = await table.does(*RUN, env=door.env)
        ends.append((done.code, done.out))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(run)
    assert [code for code, _ in ends] == [0, 0, 0]
    assert len({out for _, out in ends}) == 1
    assert (await table.said("soup"))[1:-1] == COUNTED


async def test_a_seat_that_is_taken_twice_speaks_once_a_turn(table: "Person", door: "Door") -> None:
    door.shut("amy asked")
    async with table.starts(*RUN, "--remote", "amy", env=door.env) as run:
        await run.out.until("Host:")
        async with table.starts(*SIT, env=door.env) as one, table.starts(*SIT, env=door.env) as two:
            for sitting in (one, two):
                await sitting.err.until("amy sits in soup")
            await door.knocked("amy asked")
            door.open("amy asked")
            ends = [await one.ends(), await two.ends(), await run.ends()]
    assert [done.code for done in ends] == [0, 0, 0], [done.err for done in ends]
    assert (await table.said("soup"))[1:-1] == COUNTED
    assert door.knocks["amy asked"] == 2
