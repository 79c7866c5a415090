"""What `serve` and `token` do. The packages behind them are an extra, so they are imported when they are needed."""

import errno
import os
import re
import secrets
import socket
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from convive.bus import DEFAULT_DATA, ConviveError
from convive.scenarios.cli._commands import Where, tell

if TYPE_CHECKING:
    from convive.agents.http import Tokens

HOST, PORT = "127.0.0.1", 8484
KEY_VARIABLE, KEY_FILE = "CONVIVE_HTTP_KEY", "http.key"
LONGEST_S = 366 * 86_400.0

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_CONNECTIONS = 1_000
_LEAVE_S = 1
"""How long responses that are under way have to end when the server does; those that go on for ever are cut off."""


class NoServer(ConviveError):
    """HTTP cannot be served like this. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How somebody wants to serve: where, for which other names and pages, and how long the printed token counts."""

    port: int
    hosts: Sequence[str]
    origins: Sequence[str]
    for_s: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a token is wanted for."""

    rights: tuple[str, ...]
    for_s: float


def seconds_of(text: str) -> float:
    """`90s`, `30m`, `1h`, `7d`. Raises NoServer."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= LONGEST_S:
        raise NoServer(f"{text[:80]!r} is no time for a token: give 90s, 30m, 1h or 7d, up to 366d.")
    return seconds


def rights_of(verb: str, named: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The rights to what is named, by kind; to everything where nothing is."""
    return tuple(f"{verb}:{kind}:{name}" for kind, name in named) or (f"{verb}:*",)


async def keep_serving(where: Where, serving: Serving) -> None:
    """Serve what the bus holds on a port of this machine, until the process is stopped."""
    tokens = tokens_of(where, make=True)
    from convive.agents.http import LOOPBACK, app

    async with where.open() as bus:
        made = app(bus, tokens, hosts=[*LOOPBACK, *serving.hosts], origins=serving.origins)
        with _listening(serving.port) as listening:
            token = tokens.issue(["write:*"], until_s=time.time() + serving.for_s)
            url = f"http://{HOST}:{listening.getsockname()[1]}"
            print(f"{url}/#token={token}", flush=True)  # noqa: T201 - standard output is this command's result
            tell(f"Serving {bus.where} at {url}. Whoever has this address may do everything. Ctrl-C ends.")
            await _serve(made, listening)


def make_token(where: Where, wanted: Wanted) -> None:
    """Print a token."""
    until_s = time.time() + wanted.for_s
    print(tokens_of(where, make=False).issue(wanted.rights, until_s=until_s))  # noqa: T201 - standard output is this command's result
    when = datetime.fromtimestamp(until_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    tell(f"It may {', '.join(wanted.rights)}, until {when}.")


def tokens_of(where: Where, *, make: bool) -> "Tokens":
    """The tokens of a store: their key is kept beside it, for this user alone, or comes from the environment. `make`
    one if there is none; a token of a key that nobody serves with would open nothing."""
    _check_installed()
    from convive.agents.http import Tokens

    given = os.environ.get(KEY_VARIABLE)
    key = given.encode() if given else _kept_key((where.data or DEFAULT_DATA).expanduser(), make=make)
    try:
        return Tokens(key)
    except ValueError as error:
        place = KEY_VARIABLE if given else str((where.data or DEFAULT_DATA) / KEY_FILE)
        raise NoServer(f"{place}: {error}") from None


def _kept_key(folder: Path, *, make: bool) -> bytes:
    file = folder / KEY_FILE
    try:
        with suppress(FileNotFoundError):
            return file.read_bytes()
        if not make:
            raise NoServer(
                f"nothing has been served from {folder} yet. Begin with `convive serve`, or give --data DIR."
            )
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            (folder / ".gitignore").write_text("*\n")
        new = folder / f"{KEY_FILE}.{secrets.token_hex(4)}"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(secrets.token_bytes(32))
        with suppress(FileExistsError):  # another process was first: its key counts
            os.link(new, file)
        new.unlink()
        return file.read_bytes()
    except OSError as error:
        raise NoServer(
            f"the key of tokens cannot be kept in {folder}: {error.strerror}. Give another directory with --data, or a "
            f"key with {KEY_VARIABLE}."
        ) from None


def _check_installed() -> None:
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise NoServer(f'{package} is not installed: pip install "convive[http]"')


@contextmanager
def _listening(port: int) -> Generator[socket.socket]:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # before anybody is told of the address
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "somebody else listens there" if error.errno == errno.EADDRINUSE else "it is not for this user"
            raise NoServer(f"port {port} cannot be had: {why}. Give another one with --port; 0 is any.") from None
        yield listening


async def _serve(app: Any, listening: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        """Signals are the command line's own."""

        @contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_LEAVE_S,
    )
    server, ended = Server(config), anyio.Event()

    async def run() -> None:
        try:
            await server.serve(sockets=[listening])
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            await ended.wait()
        finally:
            server.should_exit = True
            with anyio.CancelScope(shield=True):
                await ended.wait()
