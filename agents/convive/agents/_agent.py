"""`Agent`: frozen configuration. State lives in runs, and a thousand runs of one agent share nothing."""

import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Protocol, TypedDict, Unpack, cast

from pydantic import JsonValue

from convive.agents._frame import OnCancel, current_frame
from convive.agents._journal import Place
from convive.agents._limits import Limits
from convive.agents._messages import Message
from convive.agents._model import Model
from convive.agents._models import choose_model, default_models, split_model
from convive.agents._result import AgentResult, unwrap
from convive.agents._run import Performer
from convive.agents._schema import json_of
from convive.agents._settings import Instructions, Refine, SamplingFor, Settings, Task
from convive.agents._stops import StopWhen, any_of
from convive.agents._stream import RunStream, streaming
from convive.agents._tools import Handler, Tool, by_name
from convive.bus import RunContext, slugify


class ModelSource(Protocol):
    """Where models come from by name, such as `Models`."""

    def resolve(self, name: str) -> Model:
        """The model named `provider/model`. Raises UnknownModel."""
        ...


class AgentOptions(TypedDict, total=False):
    """What an agent is made of; each can also be a class attribute, and be given for one call.

    `model`: an object, or `provider/model`, looked up in `models` (by default the shipped providers).
    `instructions`: the system prompt, or a function of the trip's AskContext, sync or async. `tools`: tools or
    typed functions. `stop_when`: one condition, or a list of which any holds. `refine`: makes the final text
    of an answer's prose, or has it asked again. `parallel_tools`: whether calls of one answer run side by side.
    """

    model: str | Model
    models: ModelSource
    instructions: Instructions
    tools: Iterable[Tool | Handler]
    stop_when: StopWhen
    limits: Limits
    sampling: SamplingFor
    refine: Refine | None
    parallel_tools: bool


class RunOptions(AgentOptions, total=False):
    """What one run may be given beside its input.

    `history`: the messages before the input. `source`: a reference that stands in the journal for history and
    input, which the caller rebuilds the same. `run`, `place`: as which run, and where its journal goes; by
    default a child of the run around this code, at its place, or else a new run in memory. With a run id that
    has a journal, the run is continued. `fresh=True`: it has none, do not look. `on_cancel="leave"`: when this
    task is cancelled, leave the run to be continued. `deps`: handed to tools and callables as it is.
    """

    history: Sequence[Message]
    source: JsonValue
    session_id: str | None
    deps: object
    run: RunContext
    place: Place
    fresh: bool
    on_cancel: OnCancel


_OPTIONS = frozenset(AgentOptions.__annotations__)
_RUN_OPTIONS = frozenset(RunOptions.__annotations__)


class Agent:
    """A model with instructions, tools and rules for when to stop. Frozen: safe to share between any runs.

    Options come from the call, else from the constructor, else from the class (`class Searcher(Agent): model = ...`,
    as attributes, or as methods: those without a parameter give the value when the agent is made). Raises
    UnknownModel for a model without a provider, BadTool for tools that cannot be.
    """

    name: str = ""

    def __init__(self, name: str | None = None, **options: Unpack[AgentOptions]) -> None:
        _check_names(options, _OPTIONS)
        given: dict[str, Any] = {**_class_options(self), **options}
        _check_model(given)
        unresolved = _settings(given, _Unresolved(given.get("model")))
        chosen = name or self.name or _class_name(type(self)) or _anonymous_name(unresolved)
        object.__setattr__(self, "name", chosen)
        object.__setattr__(self, "_options", given)
        object.__setattr__(self, "_unresolved", replace(unresolved, name=chosen))
        object.__setattr__(self, "_own", None)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an agent is frozen; make another one, or give {name}= for one call")

    _options: Mapping[str, Any]
    _unresolved: Settings
    _own: Settings | None

    def settings(self, **options: Unpack[AgentOptions]) -> Settings:
        """The agent's configuration with its model found, and with what `options` override. Raises UnknownModel."""
        if not options and self._own is not None:
            return self._own
        given = {**self._options, **options}
        if options:
            _check_model(given)
            settings = replace(_settings(given, _model_of(given)), name=self.name)
        else:
            settings = replace(self._unresolved, model=_model_of(given))
            object.__setattr__(self, "_own", settings)
        return settings

    async def prompt(self, input: str | None = None, **options: Unpack[RunOptions]) -> AgentResult:
        """Run, and return the result of a completed run. Raises RunFailed or RunCancelled, which carry theirs.

        Also raises what `execute` raises.
        """
        return unwrap(await self.execute(input, **options))

    async def execute(self, input: str | None = None, **options: Unpack[RunOptions]) -> AgentResult:
        """Run, and return the result, whatever the status.

        Raises RunTaken when another process executes this run, OtherRun when the run id is that of another
        input, errors of the bus, and what the application's own callables raise. Cancelling the calling task
        cancels the run.
        """
        return await Performer(*self._assign(input, options)).perform()

    def stream(self, input: str | None = None, **options: Unpack[RunOptions]) -> AbstractAsyncContextManager[RunStream]:
        """Run beside a block that watches: `async with agent.stream("...") as run: async for event in run: ...`.

        Leaving the block waits for the run's end; an error in the block cancels the run.
        """
        return streaming(*self._assign(input, options))

    def _assign(self, input: str | None, options: RunOptions) -> tuple[Settings, Task]:
        if not options:
            return self.settings(), _task(self.name, input, {})
        _check_names(options, _RUN_OPTIONS)
        overrides: Any = {key: value for key, value in options.items() if key in _OPTIONS}
        return self.settings(**overrides), _task(self.name, input, options)


