"""The connection to a NATS server: checked once, shared by everything that speaks to the bus."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.abc
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from convive.bus.jetstream._jetstream_headers import PLAIN, Headers, written
from convive.bus.log._errors import BusUnavailable
from convive.bus.log._tasks import background_tasks

OLDEST_SERVER = (2, 12)
"""Guards over several subjects, per-record expiry and the message format that we read came by then."""

API_PATIENCE_S = 10.0
API_ATTEMPT_S = 2.0
LEAVING_S = 1
RETRY_S = 0.1
_SCHEME = r"(?:nats|tls|wss?)://"
_NO_LEADER = 10008
RECONNECT_WAIT_S: Any = 0.05  # nats-py says int, and sleeps for what it gets


CLOSED = (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError)
"""What nats-py raises when a connection is closed for good; `Connection.closed` says it in our words."""


class ApiError(BusUnavailable):
    """JetStream refused an administrative request; `code` is its `err_code`, `description` its own words."""

    def __init__(self, url: str, verb: str, code: int, description: str) -> None:
        self.code = code
        self.description = description
        super().__init__(
            f"the server at {url} refused the request {verb}: {description} ({code}). What was acknowledged is safe "
            "unless somebody has deleted it; see to the server, then open the bus again."
        )


class _Client(Client):
    """nats-py's client without what costs it most: it looks at every character of every header name in Python, and
    passes each message through a queue to a task of its subscription.

    Should a later nats-py no longer call what is overridden here, the speed is lost, and a test says so.
    """

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """Call whoever subscribed at once. So nobody who is called may wait for an answer from the server."""
        subscription = self._subs.get(sid)
        receive = None if subscription is None else subscription._cb
        if receive is None:
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        message = self._build_message(sid, subject, reply, data, await self._process_headers(headers))
        try:
            await receive(message)
        except Exception as error:  # noqa: BLE001 - a message that nobody can read must not end the reading of others
            await self._error_cb(error)

    async def _send_publish(
        self, subject: str, reply: str, payload: bytes, payload_size: int, headers: dict[str, Any] | None
    ) -> None:
        if not headers:
            await super()._send_publish(subject, reply, payload, payload_size, headers)
            return
        head = written(headers)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += payload_size
        line = f"HPUB {subject} {reply} {len(head)} {len(head) + payload_size}\r\n"
        await self._send_command(b"".join((line.encode(), head, payload, b"\r\n")))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_headers(self, headers: bytes | None) -> Any:
        if headers is not None and headers.startswith(PLAIN):
            return Headers(headers[len(PLAIN) :])
        # Whoever may write to the bus can write headers that are none; nats-py stops listening over a status line
        # that it cannot read, without a word and for good.
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return None

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg:
        try:
            message: Msg = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:  # the same for a subject
            message = super()._build_message(sid, subject.decode(errors="replace").encode(), reply, data, headers)
        return message

    async def leave(self) -> None:
        """Send what is still to be sent, if the server is there, and close."""
        if self.is_connected:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self.flush(LEAVING_S)
        # nats-py tries to send what is left; without a server it fails over that, with its tasks still running.
        self._pending, self._pending_data_size = list[bytes](), 0
        try:
            await self.close()
        except asyncio.CancelledError:
            # Its reconnecting task, when it is ended, cancels the very future that `close` waits for then.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise


class NoAnswer(BusUnavailable):
    """Nobody answered in time; the connection may be in order."""


class Connection:
    """A checked connection, with the task group that background work of the bus lives in."""

    def __init__(self, client: Client, url: str, tasks: anyio.abc.TaskGroup, patience_s: float) -> None:
        self.client = client
        self.url = url
        self.tasks = tasks
        self.patience_s = patience_s
        self._hooks: set[Callable[[], None]] = set()

    @property
    def lost(self) -> bool:
        """True while the server cannot be reached."""
        return not self.client.is_connected

    def closed(self) -> BusUnavailable:
        """The error to raise when the connection is closed for good."""
        error = self.client.last_error
        why = f" ({_reason(error)})" if error else ""
        return BusUnavailable(
            f"the connection to {self.url} is closed{why}. What was acknowledged is safe; open the bus again."
        )

    @property
    def replicas(self) -> int:
        """How many copies of a stream make sense here: three on a cluster that can lose a server, else one."""
        return 3 if len(self.client.servers) >= 3 else 1

    def on_reconnect(self, hook: Callable[[], None]) -> Callable[[], None]:
        """Call `hook` after every reconnect. Returns a function that ends that."""
        self._hooks.add(hook)
        return lambda: self._hooks.discard(hook)

    def reconnected(self) -> None:
        for hook in list(self._hooks):
            hook()

    def inbox(self) -> str:
        """A subject of our own to be answered on."""
        return self.client.new_inbox()

    async def subscribe(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Call `receive` for each message; a request that is made afterwards finds it in place.

        Raises BusUnavailable when the connection is closed for good.
        """
        try:
            return await self.client.subscribe(subject, cb=receive, pending_msgs_limit=-1, pending_bytes_limit=0)
        except CLOSED:
            raise self.closed() from None

    async def api(
        self, verb: str, payload: dict[str, Any] | None = None, *, patience_s: float | None = None
    ) -> dict[str, Any]:
        """One administrative request to JetStream, asked again while a cluster has no leader to answer it.

        Only for requests that may be made twice. `patience_s`: another one than that of the connection. Raises
        ApiError, NoAnswer or BusUnavailable.
        """
        body = json.dumps(payload or {}).encode()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.patience_s if patience_s is None else patience_s)
        while True:
            answer = await self._request(f"$JS.API.{verb}", body, min(API_ATTEMPT_S, deadline - loop.time()))
            error = None if answer is None else answer.get("error")
            code = int(error.get("err_code", 0)) if error else 0
            if answer is not None and error is None:
                return answer
            if error and code != _NO_LEADER:
                raise ApiError(self.url, verb, code, str(error.get("description", "refused")))
            if loop.time() + RETRY_S >= deadline:
                raise NoAnswer(
                    f"the server at {self.url} gave no answer within {self.patience_s:g} s. What was acknowledged is "
                    "safe there; try again when it is back."
                )
            await asyncio.sleep(RETRY_S)

    async def _request(self, subject: str, body: bytes, timeout_s: float) -> dict[str, Any] | None:
        """The answer to one request, or None when none came in time."""
        try:
            answer: dict[str, Any] = json.loads((await self.client.request(subject, body, timeout=timeout_s)).data)
        except nats.errors.NoRespondersError:
            raise BusUnavailable(
                f"the server at {self.url} does not answer for JetStream. Start it with JetStream enabled "
                "(`nats-server -js`), or leave out the URL to use the embedded server."
            ) from None
        except CLOSED:
            raise self.closed() from None
        except (nats.errors.TimeoutError, nats.errors.OutboundBufferLimitError):
            return None
        return answer


