"""What a suspended run waits for, and how it is answered."""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.dataclasses import dataclass
from pydantic_core import from_json, to_json

from convive.bus import RunId

_ANSWER = ConfigDict(extra="forbid")


class LeadingCall(BaseModel):
    """A call of a run, below which another run waits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    trip: int
    index: int
    call_id: str
    tool: str


class Interrupt(BaseModel):
    """One tool call that waits for somebody: for an approval, or for the result of a tool that runs elsewhere.

    `id` is stable and names the call in its run, wherever in the tree that stands. `arguments` are final: what is
    approved is what runs, and `args_hash` is their digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    kind: Literal["approval", "client_tool"]
    run_id: RunId
    agent: str
    tool: str
    call_id: str
    trip: int
    index: int
    arguments: JsonValue
    args_hash: str
    about: JsonValue = None
    """What the tool itself says of it, where it was the tool that asked (`NeedsAnswer`)."""
    takes: dict[str, JsonValue] | None = None
    """A JSON Schema of what an answer may bring: the arguments of an `Edit`, or the value of a client tool's `Result`.
    None where there is none, or one too long to keep."""
    through: LeadingCall | None = None
    """Where a run above tells of it: the call of that run which leads here. None in the run whose own call waits, and
    in journals that did not say it yet."""


@dataclass(frozen=True, config=_ANSWER)
class Approve:
    """Carry the call out as it is."""

    type: Literal["approve"] = "approve"


@dataclass(frozen=True, config=_ANSWER)
class Deny:
    """Do not carry the call out; the model reads `message` and goes on."""

    message: str = ""
    type: Literal["deny"] = "deny"


@dataclass(frozen=True, config=_ANSWER)
class Edit:
    """Carry the call out with these arguments instead. They are validated before anything changes."""

    arguments: dict[str, Any]
    type: Literal["edit"] = "edit"


@dataclass(frozen=True, config=_ANSWER)
class Result:
    """What the tool gave back, where it ran. JSON data, or a model that can become it."""

    value: Any = None
    type: Literal["result"] = "result"


Resolution = Annotated[Approve | Deny | Edit | Result, Field(discriminator="type")]
"""The answer to an interrupt."""


def args_hash(arguments: JsonValue) -> str:
    """A digest of arguments that does not depend on the order of their names."""
    return hashlib.sha256(to_json(_ordered(arguments))).hexdigest()[:16]


def plain(resolution: Resolution) -> Resolution:
    """The resolution with its values as JSON data, as a journal gives them back. Raises ValueError for others."""
    if isinstance(resolution, Edit):
        return Edit(from_json(to_json(resolution.arguments), allow_inf_nan=False))
    if isinstance(resolution, Result):
        return Result(from_json(to_json(resolution.value), allow_inf_nan=False))
    return resolution


def _ordered(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value)}
    return [_ordered(each) for each in value] if isinstance(value, list) else value
