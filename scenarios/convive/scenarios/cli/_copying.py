"""What the commands that copy and compare conversations do: `export`, `import`, `fork`, `diff`."""

import json
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from rich.console import Console
from rich.text import Text

from convive.agents import entities
from convive.bus import (
    Archive,
    BadArchive,
    Bus,
    Conversation,
    ConviveError,
    Difference,
    Floor,
    Happening,
    Joined,
    Left,
    Opened,
    Remembered,
    RunContext,
    SeatName,
    difference,
    export_lines,
    fold_floor,
    fork,
    import_archive,
    open_archive,
)
from convive.scenarios.cli._commands import Where, tell
from convive.scenarios.cli._play import find, new_name
from convive.scenarios.cli._transcript import shown
from convive.scenarios.cli._watch import Span
from convive.scenarios.party._party import Guest, Party, PartyError, invite
from convive.scenarios.party._party_file import party_from
from convive.scenarios.party._table_guest import INTENTION

STANDARD = Path("-")
"""Standard input or output."""


async def export(bus: Bus, name: str, to: Path, span: Span) -> None:
    """Write a conversation or an entity into a new file, or to standard output."""
    lines = await (_lines_of_entity(bus, name, span) if "/" in name else _lines_of(bus, name, span))
    try:
        if to == STANDARD:
            await _write(lines, sys.stdout.buffer)
            return
        with _new_file(to) as file:
            count = await _write(lines, file)
    except BrokenPipeError:
        raise  # whoever reads it has seen enough
    except OSError as error:
        whole = "What came out is no whole export" if to == STANDARD else "Nothing was written"
        place = "standard output" if to == STANDARD else to
        raise ConviveError(f"{place} cannot be written: {error.strerror or error}. {whole}.") from None
    tell(f"{count} records of {name} are in {to}. Bring them onto a bus with: convive import {to}")


async def _lines_of(bus: Bus, name: str, span: Span) -> AsyncGenerator[bytes]:
    conversation = await bus.existing(name)
    return export_lines(conversation, await cut_of(conversation, span))


async def _lines_of_entity(bus: Bus, name: str, span: Span) -> AsyncGenerator[bytes]:
    await entities.look(bus, name)
    if span.last is None:
        return entities.export_entity(bus, name)
    if span.last.startswith("turn:"):
        raise ConviveError(f"{name} is an entity and has no turns: give a sequence number, or a time.")
    space, cut = await bus.conversation(entities.EntityName.of(name).space), 0
    async with space.log.read(f"{space.subjects.base}.>") as records:
        async for record in records:
            if span.ended(record, 0):
                break
            cut = record.seq
        else:
            if span.ends_beyond(0, await space.log.end()):
                raise ConviveError(f"{name} has not come to {span.last} yet: it is at {cut}. Nothing was done.")
    return entities.export_entity(bus, name, cut)


@contextmanager
def _new_file(to: Path) -> Generator[BinaryIO]:
    """A file that was not there, and is not afterwards when it was not written to its end. Raises OSError."""
    file = to.open("xb")
    try:
        with file:
            yield file
    except BaseException:
        to.unlink(missing_ok=True)
        raise


async def _write(source: AsyncGenerator[bytes], to: BinaryIO) -> int:
    count = -2  # the first line and the last
    async with aclosing(source) as lines:
        async for line in lines:
            to.write(line)
            count += 1
    to.flush()
    return count


