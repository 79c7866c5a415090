"""The command line. Options and help; what they do is in `_hosting`, `_commands` and `_doctor`."""

import logging
import os
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from convive.bus import DEFAULT_DATA, Conversation, ConviveError
from convive.scenarios.cli import _commands as commands
from convive.scenarios.cli import _hosting as hosting
from convive.scenarios.cli import _streams as streams
from convive.scenarios.cli._answer_cli import answering
from convive.scenarios.cli._copy_cli import copies
from convive.scenarios.cli._doctor import examine
from convive.scenarios.cli._entity_cli import entity
from convive.scenarios.cli._exits import DEBUG_VARIABLE, go
from convive.scenarios.cli._options import (
    BUS,
    CHECKS,
    STAYING,
    STREAMS,
    TABLE,
    AsJson,
    Data,
    Id,
    Standby,
    Url,
    WithStandby,
)
from convive.scenarios.cli._outputs import prepare
from convive.scenarios.cli._play import find
from convive.scenarios.cli._serve_cli import web
from convive.scenarios.cli._trace_cli import traces
from convive.scenarios.cli._verify import check_conversation, check_entity, check_file
from convive.scenarios.cli._watch import Span, place
from convive.scenarios.cli._work import keep_working

app = typer.Typer(
    name="convive",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="--debug with any command shows tracebacks.",
)

app.add_typer(answering)
app.add_typer(copies)
app.add_typer(traces)
app.add_typer(web)
app.add_typer(entity, name="entity", rich_help_panel=STAYING)

