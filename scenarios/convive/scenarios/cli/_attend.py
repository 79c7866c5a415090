"""While a conversation runs: have the person at the terminal answer what its guests wait for, or say how to."""

import json
import os
import sys
import termios
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import anyio
from rich.console import Console
from rich.text import Text

from convive.agents import (
    Agent,
    AgentSeat,
    Approve,
    BadAnswers,
    Deny,
    Interrupt,
    Participant,
    Resolution,
    Result,
    ResumeRefused,
    Suspension,
    answer,
    pending,
)
from convive.bus import BusUnavailable, Conversation, ConviveError, SeatName, Tail
from convive.scenarios.cli._calls import BadChoice, called, edited, given_value, short_runs
from convive.scenarios.cli._commands import tell
from convive.scenarios.cli._display import Display
from convive.scenarios.cli._transcript import shown

RETRY_S = 1.0
MAX_LINE = 100_000
MAX_SHOWN = 2_000
"""Characters of an argument that a question shows."""


class NobodyThere(Exception):
    """Whoever was asked has closed the terminal's input."""


def agents_in(seats: Mapping[SeatName, Participant]) -> dict[SeatName, Agent[Any]]:
    """The agents in these seats, as far as they are known: they can check what they are answered."""
    return {seat: who.agent for seat, who in seats.items() if isinstance(who, AgentSeat)}


async def attend(
    conversation: Conversation,
    display: Display | None,
    agents: Mapping[SeatName, Agent[Any]],
    options: str = "",
    seat: SeatName | None = None,
) -> None:
    """Ask about everything that waits in a conversation, or with a `seat` in its turns, until cancelled."""
    base, asked = conversation.subjects.base, set[str]()
    last = await conversation.log.last(f"{base}.>")
    subjects = (f"{base}.run.*.*", conversation.subjects.floor)
    async with conversation.log.follow(*subjects, after=last.seq if last else 0) as tail:
        while True:
            listed = await _pending(conversation)
            waiting = next((one for one in listed if one.token not in asked and seat in (None, one.seat)), None)
            if waiting is None:
                await _next_suspension(tail)
                continue
            asked.add(waiting.token)
            name = _name(conversation, display, waiting)
            run = short_runs([one.run_id for one in listed])[waiting.run_id]
            with display.paused() if display else nullcontext():
                if _at_terminal():
                    await _ask(conversation, waiting, tail, agents, _Question(name, run, options))
                else:
                    _say_how(waiting, name, run, options)


def _name(conversation: Conversation, display: Display | None, waiting: Suspension) -> str:
    return shown(
        display.transcript.speaker(waiting.seat) if display and waiting.seat else waiting.seat or waiting.agent
    )


def _at_terminal() -> bool:
    """Whether somebody can be asked. A process in the background would be stopped for it."""
    try:
        inputs = sys.stdin.fileno()
        return sys.stderr.isatty() and os.isatty(inputs) and os.tcgetpgrp(inputs) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


async def _pending(conversation: Conversation) -> list[Suspension]:
    while True:
        try:
            return await pending(conversation)
        except BusUnavailable:
            await anyio.sleep(RETRY_S)  # the party outlives a server that is away for a while; so does this


async def _next_suspension(tail: Tail) -> None:
    while (record := await tail.next()) is None or b"suspended" not in record.body:
        pass


def _say_how(waiting: Suspension, name: str, run: str, options: str) -> None:
    calls = ", ".join(called(each) for each in waiting.interrupts)
    verbs = {"approval": f"convive approve {run}{options}", "client_tool": f"convive answer {run} VALUE{options}"}
    how = " | ".join(dict.fromkeys(verbs[each.kind] for each in waiting.interrupts))
    tell(f"{name} waits for an answer: {calls}. From another shell: {how}")


