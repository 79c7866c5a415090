"""What a wake comes to: the one record that says that its letter is handled, and all that came of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from convive.agents.entities._entity_context import BadRow, Collection, Context
from convive.agents.entities._entity_records import Change, Letter, LetterKind, Outgoing, Woken
from convive.agents.entities._entity_state import EntityState, Waiting
from convive.agents.models._schema import clean

OF_THE_HOST: frozenset[LetterKind] = frozenset({"observe", "unobserve", "change", "signal"})
"""Letters that wake no handler."""

_TOLD = 2_000
"""Letters of an error that are kept."""


def woken(state: EntityState, waiting: Waiting, context: Context) -> Woken:
    """The commit of a handler that returned."""
    if context.finished:
        word = _end(state, waiting, {"status": "finished", "result": context.result})
    else:
        word = _changed(state, waiting, context.changes)
    return Woken(
        wake=state.wakes + 1,
        letter=waiting.seq,
        run_id=waiting.run_id,
        changes=tuple(context.changes),
        letters=tuple(context.letters),
        word=word,
        cancelled=tuple(id for id in dict.fromkeys(context.cancelled) if id in state.timers or _is_due(state, id)),
        finished=context.finished,
        result=context.result,
        ended="finished" if context.finished else None,
    )


def failed(state: EntityState, waiting: Waiting, error: BaseException) -> Woken:
    """The commit of a wake that is given up: its letter is handled, and who observes the entity is told."""
    return Woken(
        wake=state.wakes + 1,
        letter=waiting.seq,
        run_id=waiting.run_id,
        word=_word(state, waiting, "failed", {"error": told(error)}) if state.observers else None,
        error=told(error),
    )


def by_host(state: EntityState, waiting: Waiting, collections: Mapping[str, Collection[Any]]) -> Woken:
    """The commit of a letter that wakes no handler."""
    letter, changes = waiting.letter, tuple[Change, ...]()
    letters, word = tuple[Outgoing, ...](), None
    if letter.kind == "signal":
        word = _end(state, waiting, {"status": "stopped", "result": None})
    elif letter.kind == "observe" and state.is_over:
        status: JsonValue = {"status": state.status, "result": state.result}
        letters = (Outgoing(to=letter.sender, letter=_word(state, waiting, "finished", status)),)
    elif letter.kind == "change":
        try:
            changes = tuple(_checked(state, change, collections) for change in letter.changes)
        except BadRow as error:  # whoever sent it erred, not this entity: nobody else is told
            return failed(state, waiting, error).model_copy(update={"word": None})
        word = _changed(state, waiting, changes)
    return Woken(
        wake=state.wakes + 1,
        letter=waiting.seq,
        run_id=waiting.run_id,
        changes=changes,
        letters=letters,
        word=word,
        ended="stopped" if state.is_stopped else "finished" if state.is_finished else None,
    )


def too_large(state: EntityState, waiting: Waiting, error: BaseException) -> Woken:
    """The commit instead of one `by_host` that no log takes: a result is as long as a commit may be."""
    to, body = waiting.letter.sender, {"error": told(error)}
    hearers = [to] if waiting.letter.kind == "observe" else []
    letters = tuple(Outgoing(to=each, letter=_word(state, waiting, "failed", {**body})) for each in hearers)
    return failed(state, waiting, error).model_copy(update={"word": None, "letters": letters})


def outgoing_of(state: EntityState, woken: Woken) -> tuple[Outgoing, ...]:
    """All that the last commit of a state sends, in the order that numbers it."""
    word = woken.word
    if word is None:
        return woken.letters
    hearers = [name for name, changes_too in state.observers.items() if changes_too or word.kind != "changed"]
    return *woken.letters, *(Outgoing(to=name, letter=word) for name in hearers)


def told(error: BaseException) -> str:
    """An error in words."""
    return f"{type(error).__name__}: {clean(str(error))}"[:_TOLD]


def _checked(state: EntityState, change: Change, collections: Mapping[str, Collection[Any]]) -> Change:
    collection = collections.get(change.collection)
    if collection is None or not collection.writable:
        raise BadRow(f"{state.name} has no collection {change.collection!r} that others may write")
    row = None if change.row is None else collection.read(change.key, change.row)
    return collection.change(change.key, row)


def _changed(state: EntityState, waiting: Waiting, changes: Sequence[Change]) -> Letter | None:
    if not changes or not any(state.observers.values()):
        return None
    keys: dict[str, dict[str, None]] = {}
    for change in changes:
        keys.setdefault(change.collection, {})[change.key] = None
    return _word(state, waiting, "changed", {name: list(each) for name, each in keys.items()})


def _end(state: EntityState, waiting: Waiting, body: JsonValue) -> Letter | None:
    return _word(state, waiting, "finished", body) if state.observers else None


def _word(state: EntityState, waiting: Waiting, kind: LetterKind, body: JsonValue) -> Letter:
    return Letter(kind=kind, sender=state.name, value=body, hops=waiting.letter.hops + 1)


def _is_due(state: EntityState, id: str) -> bool:
    return any(one.letter.kind == "due" and one.letter.id == id for one in state.waiting)
