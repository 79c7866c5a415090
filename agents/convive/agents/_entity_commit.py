"""What a wake comes to: the one record that says that its letter is handled, and all that came of it. Pure."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from convive.agents._entity_context import BadRow, Collection, Context
from convive.agents._entity_records import Change, Letter, LetterKind, Outgoing, Woken
from convive.agents._entity_state import EntityState, Waiting
from convive.agents._schema import clean

OF_THE_HOST: frozenset[LetterKind] = frozenset({"observe", "unobserve", "change", "signal"})
"""Letters that wake no handler."""

_TOLD = 2_000
"""Letters of an error that are kept."""


def woken(state: EntityState, waiting: Waiting, context: Context) -> Woken:
    """The commit of a handler that returned."""
    letters = list(context.letters)
    if context.finished:
        letters += _end(state, waiting, {"status": "finished", "result": context.result})
    else:
        letters += _changed(state, waiting, context.changes)
    return Woken(
        wake=state.wakes + 1,
        letter=waiting.seq,
        run_id=waiting.run_id,
        changes=tuple(context.changes),
        letters=tuple(letters),
        cancelled=tuple(id for id in dict.fromkeys(context.cancelled) if id in state.timers or _is_due(state, id)),
        finished=context.finished,
        result=context.result,
    )


def failed(state: EntityState, waiting: Waiting, error: BaseException) -> Woken:
    """The commit of a wake that is given up: its letter is handled, and who observes the entity is told."""
    body: JsonValue = {"error": told(error)}
    letters = [_letter(state, waiting, to, "failed", body) for to in state.observers]
    return Woken(
        wake=state.wakes + 1,
        letter=waiting.seq,
        run_id=waiting.run_id,
        letters=tuple(letters),
        error=told(error),
    )


def by_host(state: EntityState, waiting: Waiting, collections: Mapping[str, Collection[Any]]) -> Woken:
    """The commit of a letter that wakes no handler."""
    letter, letters, changes = waiting.letter, list[Outgoing](), tuple[Change, ...]()
    if letter.kind == "signal":
        letters = _end(state, waiting, {"status": "stopped", "result": None})
    elif letter.kind == "observe" and state.is_over:
        status = {"status": state.status, "result": state.result}
        letters = [_letter(state, waiting, letter.sender, "finished", status)]
    elif letter.kind == "change":
        try:
            changes = tuple(_checked(state, change, collections) for change in letter.changes)
        except BadRow as error:  # whoever sent it erred, not this entity: nobody else is told
            return failed(state, waiting, error).model_copy(update={"letters": ()})
        letters = _changed(state, waiting, changes)
    return Woken(
        wake=state.wakes + 1, letter=waiting.seq, run_id=waiting.run_id, changes=changes, letters=tuple(letters)
    )


def told(error: BaseException) -> str:
    """An error in words."""
    return f"{type(error).__name__}: {clean(str(error))}"[:_TOLD]


def _checked(state: EntityState, change: Change, collections: Mapping[str, Collection[Any]]) -> Change:
    collection = collections.get(change.collection)
    if collection is None or not collection.writable:
        raise BadRow(f"{state.name} has no collection {change.collection!r} that others may write")
    row = None if change.row is None else collection.read(change.key, change.row)
    return collection.change(change.key, row)


def _changed(state: EntityState, waiting: Waiting, changes: tuple[Change, ...] | list[Change]) -> list[Outgoing]:
    keys: dict[str, list[str]] = {}
    for change in changes:
        known = keys.setdefault(change.collection, [])
        if change.key not in known:
            known.append(change.key)
    body: JsonValue = {name: list(each) for name, each in keys.items()}
    return [
        _letter(state, waiting, to, "changed", body) for to, all_of_it in state.observers.items() if keys and all_of_it
    ]


def _end(state: EntityState, waiting: Waiting, body: JsonValue) -> list[Outgoing]:
    return [_letter(state, waiting, to, "finished", body) for to in state.observers]


def _letter(state: EntityState, waiting: Waiting, to: str, kind: LetterKind, body: JsonValue) -> Outgoing:
    letter = Letter(kind=kind, sender=state.name, value=body, hops=waiting.letter.hops + 1)
    return Outgoing(to=to, letter=letter)


def _is_due(state: EntityState, id: str) -> bool:
    return any(one.letter.kind == "due" and one.letter.id == id for one in state.waiting)
