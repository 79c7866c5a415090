"""What an agent and a run can be given, and how that becomes the settings of a run."""

import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict, cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from convive.agents.journal._journal import Place
from convive.agents.models._errors import UnknownModel
from convive.agents.models._failover import first_that_can
from convive.agents.models._messages import Message
from convive.agents.models._model import Model
from convive.agents.models._models import choose_model, shared_models, split_model
from convive.agents.models._schema import json_of
from convive.agents.runs._audience import Observers, On
from convive.agents.runs._frame import OnCancel
from convive.agents.runs._limits import Limits
from convive.agents.runs._middleware import Middleware
from convive.agents.runs._prices import CostOf, Prices
from convive.agents.runs._settings import UNRESOLVED, Instructions, Refine, SamplingFor, Settings
from convive.agents.runs._stops import StopWhen, any_of
from convive.agents.tools._output import output_of
from convive.agents.tools._scoped import with_search
from convive.agents.tools._tools import Handler, Tool, by_name
from convive.bus import Conversation, RunContext, slugify


class ModelSource(Protocol):
    """Where models come from by name, such as `Models`."""

    def resolve(self, name: str) -> Model:
        """The model named `provider/model`. Raises UnknownModel."""
        ...


AnyModel = str | Model | Sequence[str | Model]
"""A model, or its name, or several of them in the order in which they are asked."""


class AgentOptions(TypedDict, total=False):
    """What an agent is made of; each can also be a class attribute, and be given for one call.

    `model`: an object, or `provider/model`, looked up in `models`; without that, in the shipped providers, and what
    they open stays open as long as the process. A list or tuple of them is asked in that order, each for what the ones
    before it could not answer; see `FailoverModel`.
    `instructions`: the system prompt, or a function of the trip's AskContext, sync or async. `tools`: tools or
    typed functions. `stop_when`: one condition, or a list of which any holds; functions of the run so far will do, sync
    or async. `refine`: makes the final text
    of an answer's prose, or has it asked again. `parallel_tools`: whether calls of one answer run side by side.
    `repair`: how often in a row an answer that does not fit `output` is asked for again, with what is wrong.
    `expires_s`: how long after its suspension a run can be resumed; by default, without an end.
    `on`: handlers of events by name, told before those of `Agent.on`, and those of a call last. `observers`: told of
    everything in these runs and those below. `middleware`: the application's own code at the joints of a run.
    `cost`: what answers cost, for the report and for `limits`: a table, by default `shipped_prices()`, or a function of
    a model's name and the usage of one answer. It is kept in the journal; None: nothing is known.
    """

    model: AnyModel
    models: ModelSource
    instructions: Instructions
    tools: Iterable[Tool | Handler]
    stop_when: StopWhen
    limits: Limits
    sampling: SamplingFor
    refine: Refine | None
    parallel_tools: bool
    repair: int
    expires_s: float | None
    on: On
    observers: Observers
    middleware: Sequence[Middleware]
    cost: CostOf | None


class RunOptions(AgentOptions, total=False):
    """What one run may be given beside its input.

    `history`: the messages before the input. `source`: a reference that stands in the journal for history and
    input, which the caller rebuilds the same. `run`, `place`: as which run, and where its journal goes, a place or
    beside a conversation; by default a child of the run around this code, at its place, or else a new run in memory.
    With a run id that has a journal, the run is continued. `fresh=True`: it has none, do not look.
    `on_cancel="leave"`: when this task is cancelled, leave the run to be continued. `deps`: handed to tools and
    callables as it is. `meta`: JSON data of the application's own that stands in the journal, for whoever looks at a
    suspended run.
    """

    history: Sequence[Message]
    source: JsonValue
    session_id: str | None
    meta: JsonValue
    deps: object
    run: RunContext
    place: Place | Conversation
    fresh: bool
    on_cancel: OnCancel


_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)
OPTION_NAMES = frozenset({*AgentOptions.__annotations__, "output"})
RUN_OPTION_NAMES = frozenset({*RunOptions.__annotations__, "output"})


class Unresolved:
    """Stands for a model that is looked up when the agent first runs."""

    def __init__(self, model: AnyModel | None) -> None:
        names = [each if isinstance(each, str) else each.name for each in _in_order(model)]
        self.name = "|".join(dict.fromkeys(names)) or UNRESOLVED

    def stream(self, request: object) -> Any:
        raise NotImplementedError(f"{self.name} has not been looked up")


def _in_order(model: AnyModel | None) -> tuple[str | Model, ...]:
    """The models that an option names; none for the default of this machine. Raises UnknownModel for an empty list."""
    if isinstance(model, list | tuple) and not model:
        raise UnknownModel("model=[] names no model. Name one, or leave it out for the default one.")
    if isinstance(model, list | tuple):
        return tuple(cast("Sequence[str | Model]", model))
    return () if model is None else (cast("str | Model", model),)


