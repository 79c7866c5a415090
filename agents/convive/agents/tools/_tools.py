"""Tools: typed functions that a model may call."""

import inspect
import re
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast, overload

import anyio.from_thread
import anyio.to_thread
from pydantic import BaseModel, JsonValue, TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from convive.agents.journal._journal import Artifact
from convive.agents.models._model import Hints, ToolSpec
from convive.agents.models._schema import (
    BadTool,
    Parameters,
    check_number,
    describe,
    jsonable,
    model_parameters,
    parameters_of,
)
from convive.bus import RunContext, RunId

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")

Handler = Callable[..., object]
"""A function, sync or async. A sync one runs in a thread, so that it cannot hold up the others."""


@dataclass(frozen=True, slots=True)
class Final:
    """What an async generator yields last: its result."""

    value: object = None


@dataclass(frozen=True, slots=True)
class NeedsAnswer:
    """Returned by a tool that cannot go on alone (a generator may yield it): the call waits, and with it the run.

    "approval": once approved, the tool is called again from its start, `context.approved` being true. "client_tool":
    the `Result` that `resume` brings is what the call came to. `about`: for whoever answers, as JSON data.
    """

    kind: Literal["approval", "client_tool"]
    about: object = None

    def __post_init__(self) -> None:
        if self.kind not in ("approval", "client_tool"):
            raise ValueError(
                f'a tool needs an "approval", or waits as a "client_tool" does; it cannot wait for {self.kind!r}'
            )


class ToolError(Exception):
    """Raised by a tool: the model reads exactly this text, marked as an error."""


@dataclass(frozen=True, slots=True)
class ToolReturn:
    """Returned by a tool that shows the model something else than it keeps: `value` is journaled whole."""

    value: object
    model_output: object
    handed_to: tuple[str, ...] = ()
    """For a handoff: the agents that the conversation went to, the last of which answered it."""


class ModelRetry(Exception):
    """Raised by a tool: the arguments were well-formed but of no use; the text says what to send instead."""


class Artifacts:
    """What a tool call makes for the application; a model never sees it."""

    def __init__(self) -> None:
        self._added: list[Artifact] = []

    def add(self, key: str, value: object) -> None:
        """Keep a value; what has no JSON form is kept as its `str`."""
        self._added.append(Artifact(key=key, value=jsonable(value)))

    def all(self) -> tuple[Artifact, ...]:
        """What was added, in order."""
        return tuple(self._added)


