"""Tools from a JSON Schema and a handler: for what is described elsewhere, such as by an MCP server."""

import hashlib
import inspect
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

from pydantic import BaseModel, JsonValue

from convive.agents.models._json_schema import check_outermost
from convive.agents.models._model import ToolSpec
from convive.agents.models._schema import BadArguments, BadTool, Parameters
from convive.agents.tools._tools import Tool, ToolContext

SchemaHandler = Callable[[ToolContext, dict[str, JsonValue]], object]
"""Takes the context and the arguments as they were sent. Sync or async; a sync one runs in a thread."""

_MOST = 64
"""The longest name of a tool that all providers take."""
_FITS = re.compile(rf"[A-Za-z0-9_-]{{1,{_MOST}}}")


class _SchemaParameters(Parameters):
    """Arguments that a JSON Schema describes; the handler takes them whole."""

    __slots__ = ()

    def validate(self, arguments: JsonValue) -> dict[str, object]:
        """Check the outermost level: names, what is required, and types. What lies deeper is the handler's to check."""
        if not isinstance(arguments, dict):
            kind = type(arguments).__name__
            raise BadArguments([{"path": "", "message": f"the arguments must be a JSON object, not {kind}"}])
        check_outermost(self.schema, arguments)
        return {"arguments": dict(arguments)}


def schema_tool(
    name: str,
    description: str,
    input_schema: Mapping[str, JsonValue],
    handler: SchemaHandler,
    *,
    timeout_s: float | None = None,
    sequential: bool = False,
    silent: bool = False,
    model_output: Callable[[Any], object] | None = None,
) -> Tool:
    """Make a tool of a JSON Schema, which the model sees as it is, and a handler.

    The options are those of `tool`. Raises BadTool for a name that not every provider takes, and for a schema
    whose root is not an object.
    """
    if not _FITS.fullmatch(name):
        raise BadTool(f"{name!r} is not a name for a tool: use up to {_MOST} letters, digits, '_' and '-'.")
    if input_schema.get("type", "object") != "object":
        raise BadTool(f"tool {name!r}: the root of its schema must be of type object.")
    schema: dict[str, JsonValue] = {"type": "object", **input_schema}
    return Tool(
        spec=ToolSpec(name, description, schema),
        function=_function(handler),
        parameters=_SchemaParameters(BaseModel, {}, schema, "context"),
        timeout_s=timeout_s,
        sequential=sequential,
        silent=silent,
        model_output=model_output,
    )


def provider_names(names: Iterable[str]) -> dict[str, str]:
    """For each name one that all providers take, different for different names, and the same in every process."""
    plain = {name: re.sub(r"[^A-Za-z0-9_-]+", "_", name) for name in names}
    count = Counter(plain.values())
    return {
        name: short
        if _FITS.fullmatch(short) and short.strip("_-") and (short == name or count[short] == 1)
        else f"{short[: _MOST - 9]}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
        for name, short in plain.items()
    }


def _function(handler: SchemaHandler) -> Callable[..., object]:
    if inspect.iscoroutinefunction(handler):
        asynchronous = cast("Callable[[ToolContext, dict[str, JsonValue]], Awaitable[object]]", handler)

        async def call(context: ToolContext, arguments: dict[str, JsonValue]) -> object:
            return await asynchronous(context, arguments)

        return call

    def call_in_thread(context: ToolContext, arguments: dict[str, JsonValue]) -> object:
        return handler(context, arguments)

    return call_in_thread
