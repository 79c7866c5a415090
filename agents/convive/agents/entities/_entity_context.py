"""What a handler sees and does: the wake, the rows, and what is sent when the wake is committed."""

import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from convive.agents.entities._entity_reading import read_runs
from convive.agents.entities._entity_records import Change, EntityKind, EntityName, Letter, Outgoing
from convive.agents.entities._entity_state import EntityState, Failure, change_row, hear_of
from convive.agents.journal._journal import Place
from convive.agents.runs._frame import current_frame
from convive.agents.traces._trace import Trace
from convive.bus import BadName, ConviveError, RunContext, is_slug

Row = TypeVar("Row", bound=BaseModel)

_WITHIN = 16
"""More levels than a record or a state puts around a value: a reader's JSON parser goes 200 levels deep."""


class BadRow(ConviveError):
    """A row that does not fit its collection, or is not there. Nothing was changed."""


class NotInATool(ConviveError):
    """A tool of an agent changed the entity: that would be lost when the handler runs again, since the tool, whose
    result its journal has, does not. Nothing of the wake counts."""


@dataclass(frozen=True)
class Collection(Generic[Row]):
    """Rows of one type by their keys, kept with an entity. `writable`: by others as well, see `Context.put`."""

    name: str
    row: type[Row]
    writable: bool = False

    def __post_init__(self) -> None:
        if not is_slug(self.name):
            raise BadName(f"{self.name[:80]!r} is not a name for a collection: use 1 to 63 of a-z, 0-9 and '-'.")

    def read(self, key: str, row: Mapping[str, Any]) -> Row:
        """A row as its type. Raises BadRow."""
        try:
            return self.row.model_validate_json(to_json(row))
        except ValidationError as error:
            raise BadRow(f"{self.name}[{key!r}] is no {self.row.__name__}: {_first(error)}") from None

    def change(self, key: str, row: Row | None) -> Change:
        """What puts a row, or deletes it. Raises BadRow."""
        check_key(self.name, key)
        if row is None:
            return Change(collection=self.name, key=key)
        try:
            written = plain(row.model_dump(mode="json", by_alias=True, round_trip=True))
        except (PydanticSerializationError, ValueError) as error:
            raise BadRow(f"{self.name}[{key!r}] cannot be written down: {error}") from None
        return Change(collection=self.name, key=key, row=cast("dict[str, JsonValue]", written))

    def updated(self, row: Row, fields: Mapping[str, Any]) -> Row:
        """A row with some of its fields changed. Raises BadRow."""
        if self.row.model_config.get("extra") != "allow" and (unknown := fields.keys() - self.row.model_fields.keys()):
            raise BadRow(f"{self.row.__name__} has no field {', '.join(sorted(unknown))}")
        try:
            return self.row.model_validate({**dict(row), **fields}, by_alias=False, by_name=True)
        except ValidationError as error:
            raise BadRow(f"{self.name}: {_first(error)}") from None


@dataclass(frozen=True, slots=True)
class Wake:
    """Why a handler runs. `body`: the arguments of a new entity, a message, the result of one that is over
    (`{"status", "result"}` or `{"error"}`), the keys of rows that changed by their collection, or what was set for a
    time.

    `sender` is an entity, or empty. `number` counts the wakes of this entity, `attempt` the executions of this one.
    """

    kind: EntityKind
    sender: str
    body: JsonValue
    number: int
    attempt: int
    at_s: float
    """When the letter came: the server's clock, in seconds since 1970. The same in each attempt."""


