"""The commands that show what runs did. Options and help; what they do is in `_tracing`."""

import os
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

import typer

from convive.bus import Bus
from convive.scenarios import _tracing as tracing
from convive.scenarios._commands import Where
from convive.scenarios._exits import go
from convive.scenarios._exporting import send_trace
from convive.scenarios._options import Data, Url

traces = typer.Typer()


@traces.command()
def trace(
    which: Annotated[str, typer.Argument(metavar="RUN_OR_CONVERSATION", help="A conversation, or the id of a run.")],
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Open one run of it: its answers and calls.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Go on until it is over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Nested objects.")] = False,
    export: Annotated[
        Literal["otlp"] | None, typer.Option(help="Send it to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names.")
    ] = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Show who called whom, for how long, at what cost, and what failed."""

    async def work(bus: Bus) -> None:
        if export is not None:
            await send_trace(bus, which)
        else:
            await tracing.show_trace(bus, which, run, live=live, as_json=as_json)

    _on_bus(Where(url, data), work)


@traces.command()
def runs(
    count: Annotated[int, typer.Option("-n", min=1, help="How many, the latest last.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a run.")] = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List the outermost runs: conversations, and runs that nobody called."""
    _on_bus(Where(url, data), lambda bus: tracing.show_runs(bus, count, as_json=as_json))


@traces.command()
def cost(
    which: Annotated[
        str | None, typer.Argument(metavar="[RUN_OR_CONVERSATION]", help="Only of this one; default: of all.")
    ] = None,
    by: Annotated[Literal["session", "agent", "model"], typer.Option(help="What to add up.")] = "model",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a group.")] = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Add up what the answers of models cost."""
    _on_bus(Where(url, data), lambda bus: tracing.show_cost(bus, which, by, as_json=as_json))


def _on_bus(where: Where, act: Callable[[Bus], Coroutine[Any, Any, None]]) -> None:
    async def work() -> None:
        async with where.open_existing(dict(os.environ)) as bus:
            await act(bus)

    go(work)
