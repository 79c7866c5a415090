"""The commands on entities: `convive entity spawn`, `send`, `show`, `follow`, `list`, `signal`. Options and help."""

import os
from typing import Annotated, Literal

import typer

from convive.agents import entities
from convive.scenarios.cli import _entity_show as showing
from convive.scenarios.cli._commands import Where, tell
from convive.scenarios.cli._exits import go
from convive.scenarios.cli._options import AsJson, Data, Url

entity = typer.Typer(help="Entities: durable actors, woken by what comes for them. `convive worker` hosts them.")

Name = Annotated[
    str, typer.Argument(metavar="TYPE/ID", help="counter/ada; `convive entity list` shows those that are.")
]
Value = Annotated[str, typer.Argument(metavar="JSON", help="JSON, or any other text; -: standard input.")]


@entity.command()
def spawn(name: Name, args: Value = "null", url: Url = None, data: Data = None) -> None:
    """A new entity, with arguments. One that is there already stays as it is."""
    value = showing.value_of(args)

    async def work() -> None:
        async with Where(url, data).open() as bus:
            try:
                state = await entities.look(bus, name)
            except entities.UnknownEntity:
                tell(f"{await entities.spawn(bus, name, value)} is spawned.")
            else:
                tell(f"{state.name} is there already ({state.status}), and stays as it is.")

    go(work)


@entity.command()
def send(name: Name, message: Value, url: Url = None, data: Data = None) -> None:
    """Send an entity a message."""
    value = showing.value_of(message)

    async def work() -> None:
        async with Where(url, data).open_existing(dict(os.environ)) as bus:
            seq = await entities.send(bus, name, value)
            tell(f"stored at {seq}; whoever hosts {name} handles it.")

    go(work)


@entity.command()
def show(
    name: Name,
    until: Annotated[int | None, typer.Option("--at", min=1, metavar="SEQ", help="As it was at this place.")] = None,
    runs: Annotated[
        bool, typer.Option("--runs", help="Also what it did: its latest wakes, with agents, answers and tool calls.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """What an entity is: its state, what waits for it, its children, its failures."""
    if until is not None and runs:
        raise typer.BadParameter(
            "--at shows what an entity was, --runs all that it did until now: leave out one of them"
        )

    async def work() -> None:
        async with Where(url, data).open_existing(dict(os.environ)) as bus:
            state = await entities.look(bus, name, until=until)
            await showing.tell_end(bus, state, until)
            showing.show(state, await entities.runs(bus, name) if runs else None, as_json=as_json)

    go(work)


@entity.command()
def follow(name: Name, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Each wake of an entity, those that were and those that come, until it is over."""

    async def work() -> None:
        async with Where(url, data).open_existing(dict(os.environ)) as bus:
            await showing.follow(bus, name, as_json=as_json)

    go(work)


@entity.command("list")
def list_entities(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Only of this type.")] = "",
    status: Annotated[
        Literal["idle", "busy", "paused", "finished", "stopped"] | None, typer.Option(help="Only those that are so.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """The entities of a bus."""

    async def work() -> None:
        async with Where(url, data).open_existing(dict(os.environ)) as bus:
            found = [each for each in await entities.find(bus, type) if status in (None, each.status)]
            which = f"{status or ''} entities{f' of the type {type}' if type else ''}".lstrip()
            showing.show_all(found, which, as_json=as_json)

    go(work)


@entity.command()
def signal(
    name: Name,
    what: Annotated[Literal["pause", "resume", "stop"], typer.Argument(help="stop: for good.")],
    url: Url = None,
    data: Data = None,
) -> None:
    """Pause an entity, have it go on, or stop it."""

    async def work() -> None:
        async with Where(url, data).open_existing(dict(os.environ)) as bus:
            await entities.signal(bus, name, what)
            tell(f"{name} is told to {what}.")

    go(work)


@entity.command()
def trim(
    name: Name,
    keep: Annotated[int, typer.Option(min=1, metavar="WAKES", help="How many of its latest wakes to keep.")] = 100,
    runs: Annotated[
        bool, typer.Option("--runs", help="Also forget the journals of those wakes: agents, answers, tool calls.")
    ] = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Forget the letters and wakes of an entity but the latest, for good. Its state stays as it is."""

    async def work() -> None:
        async with Where(url, data).open_existing(dict(os.environ)) as bus:
            count = await entities.trim(bus, name, keep=keep, runs=runs)
            records = "1 record" if count == 1 else f"{count:,} records"
            tell(f"{records} of {name} forgotten.")

    go(work)


@entity.command()
def revive(name: Name, url: Url = None, data: Data = None) -> None:
    """See to it that what waits for an entity, and its times, have jobs: when those were lost."""

    async def work() -> None:
        async with Where(url, data).open_existing(dict(os.environ)) as bus:
            state = await entities.revive(bus, name)
            tell(f"{state.name} is {state.status}; whoever hosts it goes on with what waits.")

    go(work)
