"""The commands in a terminal of 80 columns: colours, text while it comes, and Ctrl-C."""

import codecs
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import Process

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

WIDTH, HEIGHT = 80, 24
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal on standard input the one from which Ctrl-C comes, and becomes the command."""

SLOW = '''
"""Amy says one long sentence, and stops in the middle of it until the door opens."""

import os
import anyio
from convive.agents import Agent, AgentSeat
from convive.agents._scripted import ScriptedModel
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


CELLAR = '''
"""A steward who opens bottles when somebody allows it, and asks which one when told to."""

import os
import anyio
from convive.agents import Agent, AgentSeat, Answer, ToolUse, client_tool, tool
from convive.agents.testing import ScriptedModel
from convive.scenarios import Guest, Party

TOOL = os.environ.get("TOOL", "open_bottle")

async def knock(what):
    async with await anyio.connect_tcp("127.0.0.1", int(os.environ["DOOR"])) as stream:
        await stream.send(what.encode())
        await stream.receive()

@tool(needs_approval=True)
async def open_bottle(year: int, why: str) -> str:
    """Open a bottle."""
    return f"a {year}"

def pour(request):
    last = request.messages[-1].parts[-1]
    if last.type == "tool_result":
        return f"Then {last.content}."
    given = {"year": 1982, "why": "for the soup"} if TOOL == "open_bottle" else {}
    return Answer(parts=(ToolUse(id="1", name=TOOL, arguments=given),), stop_reason="tool_use")

class Steward(AgentSeat):
    async def take_turn(self, turn):
        await knock("steward asked")
        return await super().take_turn(turn)

steward = Agent("steward", model=ScriptedModel(pour), tools=[open_bottle, client_tool("which", "Which one?")])
guest = Guest(seat="steward", participant=Steward(steward))
party = Party(topic="Wine?", turns=1, turn_s=1, model="scripted/party", guests=(guest,))
'''
QUESTION = "Allow it? y, n, e to edit, or say why not:"


class Screen:
    """What a terminal shows of the bytes that it got, as far as our commands go: lines, erasing, moving up, colours."""

    def __init__(self) -> None:
        self.raw = ""
        self.wrapped: list[str] = []
        """The rows that were longer than the terminal is wide."""
        self._cut = ""
        self._rows = [""]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        self.raw += text
        text = self._cut + text
        whole = re.sub(r"\x1b(\[[0-9;?]*)?$", "", text)  # the rest of a sequence may still come
        self._cut = text[len(whole) :]
        for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b.|.|\n", whole, re.DOTALL):
            self._take(piece)

    @property
    def lines(self) -> list[str]:
        return [row.rstrip() for row in self._rows]

    @property
    def text(self) -> str:
        """All of it as one line, for what may be broken anywhere."""
        return " ".join(" ".join(self.lines).split())

    def _take(self, piece: str) -> None:
        if piece == "\n":
            self._row += 1
            self._rows += [""] * (self._row + 1 - len(self._rows))
        elif piece == "\r":
            self._column = 0
        elif piece.startswith("\x1b["):
            self._control(piece[2:-1], piece[-1])
        else:
            assert piece.isprintable(), f"{piece!r} got to the terminal"
            if self._column == WIDTH:
                self.wrapped.append(self._rows[self._row])
                self._take("\n")
                self._take("\r")
            row = self._rows[self._row].ljust(self._column)
            self._rows[self._row] = row[: self._column] + piece + row[self._column + 1 :]
            self._column += 1

    def _control(self, numbers: str, letter: str) -> None:
        match letter:
            case "A":
                self._row = max(0, self._row - int(numbers or 1))
            case "K":
                self._rows[self._row] = "" if numbers == "2" else self._rows[self._row][: self._column]
            case "m" | "h" | "l":
                pass
            case _:
                raise AssertionError(f"an escape sequence that this screen does not know: {numbers}{letter}")


class Terminal:
    """A command in a terminal."""

    def __init__(self, process: Process, descriptor: int) -> None:
        self.screen = Screen()
        self._process = process
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def types(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    async def until(self, text: str) -> None:
        """Read until the screen shows `text`."""
        with anyio.move_on_after(40):
            while text not in self.screen.text and await self._read():
                pass
        assert text in self.screen.text, self.screen.lines

    async def until_times(self, text: str, times: int) -> None:
        """Read until the screen shows `text` that often."""
        with anyio.move_on_after(40):
            while self.screen.text.count(text) < times and await self._read():
                pass
        assert self.screen.text.count(text) == times, self.screen.lines

    async def ends(self) -> int:
        """Read to the end; the exit code."""
        with anyio.fail_after(40):
            while await self._read():
                pass
            return await self._process.wait()

    async def _read(self) -> bool:
        await anyio.wait_readable(self._descriptor)
        with suppress(OSError):  # EIO: nobody has the terminal open any more
            data = os.read(self._descriptor, 65_536)
            self.screen.feed(self._decoder.decode(data))
            return bool(data)
        return False


@asynccontextmanager
async def terminal(
    person: "Person", *arguments: str, door: "Door", env: dict[str, str] | None = None
) -> AsyncGenerator[Terminal]:
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        env = person.env({**door.env, **(env or {}), "TERM": "xterm-256color", "COLUMNS": "", "NO_COLOR": ""})
        process = await anyio.open_process(
            [sys.executable, "-c", ON_TERMINAL, str(person.program), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=person.folder,
            env={name: value for name, value in env.items() if value},
            start_new_session=True,
        )
        os.close(theirs)
        async with process:
            try:
                yield Terminal(process, ours)
            finally:
                if process.returncode is None:
                    process.kill()
    finally:
        os.close(ours)


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
        ("doctor", "--model", "scripted/party"),
    ],
    ids=" ".join,
)
async def test_nothing_that_a_command_prints_is_wider_than_the_terminal(
    person: "Person", door: "Door", arguments: tuple[str, ...]
) -> None:
    topic = "Why is " + "the very long table so far from the kitchen that the soup is cold " * 2
    party = ("--conversation", "soup", "--turns", "2", "--model", "scripted/party", "--topic", topic)
    if arguments[-1] == "soup" or arguments == ("ls",):
        assert (await person.does("run", *party)).code == 0
    async with terminal(person, *arguments, door=door) as shown:
        assert await shown.ends() == 0
    assert shown.screen.text
    assert shown.screen.wrapped == []


async def test_a_guest_that_waits_for_an_approval_asks_the_person_at_the_terminal(
    person: "Person", door: "Door"
) -> None:
    """Item 7 of the issue: who wants to call what, with which arguments; what was typed before is no answer"""
    person.writes("cellar.py", CELLAR)
    door.shut("steward asked")
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as run:
        await run.until("Wine? At the table")
        await door.knocked("steward asked")
        run.types("y\n")
        door.open("steward asked")
        await run.until(QUESTION)
        assert 'Steward wants to call open_bottle year: 1982 why: "for the soup"' in run.screen.text
        run.types("\n")
        await run.until(f"{QUESTION} {QUESTION}")
        run.types("it is  too good\n")
        assert await run.ends() == 0
    assert 'Then {"rejected":true,"reason":"it is too good"}.' in run.screen.text
    assert run.screen.wrapped == []
    assert run.screen.lines[-2] == "All of it is kept. See it again: convive replay wine"


async def test_arguments_are_edited_at_the_terminal_and_checked_at_once(person: "Person", door: "Door") -> None:
    """G32: the agent that sits in this process knows its tools"""
    person.writes("cellar.py", CELLAR)
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as run:
        await run.until(QUESTION)
        for times, wrong in enumerate(('{"year": 19', "[]", '{"year": "old", "why": "x"}', ""), start=2):
            run.types("e\n")
            await run.until_times("The arguments to use instead", times - 1)
            run.types(f"{wrong}\n")
            await run.until_times(QUESTION, times)
        assert "the new arguments are not JSON" in run.screen.text
        assert "have to be a JSON object" in run.screen.text
        assert "does not fit: year: Input should be a valid integer" in run.screen.text
        run.types("e\n")
        await run.until_times("The arguments to use instead", 5)
        run.types('{"year": 1990, "why": "for me"}\n')
        assert await run.ends() == 0
    assert "Then a 1990." in run.screen.text


async def test_a_question_goes_away_when_somebody_answers_in_another_shell(person: "Person", door: "Door") -> None:
    """Item 7 of the issue"""
    person.writes("cellar.py", CELLAR)
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as run:
        await run.until(QUESTION)
        run.types("no, becau")
        (row,) = (await person.does("pending", "wine", "--json")).rows
        assert (await person.does("approve", row["run_id"])).code == 0
        assert await run.ends() == 0
    assert "It does not wait any more: somebody else answered, or its time was over." in run.screen.text
    assert "Then a 1982." in run.screen.text


async def test_the_result_of_a_tool_that_runs_elsewhere_is_asked_for(person: "Person", door: "Door") -> None:
    """G24, G41"""
    person.writes("cellar.py", CELLAR)
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door, env={"TOOL": "which"}) as run:
        await run.until("Steward needs the result of which")
        run.types("[1,\n")
        await run.until("this looks like JSON and is none")
        run.types("the red one\n")
        assert await run.ends() == 0
    assert "Then the red one." in run.screen.text


async def test_ctrl_c_and_ctrl_d_at_a_question_leave_it_to_be_answered_later(person: "Person", door: "Door") -> None:
    person.writes("cellar.py", CELLAR)
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as run:
        await run.until(QUESTION)
        run.types("\x03")
        assert await run.ends() == 130
    assert "Traceback" not in run.screen.text
    async with terminal(person, "run", "cellar.py", "--conversation", "wine", door=door) as again:
        await again.until(QUESTION)
        again.types("\x04")
        await again.until("From another shell: convive approve")
        (row,) = (await person.does("pending", "wine", "--json")).rows
        assert (await person.does("deny", row["run_id"])).code == 0
        assert await again.ends() == 0
    assert "the call was not allowed" in again.screen.text