async def _nowhere(value: JsonValue) -> None:
    """Progress of a call that nobody watches."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """One tool call, as its handler sees it. `attempt` above 1: an earlier one may have had its effect.

    `idempotency_key` is the same for every attempt of one call; hand it on to whatever charges or sends.
    """

    run: RunContext
    tool_call_id: str
    tool_name: str
    trip: int
    attempt: int
    idempotency_key: str
    session_id: str | None = None
    deps: Any = None  # the application's own; only its tools know the type
    approved: bool = False
    """Whether somebody approved this call, or edited it."""
    artifacts: Artifacts = field(default_factory=Artifacts)
    on_update: Callable[[JsonValue], Awaitable[None]] = _nowhere

    @property
    def run_id(self) -> RunId:
        """The run that called the tool."""
        return self.run.run_id

    @property
    def root_run_id(self) -> RunId:
        """The outermost run above it."""
        return self.run.root_run_id

    @property
    def parent_run_id(self) -> RunId | None:
        """The run directly above it, if any."""
        return self.run.parent_run_id

    async def update(self, value: object) -> None:
        """Show progress: streamed and posted live, never journaled for good, never shown to the model."""
        await self.on_update(jsonable(value))


NeedsApproval = bool | Callable[[ToolContext, Any], bool | Awaitable[bool]]
"""Whether a call waits for an approval: a function of the context and of the arguments, as attributes, decides."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call. Made by `tool`."""

    spec: ToolSpec
    function: Handler
    parameters: Parameters
    timeout_s: float | None = None
    sequential: bool = False
    silent: bool = False
    model_output: Callable[[Any], object] | None = None
    needs_approval: NeedsApproval = False
    client: bool = False
    result: TypeAdapter[Any] | None = None
    """What the answer to a client tool must be."""
    defer: bool = False
    handoff: bool = False
    below: Any = None
    """The agent that a call runs, where it runs one."""

    def __post_init__(self) -> None:
        named, described = cast("tuple[object, object]", (self.spec.name, self.spec.description))
        if not isinstance(named, str) or not _NAME.fullmatch(named):
            raise BadTool(f"{named!r} is not a name for a tool: use letters, digits, '_' and '-' (`name=`).")
        if not isinstance(described, str):
            raise BadTool(f"tool {named!r}: its description is a text, not {type(described).__name__}.")
        if self.timeout_s is not None:
            check_number(f"tool {self.name!r}: timeout_s", self.timeout_s)
            if not self.timeout_s:
                raise ValueError(f"tool {self.name!r}: timeout_s=0 leaves it no time; None means no bound.")
        for flag in ("sequential", "silent", "defer"):
            if not isinstance(getattr(self, flag), bool):
                raise TypeError(f"tool {self.name!r}: {flag}= takes True or False.")
        if not (isinstance(self.needs_approval, bool) or callable(self.needs_approval)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"tool {self.name!r}: needs_approval= takes True, False, or a function.")
        if not (self.model_output is None or callable(self.model_output)):
            raise TypeError(f"tool {self.name!r}: model_output= takes a function.")

    @property
    def name(self) -> str:
        """The name that the model calls it by."""
        return self.spec.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, as written: for tests and for other code."""
        return self.function(*args, **kwargs)


@overload
def tool(function: Handler, /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_s: float | None = None,
    sequential: bool = False,
    silent: bool = False,
    model_output: Callable[[Any], object] | None = None,
    needs_approval: NeedsApproval = False,
    client: bool = False,
    defer: bool = False,
    hints: Hints | None = None,
) -> Callable[[Handler], Tool]: ...
def tool(
    function: Handler | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_s: float | None = None,
    sequential: bool = False,
    silent: bool = False,
    model_output: Callable[[Any], object] | None = None,
    needs_approval: NeedsApproval = False,
    client: bool = False,
    defer: bool = False,
    hints: Hints | None = None,
) -> Tool | Callable[[Handler], Tool]:
    """Make a tool of a typed function; a parameter annotated `ToolContext` receives the context.

    Name, description and schema come from the signature and the docstring (its `Args:` section describes
    parameters). `timeout_s`: after so long the call is given up and the model told. `sequential`: never
    beside other calls, and in its place: it begins when those before it have returned, also where one waits for an
    answer, and those behind it begin when it has returned. `silent`: nothing for the model to answer; a trip of only
    such calls ends the run.
    `model_output`: what of the result the model reads; the journal keeps the whole.
    `needs_approval`: whether a call waits until somebody approved it, or a function `(context, arguments) -> bool`; one
    that raises means yes. `client`: the function is never run; each call waits for a result from elsewhere.
    `defer`: the model is not told of the tool until it has found it with `search_tools`, which it is given then.
    `hints`: what single providers are told beyond that, and others pass over, by the provider in a model's name; with a
    `type` it is a tool of the provider's own, `{"anthropic": {"type": "bash_20250124"}}`, whose description and schema
    the provider has. One that the provider also runs (a search on its side) is not called here then.
    A generator shows what it yields as progress; a sync one returns its result, an async one yields it as a `Final`.
    One whose call was given up is closed where it yields next.
    Raises BadTool.
    """
    scope = sys._getframe(1).f_locals  # string annotations may name what the caller defined locally

    def make(function: Handler) -> Tool:
        parameters = parameters_of(function, ToolContext, scope)
        spec = ToolSpec(
            name=name or str(getattr(function, "__name__", "")),
            description=describe(function) if description is None else description,
            input_schema=parameters.schema,
            hints=hints or {},
        )
        _check_hints(spec)
        return Tool(
            spec, function, parameters, timeout_s, sequential, silent, model_output, needs_approval, client, defer=defer
        )

    return make if function is None else make(function)


def client_tool(
    name: str,
    description: str,
    input: type[BaseModel] | None = None,
    *,
    output: Any = None,
    needs_approval: NeedsApproval = False,
    hints: Hints | None = None,
) -> Tool:
    """A tool without a handler: each call suspends the run until `resume` brings its `Result`.

    `input`: a model of the arguments. `output`: the type that a result has to be of. `hints`: as of `tool`. Raises
    BadTool.
    """

    def nothing() -> None:
        raise NotImplementedError(f"{name} runs elsewhere")

    parameters = parameters_of(nothing, ToolContext) if input is None else model_parameters(input, name, "input")
    adapter: TypeAdapter[Any] | None = None if output is None else TypeAdapter(output)
    spec = ToolSpec(name, description, parameters.schema, hints or {})
    _check_hints(spec)
    return Tool(spec, nothing, parameters, needs_approval=needs_approval, client=True, result=adapter)


def _check_hints(spec: ToolSpec) -> None:
    if not isinstance(spec.hints, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadTool(f'tool {spec.name!r}: hints= takes fields by provider, as in {{"anthropic": {{...}}}}.')
    for provider, hint in spec.hints.items():
        try:
            to_json(hint)
        except PydanticSerializationError as error:
            raise BadTool(f"tool {spec.name!r}: its hint for {provider!r} is no JSON: {error}") from None
        called = hint.get("name", spec.name)
        if called != spec.name:
            raise BadTool(
                f"tool {spec.name!r}: its hint for {provider!r} names it {called!r}, and calls by that name would find "
                f"no tool. Give the tool itself that name (`name={called!r}`)."
            )


def by_name(tools: Iterable[Tool | Handler]) -> Mapping[str, Tool]:
    """The tools by name; plain functions are made tools. Raises BadTool when two share a name."""
    found: dict[str, Tool] = {}
    for given in tools:
        if not callable(given):  # a tool is, too
            raise BadTool(f"{str(given)[:80]!r} in `tools` is neither a tool nor a function.")
        each = given if isinstance(given, Tool) else tool(given)
        if each.name in found:
            raise BadTool(
                f"two tools are named {each.name!r}; a model could not tell them apart. Rename one (`name=`)."
            )
        found[each.name] = each
    return found


async def execute(tool: Tool, arguments: Mapping[str, object], context: ToolContext) -> object:
    """Call the handler with validated arguments. Raises what it raises."""
    given = dict(arguments)
    if tool.parameters.context is not None:
        given[tool.parameters.context] = context
    function = tool.function
    value: object
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        value = function(**given)
    else:
        # A thread cannot be cancelled: after a timeout it runs on and its result is dropped.
        value = await anyio.to_thread.run_sync(partial(function, **given), abandon_on_cancel=True)
    if inspect.isawaitable(value):
        value = await value
    if inspect.isasyncgen(value):
        async with aclosing(value) as items:
            return await _drained(items, tool.name, context)
    # A generator that a plain function gave back is its result: a list.
    if inspect.isgenerator(value) and inspect.isgeneratorfunction(inspect.unwrap(function)):
        given_up = threading.Event()
        try:
            value = await anyio.to_thread.run_sync(partial(_drain, value, context, given_up), abandon_on_cancel=True)
        finally:
            given_up.set()
    return value


async def _drained(items: AsyncIterator[object], name: str, context: ToolContext) -> object:
    final: Final | None = None
    async for item in items:
        if final is not None:
            raise TypeError(f"tool {name} yielded something after its Final")
        if isinstance(item, NeedsAnswer):
            return item
        if isinstance(item, Final):
            final = item
        else:
            await context.update(item)
    if final is None:
        raise TypeError(f"tool {name} ended without a Final: an async generator yields its result as Final(value)")
    return final.value


def _drain(items: Generator[object, Any, object], context: ToolContext, given_up: threading.Event) -> object:
    """In a thread: shows what is yielded, returns what is returned. Closes what nobody waits for any more."""
    while True:
        try:
            item = next(items)
        except StopIteration as stop:
            result: object = stop.value
            return result
        if isinstance(item, Final):
            name = context.tool_name
            raise TypeError(f"tool {name} yielded a Final: a generator that is not async returns its result")
        if isinstance(item, NeedsAnswer) or given_up.is_set():
            items.close()
            return item
        anyio.from_thread.run(context.update, item)
