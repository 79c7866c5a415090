"""What passes between a tool call and a program that is not ours: in order, and never larger than agreed."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import anyio
from pydantic import JsonValue

from convive.agents.models._schema import BadTool, clean, json_of, jsonable
from convive.agents.tools._tools import Tool, ToolContext, ToolError

MESSAGE_CHARS = 2_000
"""The most of one message, of progress or of an error."""

Report = Callable[[float, float | None, str | None], Awaitable[None]]
"""Takes how far it is, of how much, and what is being done."""


@dataclass(frozen=True, slots=True)
class McpLimits:
    """What an MCP server may cost: seconds to connect and for one call, tools, and the size of what is told of them and
    of one result.

    Every request to a model holds names, descriptions and schemas (as JSON) of all tools: `schema_chars` is for one
    schema, `listing_chars` for all of it, and what is larger is refused. Longer descriptions and results are cut, and
    say so; artifacts that are larger together are described but not kept.
    """

    connect_s: float = 30
    call_s: float | None = 300
    tools: int = 500
    description_chars: int = 8_000
    schema_chars: int = 50_000
    listing_chars: int = 500_000
    text_chars: int = 50_000
    artifact_bytes: int = 400_000


class Updates:
    """Progress from the server as live updates of a call: one by one, and none after `settle`."""

    def __init__(self, context: ToolContext) -> None:
        self.over = False
        self._context = context
        self._turn = anyio.Lock()

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        told = {"progress": progress, "total": total, "message": None if message is None else cut(message)}
        async with self._turn:
            if not self.over:
                await self._context.update({key: value for key, value in told.items() if value is not None})

    async def settle(self) -> None:
        """Wait until what came so far was shown."""
        async with self._turn:
            self.over = True


class Reports:
    """Updates of a call as progress for the client. Progress counts upwards, whatever a tool shows."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = 0.0

    async def __call__(self, value: JsonValue) -> None:
        told = value if isinstance(value, dict) else {"message": value}
        progress, total, message = told.get("progress"), told.get("total"), told.get("message")
        if not told.keys() & {"progress", "message"}:
            message = value
        if isinstance(progress, int | float) and progress > self._last:
            self._last = float(progress)
        else:
            self._last, total = self._last + 1, None
        text = message if isinstance(message, str) else None if message is None else json_of(message)
        await self._report(
            self._last,
            float(total) if isinstance(total, int | float) else None,
            None if text is None else cut(clean(text)),
        )


class Keeper:
    """Keeps artifacts of a call as long as there is room, in bytes."""

    def __init__(self, context: ToolContext, room: int) -> None:
        self._context = context
        self._room = room
        self._count = 0

    def structured(self, value: object) -> str:
        """Keep structured content; as JSON."""
        written = json_of(value)
        if len(written) <= self._room:
            self._room -= len(written)
            self._context.artifacts.add("structured", jsonable(value))
        return written

    def file(self, kind: str, mime_type: str, base64: str, **more: str) -> str:
        """Keep an image or the like; what there is to tell a model of it."""
        self._count += 1
        key = f"{kind}-{self._count}"
        about = clean(", ".join((kind, mime_type, *more.values(), f"{len(base64) * 3 // 4} bytes")))
        size = sum(map(len, (base64, mime_type, *more.values())))
        if size > self._room:
            return f"[{about}: too large to be kept]"
        self._room -= size
        self._context.artifacts.add(key, {"mime_type": mime_type, "base64": base64, **more})
        return f"[{about}: kept for the application as {key!r}, not shown here]"


def check_sizes(where: str, made: Sequence[Tool], limits: McpLimits) -> None:
    """Raises BadTool for tools that would fill every request to a model."""
    listing = 0
    for tool in made:
        schema = len(json_of(tool.spec.input_schema))
        if schema > limits.schema_chars:
            raise BadTool(
                f"{where}: the schema of tool {tool.name!r} has {schema} characters, and {limits.schema_chars} are "
                "allowed. Leave the tool out (`filter=`) or allow more (`limits=McpLimits(schema_chars=...)`)."
            )
        listing += schema + len(tool.name) + len(tool.spec.description)
    if listing > limits.listing_chars:
        raise BadTool(
            f"{where}: names, descriptions and schemas of its {len(made)} tools have {listing} characters, and "
            f"{limits.listing_chars} are allowed: every request to a model holds them. Take fewer tools (`filter=`) or "
            "allow more (`limits=McpLimits(listing_chars=...)`)."
        )


def failed(kind: str, message: str, **more: object) -> ToolError:
    """An error for the model, in the form that all structured errors of tools have."""
    return ToolError(json_of({"error": kind, "message": message, **more}))


def cut(text: str, most: int = MESSAGE_CHARS) -> str:
    """The text, or as much of it as is agreed and a word about the rest."""
    return text if len(text) <= most else f"{text[:most]}\n[cut: {most} of {len(text)} characters are shown]"


def first_line(error: BaseException) -> str:
    """An error in one line, without the essay that may follow."""
    return str(error).partition("\n")[0][:MESSAGE_CHARS] or type(error).__name__


def root_of(error: Exception) -> Exception:
    """The error itself, out of the groups that tasks wrapped it in."""
    inner: Exception = error
    while isinstance(inner, ExceptionGroup):
        inner = cast("ExceptionGroup[Exception]", inner).exceptions[0]
    return inner


def public_url(url: str) -> str:
    """A URL without what may be secret in it: user, password, query. Raises ValueError when it does not parse."""
    parts = urlsplit(url)
    _ = parts.port  # raises for what is none: the rest of it may be a password that was cut by a slash
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
