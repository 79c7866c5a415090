"""Calls that wait, as they are shown to a person, and what a person says to them."""

import json
from collections.abc import Sequence
from typing import Any, cast

from convive.agents import Edit, Interrupt, Suspension
from convive.bus import ConviveError
from convive.scenarios.cli._transcript import shown

RUN_DIGITS = 12
"""How much of a run's id is shown at least: the moment at which it was made."""


class BadChoice(ConviveError):
    """What was named cannot be answered, or not like this. Nothing changed."""


def who(waiting: Suspension) -> str:
    """The seat, or the agent, that waits."""
    return shown(waiting.seat or waiting.agent)


def called(interrupt: Interrupt) -> str:
    """A call on one line, such as `refund(order="A7", amount=500)`."""
    given = interrupt.arguments if isinstance(interrupt.arguments, dict) else {"": interrupt.arguments}
    named = [f"{name}={json_text(value)}" if name else json_text(value) for name, value in given.items()]
    return shown(f"{interrupt.tool}({', '.join(named)})")


def json_text(value: object) -> str:
    """A value as JSON, on one line."""
    return json.dumps(value, ensure_ascii=False)


def short_runs(runs: Sequence[str]) -> dict[str, str]:
    """Each run's id, as much of it as tells it from the others."""
    ordered = sorted(set(runs))
    short: dict[str, str] = {}
    for place, run in enumerate(ordered):
        beside = [ordered[near] for near in (place - 1, place + 1) if 0 <= near < len(ordered)]
        short[run] = run[: max(RUN_DIGITS, *(_common(run, other) + 1 for other in beside), 0)]
    return short


def _common(one: str, other: str) -> int:
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


def short_ids(interrupts: Sequence[Interrupt]) -> list[str]:
    """Each interrupt's id without the run, such as `0-1`, or with as much of it as is needed: it stays the same when
    others are answered."""
    stems = [_stem(each) for each in interrupts]
    return [
        next(end for end in _ends(stem) if sum(other.endswith(end) for other in stems) == 1 or end == stem).lstrip("-")
        for stem in stems
    ]


def _ends(stem: str) -> list[str]:
    run, trip, index = stem.rsplit("-", 2)
    return [f"-{trip}-{index}", *(f"{run[-digits:]}-{trip}-{index}" for digits in (4, 8, len(run)))]


def _stem(interrupt: Interrupt) -> str:
    return interrupt.id.removesuffix(f"-{interrupt.kind}")


def is_called(interrupt: Interrupt, id: str) -> bool:
    """Whether an interrupt is meant by an id, or by the end of one that `short_ids` gives."""
    stem, dashes = _stem(interrupt), id.count("-")
    return id in (interrupt.id, stem) or (dashes > 0 and stem.endswith(f"-{id}")) or (dashes > 1 and stem.endswith(id))


def given_value(text: str) -> Any:
    """JSON where it looks like that, else the text itself. Raises BadChoice."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] in ("{", "[", '"'):
            raise BadChoice(f"this looks like JSON and is none: {error}") from None
        return text


def edited(text: str) -> Edit:
    """The arguments to use instead. Raises BadChoice."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadChoice(f"the new arguments are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise BadChoice('the new arguments have to be a JSON object, such as {"amount": 5}')
    return Edit(cast("dict[str, Any]", arguments))
