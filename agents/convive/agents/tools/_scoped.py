"""Several tools behind one name, of which the model picks one by an argument; and tools that are found by searching."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, JsonValue

from convive.agents.journal._fold import RunState
from convive.agents.models._model import ToolSpec
from convive.agents.models._schema import BadArguments, BadTool, Parameters, parameters_of
from convive.agents.tools._calls import Outcome, Ready, within
from convive.agents.tools._gates import needs_approval
from convive.agents.tools._tools import Handler, Tool, ToolContext, ToolReturn, by_name

SEARCH_TOOLS = "search_tools"
_MOST_FOUND = 5


@dataclass(frozen=True, slots=True)
class _ScopedParameters(Parameters):
    """One flat schema for all; what each needs is checked when it is known which one is meant."""

    tools: Mapping[str, Tool]
    which: str

    def validate(self, arguments: JsonValue) -> dict[str, object]:
        if not isinstance(arguments, dict):
            raise BadArguments([{"path": "", "message": "the arguments must be a JSON object"}])
        chosen = arguments.get(self.which)
        tool = self.tools.get(chosen) if isinstance(chosen, str) else None
        if tool is None:
            raise BadArguments([{"path": self.which, "message": f"must be one of: {', '.join(self.tools)}"}])
        known = cast("Mapping[str, object]", tool.spec.input_schema.get("properties", {}))
        rest: JsonValue = {
            name: value
            for name, value in arguments.items()
            if name != self.which and (value is not None or name in known)
        }
        return {"tool": tool, "arguments": tool.parameters.validate(rest)}


def scoped_tool(
    name: str,
    description: str,
    tools: Mapping[str, Tool | Handler],
    *,
    allow: Iterable[str] | None = None,
    which: str = "action",
) -> Tool:
    """One tool that does what several do; the model says by the argument `which` what it wants.

    `allow`: those of `tools` that may be used, by default all; the model does not learn of the others. A call waits for
    an approval if that of the tool it picks would. Raises BadTool, also for a name in `allow` that is not in `tools`.
    """
    made = {key: by_name([given])[_name(given)] for key, given in tools.items()}
    allowed = list(made) if allow is None else list(allow)
    unknown = [key for key in allowed if key not in made]
    if unknown or not allowed:
        raise BadTool(f"tool {name!r}: allow={unknown or allowed} does not name what there is: {', '.join(made)}.")
    chosen = {key: made[key] for key in allowed}
    schema = _flat(chosen, which, name)

    async def call(context: ToolContext, tool: Tool, arguments: dict[str, object]) -> Outcome:
        return await within(Ready(tool, arguments), context)

    async def needs(context: ToolContext, given: Any) -> bool:
        return await needs_approval(given.tool, given.arguments, context)

    lines = [f"- {key}: {tool.spec.description}" for key, tool in chosen.items()]
    return Tool(
        ToolSpec(name, "\n".join([description, *lines]), schema),
        call,
        _ScopedParameters(BaseModel, {}, schema, "context", chosen, which),
        needs_approval=needs if any(tool.needs_approval is not False for tool in chosen.values()) else False,
        sequential=any(tool.sequential for tool in chosen.values()),
    )


def _name(given: Tool | Handler) -> str:
    return given.name if isinstance(given, Tool) else str(getattr(given, "__name__", ""))


def _flat(tools: Mapping[str, Tool], which: str, name: str) -> dict[str, JsonValue]:
    properties: dict[str, JsonValue] = {which: {"type": "string", "enum": list(tools)}}
    definitions: dict[str, JsonValue] = {}
    required: set[str] | None = None
    for tool in tools.values():
        schema = tool.spec.input_schema
        if tool.client or which in cast("dict[str, JsonValue]", schema.get("properties", {})):
            raise BadTool(f"tool {name!r}: {tool.name!r} is a client tool, or has an argument {which!r} itself.")
        for argument, described in cast("dict[str, JsonValue]", schema.get("properties", {})).items():
            properties[argument] = _either(properties.get(argument), described)
        definitions |= cast("dict[str, JsonValue]", schema.get("$defs", {}))
        needed = set(cast("list[str]", schema.get("required", [])))
        required = needed if required is None else required & needed
    found: dict[str, JsonValue] = {
        "type": "object",
        "properties": properties,
        "required": [which, *sorted(required or ())],
    }
    return {**found, "$defs": definitions} if definitions else found


def _either(known: JsonValue, described: JsonValue) -> JsonValue:
    if known is None or known == described:
        return described
    earlier = known["anyOf"] if isinstance(known, dict) and list(known) == ["anyOf"] else [known]
    return {"anyOf": [*cast("list[JsonValue]", earlier), described]}


def with_search(tools: Mapping[str, Tool]) -> Mapping[str, Tool]:
    """The tools, and one to search those that are deferred, if any are."""
    deferred = [tool for tool in tools.values() if tool.defer]
    if not deferred or SEARCH_TOOLS in tools:
        return tools

    def search_tools(query: str) -> ToolReturn:
        """Find further tools by what they do. What is found can be called from then on.

        Args:
            query: words that describe what is to be done
        """
        found = sorted(deferred, key=lambda tool: -_fits(query, tool.spec))
        best = [tool.spec for tool in found if _fits(query, tool.spec)][:_MOST_FOUND]
        shown = [{"name": spec.name, "description": spec.description} for spec in best]
        return ToolReturn(value=[spec.name for spec in best], model_output=shown)

    parameters = parameters_of(search_tools, ToolContext)
    description = "Find further tools by what they do. What is found can be called from then on."
    return {
        **tools,
        SEARCH_TOOLS: Tool(ToolSpec(SEARCH_TOOLS, description, parameters.schema), search_tools, parameters),
    }


def specs_of(tools: Mapping[str, Tool], state: RunState) -> tuple[ToolSpec, ...]:
    """The tools that a model is told of: those that are not deferred, and behind them what it has found, in order."""
    shown = [tool.spec for tool in tools.values() if not tool.defer]
    if SEARCH_TOOLS not in tools:
        return tuple(shown)
    found: dict[str, ToolSpec] = {}
    for trip in state.trips:
        for call in trip.calls:
            value = call.returned.value if call.name == SEARCH_TOOLS and call.returned else None
            names = [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
            found |= {name: tools[name].spec for name in names if name in tools and tools[name].defer}
    return (*shown, *found.values())


def _fits(query: str, spec: ToolSpec) -> int:
    wanted = set(re.findall(r"\w{2,}", query.lower()))
    name = set(re.findall(r"[^\W_]{2,}", spec.name.lower()))
    about = set(re.findall(r"\w{2,}", spec.description.lower()))
    return 2 * len(wanted & name) + len(wanted & about)