class Rows(Generic[Row]):
    """A collection as this wake sees it, its own changes included. Iterating gives the keys, in the order they came."""

    def __init__(self, collection: Collection[Row], context: "Context") -> None:
        self._collection = collection
        self._context = context

    def get(self, key: str) -> Row | None:
        """The row of that key, as a copy."""
        row = self._all.get(key)
        return None if row is None else self._collection.read(key, row)

    def __getitem__(self, key: str) -> Row:
        found = self.get(key)
        if found is None:
            raise BadRow(f"{self._collection.name} has no row {key!r}")
        return found

    def __contains__(self, key: object) -> bool:
        return key in self._all

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def items(self) -> Iterator[tuple[str, Row]]:
        """Keys and rows."""
        return ((key, self._collection.read(key, row)) for key, row in list(self._all.items()))

    def insert(self, key: str, row: Row) -> None:
        """A new row. Raises BadRow when there is one of that key."""
        if key in self._all:
            raise BadRow(f"{self._collection.name} has a row {key!r} already")
        self.put(key, row)

    def put(self, key: str, row: Row) -> None:
        """A row, new or in place of the one of that key. Raises BadRow for one that does not fit."""
        self._change(self._collection.change(key, row))

    def update(self, key: str, **fields: Any) -> Row:
        """Change some fields of a row, and return it. Raises BadRow when there is none, or it does not fit then."""
        row = self._collection.updated(self[key], fields)
        self.put(key, row)
        return row

    def delete(self, key: str) -> bool:
        """Delete a row; says whether there was one."""
        known = key in self._all
        if known:
            self._change(self._collection.change(key, None))
        return known

    @property
    def _all(self) -> Mapping[str, dict[str, JsonValue]]:
        return self._context.seen.get(self._collection.name, {})

    def _change(self, change: Change) -> None:
        self._context.change(change)


