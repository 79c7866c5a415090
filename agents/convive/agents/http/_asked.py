"""A request that may do what it asks for, and the answer to it."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from convive.agents.http._tokens import Pass
from convive.agents.models._schema import cleaned, json_of
from convive.bus import Bus


@dataclass(frozen=True, slots=True)
class Asked:
    """The request, who asks, and the name that the path names. `bus` is where."""

    request: Request
    bus: Bus
    held: Pass
    name: str


def as_json(value: Mapping[str, JsonValue] | Mapping[str, object], status: int = 200) -> Response:
    """An answer in JSON. What a log may hold and JSON does not (no number, half a character) is told as near to it."""
    return Response(json_of(cleaned(value)), status, media_type="application/json")