@asynccontextmanager
async def connect(url: str, patience_s: float = API_PATIENCE_S) -> AsyncGenerator[Connection]:
    """Connect, and check that the server can carry the bus. `patience_s` is how long an administrative request waits.

    Raises BusUnavailable: nobody listens, refused credentials, no JetStream, a server that is too old.
    """
    shown = _without_secrets(url)
    servers = [one.strip() for one in url.split(",")]
    if not all(_is_server(one) for one in servers):
        raise BusUnavailable(
            f"{shown or 'what was given'} is not the URL of a NATS server, such as nats://127.0.0.1:4222. Nothing was "
            "tried; correct it, or leave out the URL (and CONVIVE_NATS_URL) to use the embedded server."
        )
    held: list[Connection] = []

    async def reconnected() -> None:
        for connection in held:
            connection.reconnected()

    missing: list[Exception] = []

    async def ignored(error: Exception) -> None:
        # nats-py reports every failed reconnect here; who waits for an answer learns it from its own deadline.
        if isinstance(error, ImportError):
            missing.append(error)

    client = _Client()
    try:
        await client.connect(
            servers,
            connect_timeout=3,
            max_reconnect_attempts=1,
            reconnect_time_wait=RECONNECT_WAIT_S,
            allow_reconnect=False,
            ping_interval=20,
            pending_size=64 * 1024 * 1024,
            reconnected_cb=reconnected,
            error_cb=ignored,
        )
    except (nats.errors.Error, OSError, ValueError) as error:
        await client.leave()
        raise BusUnavailable(
            f"no NATS server at {shown} ({_reason(next(iter(missing), error))}). Start one there, or leave out the URL "
            "(and CONVIVE_NATS_URL) to use the embedded server."
        ) from None
    # The first connection must fail fast; later ones are tried until the server is back.
    client.options["allow_reconnect"] = True
    client.options["max_reconnect_attempts"] = -1
    try:
        _check(client, shown)
        async with background_tasks() as tasks:
            connection = Connection(client, shown, tasks, patience_s)
            held.append(connection)
            await connection.api("INFO")
            yield connection
    finally:
        with anyio.CancelScope(shield=True):
            await client.leave()


def _check(client: Client, url: str) -> None:
    version = client.connected_server_version
    try:
        known = version.major, version.minor
    except ValueError:  # not a NATS server after all, or one built from no release
        raise BusUnavailable(
            f"the server at {url} does not say its version in a known form. Upgrade it, or leave out the URL to use "
            "the embedded server."
        ) from None
    if known < OLDEST_SERVER:
        needed = ".".join(str(part) for part in OLDEST_SERVER)
        raise BusUnavailable(
            f"the server at {url} is version {version.major}.{version.minor}.{version.patch}; Convive needs "
            f"{needed} or newer. Upgrade it, or leave out the URL to use the embedded server."
        )


def _reason(error: Exception) -> str:
    if isinstance(error, nats.errors.NoServersError | nats.errors.TimeoutError):
        return "nobody answers"
    text = str(error).strip() or type(error).__name__
    return text.removeprefix("nats: ")


def _without_secrets(url: str) -> str:
    """The URL as it may be shown: credentials stay out of messages and logs. Nothing of one that does not parse.

    A password may hold what separates the parts of a URL. So only what follows an `@` is known to be no part of one,
    and where an `@` is still to come, a comma ends a server only in front of a scheme.
    """
    if not all(_parsed(one.strip()) for one in url.split(",")):
        return ""
    hidden, at, last = url.rpartition("@")
    *whole, begun = re.split(rf",(?=\s*{_SCHEME})", hidden)
    shown = [f"{_scheme(one)}{_places(one.rpartition('@')[2])}" if "@" in one else "..." for one in whole]
    return ",".join([*shown, (_scheme(begun) if at else "") + _places(last)])


def _scheme(server: str) -> str:
    found = re.match(_SCHEME, server.strip())
    return found[0] if found else ""


def _places(servers: str) -> str:
    """Schemes, hosts and ports of servers without credentials."""
    return ",".join(re.sub(r"^((?:[a-z]+://)?[^/?#]*).*", r"\1", one.strip(), flags=re.S) for one in servers.split(","))


def _is_server(url: str) -> bool:
    parts = _parsed(url)
    return parts is not None and parts.scheme in ("nats", "tls", "ws", "wss")


def _parsed(url: str) -> SplitResult | None:
    """The parts of a URL that names a host; None when it does not."""
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None
