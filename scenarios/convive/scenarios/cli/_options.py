"""Options that commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from convive.agents import STANDBY_S

DAY_S = 86_400.0

TABLE, STAYING, BUS, CHECKS = "Conversations", "Entities and queued runs", "The server", "Copies and checks"
STREAMS, ANSWERS, TRACES = "Streams", "What waits for an answer", "Who called whom"
WEB = "Browsers and other programs"
"""What the commands are listed under in `convive --help`."""

Id = Annotated[str, typer.Argument(metavar="ID", help="The conversation; `convive ls` shows those that are.")]
Url = Annotated[str | None, typer.Option(help="A NATS server. Default: CONVIVE_NATS_URL, else the embedded one.")]
Data = Annotated[Path | None, typer.Option(help="Directory of the embedded server. Default: .convive")]


def _seconds(text: str) -> float:
    """A time of up to a day."""
    if not _is_number(text) or not 0 < float(text) <= DAY_S:
        raise typer.BadParameter(f"{text[:80]!r} is no number of seconds up to a day")
    return float(text)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


Standby = Annotated[
    float | None,
    typer.Option(
        parser=_seconds,
        metavar="[SECONDS]",
        help=f"Lead, or take over a turn, only when another process is late by that much (default: {STANDBY_S:g}).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, one object a line.")]


class WithStandby(TyperCommand):
    """A command whose `--standby` needs no number: a word behind it that is none is an argument of the command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click.Command."""
        given: list[str] = []
        for word, behind in zip(args, [*args[1:], ""], strict=True):
            bare = word == "--standby" and not _is_number(behind)
            given.append(f"--standby={STANDBY_S}" if bare else word)
        return super().parse_args(ctx, given)
