"""The commands that answer what runs wait for. Options and help; what they do is in `_answers`."""

from typing import Annotated

import typer

from convive.agents import Approve, Deny, Result
from convive.bus import Bus
from convive.scenarios.cli import _answers as answers
from convive.scenarios.cli._calls import BadChoice, edited, given_value
from convive.scenarios.cli._commands import Where, on_bus
from convive.scenarios.cli._options import ANSWERS, Data, Url

answering = typer.Typer()

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run, or the beginning of its id: see `convive pending`.")]
Call = Annotated[str | None, typer.Argument(metavar="ID", help="Which call, when the run waits for several.")]
AgentName = Annotated[
    str | None, typer.Option("--agent", metavar="MODULE:NAME", help="Execute the run here, with this agent.")
]


@answering.command(rich_help_panel=ANSWERS)
def pending(
    conversation: Annotated[str | None, typer.Argument(metavar="CONVERSATION", help="Only in this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a run, with all arguments.")] = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List what waits for somebody's answer."""
    where = Where(url, data)
    on_bus(where, lambda bus: answers.show_pending(bus, conversation, where.options, as_json=as_json))


@answering.command(rich_help_panel=ANSWERS)
def approve(
    run: Run,
    call: Call = None,
    edit: Annotated[str | None, typer.Option(metavar="JSON", help="Use these arguments instead.")] = None,
    agent: AgentName = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Let a call that waits for an approval be carried out."""
    where = Where(url, data)

    async def work(bus: Bus) -> None:
        resolution = Approve() if edit is None else edited(edit)
        await answers.give(bus, run, call, lambda _: resolution, agent, where)

    on_bus(where, work)


@answering.command(rich_help_panel=ANSWERS)
def deny(
    run: Run,
    call: Call = None,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Why not; the model reads it.")] = "",
    agent: AgentName = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Do not let a call be carried out; the model is told."""
    where = Where(url, data)
    on_bus(where, lambda bus: answers.give(bus, run, call, lambda _: Deny(message), agent, where))


@answering.command(rich_help_panel=ANSWERS)
def answer(
    run: Run,
    words: Annotated[list[str], typer.Argument(metavar="[ID] VALUE", help="The value: JSON, or plain text.")],
    agent: AgentName = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Give a call its result, when its tool runs elsewhere."""
    where = Where(url, data)

    async def work(bus: Bus) -> None:
        if len(words) > 2:
            raise BadChoice("give one value, in quotes when it has blanks: convive answer RUN [ID] VALUE")
        call = words[0] if len(words) == 2 else None
        resolution = Result(given_value(words[-1]))
        await answers.give(bus, run, call, lambda _: resolution, agent, where)

    on_bus(where, work)


@answering.command(rich_help_panel=ANSWERS)
def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The whole id of the run.")],
    agent: Annotated[str, typer.Option("--agent", metavar="MODULE:NAME", help="The agent to execute it with.")],
    url: Url = None,
    data: Data = None,
) -> None:
    """Go on here with a run that was answered, or whose process is gone."""
    where = Where(url, data)
    on_bus(where, lambda bus: answers.go_on_here(bus, run, agent, where))