class _Question:
    """One conversation with the person at the terminal."""

    def __init__(self, name: str, run: str, options: str) -> None:
        self.name = name
        self.run = run
        self.options = options
        self.out = Console(stderr=True, highlight=False)

    async def answers(self, interrupts: Sequence[Interrupt]) -> dict[str, Resolution]:
        """What the person says to each. Raises NobodyThere."""
        given: dict[str, Resolution] = {}
        for each in interrupts:
            given[each.id] = await (self._result(each) if each.kind == "client_tool" else self._approval(each))
        return given

    async def _approval(self, interrupt: Interrupt) -> Resolution:
        self._show(interrupt, f"{self.name} wants to call {shown(interrupt.tool)}")
        while True:
            words = await self._line("Allow it? y, n, e to edit, or say why not: ")
            match words.lower():
                case "":
                    continue
                case "y" | "yes":
                    return Approve()
                case "n" | "no":
                    return Deny()
                case "e" | "edit":
                    if (edit := await self._edit()) is not None:
                        return edit
                case _:
                    return Deny(words)

    async def _edit(self) -> Resolution | None:
        words = await self._line("The arguments to use instead, as JSON (nothing: back): ")
        try:
            return edited(words) if words else None
        except BadChoice as bad:
            self.say(str(bad))
            return None

    async def _result(self, interrupt: Interrupt) -> Resolution:
        self._show(interrupt, f"{self.name} needs the result of {shown(interrupt.tool)}")
        while True:
            words = await self._line("Its result, as JSON or plain text: ")
            try:
                if words:
                    return Result(given_value(words))
            except BadChoice as bad:
                self.say(str(bad))

    def say(self, text: str) -> None:
        """A line to the person."""
        self.out.print(Text(shown(text), style="dim"))

    def _show(self, interrupt: Interrupt, title: str) -> None:
        self.out.print(Text(title, style="bold"))
        given = interrupt.arguments
        for name, value in (given if isinstance(given, dict) else {"": given}).items():
            text = shown(json.dumps(value, ensure_ascii=False))
            rest = f"… ({len(text)} characters; all of it: convive pending --json)" if len(text) > MAX_SHOWN else ""
            self.out.print(Text(f"  {shown(name)}: {text[:MAX_SHOWN]}{rest}"))

    async def _line(self, question: str) -> str:
        # What was typed before the question was there is no answer to it.
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
        self.out.print(Text(question, style="bold"), end="")
        try:
            return " ".join((await _read_line(sys.stdin.fileno())).split())
        except BaseException:
            self.out.print()  # what is said next stands below the question
            raise


async def _read_line(descriptor: int) -> str:
    """A line from the terminal, which edits it. Cancelling this leaves the line to whoever reads next."""
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE:
        await anyio.wait_readable(descriptor)
        piece = os.read(descriptor, 4_096)
        if not piece:
            raise NobodyThere
        line += piece
    return line.decode(errors="replace")


async def _ask(
    conversation: Conversation, waiting: Suspension, tail: Tail, agents: Mapping[SeatName, Agent[Any]], ask: _Question
) -> None:
    """Have the person answer, unless somebody else does first."""
    agent = agents.get(waiting.seat) if waiting.seat else None
    while True:
        try:
            given = await _unless_moved_on(conversation, waiting, tail, ask)
            if given is None:
                ask.say("It does not wait any more: somebody else answered, or its time was over.")
            else:
                await answer(conversation, waiting.run_id, given, agent=agent, token=waiting.token)
        except NobodyThere:
            _say_how(waiting, ask.name, ask.run, ask.options)
        except BadAnswers as bad:
            ask.say(str(bad))
            continue
        except ResumeRefused as late:
            ask.say(str(late))
        except ConviveError as error:  # of the bus: it may have been stored, which the next question finds out
            ask.say(str(error))
            continue
        return


async def _unless_moved_on(
    conversation: Conversation, waiting: Suspension, tail: Tail, ask: _Question
) -> dict[str, Resolution] | None:
    given: dict[str, Resolution] | None = None
    nobody = False
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while True:
                record = await tail.next()
                about = record is not None and (waiting.run_id in record.subject or ".bus.floor." in record.subject)
                if about and waiting.token not in [one.token for one in await _pending(conversation)]:
                    tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            given = await ask.answers(waiting.interrupts)
        except NobodyThere:
            nobody = True
        tasks.cancel_scope.cancel()
    if nobody:
        raise NobodyThere
    return given
