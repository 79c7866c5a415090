"""A terminal of 80 columns: what is shown on it, and what is typed."""

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
from anyio.abc import Process

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

WIDTH, HEIGHT = 80, 24
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal on standard input the one from which Ctrl-C comes, and becomes the command."""


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
            while text not in self.screen.text and await self.reads():
                pass
        assert text in self.screen.text, self.screen.lines

    async def until_times(self, text: str, times: int) -> None:
        """Read until the screen shows `text` that often."""
        with anyio.move_on_after(40):
            while self.screen.text.count(text) < times and await self.reads():
                pass
        assert self.screen.text.count(text) == times, self.screen.lines

    async def ends(self) -> int:
        """Read to the end; the exit code."""
        with anyio.fail_after(40):
            while await self.reads():
                pass
            return await self._process.wait()

    async def reads(self) -> bool:
        """Take in what the command has written since, once there is some; False when nothing more comes."""
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
