"""What `convive cost` adds up."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

HELD = ("run", "--model", "scripted/party", "--turns", "2", "--guests", "2", "--conversation", "eve")


async def test_an_answer_that_a_fork_has_as_well_is_paid_once(person: "Person") -> None:
    async def answers(*of: str) -> int:
        (row,) = (await person.does("cost", *of, "--json")).rows
        found: int = row["answers"]
        return found

    async def runs() -> dict[str, int]:
        return {row["agent"]: row["runs"] for row in (await person.does("cost", "--by", "agent", "--json")).rows}

    assert (await person.does(*HELD)).code == 0
    before, runs_before = await answers(), await runs()
    assert (await person.does("fork", "eve", "--at", "turn:2", "--as", "other")).code == 0
    assert (await person.does("fork", "other", "--as", "third")).code == 0
    assert (await answers(), await runs()) == (before, runs_before)
    copied = await answers("other")
    assert 0 < copied < before
    assert (await person.does("run", "--conversation", "other")).code == 0
    whole = await answers("other")
    assert await answers() == before + whole - copied
    exported = await person.does("export", "other", "other.jsonl")
    assert exported.code == 0
    elsewhere = ("--data", "elsewhere")
    assert (await person.does("import", "other.jsonl", *elsewhere)).code == 0
    # There, nothing else tells of these answers.
    assert await answers(*elsewhere) == whole
