"""`Agent`: frozen configuration. State lives in runs, and a thousand runs of one agent share nothing."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar, Unpack, cast, overload

from pydantic import BaseModel

from convive.agents.journal._journal import Place
from convive.agents.models._models import stood_in
from convive.agents.models._schema import clean
from convive.agents.queues._queue import Queueing, queued
from convive.agents.runs._as_tool import AgentInput, PromptOf, Streaming, agent_tool
from convive.agents.runs._audience import EventHandler, Listeners, On
from convive.agents.runs._checks import check_handler, check_options
from convive.agents.runs._events import EventName
from convive.agents.runs._frame import current_frame, hand_up
from convive.agents.runs._incoming import incoming
from convive.agents.runs._options import (
    OPTION_NAMES,
    RUN_OPTION_NAMES,
    AgentOptions,
    RunOptions,
    Unresolved,
    anonymous_name,
    check_json,
    check_model,
    check_names,
    class_name,
    class_options,
    messages_of,
    model_of,
    settings_of,
)
from convive.agents.runs._result import AgentResult, unwrap
from convive.agents.runs._run import Performer
from convive.agents.runs._settings import Instructions, Settings, Task, check_prices
from convive.agents.runs._stream import RunStream, streaming
from convive.agents.tools._output import Data
from convive.agents.tools._tools import NeedsApproval, Tool
from convive.bus import Conversation, RunContext

Other = TypeVar("Other")
_log = logging.getLogger("convive.agents")


class Agent(Generic[Data]):
    """A model with instructions, tools and rules for when to stop. Frozen: safe to share between any runs.

    Options come from the call, else from the constructor, else from the class (`class Searcher(Agent): model = ...`,
    as attributes, or as methods: those without a parameter give the value when the agent is made). Raises
    UnknownModel for a model without a provider, BadTool for tools that cannot be, BadOutput for an output type that
    has no JSON Schema.

    `output` is the type that the final answer has to fit, such as a pydantic model: the provider holds the model to it
    or the system prompt asks for it, the answer is validated in any case, and the result's `data` is of that type.
    """

    name: str = ""

    def __init__(
        self, name: str | None = None, *, output: type[Data] | None = None, **options: Unpack[AgentOptions]
    ) -> None:
        check_names(options, OPTION_NAMES)
        given: dict[str, Any] = {**class_options(self), **options}
        if output is not None:
            given["output"] = output
        check_options(given)
        if name is not None and not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"an agent's name is a text, not {type(name).__name__}.")
        if given.get("tools") is not None:
            given["tools"] = tuple(given["tools"])  # looked through again for each run with options of its own
        check_model(given)
        unresolved = settings_of(given, Unresolved(given.get("model")))
        chosen = (
            name
            or self.name
            or (class_name(type(self)) if type(self) is not Agent else "")
            or anonymous_name(unresolved)
        )
        object.__setattr__(self, "name", chosen)
        object.__setattr__(self, "_options", given)
        object.__setattr__(self, "_unresolved", replace(unresolved, name=chosen))
        object.__setattr__(self, "_own", None)
        object.__setattr__(self, "_listeners", Listeners())

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an agent is frozen; make another one, or give {name}= for one call")

    def __init_subclass__(cls, **given: Any) -> None:
        """Take `on = {...}` out of the class, where it would hide the method of that name."""
        super().__init_subclass__(**given)
        handlers = cls.__dict__.get("on")
        if isinstance(handlers, Mapping):
            cls._on = cast("On", handlers)
            del cls.on

    _on: ClassVar[On | None] = None
    _options: Mapping[str, Any]
    _unresolved: Settings
    _own: Settings | None
    _listeners: Listeners

    def on(self, name: EventName, handler: EventHandler) -> Callable[[], None]:
        """Tell `handler` of the events of that name in all runs of this agent; what is returned ends that.

        Takes effect at once, also for runs under way. Handlers may be async; one that raises changes nothing.
        """
        check_handler(name, handler)
        return self._listeners.add(name, handler)

    @property
    def outline(self) -> Settings:
        """The agent's configuration, with a model that may not have been looked up."""
        return self._unresolved

    def settings(self, **options: Unpack[AgentOptions]) -> Settings:
        """The agent's configuration with its model found, and with what `options` override. Raises UnknownModel."""
        if not options and self._own is not None and not stood_in():
            return self._own
        given = {**self._options, **options}
        if options:
            check_model(given)
            settings = replace(settings_of(given, model_of(given)), name=self.name)
        else:
            settings = replace(self._unresolved, model=model_of(given))
            if not stood_in():  # a fake is not for keeps
                object.__setattr__(self, "_own", settings)
        return settings

    @overload
    async def prompt(self, input: str | None = None, **options: Unpack[RunOptions]) -> AgentResult[Data]: ...
    @overload
    async def prompt(
        self, input: str | None = None, *, output: type[Other], **options: Unpack[RunOptions]
    ) -> AgentResult[Other]: ...
    async def prompt(self, input: str | None = None, **options: Any) -> AgentResult[Any]:
        """Run, and return the result of a completed run. Raises RunFailed or RunCancelled, which carry theirs.

        Also raises what `execute` raises.
        """
        return unwrap(await self.execute(input, **options))

    @overload
    async def execute(self, input: str | None = None, **options: Unpack[RunOptions]) -> AgentResult[Data]: ...
    @overload
    async def execute(
        self, input: str | None = None, *, output: type[Other], **options: Unpack[RunOptions]
    ) -> AgentResult[Other]: ...
    async def execute(self, input: str | None = None, **options: Any) -> AgentResult[Any]:
        """Run, and return the result, whatever the status.

        Raises UnknownPrice when a limit on the cost could not hold, RunTaken when another process executes this run,
        OtherRun when the run id is that of another input, errors of the bus, and what the application's own callables
        raise. Cancelling the calling task cancels the run.
        """
        settings, task = self._assign(input, options)
        result = await Performer(settings, task).perform()
        hand_up(task.run, result.interrupts)
        return result

    @overload
    def stream(
        self, input: str | None = None, **options: Unpack[RunOptions]
    ) -> AbstractAsyncContextManager[RunStream[Data]]: ...
    @overload
    def stream(
        self, input: str | None = None, *, output: type[Other], **options: Unpack[RunOptions]
    ) -> AbstractAsyncContextManager[RunStream[Other]]: ...
    def stream(self, input: str | None = None, **options: Any) -> AbstractAsyncContextManager[RunStream[Any]]:
        """Run beside a block that watches: `async with agent.stream("...") as run: async for event in run: ...`.

        Leaving the block waits for the run's end; an error in the block cancels the run. Raises UnknownPrice at once.
        """
        return streaming(*self._assign(input, options))

    def as_tool(
        self,
        name: str,
        description: str,
        *,
        input: type[BaseModel] = AgentInput,
        prompt: PromptOf | None = None,
        model_output: Callable[[AgentResult], object] | None = None,
        streaming: Streaming = False,
        needs_approval: NeedsApproval = False,
        timeout_s: float | None = None,
        sequential: bool = False,
    ) -> Tool:
        """This agent as a tool: each call is a run below the caller's, at the same place and within its limits.

        `input`: a model of the arguments, by default of one `prompt`. `prompt` makes the agent's prompt of it: a
        function, or a format string such as "Research {topic}". `model_output`: what of the result the calling model
        reads, by default the text. `streaming`: show the run as updates of the call, `agent_start`, one `tool_call` for
        each inner call and `agent_done`; a function of an event chooses what is shown between the first and the last
        (None: nothing), and a function without parameters makes such a function for each call. Raises BadTool.
        """
        return agent_tool(
            self,
            name,
            description,
            input=input,
            prompt=prompt,
            model_output=model_output,
            streaming=streaming,
            needs_approval=needs_approval,
            timeout_s=timeout_s,
            sequential=sequential,
        )

    def queue(self, input: str | None = None, *, queue: str = "default", **options: Any) -> Queueing:
        """A run for a worker that knows this agent by its name: `await agent.queue("...").send(bus)`. See `queued`."""
        return queued(self.name, input, queue=queue, **options)

    def _assign(self, input: str | None, options: Any) -> tuple[Settings, Task]:
        check_names(options, RUN_OPTION_NAMES)
        check_options({"input": input, **options})
        for name in ("meta", "source"):
            check_json(name, options.get(name))
        overrides: Any = {key: value for key, value in options.items() if key in OPTION_NAMES and key != "on"}
        settings, frame = self.settings(**overrides), current_frame()
        check_prices(settings, None if frame is None else frame.meter)
        task = _task(self.name, None if input is None else clean(input), options, self._listeners)
        if missing := settings.stop.tools.difference(settings.tools):
            _log.warning(
                "run %s of %s: stop_when looks for tools that it does not have: %s",
                task.run.run_id,
                self.name,
                ", ".join(sorted(missing)),
            )
        return settings, task