Plain = Annotated[bool, typer.Option("--plain", help="One line an utterance, no colours.")]
Model = Annotated[str | None, typer.Option(help="anthropic/MODEL, local/NAME or local/FILE.gguf, scripted/party.")]
First = Annotated[str | None, typer.Option("--from", metavar="PLACE", help="345 (sequence), turn:3, or a time.")]
Last = Annotated[str | None, typer.Option("--to", metavar="PLACE", help="The last to show: as with --from.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"convive {version('convive')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which version this is.")
    ] = False,
) -> None:
    """Multi-agent conversations on a durable, totally ordered bus."""


@app.command(cls=WithStandby, rich_help_panel=TABLE)
def run(
    target: Annotated[str | None, typer.Argument(help="dinner-party, my-party.toml or my_party.py")] = None,
    guests: Annotated[str | None, typer.Option(help="How many, or who: ada,basho")] = None,
    turns: Annotated[int | None, typer.Option(help="How many turns the guests have.")] = None,
    topic: Annotated[str | None, typer.Option(help="What the evening is about.")] = None,
    policy: Annotated[str | None, typer.Option(help="Who speaks next: addressed or round-robin.")] = None,
    seed: Annotated[int | None, typer.Option(help="For models that can be seeded.")] = None,
    remote: Annotated[list[str] | None, typer.Option(help="A guest who sits in another process (convive sit).")] = None,
    model: Model = None,
    conversation: Annotated[str | None, typer.Option(help="Its name; one that exists is gone on with.")] = None,
    standby: Standby = None,
    plain: Plain = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
    fast: Annotated[bool, typer.Option("--fast", help="Embedded server: acknowledge before it is on disk.")] = False,
) -> None:
    """Hold a dinner party, or go on with one."""
    wishes = hosting.Wishes(
        target, guests, turns, topic, policy, seed, tuple(remote or ()), model, conversation, standby
    )
    display = commands.display_for(plain=plain, as_json=as_json)
    go(lambda: hosting.run_party(wishes, commands.Where(url, data, fast), display))


@app.command("ls", rich_help_panel=TABLE)
def list_conversations(as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """List the conversations on the bus, the latest last."""

    where = commands.Where(url, data)

    async def work() -> None:
        async with where.open_existing(dict(os.environ)) as bus:
            await commands.show_list(bus, where.options, as_json=as_json)

    go(work)


@app.command(rich_help_panel=TABLE)
def replay(
    conversation: Id,
    first: First = None,
    last: Last = None,
    speed: Annotated[
        float | None, typer.Option(min=0, help="Times the pace in which it happened; without it, at once.")
    ] = None,
    plain: Plain = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Show what was said."""
    display = commands.display_for(plain=plain, as_json=as_json)
    _at(url, data, conversation, lambda there, _, span: commands.show_replay(there, display, span, speed), first, last)


@app.command(rich_help_panel=TABLE)
def follow(
    conversation: Id,
    first: First = None,
    plain: Plain = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Watch a conversation until it is over."""
    display = commands.display_for(plain=plain, as_json=as_json)
    _at(
        url,
        data,
        conversation,
        lambda there, where, span: commands.show_live(there, display, span, where.options),
        first,
    )


@app.command(rich_help_panel=TABLE)
def memory(
    conversation: Id,
    seat: Annotated[str | None, typer.Option(help="Whose; default: everybody's.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Show what the guests keep to themselves."""
    _at(url, data, conversation, lambda there, _w, _s: commands.show_memory(there, seat, as_json=as_json))


@app.command(rich_help_panel=TABLE)
def say(
    conversation: Id,
    text: Annotated[list[str], typer.Argument(help="The words.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Who you are.")],
    url: Url = None,
    data: Data = None,
) -> None:
    """Say something without having the floor; the guests take it up."""
    _at(url, data, conversation, lambda at, where, _: commands.say(at, name, " ".join(text), where.options))


@app.command(cls=WithStandby, rich_help_panel=TABLE)
def sit(
    conversation: Id,
    seat: Annotated[str, typer.Option("--as", metavar="SEAT", help="The seat to take.")],
    agent: Annotated[str | None, typer.Option(help="module:attribute of an agent; default: the invited guest.")] = None,
    about: Annotated[str, typer.Option(help="What the others may know of you.")] = "",
    model: Model = None,
    standby: Standby = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Sit in one seat of a conversation that is led elsewhere."""

    where = commands.Where(url, data)

    async def work() -> None:
        async with where.open_existing(dict(os.environ)) as bus:
            there = await bus.existing(conversation)
            evening = None if agent else await find(bus, conversation)
            await hosting.sit(there, hosting.Sitting(seat, agent, about, model, standby), evening, where.options)

    go(work)


@app.command(rich_help_panel=STAYING)
def worker(
    module: Annotated[
        str, typer.Argument(metavar="MODULE", help="A module of agents and entities, or module:attribute.")
    ],
    queue: Annotated[str, typer.Option(help="Which queue to work on.")] = "default",
    concurrency: Annotated[int, typer.Option(min=1, help="How many runs at a time.")] = 1,
    url: Url = None,
    data: Data = None,
) -> None:
    """Carry out queued runs and host entities, until it is stopped."""
    go(lambda: keep_working(module, queue, concurrency, commands.Where(url, data)))


@app.command(rich_help_panel=BUS)
def server(
    data: Annotated[Path, typer.Option(help="Directory of the store.")] = DEFAULT_DATA,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the one it had, or a free one.")] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Acknowledge before it is on disk; a power cut can cost it.")
    ] = False,
) -> None:
    """Run the embedded server in the foreground."""
    go(lambda: commands.keep_server(data, port, fast=fast))


@app.command(rich_help_panel=CHECKS)
def verify(
    conversation: Annotated[
        str | None, typer.Argument(metavar="ID", help="The conversation, or an entity: shop/main.")
    ] = None,
    until: Annotated[int | None, typer.Option(min=1, metavar="SEQ", help="As it was at this sequence number.")] = None,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead: is this recorded history linearizable?")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Check that a conversation or an entity is whole; leaves with 1 when it is not."""
    if (conversation is None) == (history is None):
        raise typer.BadParameter("give the ID of a conversation, or --history FILE")
    if conversation is not None and "/" in conversation:
        name = conversation

        async def check() -> None:
            async with commands.Where(url, data).open_existing(dict(os.environ)) as bus:
                await check_entity(bus, name, until, as_json=as_json)

        go(check)
        return
    if conversation is not None:
        _at(url, data, conversation, lambda there, _w, _s: check_conversation(there, until, as_json=as_json))
        return

    async def work() -> None:
        check_file(history or Path(), as_json=as_json)

    go(work)


@app.command(rich_help_panel=BUS)
def doctor(model: Model = None, url: Url = None, data: Data = None) -> None:
    """Check everything that a party needs."""

    async def work() -> None:
        out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        bad = 0
        async for finding in examine(commands.Where(url, data), model):
            mark = ("ok  ", "green") if finding.fine else ("NOT ", "bold red")
            out.print(Text.assemble(mark, (f"{finding.what}: ", "bold"), finding.found))
            bad += not finding.fine
        if bad:
            need = "needs" if bad == 1 else "need"
            raise ConviveError(f"{bad} of these {need} attention; each line says what to do.")

    go(work)


app.command("append", rich_help_panel=STREAMS)(streams.append)
app.command("read", rich_help_panel=STREAMS)(streams.read)
app.command("streams", rich_help_panel=STREAMS)(streams.list_streams)
app.command("trim", rich_help_panel=STREAMS)(streams.trim)


def _at(
    url: str | None,
    data: Path | None,
    conversation: str,
    act: Callable[[Conversation, commands.Where, Span], Coroutine[Any, Any, None]],
    first: str | None = None,
    last: str | None = None,
) -> None:
    """Do something with a conversation that exists, or with a part of it."""
    where = commands.Where(url, data)

    async def work() -> None:
        span = Span(place(first) if first else None, place(last) if last else None)
        async with where.open_existing(dict(os.environ)) as bus:
            await act(await bus.existing(conversation), where, span)

    go(work)


def main(arguments: list[str] | None = None) -> Any:
    """The entry point: `convive`."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--debug" in given:
        os.environ[DEBUG_VARIABLE] = "1"
    prepare(for_json="--json" in given)
    # What a run has to say of itself stands in its journal; on the screen it would run into the transcript.
    logging.basicConfig(level=logging.WARNING if os.environ.get(DEBUG_VARIABLE) else logging.CRITICAL + 1)
    return app(args=[one for one in given if one != "--debug"], prog_name="convive")
