"""The commands that show what runs did. Options and help; what they do is in `_tracing`."""

from typing import Annotated, Literal

import typer

from convive.bus import Bus
from convive.scenarios.cli import _spending as spending
from convive.scenarios.cli import _tracing as tracing
from convive.scenarios.cli._commands import Where, on_bus
from convive.scenarios.cli._exporting import send_trace
from convive.scenarios.cli._options import TRACES, Data, Url

traces = typer.Typer()


@traces.command(rich_help_panel=TRACES)
def trace(
    which: Annotated[str, typer.Argument(metavar="RUN_OR_CONVERSATION", help="A conversation, or the id of a run.")],
    run: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Open one: what it was told, answered and called. Either end of the id of a run or turn, or turn:3.",
        ),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Unfold so many levels; default: what fits 200 lines.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="With --run: cut no text.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Go on until it is over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Nested objects; with --run, with all events.")] = False,
    export: Annotated[
        Literal["otlp"] | None, typer.Option(help="Send it to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names.")
    ] = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Show who called whom, for how long, at what cost, and what failed."""
    view = tracing.View(run, depth, live, full, as_json)
    check_options(view, export)

    where = Where(url, data)

    async def work(bus: Bus) -> None:
        if export is not None:
            await send_trace(bus, which)
        else:
            await tracing.show_trace(bus, which, view, where.options)

    on_bus(where, work)


@traces.command(rich_help_panel=TRACES)
def runs(
    count: Annotated[int, typer.Option("-n", min=1, help="How many, the latest last.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a run.")] = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List the outermost runs: conversations, and runs that nobody called."""
    where = Where(url, data)
    on_bus(where, lambda bus: spending.show_runs(bus, count, where.options, as_json=as_json))


@traces.command(rich_help_panel=TRACES)
def cost(
    which: Annotated[
        str | None, typer.Argument(metavar="RUN_OR_CONVERSATION", help="Only of this one; default: of all.")
    ] = None,
    by: Annotated[Literal["session", "agent", "model"], typer.Option(help="What to add up.")] = "model",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a group.")] = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Add up what the answers of models cost."""
    on_bus(Where(url, data), lambda bus: spending.show_cost(bus, which, by, as_json=as_json))


def check_options(view: tracing.View, export: str | None) -> None:
    """Refuse options that would do nothing together."""
    if export is not None and view != tracing.View():
        raise typer.BadParameter("--export sends the whole trace and shows nothing: leave out the other options")
    if view.run is not None and (view.live or view.depth is not None):
        raise typer.BadParameter("--run shows one run as it is now: leave out --live and --depth")
    if view.full and (view.run is None or view.as_json):
        raise typer.BadParameter("--full cuts no text of what --run ID opens; JSON is never cut")
    if view.depth is not None and (view.as_json or view.live):
        raise typer.BadParameter("--depth folds the tree that is printed; --json has all of it, --live what fits")