class Context:
    """What a handler does counts when the handler returns, all at once: rows, letters, times, the end. When it raises,
    or its process is killed, nothing of it does, and it runs again from the beginning.

    An agent that is called here has its run below that of the wake; when the handler runs again with the same words for
    it, answers that its journal holds are not asked for again, and tools that returned are not called again. So a tool
    may look at all of this, and changes none of it (NotInATool): it returns, or adds as an artifact, what the handler
    is to do.
    """

    def __init__(
        self,
        state: EntityState,
        run: RunContext,
        collections: Mapping[str, Collection[Any]],
        letter: Letter,
        place: Place,
    ) -> None:
        self.name = state.name
        self.args = deepcopy(state.args)
        """What it was spawned with."""
        self.run = run
        """The run of this wake."""
        self.seen = dict(state.rows)
        """The rows as they are now, by collection and key."""
        self.changes: list[Change] = []
        self.letters: list[Outgoing] = []
        self.cancelled: list[str] = []
        self.finished = False
        self.result: JsonValue = None
        self._state = state
        self._place = place
        self._collections = collections
        self._hops = letter.hops
        self._children = dict(state.children)
        hear_of(self._children, letter)
        self._copied: set[str] = set()
        self._times = 0
        self.misused: NotInATool | None = None
        """What a tool was refused: whoever called its agent may not have noticed."""

    def rows(self, collection: Collection[Row]) -> Rows[Row]:
        """The rows of one of this entity's collections. Raises BadRow for another one's."""
        if self._collections.get(collection.name) is not collection:
            raise BadRow(f"{self.name} has no collection {collection.name!r}: name it in `define(collections=...)`")
        return Rows(collection, self)

    @property
    def children(self) -> Mapping[str, str]:
        """What this entity spawned in earlier wakes, and how that stands, by what has come so far: running, finished,
        failed or stopped."""
        return dict(self._children)

    @property
    def errors(self) -> tuple[Failure, ...]:
        """The latest wakes before this one that failed."""
        return tuple(self._state.errors)

    async def runs(self, *, keep_events: bool = False) -> Trace:
        """What this entity did before this wake: its wakes, with the agents, answers and tool calls in them, and what
        they used and cost.

        It ends where the journal of this wake begins, so it is the same in each attempt, and what a handler asks an
        agent because of it is not asked and paid for again. Reads the journals whole: two requests. Raises
        BusUnavailable.
        """
        began: int | None = None
        async with self._place.log.read(self._place.journal(self.run)) as records:
            async for record in records:
                began = record.seq
                break
        return await read_runs(self._place, 0 if began is None else began - 1, keep_events=keep_events)

    def change(self, change: Change) -> None:
        """Put or delete a row, for this wake."""
        self._check_place()
        if change.collection not in self._copied:
            self._copied.add(change.collection)
            self.seen[change.collection] = dict(self.seen.get(change.collection, {}))  # the state's own stays as it is
        change_row(self.seen, change)
        self.changes.append(change)

    def spawn(self, name: str, args: JsonValue = None, *, observe: bool = True) -> str:
        """A new entity; returns its name. One that is there already stays as it is. `observe`: be woken at its end."""
        to = self._send(name, Letter(kind="created", value=plain(args)))
        if observe:
            self.observe(to)
        return to

    def send(self, name: str, body: JsonValue) -> None:
        """A message for an entity. It waits until the entity is spawned; one that is over ignores it."""
        self._send(name, Letter(kind="message", value=plain(body)))

    def observe(self, name: str, *, changes: bool = False) -> None:
        """Be woken when an entity is over, or has failed at a wake; with `changes`, also when its rows changed."""
        self._send(name, Letter(kind="observe", changes_too=changes))

    def unobserve(self, name: str) -> None:
        """Not any more."""
        self._send(name, Letter(kind="unobserve"))

    def put(self, name: str, collection: Collection[Row], key: str, row: Row | None) -> None:
        """Put a row into a collection of another entity that is `writable`, or delete it (None). Raises BadRow."""
        self._send(name, Letter(kind="change", changes=(collection.change(key, row),)))

    def wake_after(self, seconds: float, body: JsonValue = None, *, id: str = "") -> str:
        """Be woken in so many seconds, by a letter of the kind "due"; returns the id of that time.

        With an `id` of one that is set, that one is replaced.
        """
        self._check_place()
        if not 0 <= seconds < 10 * 366 * 86_400:
            raise ValueError(f"{seconds} s is not between 0 and ten years")
        self._times += 1
        own = id or f"{self._state.wakes + 1}-{self._times}"
        self.cancel(own)
        letter = Letter(kind="due", value=plain(body), id=own, hops=self._hops + 1)
        self.letters.append(Outgoing(to=self.name, letter=letter, at_s=round(time.time() + seconds, 3)))
        return own

    def cancel(self, id: str) -> None:
        """Call off a time that was set. One that is not set is no error."""
        self._check_place()
        self.cancelled.append(id)
        self.letters = [one for one in self.letters if one.at_s is None or one.letter.id != id]

    def finish(self, result: JsonValue = None) -> None:
        """This entity is over: when the handler returns, it is woken no more, and who observes it is told."""
        self._check_place()
        self.finished, self.result = True, plain(result)

    def _check_place(self) -> None:
        """Raises NotInATool."""
        frame = current_frame()
        if frame is not None and frame.run.run_id != self.run.run_id:
            self.misused = NotInATool(
                f"{self.name}: a tool, or something else in an agent's run, changed the entity. When the handler runs "
                "again, that tool does not, and the change would be lost. Have it return what is to be done, or add it "
                "with ctx.artifacts, and do it in the handler, which finds it in the result."
            )
            raise self.misused

    def _send(self, name: str, letter: Letter) -> str:
        self._check_place()
        to = str(EntityName.of(name))
        numbered = {"sender": self.name, "hops": self._hops + 1}
        self.letters.append(Outgoing(to=to, letter=letter.model_copy(update=numbered)))
        return to


def plain(value: object) -> JsonValue:
    """A value as JSON data. Raises ValueError for what JSON cannot hold, and for what is too deep to be read back."""
    try:
        found: Any = from_json(b"[" * _WITHIN + to_json(value) + b"]" * _WITHIN, allow_inf_nan=False)
    except (PydanticSerializationError, ValueError) as error:
        raise ValueError(f"not JSON data, or nested too deeply: {error}") from None
    for _ in range(_WITHIN):
        found = found[0]
    return cast("JsonValue", found)


def check_key(collection: str, key: object) -> None:
    """Refuse a key that is no text of 1 to 512 letters. Raises BadRow."""
    if not isinstance(key, str) or not 1 <= len(key) <= 512 or any("\ud800" <= each <= "\udfff" for each in key):
        raise BadRow(f"{collection}: {str(key)[:80]!r} is not a key: use 1 to 512 letters")


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(step) for step in first['loc'])} {first['msg']}".strip()
