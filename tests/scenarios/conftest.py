"""The command `convive` as a person meets it: its own processes, an empty home, a new working directory."""

import codecs
import json
import os
import signal
import sysconfig
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio
import pytest
from anyio.abc import Process, SocketAttribute, SocketStream

from convive.agents import verify
from convive.bus import FloorEvent, Granted, Passed, Revoked, Said, event_of, open_bus

CONVIVE = Path(sysconfig.get_path("scripts")) / "convive"
DEADLINE_S = 40.0
"""Far beyond what anything here takes: who waits that long has missed it."""


class Output:
    """What a process has written so far."""

    def __init__(self) -> None:
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._ended = False
        self._more = anyio.Event()

    def feed(self, data: bytes) -> None:
        self.text += self._decoder.decode(data)
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    async def until(self, text: str, times: int = 1) -> str:
        """Wait until it holds `text` that often, and return all of it."""
        with anyio.move_on_after(DEADLINE_S):
            while self.text.count(text) < times and not self._ended:
                await self._more.wait()
        assert self.text.count(text) >= times, f"{text!r} never came: {self.text!r}"
        return self.text

    async def all(self) -> str:
        with anyio.fail_after(DEADLINE_S):
            while not self._ended:
                await self._more.wait()
        return self.text

    async def pump(self, source: AsyncIterable[bytes]) -> None:
        async for data in source:
            self.feed(data)
        self.end()

    def _wake(self) -> None:
        self._more.set()
        self._more = anyio.Event()


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def rows(self) -> list[Any]:
        """Standard output, one JSON value a line."""
        return [json.loads(line) for line in self.lines]

    @property
    def complaint(self) -> str:
        """The line in which a command says what is wrong. Fails for less, for more, and for a traceback."""
        assert self.code not in (0, -6, -11), self
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("convive: ")]
        assert len(lines) == 1, self.err
        return lines[0]


class Running:
    """A command that runs."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.out, self.err = Output(), Output()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._process.kill()
        await self._process.wait()

    async def ends(self) -> Done:
        """Wait until it ends by itself. Fails when it left something undone that the interpreter complains of."""
        out, err = await self.out.all(), await self.err.all()
        assert "was never awaited" not in err
        assert "was never retrieved" not in err
        with anyio.fail_after(DEADLINE_S):
            return Done(await self._process.wait(), out, err)

    @property
    def server(self) -> int:
        """The process id of the server that it runs."""
        pid = self._process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)


class Person:
    """Somebody at a shell, in an empty home directory and an empty working directory."""

    program = CONVIVE

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder / "home", folder / "work"
        self.home.mkdir()
        self.folder.mkdir()
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CONVIVE_", "ANTHROPIC_"))},
            "HOME": str(self.home),
        }

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**self._env, **(more or {})}

    def writes(self, name: str, text: str) -> None:
        """Write a file into the working directory."""
        (self.folder / name).write_text(text, encoding="utf-8")

    def sees(self, pid: int) -> bool:
        """Whether there is such a process."""
        return Path(f"/proc/{pid}").exists()

    def servers(self) -> list[str]:
        """The servers that run on a store below the working directory."""
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        found = [line.decode(errors="replace") for line in lines]
        return [line for line in found if "nats-server" in line and str(self.folder) in line]

    @asynccontextmanager
    async def starts(self, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncGenerator[Running]:
        """Start `convive` with these arguments; it is killed on leaving when it still runs."""
        command = [str(CONVIVE), *arguments]
        async with (
            await anyio.open_process(command, cwd=self.folder, env=self.env(env), stdin=DEVNULL) as process,
            anyio.create_task_group() as tasks,
        ):
            running = Running(process)
            assert process.stdout is not None
            assert process.stderr is not None
            tasks.start_soon(running.out.pump, process.stdout)
            tasks.start_soon(running.err.pump, process.stderr)
            try:
                yield running
            finally:
                if process.returncode is None:
                    process.kill()

    async def does(self, *arguments: str, env: Mapping[str, str] | None = None) -> Done:
        """Run `convive` with these arguments to its end."""
        async with self.starts(*arguments, env=env) as running:
            return await running.ends()

    async def said(self, conversation: str) -> list[str]:
        """What was said with the floor, from the log; checks that every turn was granted once and settled once, and
        that the conversation is whole."""
        links: list[FloorEvent] = []
        async with open_bus(data=self.folder / ".convive") as bus:
            there = await bus.existing(conversation)
            async with there.read() as records:
                async for record in records:
                    event = event_of(record)
                    if isinstance(event, FloorEvent):
                        links.append(event)
            assert (await verify(there)).findings == ()
        assert [event.link for event in links] == list(range(len(links)))
        granted = [event.turn for event in links if isinstance(event, Granted)]
        settled = [event.turn for event in links if isinstance(event, Said | Passed | Revoked)]
        assert granted == settled == list(range(1, len(granted) + 1))
        return [event.text for event in links if isinstance(event, Said)]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


class Door:
    """Where the participants of `PARTY` knock: the test counts the knocks, and lets in whom it wants to."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.knocks = Counter[str]()
        self._shut: set[str] = set()
        self._changed = anyio.Event()

    @property
    def env(self) -> dict[str, str]:
        return {"DOOR": str(self.port)}

    def shut(self, *whats: str) -> None:
        """From now on, who knocks so has to wait."""
        self._shut.update(whats)

    def open(self, *whats: str) -> None:
        """Let in who waits, and who comes."""
        self._shut.difference_update(whats)
        self._wake()

    async def knocked(self, what: str, times: int = 1) -> None:
        """Wait until somebody has knocked so, that often in all."""
        with anyio.move_on_after(DEADLINE_S):
            while self.knocks[what] < times:
                await self._changed.wait()
        assert self.knocks[what] >= times, f"nobody knocked with {what!r}: {self.knocks}"

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            try:
                what = (await stream.receive()).decode()
                self.knocks[what] += 1
                self._wake()
                while what in self._shut:
                    await self._changed.wait()
                await stream.send(b"come in")
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return  # whoever knocked was killed

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@pytest.fixture
async def door() -> AsyncGenerator[Door]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    made = Door(listener.extra(SocketAttribute.local_port))  # noqa: S610  anyio's, not Django's
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, made.serve)
        yield made
        tasks.cancel_scope.cancel()