def model_of(options: Mapping[str, Any]) -> Model:
    """The model that these options name; without one, the default of this machine. Raises UnknownModel."""
    named = _in_order(options.get("model")) or (_default_model(),)
    return first_that_can([_found(each, options) for each in named])


def _found(model: str | Model, options: Mapping[str, Any]) -> Model:
    if not isinstance(model, str):
        return model
    models: ModelSource = options.get("models") or shared_models()
    return models.resolve(model)


def _default_model() -> str:
    from convive.agents.models._local import local_available  # a provider is imported when it is needed

    return choose_model(None, os.environ, local_available()).name


def check_model(options: Mapping[str, Any]) -> None:
    """Raises UnknownModel for a name without a provider, or with one that nothing given here could know."""
    for each in _in_order(options.get("model")):
        if isinstance(each, str) and ("models" not in options or "/" not in each):
            split_model(each)


_AS_GIVEN = ("instructions", "limits", "sampling", "refine", "parallel_tools", "expires_s", "on", "observers", "cost")


def settings_of(options: Mapping[str, Any], model: Model) -> Settings:
    """The settings that these options make, still without a name. Raises BadTool."""
    tools = with_search(by_name(options.get("tools") or ()))
    stated = {key: options[key] for key in _AS_GIVEN if key in options}
    cost = options.get("cost")
    if not (cost is None or isinstance(cost, Prices) or callable(cost)):
        raise TypeError(f"cost={cost!r} is neither a price table nor a function. A bound is Limits(cost=...).")
    output = options.get("output")
    return Settings(
        name="",
        middleware=tuple(options.get("middleware") or ()),
        model=model,
        tools=tools,
        specs=tuple(tool.spec for tool in tools.values() if not tool.defer),
        stop=any_of(options.get("stop_when") or ()),
        output=None if output is None else output_of(output, options.get("repair", 0)),
        **stated,
    )


def class_options(agent: object) -> dict[str, Any]:
    """What the subclass says: attributes, and methods. Lists are copied, so that no two classes share one."""
    handlers = getattr(agent, "_on", None)
    found: dict[str, Any] = {} if handlers is None else {"on": dict(handlers)}
    for key in OPTION_NAMES - {"on"}:  # a method of every agent
        value: Any = getattr(agent, key, None)
        if value is None:
            continue
        if inspect.ismethod(value) and not inspect.signature(value).parameters:
            value = _ignoring_context(value) if key in ("instructions", "sampling") else value()
        found[key] = tuple(cast("list[object]", value)) if isinstance(value, list) else value
    return found


def _ignoring_context(method: Callable[[], Any]) -> Callable[[object], Any]:
    return lambda context: method()


def check_names(options: Mapping[str, object], known: frozenset[str]) -> None:
    """Raises TypeError for an option that is not known, and names those that are."""
    unknown = options.keys() - known
    if unknown:
        raise TypeError(f"unknown option {sorted(unknown)[0]!r}; there are: {', '.join(sorted(known))}")


def check_json(name: str, value: object) -> None:
    """Raises ValueError for an option that has to be JSON data and is not."""
    try:
        _JSON.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"] if step not in ("dict", "list"))
        raise ValueError(f"{name}= has to be JSON data; {place or 'it'} is not. Nothing ran.") from None


def messages_of(history: Sequence[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """A history, also one of messages as JSON data. Raises ValueError for what is no message."""
    if {*map(type, history)} <= {Message}:
        return cast("tuple[Message, ...]", tuple(history))
    found: list[Message] = []
    for place, each in enumerate(history, 1):
        try:
            found.append(each if isinstance(each, Message) else Message.model_validate(each))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"history=, message {place}: {where}: {first['msg']}. Nothing ran.") from None
    return tuple(found)


def class_name(kind: type) -> str:
    """The name of an agent by its class: `search-agent` for SearchAgent."""
    spaced = "".join(f"-{letter}" if letter.isupper() else letter for letter in kind.__name__)
    return slugify(spaced)


def anonymous_name(settings: Settings) -> str:
    """The same name for the same configuration, in any process: provider, model, and a digest of what it is."""
    instructions = settings.instructions
    if not isinstance(instructions, str):
        instructions = f"{instructions.__module__}.{getattr(instructions, '__qualname__', '')}"
    specs = [[spec.name, spec.description, spec.input_schema] for spec in settings.specs]
    parts: list[object] = [settings.model.name, instructions, specs]
    if settings.output is not None:
        parts.append(settings.output.schema)
    whole = json_of(parts)
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"anon-{slugify(settings.model.name)[:40]}-{digest}"
