"""What an agent is, resolved for one run; and what a run is asked to do."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from convive.agents.journal._journal import Place
from convive.agents.models._messages import Message
from convive.agents.models._model import Model, Sampling, ToolSpec
from convive.agents.models._schema import json_of
from convive.agents.runs._audience import Listeners, Observers, On
from convive.agents.runs._frame import OnCancel
from convive.agents.runs._limits import Limits
from convive.agents.runs._meter import Meter
from convive.agents.runs._middleware import Middleware
from convive.agents.runs._prices import CostOf, UnknownPrice, shipped_prices, unpriced
from convive.agents.runs._stops import NEVER, StopCondition
from convive.agents.tools._output import Output
from convive.agents.tools._tools import Tool
from convive.bus import RunContext


@dataclass(frozen=True, slots=True)
class AskContext:
    """A trip that is about to be asked for, as instructions and sampling may depend on it.

    `trip` counts answers, re-asked ones included; `attempt` counts how often this one was asked for.
    """

    run: RunContext
    agent: str
    trip: int
    attempt: int
    session_id: str | None = None
    deps: Any = None  # the application's own; only its callables know the type


@dataclass(frozen=True, slots=True)
class Retry:
    """A refiner's verdict: this answer is of no use, ask again.

    With `feedback` the model sees its answer and that text; without, the same request is made once more.
    `fallback` is the run's text when no further re-ask is allowed; without one the run fails then.
    """

    reason: str
    feedback: str | None = None
    fallback: str | None = None


Instructions = str | Callable[[AskContext], str | Awaitable[str]]
SamplingFor = Sampling | Callable[[AskContext], Sampling]
Refine = Callable[[str], str | Retry]
"""Turns the prose of a final answer into the run's text, or finds it unusable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """An agent's configuration with everything resolved: what the performer works from."""

    name: str
    model: Model
    instructions: Instructions = ""
    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    specs: tuple[ToolSpec, ...] = ()
    stop: StopCondition = NEVER
    limits: Limits = Limits()
    sampling: SamplingFor = Sampling()
    refine: Refine | None = None
    output: Output | None = None
    parallel_tools: bool = True
    expires_s: float | None = None
    on: On | None = None
    observers: Observers | None = None
    middleware: tuple[Middleware, ...] = ()
    cost: CostOf | None = field(default_factory=shipped_prices)


UNRESOLVED = "default"
"""The name of a model that is chosen when the agent first runs."""


def check_prices(settings: Settings, above: Meter | None) -> None:
    """Raises UnknownPrice when a limit on the cost could not hold: for this agent, or for one that a tool of it runs.

    `above`: the use of the run around this one, whose limit binds it too.
    """
    if settings.limits.cost is None and (above is None or above.left().cost is None):
        return
    unknown = sorted(set(_unpriced(settings)) - {UNRESOLVED})
    if unknown:
        raise UnknownPrice(
            f"agent {settings.name!r} runs under a limit on the cost, and no price is known for {', '.join(unknown)}: "
            "the limit could not hold. Nothing ran. Give `cost=` a table that knows it, such as "
            f"shipped_prices().but({{{unknown[0]!r}: Price(...)}}), or a function; or bound tokens instead."
        )


def _unpriced(settings: Settings) -> Iterable[str]:
    yield from unpriced(settings.cost, settings.model.name)
    for tool in settings.tools.values():
        if tool.below is not None:
            yield from _unpriced(tool.below.outline)


@dataclass(frozen=True, slots=True)
class Task:
    """What one run is asked to do, as which run, and where its journal goes.

    `source` stands in the journal for `input` and `history`: the caller rebuilds both whenever it executes the
    run. `fresh`: the run id is new, its journal need not be read.
    """

    run: RunContext
    place: Place
    input: str | None = None
    history: tuple[Message, ...] = ()
    source: JsonValue = None
    session_id: str | None = None
    meta: JsonValue = None
    deps: Any = None  # handed to the application's own callables untouched
    fresh: bool = False
    on_cancel: OnCancel = "record"
    on: On | None = None
    listeners: Listeners | None = None
    observers: tuple[Observers, ...] = ()
    """Those of the runs above, the outermost first."""


def digests(specs: Iterable[ToolSpec]) -> dict[str, str]:
    """A digest of each tool's schema by the tool's name: what a suspended run counts on."""
    return {spec.name: hashlib.sha256(json_of(spec.input_schema).encode()).hexdigest()[:8] for spec in specs}
