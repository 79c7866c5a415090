"""Entities from outside: spawn one, send it something, look at it, follow it. No host has to run for that."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from difflib import get_close_matches

import anyio
from pydantic import JsonValue

from convive.agents.entities._entity_context import Collection, Row, plain
from convive.agents.entities._entity_post import place_of_entity, post
from convive.agents.entities._entity_reading import first_state, read_again, read_entity, read_runs
from convive.agents.entities._entity_records import EntityName, Letter, Signal, letter_of, woken_of
from convive.agents.entities._entity_state import BehindTrim, EntityState, apply, commits_of, mailbox_of
from convive.agents.journal._journal import Place
from convive.agents.runs._frame import current_run
from convive.agents.traces._trace import Trace
from convive.bus import BadRecord, Bus, ConviveError, Tail, address_of

AT_ONCE = 32
"""Entities that are read side by side."""


class UnknownEntity(ConviveError):
    """No entity of that name was spawned. Nothing was sent."""


class EntityOver(ConviveError):
    """The entity is finished, or was stopped, and takes nothing any more. Nothing was sent."""


async def spawn(bus: Bus, name: str, args: JsonValue = None, *, id: str | None = None) -> str:
    """A new entity, `type/id`; returns its name. One that is there already stays as it is.

    Durable when this returns: a host of its type wakes it when there is one. Raises BadEntity, ValueError for what is
    no JSON data, NotAppended (too large), or MaybeAppended (with an `id`, sending it again is safe).
    """
    to = EntityName.of(name)
    await post(bus, to, Letter(kind="created", value=plain(args)), current_run(), id)
    return str(to)


async def send(bus: Bus, name: str, body: JsonValue, *, id: str | None = None) -> int:
    """A message for an entity; returns its place in the log. Raises as `spawn`, and UnknownEntity or EntityOver; one
    that is over without a host having said so ignores what comes."""
    to = await _alive(bus, name)
    return await post(bus, to, Letter(kind="message", value=plain(body)), current_run(), id)


async def put(bus: Bus, name: str, collection: Collection[Row], key: str, row: Row | None) -> int:
    """Put a row into a collection that is `writable`, or delete it (None). Raises as `send`, and BadRow.

    It is there when a host has handled the letter, and who observes the entity is told then.
    """
    letter = Letter(kind="change", changes=(collection.change(key, row),))
    return await post(bus, await _alive(bus, name), letter, current_run(), None)


async def signal(bus: Bus, name: str, what: Signal) -> int:
    """ "pause": from the next letter on nothing is handled. "resume": go on. "stop": it is over, for good; what runs in
    it is called off, and what waits is dropped. Raises as `send`."""
    return await post(bus, await _alive(bus, name), Letter(kind="signal", value=what), current_run(), None)


async def look(bus: Bus, name: str, *, until: int | None = None) -> EntityState:
    """An entity as it is now, or as it was at a place in its log. Raises BadEntity, UnknownEntity, or Forgotten
    for what was trimmed."""
    to = EntityName.of(name)
    place = await place_of_entity(bus, to)
    state = await read_entity(place.log, place.base, to, until)
    if not state.is_created:
        if until is not None:
            await _known(bus, name)
            raise UnknownEntity(f"there was no entity {to} yet at {until}: it was spawned later.")
        raise UnknownEntity(await _unknown(bus, to))
    return state


async def runs(bus: Bus, name: str, *, keep_events: bool = False) -> Trace:
    """What an entity did: its wakes, and in them the agents, answers and tool calls, with what they used and cost.

    A wake stands below another one of the same entity that sent its letter; `read_trace` shows it among those of
    others. Reads the journals whole: two requests. Raises BadEntity, UnknownEntity.
    """
    to = await _known(bus, name)
    return await read_runs(await place_of_entity(bus, to), keep_events=keep_events)


@asynccontextmanager
async def follow(bus: Bus, name: str, *, after: int | None = None) -> AsyncGenerator[AsyncIterator[EntityState]]:
    """The states of an entity: as it is now (or was at `after`; 0: at its beginning, or where what is left of it
    begins), and then after each record.

    It need not be spawned yet. It is one and the same object each time: copy what is to be kept. Raises Forgotten for
    what was trimmed. Iterating raises BusUnavailable when the bus is gone for good.
    """
    to = EntityName.of(name)
    place = await place_of_entity(bus, to)
    begin = first_state(place.log, place.base, to) if after == 0 else read_entity(place.log, place.base, to, after)
    state = await begin
    async with place.log.follow(mailbox_of(place.base), commits_of(place.base), after=state.seq) as tail:
        yield _States(place, tail, state)


class _States:
    """One follower's place. No generator: one that is left half-way would wait to be finalized."""

    def __init__(self, place: Place, tail: Tail, state: EntityState) -> None:
        self._place = place
        self._tail = tail
        self._state = state
        self._begun = False

    def __aiter__(self) -> "_States":
        return self

    async def __anext__(self) -> EntityState:
        if not self._begun:
            self._begun = True
            return self._state
        record = None
        while record is None or record.seq <= self._state.seq:
            record = await self._tail.next()
        try:
            return apply(self._state, record, strict=True)
        except BehindTrim:
            await read_again(self._state, self._place.log, self._place.base)
            return self._state