async def bring(bus: Bus, path: Path, name: str | None, where: Where) -> None:
    """Import a file, a pipe or standard input, once it was checked from end to end."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as spool:
        try:
            archive = _opened(path, spool)
            entity = entities.entity_in(archive)
            if entity is not None:
                await _bring_entity(bus, archive, entity, name, where)
                return
            copy = await import_archive(bus, archive, name)
        except BadArchive as error:
            raise BadArchive(_shown(path), error.line, error.why) from None
        except OSError as error:
            why = error.strerror or str(error)
            raise ConviveError(f"{_shown(path)} cannot be read: {why}. Nothing was imported.") from None
    tell(f"{archive.count} records are on the bus. See them: convive replay {copy.id}{where.options}")
    if copy.id != archive.conversation and (await copy.floor()).closed is None:
        tell(f"{copy.id} is a fork of {archive.conversation}: an end is left out, so it can go on from there.")


async def _bring_entity(bus: Bus, archive: Archive, name: entities.EntityName, as_name: str | None, at: Where) -> None:
    if as_name is not None and as_name not in (str(name), name.space):
        raise ConviveError(f"{no_fork(str(name))} Nothing was imported; leave out --as.")
    state = await entities.import_entity(bus, archive)
    tell(f"{archive.count} records are on the bus. See them: convive entity show {name} --runs{at.options}")
    if state.is_over:
        tell(f"{name} is {state.status}, here as there.")
        return
    waits = f" (letters that wait: {len(state.waiting)})" if state.waiting else ""
    tell(
        f"{name} is {state.status} here{waits} and goes on with whoever hosts it here; the original is not told. "
        "Import what belongs to it before that."
    )


def no_fork(name: str) -> str:
    """Why there is no other one like an entity."""
    return (
        f"{name} is an entity: others know it by that name, and its children, times and observers would be in two "
        "hands under another. Export it, and import it on another bus; or spawn a new one and give it the rows."
    )


def _opened(path: Path, spool: IO[bytes]) -> Archive:
    """Raises BadArchive or OSError. A pipe is copied to `spool` first: an archive is read more than once."""
    if path != STANDARD and not path.is_fifo():
        return open_archive(path)
    with sys.stdin.buffer if path == STANDARD else path.open("rb") as pipe:
        shutil.copyfileobj(pipe, spool)
    spool.flush()
    return open_archive(Path(spool.name))


def _shown(path: Path) -> Path:
    return Path("standard input") if path == STANDARD else path


async def cut_of(conversation: Conversation, span: Span) -> int | None:
    """The last sequence number that is not behind the end of a span; None: all there is. Raises ConviveError."""
    if span.last is None:
        return None
    floor, cut = Floor(), 0
    async with conversation.read() as records:
        async for record in records:
            floor = fold_floor(floor, record)
            if span.ended(record, floor.turn):
                break
            cut = record.seq
        else:
            if span.ends_beyond(floor.turn, await conversation.log.end()):
                raise ConviveError(
                    f"{conversation.id} has not come to {span.last} yet: it is at {cut}, in turn {floor.turn}. "
                    "Nothing was done."
                )
    if not cut:
        raise ConviveError(f"nothing of {conversation.id} is at or before {span.last}. Nothing was done.")
    return cut


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different in a fork; None or empty: the same."""

    topic: str | None = None
    models: tuple[str, ...] = ()
    """`MODEL` for everybody, or `SEAT=MODEL`."""
    guests: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    turns: int | None = None


async def split(bus: Bus, source: str, name: str | None, span: Span, changes: Changes, where: Where) -> None:
    """Fork a party, with changes, and say how to go on with it. Raises PartyError before anything was written."""
    if "/" in source:
        raise ConviveError(f"{no_fork(source)} Nothing was changed.")
    conversation = await bus.existing(source)
    try:
        evening = await find(bus, source)
    except PartyError:  # opened by other means, which go on with it as well
        evening = None
    party = None if evening is None else changed(evening.party, changes)
    if party is None and changes != Changes():
        raise PartyError(f"{source} is no party of `convive run`: it can be forked, but not changed.")
    until = await cut_of(conversation, span)

    def change(opened: Opened) -> Opened:
        if party is None:
            return opened
        return opened.model_copy(update={"topic": party.topic, "setting": party.public()})

    there = await fork(bus, conversation, name or new_name(source[:50]), until, change)
    if evening is not None and party is not None:
        await _seat(there, evening.party, party)
    go_on = f" Go on with it:\n  convive run --conversation {there.id}{where.options}" if party else ""
    tell(f"{there.id} begins as {source} was{f' at {until}' if until else ''}.{go_on}")


