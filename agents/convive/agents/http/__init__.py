"""What the bus holds, over HTTP: an ASGI application for browsers and other programs.

    tokens = Tokens(key)  # 32 secret bytes
    outer.mount("/convive", app(bus, tokens))

It needs the package `starlette` (`pip install "convive[http]"`).
"""

from convive.agents.http._app import app
from convive.agents.http._guard import LOOPBACK, BadAddress
from convive.agents.http._tokens import BadRight, BadToken, NotAllowed, Tokens

__all__ = ["LOOPBACK", "BadAddress", "BadRight", "BadToken", "NotAllowed", "Tokens", "app"]