def agent(system: Instructions = "", /, **options: Unpack[AgentOptions]) -> Agent:
    """An agent for one use: `await agent("You summarize text.").prompt("...")`."""
    if system:
        options["instructions"] = system
    return Agent(**options)


async def prompt(input: str, **options: Unpack[RunOptions]) -> AgentResult:
    """Ask the default model, or the one given, as a helpful assistant. Raises as `Agent.prompt`."""
    return await Agent("assistant", instructions="You are a helpful assistant.").prompt(input, **options)


def _task(agent: str, input: str | None, options: RunOptions) -> Task:
    frame, run, place = current_frame(), options.get("run"), options.get("place")
    fresh = options.get("fresh", False)
    if run is None:
        run = RunContext.root() if frame is None else frame.child(agent, input or "")
        fresh = frame is None or frame.fresh
    if place is None:
        place = Place.local() if frame is None else frame.place
    return Task(
        run=run,
        place=place,
        input=input,
        history=tuple(options.get("history", ())),
        source=options.get("source"),
        session_id=options.get("session_id", None if frame is None else frame.session_id),
        deps=options.get("deps"),
        fresh=fresh,
        on_cancel=options.get("on_cancel", "record" if frame is None else frame.on_cancel),
    )


class _Unresolved:
    """Stands for a model that is looked up when the agent first runs."""

    def __init__(self, model: "str | Model | None") -> None:
        self.name = model if isinstance(model, str) else "default" if model is None else model.name

    def stream(self, request: object) -> Any:
        raise NotImplementedError(f"{self.name} has not been looked up")


def _model_of(options: Mapping[str, Any]) -> Model:
    model = options.get("model")
    if model is not None and not isinstance(model, str):
        found: Model = model
        return found
    models: ModelSource = options.get("models") or default_models()
    return models.resolve(model or choose_model(None, os.environ, find_spec("xllamacpp") is not None).name)


def _check_model(options: Mapping[str, Any]) -> None:
    model = options.get("model")
    if isinstance(model, str) and ("models" not in options or "/" not in model):
        split_model(model)


def _settings(options: Mapping[str, Any], model: Model) -> Settings:
    tools = by_name(options.get("tools") or ())
    stated = {
        key: options[key]
        for key in ("instructions", "limits", "sampling", "refine", "parallel_tools")
        if key in options
    }
    return Settings(
        name="",
        model=model,
        tools=tools,
        specs=tuple(tool.spec for tool in tools.values()),
        stop=any_of(options.get("stop_when") or ()),
        **stated,
    )


def _class_options(agent: Agent) -> dict[str, Any]:
    """What the subclass says: attributes, and methods. Lists are copied, so that no two classes share one."""
    found: dict[str, Any] = {}
    for key in _OPTIONS:
        value: Any = getattr(agent, key, None)
        if value is None:
            continue
        if inspect.ismethod(value) and not inspect.signature(value).parameters:
            value = _ignoring_context(value) if key in ("instructions", "sampling") else value()
        found[key] = tuple(cast("list[object]", value)) if isinstance(value, list) else value
    return found


def _ignoring_context(method: Callable[[], Any]) -> Callable[[object], Any]:
    return lambda context: method()


def _check_names(options: Mapping[str, object], known: frozenset[str]) -> None:
    unknown = options.keys() - known
    if unknown:
        raise TypeError(f"unknown option {sorted(unknown)[0]!r}; there are: {', '.join(sorted(known))}")


def _class_name(kind: type[Agent]) -> str:
    if kind is Agent:
        return ""
    spaced = "".join(f"-{letter}" if letter.isupper() else letter for letter in kind.__name__)
    return slugify(spaced)


def _anonymous_name(settings: Settings) -> str:
    """The same name for the same configuration, in any process: provider, model, and a digest of what it is."""
    instructions = settings.instructions
    if not isinstance(instructions, str):
        instructions = f"{instructions.__module__}.{getattr(instructions, '__qualname__', '')}"
    specs = [[spec.name, spec.description, spec.input_schema] for spec in settings.specs]
    whole = json_of([settings.model.name, instructions, specs])
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"anon-{slugify(settings.model.name)[:40]}-{digest}"
