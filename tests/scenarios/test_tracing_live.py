"""`convive trace --live` in a terminal, while a party goes on elsewhere."""

from typing import TYPE_CHECKING

import pytest

from tests.scenarios.screens import HEIGHT, terminal

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

PARTY = ("run", "table.py", "--conversation", "soup", "--plain")


async def test_a_trace_is_watched_while_a_party_goes_on_and_stays_when_it_is_over(
    table: "Person", door: "Door"
) -> None:
    door.shut("bob asked")
    async with table.starts(*PARTY, env={**door.env, "TURNS": "2"}) as party:
        await door.knocked("bob asked")
        async with terminal(table, "trace", "soup", "--live", door=door) as live:
            await live.until("… turn 3 bob")
            rows = [line for line in live.screen.lines if "turn 3 bob" in line]
            # Nothing comes, and the time goes on all the same.
            while [line for line in live.screen.lines if "turn 3 bob" in line] == rows:
                await live.until("turn 3 bob")
                assert await live.reads()
            door.open("bob asked")
            assert await live.ends() == 0
        assert (await party.ends()).code == 0
    assert live.screen.wrapped == []
    shown = live.screen.raw[live.screen.raw.rfind("\x1b[?25h") :]
    assert "✓ soup" in shown
    assert "… " not in shown


async def test_ctrl_c_leaves_what_was_seen_last(table: "Person", door: "Door") -> None:
    door.shut("amy asked")
    async with table.starts(*PARTY, env=door.env):
        await door.knocked("amy asked")
        async with terminal(table, "trace", "soup", "--live", door=door) as live:
            await live.until("… turn 2 amy")
            live.types("\x03")
            assert await live.ends() == 130
    rows = [line for line in live.screen.lines if line]
    assert len(rows) < HEIGHT
    assert [line for line in rows if line.startswith("└ … turn 2 amy")]
    assert "Traceback" not in live.screen.text