async def names_of(bus: Bus, type: str = "") -> list[str]:
    """The names of all entities, or of those of a type: also of such that were sent something and never spawned.

    One request a partition.
    """
    names: set[str] = set()
    for pattern, log in (await bus.partitions()).items():
        for subject in await log.subjects(f"{pattern}.stream.*"):
            base = subject.removesuffix(f".stream.{address_of(subject).name}")
            found = EntityName.of_space(address_of(subject).conversation)
            of_entity = subject in (mailbox_of(base), commits_of(base))  # a mailbox may be trimmed to its last letter
            if found is not None and of_entity and type in ("", found.type):
                names.add(str(found))
    return sorted(names)


async def find(bus: Bus, type: str = "") -> list[EntityState]:
    """All entities, or those of a type, by name. Two requests an entity, many at a time."""
    found: dict[str, EntityState] = {}
    limit = anyio.CapacityLimiter(AT_ONCE)
    names = await names_of(bus, type)
    async with anyio.create_task_group() as tasks:

        async def read(name: str) -> None:
            async with limit:
                to = EntityName.of(name)
                place = await place_of_entity(bus, to)
                found[name] = await read_entity(place.log, place.base, to)

        for name in names:
            tasks.start_soon(read, name)
    return [found[name] for name in names if found[name].is_created]


async def _alive(bus: Bus, name: str) -> EntityName:
    """What takes letters, by the last commit and the last letter: a state tells more, and grows with all that waits."""
    to = EntityName.of(name)
    place = await place_of_entity(bus, to)
    commit, letter = await place.log.last(commits_of(place.base)), await _last_letter(place)
    ended = None
    with suppress(BadRecord):
        ended = None if commit is None else woken_of(commit).ended
    if ended is None and letter is not None and (letter.kind, letter.value) == ("signal", "stop"):
        ended = "stopped"
    if ended is not None:
        raise EntityOver(f"{to} is {ended} and takes nothing any more. Nothing was sent.")
    return to if commit is not None else await _spawned(bus, to, place, letter)


async def _known(bus: Bus, name: str) -> EntityName:
    """What was spawned."""
    to = EntityName.of(name)
    place = await place_of_entity(bus, to)
    if await place.log.last(commits_of(place.base)) is not None:
        return to
    return await _spawned(bus, to, place, await _last_letter(place))


async def _spawned(bus: Bus, to: EntityName, place: Place, last: Letter | None) -> EntityName:
    """What has no commit yet, if there is a letter that spawns it."""
    if last is not None and (last.kind == "created" or not last.sender):  # who sends from outside has looked before
        return to
    async with place.log.read(mailbox_of(place.base)) as records:
        async for record in records:
            with suppress(BadRecord):
                if letter_of(record).kind == "created":
                    return to
    raise UnknownEntity(await _unknown(bus, to))


async def _last_letter(place: Place) -> Letter | None:
    record = await place.log.last(mailbox_of(place.base))
    with suppress(BadRecord):
        return None if record is None else letter_of(record)
    return None


async def _unknown(bus: Bus, name: EntityName) -> str:
    near = get_close_matches(str(name), await names_of(bus), n=3)
    hint = f" Near: {', '.join(near)}." if near else ""
    return f"there is no entity {name}.{hint} `spawn` makes one."
