"""A request that may do what it asks for."""

from dataclasses import dataclass

from starlette.requests import Request

from convive.agents.http._tokens import Pass
from convive.bus import Bus


@dataclass(frozen=True, slots=True)
class Asked:
    """The request, who asks, and the name that the path names. `bus` is where."""

    request: Request
    bus: Bus
    held: Pass
    name: str
