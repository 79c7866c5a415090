"""What every request has to pass before anything is looked at: where it was sent to, and from which page."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convive.agents.http._problems import HEADERS, Refused, problem
from convive.bus import ConviveError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class BadAddress(ConviveError):
    """What is no host or no origin, and so would never be met. Nothing is served."""


def check_addresses(hosts: Collection[str], origins: Collection[str]) -> None:
    """Raises BadAddress."""
    for host in hosts:
        if name_of(f"[{host}]" if ":" in host else host) != host.lower() or not host:
            raise BadAddress(f"{host[:80]!r} is no name of a host: give it alone, such as shop.example.")
    for origin in origins:
        scheme, _, rest = origin.partition("://")
        if scheme not in ("http", "https") or not name_of(rest) or origin != origin.lower():
            raise BadAddress(f"{origin[:80]!r} is no origin: give scheme and host alone, such as https://shop.example.")


class Guard:
    """ASGI middleware. A page elsewhere that had its own name point here (DNS rebinding) says that name as `Host`; one
    that asks on somebody's behalf says its own address as `Origin`. Both are refused unless they are known."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = why_not(Headers(scope=scope), self._hosts, self._origins)
        await (self._app if refused is None else problem(refused))(scope, receive, sending)


def why_not(headers: Headers, hosts: Collection[str], origins: Collection[str]) -> Refused | None:
    """Why a request with these headers is not looked at."""
    host, origin = headers.getlist("host"), headers.getlist("origin")
    if len(host) != 1 or name_of(host[0]) not in hosts:
        known = ", ".join(sorted(hosts))
        given = ", ".join(host)[:200] or "a host without a name"
        return Refused(421, f"this is not {given}: it is reached as {known}.")
    if not origin or (len(origin) == 1 and (origin[0] in origins or _is_same(origin[0], host[0]))):
        return None
    return Refused(403, f"pages of {', '.join(origin)[:200]} may not ask here. `convive serve --origin` lets one.")


def name_of(host: str) -> str:
    """The name in a `Host` header, without the port; empty when it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if not set(host) & set("/?#@\\ ") else ""
    except ValueError:
        return ""


def _is_same(origin: str, host: str) -> bool:
    scheme, _, rest = origin.lower().partition("://")
    return scheme in ("http", "https") and rest == host.lower()
