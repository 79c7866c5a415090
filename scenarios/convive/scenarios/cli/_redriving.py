"""What `convive redrive` does: a recorded party held again with the answers that its models gave."""

import json
import sys
from dataclasses import asdict

import anyio
from rich.console import Console
from rich.text import Text

from convive.agents import Redriven, default_models, first_model, redrive
from convive.bus import Bus
from convive.scenarios.cli._copying import cut_of
from convive.scenarios.cli._hosting import Wishes, wished_party
from convive.scenarios.cli._play import find, participants
from convive.scenarios.cli._transcript import shown
from convive.scenarios.cli._watch import Span
from convive.scenarios.party._party import PartyError

SCRIPTED = "scripted/party"
"""For a party that no model was asked in yet."""


async def again(bus: Bus, name: str, target: str | None, span: Span, *, as_json: bool) -> bool:
    """Redrive a party and print what came of it; says whether everything came out the same."""
    conversation = await bus.existing(name)
    evening = await find(bus, name)
    if evening is None:
        raise PartyError(f"{name} holds nothing but records that are not ours: there is nothing to take again.")
    if target is not None:
        evening = evening.with_participants(wished_party(Wishes(target)))
    until = await cut_of(conversation, span)
    models = default_models()
    try:
        seats = participants(evening.party, models, await first_model(conversation) or SCRIPTED)
        found = await redrive(conversation, seats, evening.party.plan(), until)
    finally:
        with anyio.CancelScope(shield=True):
            await models.aclose()
    if as_json:
        print(json.dumps(asdict(found)))  # noqa: T201 - standard output is this command's result
    else:
        _show(found)
    return found.deviation is None


def _show(found: Redriven) -> None:
    out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    beside = f", {found.copied} taken over as they were" if found.copied else ""
    turns, answers = _counted(found.turns, "turn"), _counted(found.answers, "recorded answer")
    out.print(Text(f"{turns} came out the same{beside}, with {answers}"))
    if found.unchecked:
        out.print(Text(f"{found.unchecked} of these are from before prompts were noted, which were not compared"))
    if found.deviation is None:
        return
    one = found.deviation
    out.print(Text(f"turn {one.turn}, record {one.seq}: {shown(one.what)}", style="bold"))
    if one.was or one.now:
        out.print(Text(f"  was  {shown(one.was)}"))
        out.print(Text(f"  now  {shown(one.now)}"))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
