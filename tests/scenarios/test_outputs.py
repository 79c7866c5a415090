"""Where output goes: nowhere, to a full disk, to a narrow terminal."""

from importlib.metadata import version
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.scenarios.screens import terminal

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

HELD = ("run", "--model", "scripted/party", "--turns", "1", "--guests", "1", "--conversation", "eve")

LEAVES = """
import sys
from convive.scenarios import Guest, Party


class Leaver:
    async def take_turn(self, turn):
        sys.exit(0)


party = Party(guests=(Guest(seat="ada", participant=Leaver()),), turns=1)
"""


async def test_a_command_whose_output_nobody_wants_does_its_work(person: "Person") -> None:
    """The shell's `>&-` closes it: what is opened next has its number then."""
    closed = ["sh", "-c", f'"{person.program}" {" ".join(HELD)} >&- 2>&-']
    done = await anyio.run_process(closed, cwd=person.folder, env=person.env(), stdin=DEVNULL, check=False)
    assert done.returncode == 0
    for command in ("replay", "trace"):
        closed = ["sh", "-c", f'"{person.program}" {command} eve >&-']
        done = await anyio.run_process(closed, cwd=person.folder, env=person.env(), check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    assert len(await person.said("eve")) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
async def test_a_full_disk_is_told_and_not_a_bug(person: "Person") -> None:
    assert (await person.does(*HELD)).code == 0
    for command in ("replay", "trace"):
        with Path("/dev/full").open("w") as full:  # noqa: ASYNC230 - a device
            done = await anyio.run_process(
                [str(person.program), command, "eve"],
                cwd=person.folder,
                env=person.env(),
                stdout=full,
                stderr=PIPE,
                check=False,
            )
        told = done.stderr.decode()
        assert (done.returncode, told.startswith("convive: No space left on device: standard output or")) == (1, True)


async def test_code_that_leaves_the_process_is_told_of(person: "Person") -> None:
    person.writes("leaves.py", LEAVES)
    person.writes("gone.py", "raise SystemExit(0)")
    left = await person.does("run", "leaves.py", "--conversation", "eve", "--model", "scripted/party")
    assert (left.code, left.complaint) == (
        1,
        "convive: what this command runs left with sys.exit(0). What was acknowledged is kept.",
    )
    for command in (("worker", "gone"), ("sit", "eve", "--as", "zoe", "--agent", "gone:it")):
        done = await person.does(*command)
        assert (done.code, "importing it failed with SystemExit: 0." in done.complaint) == (1, True)


async def test_an_error_is_broken_between_words(person: "Person", door: "Door") -> None:
    async with terminal(person, "ls", door=door) as shown:
        assert await shown.ends() == 1
    assert shown.screen.wrapped == []
    assert shown.screen.lines[0].startswith("convive: nothing is kept in .convive yet.")
    assert shown.screen.lines[1]


async def test_an_encoding_without_the_signs_gets_others_in_the_same_columns(person: "Person") -> None:
    """And in JSON the letters themselves: whoever reads it gets what was said."""
    assert (await person.does(*HELD, "--topic", "Où est le sel… 🧂?")).code == 0
    ascii = {"PYTHONIOENCODING": "ascii"}
    for command in (("trace", "eve"), ("trace", "eve", "--run", "turn:1")):
        plain, told = await person.does(*command, env=ascii), await person.does(*command)
        assert (plain.code, plain.out.isascii()) == (0, True)
        assert len(plain.lines) == len(told.lines)
    assert (await person.does("trace", "eve", env=ascii)).lines[1].startswith("v eve  ")
    shown = await person.does("replay", "eve", "--to", "turn:0", env=ascii)
    assert shown.lines == ["* O\\xf9 est le sel~ \\U0001f9c2? At the table: Ada."]
    listed = [await person.does("ls", "--json", env=env) for env in (ascii, {"PYTHONIOENCODING": "utf-8"})]
    assert [one.rows[0]["topic"] for one in listed] == ["Où est le sel… 🧂?"] * 2
    for command in (("trace", "eve"), ("replay", "eve"), ("verify", "eve")):
        rows = [(await person.does(*command, "--json", env=env)).rows for env in (ascii, {"PYTHONIOENCODING": "utf-8"})]
        assert rows[0] == rows[1]


async def test_the_version_is_told(person: "Person") -> None:
    assert (await person.does("--version")).lines == [f"convive {version('convive')}"]