PARTY = '''
"""Amy and Bob count their own words; their agents' runs are journaled. They knock at the test's door:

"amy asked" when the model is called, "amy answered" when the answer is journaled and nothing is said yet.
"""

import os
from contextlib import asynccontextmanager

import anyio

from convive.agents import Agent, AgentSeat
from convive.agents.models._scripted import ScriptedModel
from convive.scenarios import Guest, Party


async def knock(what):
    async with await anyio.connect_tcp("127.0.0.1", int(os.environ["DOOR"])) as stream:
        await stream.send(what.encode())
        await stream.receive()


class KnockingModel(ScriptedModel):
    def __init__(self, seat):
        super().__init__(lambda request: f"{seat} {sum(one.role == 'assistant' for one in request.messages) + 1}")
        self.seat = seat

    @asynccontextmanager
    async def stream(self, request):
        await knock(f"{self.seat} asked")
        async with super().stream(request) as items:
            yield items


class Seat:
    def __init__(self, seat):
        self.agent = AgentSeat(Agent(seat, model=KnockingModel(seat)))
        self.seat = seat

    async def take_turn(self, turn):
        said = await self.agent.take_turn(turn)
        await knock(f"{self.seat} answered")
        return said


amy, bob = Seat("amy"), Seat("bob")
party = Party(
    topic="soup",
    policy="round-robin",
    turns=int(os.environ.get("TURNS", "4")),
    turn_s=float(os.environ.get("TURN_S", "120")),
    model="scripted/party",
    guests=(Guest(seat="amy", participant=amy), Guest(seat="bob", participant=bob)),
)
'''
COUNTED = ["amy 1", "bob 1", "amy 2", "bob 2"]
"""What the guests of `PARTY` say in its four turns: one that is skipped or doubled shows."""


@pytest.fixture
def table(person: Person, door: Door) -> Person:
    """A person who has `PARTY` as table.py."""
    person.writes("table.py", PARTY)
    return person