def changed(party: Party, changes: Changes) -> Party:
    """The party with the changes. Raises PartyError."""
    given: dict[str, Any] = {name: getattr(party, name) for name in Party.model_fields}
    guests: list[Guest] = [guest for guest in party.guests if guest.seat not in changes.without]
    for seat in changes.without:
        _known(seat, party.guests, "--without")
    come = {guest.seat for guest in guests}
    guests += invite(seat for seat in changes.guests if seat not in come)
    for wish in changes.models:
        seat, equals, model = wish.partition("=")
        if equals:
            _known(seat, guests, "--model")
            # Checked where parties are.
            guests = [guest.model_copy(update={"model": model}) if guest.seat == seat else guest for guest in guests]
        else:
            given["model"] = wish
            guests = [guest.model_copy(update={"model": None}) for guest in guests]
    given["guests"] = [
        guest.model_dump(exclude={"participant"}, exclude_none=True) | {"participant": guest.participant}
        for guest in guests
    ]
    for name in ("topic", "turns"):
        if (value := getattr(changes, name)) is not None:
            given[name] = value
    return party_from(given, "the fork")


def _known(seat: str, guests: Sequence[Guest], option: str) -> None:
    if seat not in {guest.seat for guest in guests}:
        raise PartyError(f"{option} {seat}: nobody of that name comes. Guests: {', '.join(g.seat for g in guests)}.")


async def _seat(there: Conversation, before: Party, after: Party) -> None:
    """Those who come and those who go do so where the fork begins: what was said before stays said."""
    opened = (await there.floor()).opened
    assert opened is not None  # noqa: S101 - `floor` raises otherwise
    run = RunContext.root(opened.run_id)
    seated = {guest.seat for guest in before.guests}
    for guest in after.guests:
        if guest.seat not in seated:
            if guest.intention:
                await there.remember(SeatName(guest.seat), [Remembered(text=guest.intention, kind=INTENTION)], run)
            await there.aside(SeatName(guest.seat), Joined(about=guest.about), run)
    for seat in seated - {guest.seat for guest in after.guests}:
        await there.aside(SeatName(seat), Left(reason="not in this fork"), run)


async def compare(left: Conversation, right: Conversation, *, as_json: bool) -> bool:
    """Print where two conversations part; says whether they do."""
    found = await difference(left, right)
    if as_json:
        print(json.dumps(_row(found)))  # noqa: T201 - standard output is this command's result
        return not found.equal
    out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for what in found.opened:
        out.print(Text(f"opened with another {what}"))
    out.print(Text(f"the same: {found.same} happenings, to the end of turn {found.turn}"))
    if found.left is not None or found.right is not None:
        out.print(Text(f"then {left.id}{_behind(found.more[0])}:", style="dim"))
        out.print(Text(f"  {_told(found.left)}"))
        out.print(Text(f"and {right.id}{_behind(found.more[1])}:", style="dim"))
        out.print(Text(f"  {_told(found.right)}"))
    for seat in found.memories:
        out.print(Text(f"{seat} remembers other things"))
    if found.equal:
        out.print(Text("no difference"))
    return not found.equal


def _behind(more: int) -> str:
    return f" (and {more} more behind it)" if more else ""


def _told(happening: Happening | None) -> str:
    if happening is None:
        return "nothing more"
    text = shown(happening.text)
    return f"{happening.seq}  {happening.seat} {happening.what}{f': {text}' if text else ''}"


def _row(found: Difference) -> dict[str, object]:
    sides = {
        side: None
        if one is None
        else {"seq": one.seq, "turn": one.turn, "what": one.what, "seat": one.seat, "text": one.text}
        for side, one in (("left", found.left), ("right", found.right))
    }
    return {
        "equal": found.equal,
        "opened": found.opened,
        "same": found.same,
        "turn": found.turn,
        **sides,
        "more": found.more,
        "memories": found.memories,
    }
