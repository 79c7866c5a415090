"""What the commands that read or add to a conversation do."""

import json
import os
import shlex
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from convive.bus import (
    DEFAULT_DATA,
    URL_VARIABLE,
    Bus,
    Conversation,
    ConviveError,
    Floor,
    embedded_server,
    interject,
    open_bus,
    seat_name,
)
from convive.scenarios.cli._display import Display, JsonDisplay, PlainDisplay, TerminalDisplay
from convive.scenarios.cli._exits import go
from convive.scenarios.cli._leading import STOPPED, nobody_leads, overdue, stopped
from convive.scenarios.cli._transcript import shown
from convive.scenarios.cli._watch import Span, replay, watch


class NothingHere(ConviveError):
    """There is no store to read from."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which bus a command speaks to."""

    url: str | None
    data: Path | None
    fast: bool = False

    @property
    def options(self) -> str:
        """What a command has to be told to come to the same bus, for messages. A URL may hold a password."""
        url = "" if not self.url else f" --url {'URL' if '@' in self.url else shlex.quote(self.url)}"
        return url + ("" if self.data is None else f" --data {shlex.quote(str(self.data))}")

    def open(self) -> AbstractAsyncContextManager[Bus]:
        """The bus; the embedded server starts when there is no other."""
        return open_bus(self.url, data=self.data, fast=self.fast)

    @asynccontextmanager
    async def open_existing(self, environ: dict[str, str]) -> AsyncGenerator[Bus]:
        """The bus, for a command that only reads: it makes no store where there is none. Raises NothingHere."""
        folder = (self.data or DEFAULT_DATA).expanduser()
        unused = not folder.exists() or (folder.is_dir() and not (folder / "jetstream").exists())
        if not self.url and (self.data is not None or not environ.get(URL_VARIABLE)) and unused:
            raise NothingHere(
                f"nothing is kept in {folder} yet. Start with `convive run dinner-party`, or name another place with "
                "--data or --url."
            )
        async with self.open() as bus:
            yield bus


def on_bus(where: Where, act: Callable[[Bus], Coroutine[Any, Any, None]]) -> None:
    """Run a command that needs a bus which is there."""

    async def work() -> None:
        async with where.open_existing(dict(os.environ)) as bus:
            await act(bus)

    go(work)


def display_for(*, plain: bool, as_json: bool) -> Display:
    """The display that the options ask for; plain lines when standard output is no terminal."""
    if as_json:
        return JsonDisplay(sys.stdout)
    if plain or not sys.stdout.isatty():
        return PlainDisplay(sys.stdout)
    return TerminalDisplay(Console(highlight=False))


def tell(text: str) -> None:
    """A line to the person, beside the transcript."""
    out = Console(stderr=True, highlight=False)
    out.print(Text(text, style="dim"), soft_wrap=not out.is_terminal)


async def show_list(bus: Bus, options: str, *, as_json: bool) -> None:
    """All conversations, the latest last. `options` are what another command has to be told to come to this bus."""
    floors = await bus.conversations()
    rows, late = sorted(floors.items(), key=lambda row: row[1].at_s), await stopped(bus, floors)
    if as_json:
        for name, floor in rows:
            row = _row(name, floor) | {"overdue_s": late.get(name)}
            print(json.dumps(row))  # noqa: T201 - standard output is this command's result
    elif not rows:
        tell("No conversations yet. Start one: convive run dinner-party")
    else:
        _print_table([(name, STOPPED if name in late else _state(floor), floor) for name, floor in rows])
        if late:
            tell(nobody_leads(late, options))


def _row(name: str, floor: Floor) -> dict[str, object]:
    return {
        "conversation": name,
        "state": _state(floor),
        "turns": floor.turn,
        "seats": [chair.seat for chair in floor.seats],
        "topic": floor.opened.topic if floor.opened else "",
        "last_s": round(floor.at_s, 3),
    }


