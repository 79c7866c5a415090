"""`convive doctor`: is everything here that a party needs?"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from convive.agents import Request, Sampling, TextDelta, choose_model, default_models, local_available, user
from convive.bus import DEFAULT_DATA, URL_VARIABLE, ConviveError, Draft, mint_run_id, server_binary, server_version
from convive.scenarios.cli._commands import Where

_LITTLE_SPACE = 200 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    what: str
    fine: bool
    found: str


async def examine(where: Where, model: str | None) -> AsyncIterator[Finding]:
    """Each check as it is made. Nothing is left behind but an empty store where a store was asked for."""
    yield Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.system()}")
    yield _packages()
    yield await _checked("nats-server", _binary)
    yield _space(where.data or DEFAULT_DATA)
    yield await _checked("bus", lambda: _bus(where))
    yield await _checked("model", lambda: _model(model))


async def _checked(what: str, check: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(what, True, await check())
    except ConviveError as error:
        return Finding(what, False, str(error))


def _packages() -> Finding:
    found: list[str] = []
    for name in ("convive", "nats-py", "pydantic", "anthropic", "anyio", "opentelemetry-sdk"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return Finding("packages", False, f"{name} is missing. Install them again: uv sync")
    return Finding("packages", True, ", ".join(found))


async def _binary() -> str:
    binary = server_binary()
    return server_version(binary)


def _space(folder: Path) -> Finding:
    place = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    found = f"{free // (1024 * 1024):,} MB free for {folder}"
    return Finding("disk", free > _LITTLE_SPACE, found if free > _LITTLE_SPACE else f"only {found}; make room first")


async def _bus(where: Where) -> str:
    """Opens the bus, appends a record that expires, and reads it back."""
    if where.url or (where.data is None and os.environ.get(URL_VARIABLE)):
        return await _round_trip(where)
    if (where.data or DEFAULT_DATA).exists():
        return await _round_trip(where)
    with tempfile.TemporaryDirectory() as folder:
        return f"{await _round_trip(Where(None, Path(folder)))} (tried in a temporary directory)"


async def _round_trip(where: Where) -> str:
    async with where.open() as bus:
        conversation = await bus.conversation("convive-doctor")
        subject = f"{conversation.subjects.base}.stream.doctor"
        mark = mint_run_id().encode()
        seq = await conversation.log.append(Draft(subject, mark, ttl_s=60))
        async with conversation.log.read(subject, after=seq - 1) as records:
            async for record in records:
                if record.body == mark:
                    return f"{bus.where}: stored and read back, sync {bus.sync}"
    raise ConviveError(f"the bus at {bus.where} took a record and did not give it back.")


async def _model(wanted: str | None) -> str:
    choice = choose_model(wanted, os.environ, local_available())
    models = default_models()
    said = ""
    try:
        ask = Request("You answer with one word.", (user("Say hello."),), sampling=Sampling(max_tokens=8))
        async with models.resolve(choice.name).stream(ask) as items:
            async for item in items:
                if isinstance(item, TextDelta):
                    said += item.text
    finally:
        await models.aclose()
    return f"{choice.name} ({choice.why}) says: {' '.join(said.split())[:40]}"
