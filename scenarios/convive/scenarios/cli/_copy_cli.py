"""The commands that copy, compare and redrive conversations. Options and help; what they do is in `_copying`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from convive.scenarios.cli import _commands as commands
from convive.scenarios.cli import _copying as copying
from convive.scenarios.cli import _redriving as redriving
from convive.scenarios.cli._exits import FAILED, go
from convive.scenarios.cli._options import CHECKS, AsJson, Data, Id, Url
from convive.scenarios.cli._watch import Span, place

copies = typer.Typer()

Last = Annotated[
    str | None,
    typer.Option("--to", metavar="PLACE", help="The last to take: a sequence number, turn:3, or a time."),
]


@copies.command("export", rich_help_panel=CHECKS)
def export_conversation(
    conversation: Id,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; - or nothing: standard output.")] = (
        copying.STANDARD
    ),
    last: Last = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Write a conversation, or an entity (shop/main), with all that belongs to it into one JSONL file."""

    async def work() -> None:
        async with commands.Where(url, data).open_existing(dict(os.environ)) as bus:
            await copying.export(bus, conversation, file, Span(None, place(last) if last else None))

    go(work)


@copies.command("import", rich_help_panel=CHECKS)
def import_conversation(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `convive export` wrote; -: standard input.")],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="As a fork of that name.")] = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Bring an exported conversation or entity onto the bus."""
    where = commands.Where(url, data)

    async def work() -> None:
        async with where.open() as bus:
            await copying.bring(bus, file, name, where)

    go(work)


@copies.command("fork", rich_help_panel=CHECKS)
def fork_conversation(
    conversation: Id,
    at: Annotated[
        str | None, typer.Option(metavar="PLACE", help="A sequence number, turn:3 (its end), or a time.")
    ] = None,
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Its name; default: one is made.")] = None,
    topic: Annotated[str | None, typer.Option(help="Another topic.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Another model: MODEL, or SEAT=MODEL.")] = None,
    guest: Annotated[list[str] | None, typer.Option(help="A guest who joins.")] = None,
    without: Annotated[list[str] | None, typer.Option(metavar="SEAT", help="A guest who leaves.")] = None,
    turns: Annotated[int | None, typer.Option(help="How many turns the guests have, in all.")] = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Begin a new conversation as another one was at a place, and let it go another way."""
    where = commands.Where(url, data)
    changes = copying.Changes(topic, tuple(model or ()), tuple(guest or ()), tuple(without or ()), turns)

    async def work() -> None:
        span = Span(None, place(at) if at else None)
        async with where.open_existing(dict(os.environ)) as bus:
            await copying.split(bus, conversation, name, span, changes, where)

    go(work)


@copies.command("diff", rich_help_panel=CHECKS)
def diff_conversations(
    left: Annotated[str, typer.Argument(metavar="LEFT", help="One conversation; `convive ls` shows those that are.")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="The other one.")],
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Show where two conversations part; leaves with 1 when they do."""
    differ: list[bool] = []

    async def work() -> None:
        async with commands.Where(url, data).open_existing(dict(os.environ)) as bus:
            there = await bus.existing(left)
            differ.append(await copying.compare(there, await bus.existing(right), as_json=as_json))

    go(work)
    raise typer.Exit(int(any(differ)))


@copies.command("redrive", rich_help_panel=CHECKS)
def redrive_conversation(
    conversation: Id,
    target: Annotated[str | None, typer.Argument(help="my_party.py, for the participants it brings.")] = None,
    last: Last = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Take all turns again with the recorded answers; leaves with 1 at the first thing that differs."""
    same: list[bool] = []

    async def work() -> None:
        span = Span(None, place(last) if last else None)
        async with commands.Where(url, data).open_existing(dict(os.environ)) as bus:
            same.append(await redriving.again(bus, conversation, target, span, as_json=as_json))

    go(work)
    raise typer.Exit(0 if all(same) else FAILED)
