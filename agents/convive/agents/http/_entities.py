"""Entities: looked at, followed, spawned, and sent something."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from pydantic import Field, JsonValue, RootModel
from starlette.responses import Response

from convive.agents import entities
from convive.agents.entities import Collection, EntityName, EntityState, UnknownEntity, Woken, entity_json
from convive.agents.http._asked import Asked, as_json
from convive.agents.http._events import Events, frame, framed
from convive.agents.http._problems import Refused
from convive.agents.http._requests import Body, after_of, body_of, number_of

Posted = TypeVar("Posted")


class Row(RootModel[dict[str, JsonValue]]):
    """A row of whatever type: the host knows, and refuses what does not fit."""


class Message(Body):
    """What is sent; with an `id`, sending it again within ten minutes changes nothing."""

    body: JsonValue
    id: str | None = Field(default=None, min_length=1, max_length=200)


class Spawning(Body):
    """What an entity is spawned with."""

    args: JsonValue = None


class Writing(Body):
    """A row, as its collection has it."""

    row: dict[str, JsonValue]


async def list_all(asked: Asked) -> Response:
    """The entities that may be read, by name."""
    type = asked.request.query_params.get("type", "")
    found = [each for each in await entities.find(asked.bus, type) if asked.held.may("read", "entity", each.name)]
    rows = [{"name": each.name, "status": each.status, "wakes": each.wakes, "seq": each.seq} for each in found]
    return as_json({"entities": rows})


async def show(asked: Asked) -> Response:
    """An entity as it is now, or was at a place in its log."""
    until = number_of(asked.request.query_params, "at", 0) or None
    return as_json(entity_json(await _look(asked, until)))


async def follow(asked: Asked) -> Response:
    """An entity as it is now, and then what changes; from a place on, what changed behind it. Ends when it is over."""
    now = await _look(asked)
    space = await asked.bus.conversation(EntityName.of(asked.name).space)
    after = await after_of(asked.request, space.log)
    if after:
        await _look(asked, after)  # it is told here, and not in the middle of a response, when that was trimmed
        if _is_over(now) and now.seq <= after:
            return Response(status_code=204)  # a browser connects no more then

    @asynccontextmanager
    async def opened() -> AsyncGenerator[AsyncIterator[bytes]]:
        async with entities.follow(asked.bus, asked.name, after=after or None) as states:
            changes = _Changes(states, resumed=after > 0)
            async with aclosing(framed(changes, lambda told: frame(*told))) as frames:
                yield frames

    return Events(opened, asked.held.until_s)


async def spawn(asked: Asked) -> Response:
    """A new entity: 201. One that is there already stays as it is: 200."""
    spawning = await body_of(asked.request, Spawning)
    try:
        state = await entities.look(asked.bus, asked.name)
    except UnknownEntity:
        name = await _posted(entities.spawn(asked.bus, asked.name, spawning.args))
        return as_json({"name": name, "spawned": True}, 201)
    return as_json({"name": state.name, "spawned": False, "status": state.status})


async def send(asked: Asked) -> Response:
    """A message for an entity."""
    message = await body_of(asked.request, Message)
    return _taken(await _posted(entities.send(asked.bus, asked.name, message.body, id=message.id)))


async def put_row(asked: Asked) -> Response:
    """Write a row, where the collection is one that others may write."""
    writing = await body_of(asked.request, Writing)
    return await _write(asked, Row(writing.row))


async def delete_row(asked: Asked) -> Response:
    """Delete a row, where the collection is one that others may write."""
    return await _write(asked, None)


async def _write(asked: Asked, row: Row | None) -> Response:
    path = asked.request.path_params
    collection = Collection(str(path["collection"]), Row, writable=True)
    return _taken(await entities.put(asked.bus, asked.name, collection, str(path["key"]), row))


async def _posted(letter: Awaitable[Posted]) -> Posted:
    try:
        return await letter
    except ValueError as error:  # deeper than any reader could read back
        raise Refused(400, f"{error}. Nothing was sent.") from None


def _taken(seq: int) -> Response:
    """It is stored, and counts when a host has handled it."""
    return as_json({"seq": seq}, 202)


async def _look(asked: Asked, until: int | None = None) -> EntityState:
    try:
        return await entities.look(asked.bus, asked.name, until=until)
    except UnknownEntity:
        if asked.held.may("read", "entity", "*"):
            raise
        # The names that are near are not for everybody.
        raise UnknownEntity(f"there is no entity {asked.name}{f' at {until}' if until else ''}.") from None


def _is_over(state: EntityState) -> bool:
    return state.is_over and not state.waiting


_Told = tuple[str, int, dict[str, JsonValue]]


class _Changes:
    """Tells what changed between the states of an entity, which are one and the same object."""

    def __init__(self, states: AsyncIterator[EntityState], *, resumed: bool) -> None:
        self._states = states
        self._silent = resumed
        self._wakes = -1
        self._over = False

    def __aiter__(self) -> "_Changes":
        return self

    async def __anext__(self) -> _Told:
        if self._over:
            raise StopAsyncIteration
        state = await anext(self._states)
        if self._silent:  # the state at the place that the reader has seen
            self._silent, self._wakes = False, state.wakes
            state = await anext(self._states)
        before, self._wakes, self._over = self._wakes, state.wakes, _is_over(state)
        brief: dict[str, JsonValue] = {"seq": state.seq, "status": state.status, "waiting": len(state.waiting)}
        if state.wakes == before:
            return "changed", state.seq, brief
        if state.wakes == before + 1 and before >= 0 and state.last is not None:
            return "woken", state.seq, {**brief, **_woken(state, state.last)}
        return "state", state.seq, entity_json(state)


def _woken(state: EntityState, woken: Woken) -> dict[str, JsonValue]:
    """What came of a wake."""
    letter = None if state.last_handled is None else state.last_handled.letter
    changes: list[JsonValue] = [change.model_dump(mode="json") for change in woken.changes]
    return {
        "wake": woken.wake,
        "run_id": woken.run_id,
        "kind": None if letter is None else letter.kind,
        "sender": None if letter is None else letter.sender,
        "value": None if letter is None else letter.value,
        "changes": changes,
        "error": woken.error,
        "finished": woken.finished,
        "result": woken.result,
    }
