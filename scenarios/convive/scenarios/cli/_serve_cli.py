"""The commands for browsers and other programs. Options and help; what they do is in `_serve`."""

from typing import Annotated

import typer

from convive.scenarios.cli import _serve as serving
from convive.scenarios.cli._commands import Where
from convive.scenarios.cli._exits import go
from convive.scenarios.cli._options import WEB, Data, Url

web = typer.Typer()

For = Annotated[str, typer.Option("--for", metavar="TIME", help="How long the token counts: 90s, 30m, 1h, 7d.")]
Names = list[str] | None


@web.command(rich_help_panel=WEB)
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = serving.PORT,
    host: Annotated[
        Names, typer.Option(metavar="NAME", help="Another name by which a proxy of yours reaches it.")
    ] = None,
    origin: Annotated[
        Names, typer.Option(metavar="URL", help="Pages of another origin that may ask: https://example.org")
    ] = None,
    lasts: For = "1d",
    url: Url = None,
    data: Data = None,
) -> None:
    """Serve what the bus holds over HTTP, on this machine only, and print an address to open."""

    async def work() -> None:
        wanted = serving.Serving(port, host or (), origin or (), serving.seconds_of(lasts))
        await serving.keep_serving(Where(url, data), wanted)

    go(work)


@web.command(rich_help_panel=WEB)
def token(
    write: Annotated[bool, typer.Option("--write/--read", help="Who may write may read, too.")] = False,
    conversation: Annotated[
        Names, typer.Option(metavar="ID", help="What is said there; eve*: all that begin so.")
    ] = None,
    runs: Annotated[
        Names, typer.Option(metavar="ID", help="What is thought and done there, and answers to it; ID, or TYPE/ID.")
    ] = None,
    entity: Annotated[Names, typer.Option(metavar="TYPE/ID", help="An entity; shop/*: all of a type.")] = None,
    stream: Annotated[Names, typer.Option(metavar="NAME", help="A plain stream.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that the bus holds.")] = False,
    lasts: For = "1h",
    data: Data = None,
) -> None:
    """Print a token for `convive serve`: what whoever has it may do, and how long."""
    kinds = {"conversation": conversation, "runs": runs, "entity": entity, "stream": stream}
    named = [(kind, name) for kind, names in kinds.items() for name in names or ()]
    if everything == bool(named):
        raise typer.BadParameter("name what it is for (--conversation, --runs, --entity, --stream), or give --all")

    async def work() -> None:
        rights = serving.rights_of("write" if write else "read", named)
        serving.make_token(Where(None, data), serving.Wanted(rights, serving.seconds_of(lasts)))

    go(work)