def _print_table(rows: Sequence[tuple[str, str, Floor]]) -> None:
    """Columns as wide as what is in them; the topic gets what is left of a terminal's line."""
    names = max(12, *(len(name) for name, _, _ in rows))
    states = max(5, *(len(state) for _, state, _ in rows))
    out = Console(highlight=False, soft_wrap=True)
    lines = [f"{'conversation':{names}}  {'state':{states}}  turns  {'last':11}  topic"]
    for name, state, floor in rows:
        when = datetime.fromtimestamp(floor.at_s, UTC).astimezone().strftime("%m-%d %H:%M")
        topic = shown(floor.opened.topic) if floor.opened else ""
        lines.append(f"{name:{names}}  {state:{states}}  {floor.turn:5}  {when}  {topic}")
    for number, line in enumerate(lines):
        text = Text(line, style="dim" if number == 0 else "")
        if out.is_terminal:
            text.truncate(out.width, overflow="ellipsis")
        out.print(text)


def _state(floor: Floor) -> str:
    if floor.opened is None:
        return "unreadable"
    if floor.closed is not None:
        return "over"
    return f"with {floor.open_grant.grant.seat}" if floor.open_grant else "open"


async def show_replay(conversation: Conversation, display: Display, span: Span, speed: float | None) -> None:
    """What was said, from the log."""
    try:
        await replay(conversation, display, span, speed)
    finally:
        display.close()


async def show_live(conversation: Conversation, display: Display, span: Span, options: str = "") -> None:
    """What was said, is being said and will be said, until the conversation is closed."""
    if await overdue(conversation, await conversation.floor()) is not None:
        tell(nobody_leads([conversation.id], options))
    seq = 0

    def seen(number: int) -> None:
        nonlocal seq
        seq = number

    try:
        await watch(conversation, display, span, seen)
    except anyio.get_cancelled_exc_class():
        display.close()  # before a word is put below what it shows
        tell(f"Left at {seq}. Go on with: convive follow {conversation.id} --from {seq + 1}{options}")
        raise
    finally:
        display.close()


async def show_memory(conversation: Conversation, seat: str | None, *, as_json: bool) -> None:
    """What the seats of a conversation remember: one of them, or all."""
    floor = await conversation.floor()
    opened = floor.opened.chairs if floor.opened else ()
    chairs = opened + floor.seats  # who left may be asked for, too
    names = {chair.seat: chair.shown for chair in chairs}
    seats = [seat_name(seat)] if seat else list(dict.fromkeys(chair.seat for chair in floor.seats))
    world = await conversation.world(*seats)
    if seat and not any(chair.seat == seat for chair in chairs) and not world.private[seats[0]].memory.held:
        known = ", ".join(dict.fromkeys(chair.seat for chair in chairs))
        raise ConviveError(f"nobody called {seat} sits in {conversation.id}. Seats: {known or 'none'}.")
    out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for one in seats:
        private = world.private[one]
        if as_json:
            for memory in private.memory.held:
                event = memory.event
                row = {"seat": one, "seq": memory.seq, "kind": event.kind, "text": event.text, "run_id": event.run_id}
                print(json.dumps(row, ensure_ascii=False))  # noqa: T201 - standard output is this command's result
            continue
        out.print(Text(shown(names.get(one, one)), style="bold"))
        for memory in private.memory.held:
            _print_below(out, Text.assemble((f"{memory.event.kind}: ", "dim"), shown(memory.event.text)))
        for whisper in private.whispers:
            _print_below(out, Text.assemble((f"whispered by {whisper.sender}: ", "dim"), shown(whisper.text)))
        if not private.memory.held and not private.whispers:
            _print_below(out, Text("nothing yet", style="dim"))
    for bad in world.bad:
        tell(f"unreadable: {shown(str(bad))}")


def _print_below(out: Console, text: Text) -> None:
    """A paragraph that is indented, on each of its lines in a terminal."""
    out.print(Text.assemble("  ", text) if out.soft_wrap else Padding(text, (0, 0, 0, 2), expand=False))


async def say(conversation: Conversation, name: str, text: str, options: str = "") -> None:
    """Say something without the floor. Raises as `interject`."""
    await interject(conversation, name, text)
    tell(f"Heard by everybody in {conversation.id}.")
    if await overdue(conversation, await conversation.floor()) is not None:
        tell(nobody_leads([conversation.id], options))


async def keep_server(data: Path, port: int | None, *, fast: bool) -> None:
    """The embedded server in the foreground, until the process is stopped."""
    async with embedded_server(data, port=port, fast=fast) as server:
        print(server.url, flush=True)  # noqa: T201 - standard output is this command's result
        tell(f"Data in {server.data}. {'' if server.owned else 'Another process runs it. '}Ctrl-C ends this one.")
        await anyio.sleep_forever()