def agent(
    system: Instructions = "", /, *, output: type[Data] | None = None, **options: Unpack[AgentOptions]
) -> Agent[Data]:
    """An agent for one use: `await agent("You summarize text.").prompt("...")`."""
    if system:
        options["instructions"] = system
    return Agent(output=output, **options)


@overload
async def prompt(input: str, **options: Unpack[RunOptions]) -> AgentResult: ...
@overload
async def prompt(input: str, *, output: type[Other], **options: Unpack[RunOptions]) -> AgentResult[Other]: ...
async def prompt(input: str, **options: Any) -> AgentResult[Any]:
    """Ask the default model, or the one given, as a helpful assistant. Raises as `Agent.prompt`."""
    return await Agent("assistant", instructions="You are a helpful assistant.").prompt(input, **options)


def _task(agent: str, input: str | None, options: RunOptions, listeners: Listeners) -> Task:
    frame, run, place = current_frame(), options.get("run"), options.get("place")
    fresh = options.get("fresh", False)
    if run is None:
        run = RunContext.root(started_from=incoming()) if frame is None else frame.child(agent, input or "")
        fresh = frame is None or frame.fresh
    if place is None:
        place = Place.local() if frame is None else frame.place
    elif isinstance(place, Conversation):
        place = Place(place.log, place.subjects.base)
    return Task(
        run=run,
        place=place,
        input=input,
        history=messages_of(options.get("history", ())),
        source=options.get("source"),
        session_id=options.get("session_id", None if frame is None else frame.session_id),
        meta=options.get("meta"),
        deps=options.get("deps"),
        fresh=fresh,
        on_cancel=options.get("on_cancel", "record" if frame is None else frame.on_cancel),
        on=options.get("on"),
        listeners=listeners,
        observers=() if frame is None else frame.observers,
    )
