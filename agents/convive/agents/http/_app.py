"""The application: which path does what, and who may."""

import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from pydantic import Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from convive.agents.http import _conversations as conversations
from convive.agents.http import _entities as entities
from convive.agents.http import _runs as runs
from convive.agents.http import _streams as streams
from convive.agents.http._asked import Asked, as_json
from convive.agents.http._guard import LOOPBACK, Guard, check_addresses
from convive.agents.http._page import page
from convive.agents.http._problems import on_error
from convive.agents.http._requests import Body, body_of
from convive.agents.http._tokens import TICKET_S, BadToken, Kind, Pass, Tokens, Verb
from convive.bus import Bus, ConviveError

_ENTITY, _STREAM = "/entities/{type}/{id}", "/streams/{stream}"


class Ticket(Body):
    """Which path a ticket is to open."""

    path: str = Field(max_length=500)


@dataclass(frozen=True, slots=True)
class Way:
    """What a path does. With a kind, whoever asks has to have that right to that name; without one, a token at least,
    and it is told what it may know."""

    method: str
    path: str
    act: Callable[[Asked], Awaitable[Response]]
    verb: Verb = "read"
    kind: Kind | None = None
    name: str = "{id}"


WAYS = (
    Way("GET", "/conversations", conversations.list_all, name=""),
    Way("GET", "/conversations/{id}", conversations.show, kind="conversation"),
    Way("GET", "/conversations/{id}/events", conversations.follow, kind="conversation"),
    Way("POST", "/conversations/{id}/sayings", conversations.say, "write", "conversation"),
    Way("GET", "/conversations/{id}/trace", runs.trace_of_conversation, kind="runs"),
    Way("GET", "/runs/{id}", runs.trace_of_run),
    Way("GET", "/runs/{id}/events", runs.follow),
    Way("POST", "/runs/{id}/answers", runs.give, "write"),
    Way("GET", "/pending", runs.list_waiting, name=""),
    Way("GET", "/entities", entities.list_all, name=""),
    Way("GET", _ENTITY, entities.show, kind="entity", name="{type}/{id}"),
    Way("PUT", _ENTITY, entities.spawn, "write", "entity", "{type}/{id}"),
    Way("GET", f"{_ENTITY}/events", entities.follow, kind="entity", name="{type}/{id}"),
    Way("POST", f"{_ENTITY}/messages", entities.send, "write", "entity", "{type}/{id}"),
    Way("PUT", f"{_ENTITY}/rows/{{collection}}/{{key:path}}", entities.put_row, "write", "entity", "{type}/{id}"),
    Way("DELETE", f"{_ENTITY}/rows/{{collection}}/{{key:path}}", entities.delete_row, "write", "entity", "{type}/{id}"),
    Way("GET", "/streams", streams.list_all, name=""),
    *(
        way
        for path, name in ((_STREAM, "{stream}"), ("/streams/{space}/{stream}", "{space}/{stream}"))
        for way in (
            Way("GET", f"{path}/records", streams.read, kind="stream", name=name),
            Way("POST", f"{path}/records", streams.append, "write", "stream", name),
            Way("GET", f"{path}/events", streams.follow, kind="stream", name=name),
        )
    ),
)
"""All that there is, beside the page and tickets."""


def app(bus: Bus, tokens: Tokens, *, hosts: Collection[str] = LOOPBACK, origins: Collection[str] = ()) -> Starlette:
    """An ASGI application over a bus, to be served, or mounted in one of yours, as long as the bus is open.

    Every request but that for the page needs a token of `tokens`. `hosts` are the names by which it is reached (what
    the header `Host` says, without a port): others are refused, as is a request that a page of another origin makes,
    unless that is one of `origins` (`https://example.org`), which may read the answers, too (CORS). Raises BadAddress.
    """
    check_addresses(hosts, origins)

    async def ticket(asked: Asked) -> Response:
        wanted = await body_of(asked.request, Ticket)
        made = tokens.ticket(asked.held, wanted.path, now_s=time.time())
        return as_json({"ticket": made, "expires_s": TICKET_S}, 201)

    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["authorization", "content-type", "last-event-id"],
    )
    made = Starlette(
        routes=[
            Route("/", page(), methods=["GET"]),
            Route("/tickets", _endpoint(Way("POST", "/tickets", ticket, name=""), bus, tokens), methods=["POST"]),
            *(Route(way.path, _endpoint(way, bus, tokens), methods=[way.method]) for way in WAYS),
        ],
        middleware=[Middleware(Guard, hosts=hosts, origins=origins), *([cors] if origins else [])],
        exception_handlers={ConviveError: on_error, 404: on_error, 405: on_error, Exception: on_error},
    )
    made.router.redirect_slashes = False
    return made


def _endpoint(way: Way, bus: Bus, tokens: Tokens) -> Callable[[Request], Awaitable[Response]]:
    async def act(request: Request) -> Response:
        held = _held(request, tokens)
        name = way.name.format(**request.path_params)
        if way.kind is not None:
            held.check(way.verb, way.kind, name)
        return await way.act(Asked(request, bus, held, name))

    return act


def _held(request: Request, tokens: Tokens) -> Pass:
    """Who asks. Raises BadToken."""
    now_s, ticket = time.time(), request.query_params.get("ticket")
    if ticket is not None and request.method == "GET":
        path, root = request.scope["path"], request.scope.get("root_path", "")
        below = path[len(root) :] if path.startswith(f"{root}/") else path  # some servers leave the root out of it
        return tokens.check(ticket, now_s=now_s, path=below)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise BadToken(
            "this takes a token (Authorization: Bearer TOKEN). `convive serve` and `convive token` issue them."
        )
    return tokens.check(token.strip(), now_s=now_s)
