"""The commands in a terminal of 80 columns: colours, text while it comes, and Ctrl-C."""

import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.scenarios.screens import terminal

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

SLOW = '''
"""Amy says one long sentence, and stops in the middle of it until the door opens."""

import os
import anyio
from convive.agents import Agent, AgentSeat
from convive.agents.models._scripted import ScriptedModel
from convive.scenarios import Guest, Party

SAID = "I put salt into the soup, " + "and then a little more of it, " * 6 + "and now it is the sea."
words = 0

async def pause():
    global words
    words += 1
    if words == 20:
        async with await anyio.connect_tcp("127.0.0.1", int(os.environ["DOOR"])) as stream:
            await stream.send(b"amy in the middle")
            await stream.receive()

amy = AgentSeat(Agent("amy", model=ScriptedModel(lambda request: SAID, pause=pause)))
party = Party(topic="Soup?", turns=1, model="scripted/party", guests=(Guest(seat="amy", participant=amy),))
'''
SAID = "I put salt into the soup, " + "and then a little more of it, " * 6 + "and now it is the sea."


async def test_a_party_shows_text_while_it_comes_and_ends_in_whole_lines(person: "Person", door: "Door") -> None:
    person.writes("slow.py", SLOW)
    door.shut("amy in the middle")
    async with terminal(person, "run", "slow.py", "--conversation", "soup", door=door) as run:
        await run.until("I put salt into the soup, and then a little more of it,")
        await run.until("▍")
        assert "and now it is the sea." not in run.screen.text
        door.open("amy in the middle")
        assert await run.ends() == 0
    screen = run.screen
    assert SAID in screen.text
    assert screen.wrapped == []
    assert "▍" not in screen.text
    (first,) = [line for line in screen.lines if line.startswith("Amy")]
    rest = screen.lines[screen.lines.index(first) + 1]
    assert rest.startswith(" " * first.index("I put salt"))  # the names stand in a column of their own
    assert re.search(r"\x1b\[1;36mAmy", screen.raw)  # bold and in its colour
    assert screen.raw.rfind("\x1b[?25h") >= screen.raw.rfind("\x1b[?25l")  # the cursor is back
    assert "All of it is kept. See it again: convive replay soup" in screen.text


async def test_ctrl_c_ends_a_party_cleanly_and_says_how_to_go_on(person: "Person", door: "Door") -> None:
    person.writes("slow.py", SLOW)
    door.shut("amy in the middle")
    async with terminal(person, "run", "slow.py", "--conversation", "soup", door=door) as run:
        await run.until("and then a little more of it,")
        run.types("\x03")
        assert await run.ends() == 130
    assert "Traceback" not in run.screen.text
    assert not any(line.startswith("Amy") for line in run.screen.lines)  # what was half said is taken back
    assert run.screen.lines[-3:] == [
        "Stopped. All that was said is kept; go on with:",
        "  convive run slow.py --conversation soup",
        "",
    ]
    assert run.screen.raw.rfind("\x1b[?25h") >= run.screen.raw.rfind("\x1b[?25l")
    assert not person.servers()
    door.open("amy in the middle")
    done = await person.does("run", "slow.py", "--conversation", "soup", "--plain", env=door.env)
    assert done.lines[2] == f"Amy: {SAID}"


async def test_ctrl_c_while_the_command_is_still_imported_says_nothing(person: "Person") -> None:
    person.writes("typer.py", "import signal\nprint('importing', flush=True)\nsignal.pause()\n")
    async with person.starts("ls", env={"PYTHONPATH": str(person.folder)}) as begun:
        await begun.out.until("importing")
        begun.send(signal.SIGINT)
        done = await begun.ends()
    assert (done.code, done.err) == (-signal.SIGINT, "")


async def test_who_leaves_a_conversation_is_told_where_to_go_on(person: "Person", door: "Door") -> None:
    person.writes("slow.py", SLOW)
    door.shut("amy in the middle")
    async with person.starts("run", "slow.py", "--conversation", "soup", "--plain", env=door.env):
        await door.knocked("amy in the middle")
        async with terminal(person, "follow", "soup", door=door) as follow:
            await follow.until("and then a little more of it,")
            follow.types("\x03")
            assert await follow.ends() == 130
    told = [line for line in follow.screen.lines if line]
    assert re.fullmatch(r"Left at \d+\. Go on with: convive follow soup --from \d+", told[-1]), told
    assert not any(line.startswith("Amy") for line in told)  # what was half said is taken back


async def test_an_impatient_ctrl_c_leaves_no_server_behind_and_loses_nothing(person: "Person", door: "Door") -> None:
    person.writes("slow.py", SLOW)
    door.shut("amy in the middle")
    async with terminal(person, "run", "slow.py", "--conversation", "soup", door=door) as run:
        await run.until("and then a little more of it,")
        run.types("\x03\x03\x03")
        assert await run.ends() == 130
    assert "Traceback" not in run.screen.text
    assert not person.servers()
    door.open("amy in the middle")
    assert (await person.does("run", "slow.py", "--conversation", "soup", "--plain", env=door.env)).code == 0
    assert len(await person.said("soup")) == 3


async def test_a_follower_in_a_terminal_sees_text_while_it_comes(person: "Person", door: "Door") -> None:
    person.writes("slow.py", SLOW)
    door.shut("amy in the middle")
    async with person.starts("run", "slow.py", "--conversation", "soup", "--plain", env=door.env) as run:
        await door.knocked("amy in the middle")
        async with terminal(person, "follow", "soup", door=door) as follow:
            await follow.until("and then a little more of it,")
            door.open("amy in the middle")
            assert await follow.ends() == 0
        await run.ends()
    assert SAID in follow.screen.text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("run", "--help"),
        ("ls",),
        ("replay", "soup"),
        ("memory", "soup"),
        ("trace", "soup"),
        ("trace", "--run", "turn:2", "soup"),
        ("runs",),
        ("cost", "--by", "agent", "soup"),
        ("verify", "soup"),
        ("doctor", "--model", "scripted/party"),
    ],
    ids=" ".join,
)
async def test_nothing_that_a_command_prints_is_wider_than_the_terminal(
    person: "Person", door: "Door", arguments: tuple[str, ...]
) -> None:
    topic = "Why is " + "the very long table so far from the kitchen that the soup is cold " * 2
    person.writes("long.toml", f'guests = [{{seat = "amy", about = "a cook", name = "{"Amelia " * 8}"}}]')
    party = ("--conversation", "soup", "--turns", "2", "--model", "scripted/party", "--topic", topic)
    if arguments[-1] == "soup" or arguments in (("ls",), ("runs",)):
        assert (await person.does("run", "long.toml", *party)).code == 0
    async with terminal(person, *arguments, door=door) as shown:
        assert await shown.ends() == 0
    assert shown.screen.text
    assert shown.screen.wrapped == []
