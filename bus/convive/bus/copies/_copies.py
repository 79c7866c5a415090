"""Copies of a conversation: imported from an archive, or forked from one that goes on elsewhere."""

import time
from collections.abc import Callable

from convive.bus.conversation._bus import Bus
from convive.bus.conversation._conversation import Conversation
from convive.bus.copies._archive import Archive, BadArchive
from convive.bus.copies._copying import Change, Copy, CopyOrigin, NameTaken
from convive.bus.log._errors import BeyondTail, NotAppended, UnknownConversation
from convive.bus.log._log import Record
from convive.bus.log._subjects import is_derived

__all__ = ["Change", "NameTaken", "fork", "import_archive"]


async def import_archive(
    bus: Bus, archive: Archive, name: str | None = None, clock: Callable[[], float] = time.time
) -> Conversation:
    """Bring an archive onto a bus: under its own name with its own run ids, or under another name as a fork of it.

    A record that was to expire does so when it would have, and is left out after that. Interrupted, it is completed by
    calling it again. Raises BadName, NameTaken, BadArchive (the file changed meanwhile, or has a record that this bus
    would never take) and errors of the bus.
    """
    target = await bus.conversation(name or archive.conversation)
    copy = await Copy.begin(target, clock)
    if target.id != archive.conversation:
        copy.origin = CopyOrigin(archive.conversation, archive.last)
    for number, record in enumerate(archive.records(), 2):
        try:
            target.log.check(copy.plain(record))
        except NotAppended as error:
            raise BadArchive(archive.path, number, str(error)) from None
    for record in archive.records():
        await copy.take(record)
    await copy.finish()
    return target


async def fork(
    bus: Bus,
    source: Conversation,
    name: str,
    until: int | None = None,
    change: Change | None = None,
    clock: Callable[[], float] = time.time,
) -> Conversation:
    """A new conversation that begins as another one was at a sequence number: all of its records, but for live text.

    Without `until`, as it is now, or was when this fork was begun. Its end is left out, and a grant that was open is
    revoked, so that it can go on. Its runs have ids of their own, and `opened` names the origin. `change` may rewrite
    `opened` (topic, chairs, setting). A record that expires does so in both at once. Interrupted, it is completed by
    calling it again. Raises BadName, BeyondTail, UnknownConversation, NameTaken and errors of the bus.
    """
    base = source.subjects.base
    last = await source.log.last(f"{base}.>")
    if last is None:
        raise UnknownConversation(source.id)
    if until is not None and until > (end := await source.log.end()):
        raise BeyondTail(source.id, until, end)
    cut = last.seq if until is None else min(until, last.seq)
    await source.floor(cut)
    target = await bus.conversation(name)
    if target.id == source.id:
        raise NameTaken(target.id)
    copy = await Copy.begin(target, clock)
    if until is None:
        cut = copy.begun_at(source.id) or cut
    copy.origin = CopyOrigin(source.id, cut, change)
    async with source.log.read(f"{base}.>", until=cut) as records:
        async for record in records:
            below = record.subject[len(base) + 1 :]
            if not is_derived(below):
                await copy.take(Record(below, record.seq, record.time_s, record.headers, record.body))
    await copy.finish()
    return target
