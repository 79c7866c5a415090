"""`convive verify`: the report of a conversation and of a history, as a person and as a program reads it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from convive.bus import (
    AppendOp,
    ConviveError,
    Draft,
    ReadOp,
    RunContext,
    Said,
    SeatName,
    memory_bus,
    mint_run_id,
    open_bus,
)
from convive.scenarios import main
from convive.scenarios.cli._verify import check_conversation

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

RUN = ("run", "table.py", "--conversation", "soup", "--plain")


async def test_a_party_is_verified_while_it_is_held_and_when_it_is_over(table: "Person", door: "Door") -> None:
    door.shut("bob asked")
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked("bob asked")
        under_way = await table.does("verify", "soup")
        (then,) = (await table.does("verify", "soup", "--json")).rows
        door.open("bob asked")
        await run.ends()
    assert (under_way.code, under_way.err) == (0, "")
    assert under_way.lines[0] == "soup      open, 3 turns: 2 said, 1 open"
    assert under_way.lines[3:5] == ["runs      3: 2 ended, 1 open", "damage    none"]
    over = await table.does("verify", "soup")
    assert over.lines[0] == "soup      closed, 6 turns: 6 said"
    assert over.lines[4] == "damage    none"
    (now,) = (await table.does("verify", "soup", "--json")).rows
    assert over.lines[5:] == [f"head      {now['head']}", f"content   {now['content_head']}"]
    assert (now["whole"], now["closed"], now["findings"], now["counts"]) == (True, True, [], {})
    # Two people compare a line: what was there then has the head that it had then.
    (again,) = (await table.does("verify", "soup", "--until", str(then["through"]), "--json")).rows
    assert again == then


async def test_damage_is_named_by_its_place_and_ends_with_1(table: "Person", door: "Door") -> None:
    await table.does(*RUN, env=door.env)
    async with open_bus(data=table.folder / ".convive") as bus:
        soup = await bus.existing("soup")
        forged = Said(link=99, turn=99, run_id=mint_run_id(), text="It was me.")
        said = await soup.log.append(Draft(soup.subjects.link(SeatName("amy")), forged.body()))
        for number in range(12):
            await soup.log.append(Draft(f"{soup.subjects.base}.\x1b[2J{number}", b"x" * 1_000_000))
    done = await table.does("verify", "soup")
    assert done.code == 1
    assert done.complaint == "convive: soup is damaged: 13 findings. Nothing was changed."
    assert done.lines[4] == "damage    1 floor, 12 foreign"
    assert done.lines[5] == f"  floor   {said} on bus.floor.amy: link 99 where link 14 was due"
    assert done.lines[6] == f"  foreign {said + 1} on [2J0: a conversation has no such subject"
    assert done.lines[16] == "  foreign and 2 more"
    assert all(len(line) <= 80 for line in done.lines)
    (row,) = (await table.does("verify", "soup", "--json")).rows
    assert (row["whole"], row["counts"], len(row["findings"])) == (False, {"floor": 1, "foreign": 12}, 13)
    assert row["findings"][0] == {
        "kind": "floor",
        "seq": said,
        "subject": "bus.floor.amy",
        "why": "link 99 where link 14 was due",
    }


async def test_a_place_before_the_first_record_is_told() -> None:
    async with memory_bus(partitions=1) as bus:
        for name in ("stew", "soup"):
            await (await bus.conversation(name)).open(RunContext.root(), "figs")
        with pytest.raises(ConviveError, match=r"soup has no record at or before 1\. Give a later --until"):
            await check_conversation(await bus.existing("soup"), 1, as_json=False)


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    printed = capsys.readouterr()
    return left.value.code, printed.out, printed.err


GOOD = [
    AppendOp(process="w", log="floor", call_s=0, return_s=1, value="a", result="appended", position=4),
    AppendOp(process="v", log="floor", call_s=0, value="b", result="unknown"),
]
STALE = ReadOp(process="r", log="floor", call_s=2, return_s=3, result="read", position=0)


def test_a_history_is_checked_without_any_bus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text("".join(f"{op.line()}\n" for op in GOOD))
    code, out, err = told(["verify", "--history", str(file)], capsys)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "history   history.jsonl",
        "has       2 operations on 1 log by 2 processes, 1 with an unknown end",
        "answer    linearizable",
    ]
    file.write_text("".join(f"{op.line()}\n" for op in [*GOOD, STALE]))
    code, out, err = told(["verify", "--history", str(file)], capsys)
    assert code == 1
    assert out.splitlines()[2:] == [
        "answer    not linearizable",
        "why       floor: no order explains that line 3 found the tail at 0, though line",
        "          1 was stored at 4 and had returned before",
    ]
    assert err == f"convive: {file} is not linearizable. Somebody was told what cannot have been.\n"
    code, out, _ = told(["verify", "--history", str(file), "--json"], capsys)
    assert (code, json.loads(out)["answer"], json.loads(out)["line"]) == (1, "not linearizable", 3)


def test_a_history_that_is_none_is_told_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(f"{GOOD[0].line()}\n{{}}\n")
    code, out, err = told(["verify", "--history", str(file)], capsys)
    assert (code, out) == (1, "")
    assert err.startswith(f"convive: {file}, line 2: not an operation: ")


@pytest.mark.parametrize("arguments", [[], ["soup", "--history", "x"]], ids=["neither", "both"])
def test_it_is_a_conversation_or_a_history(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(["verify", *arguments], capsys)
    assert (code, out) == (2, "")
    assert "give the ID of a conversation, or --history FILE" in err
