"""What the leader of a stream knows: the first and last record of a subject, and our own copy of what was refused."""

from convive.bus.jetstream._connect import ApiError, Connection
from convive.bus.jetstream._jetstream_reader import BoundedReader
from convive.bus.jetstream._jetstream_records import stored
from convive.bus.log._log import MESSAGE_ID, Draft, Record, guards_itself

_NO_MESSAGE = 10037
_NO_PAGE = 2**31 - 1


async def last_record(connection: Connection, stream: str, subject: str) -> Record | None:
    """The last record on a subject, or None. Raises BusUnavailable."""
    return await _get(connection, stream, {"last_by_subj": subject})


async def first_record(connection: Connection, stream: str, subject: str, after: int) -> Record | None:
    """The first record on a subject behind `after`, or None. Raises BusUnavailable."""
    return await _get(connection, stream, {"seq": after + 1, "next_by_subj": subject})


async def subjects_of(connection: Connection, stream: str, pattern: str) -> dict[str, int]:
    """The subjects that match, and how many records each holds. Raises BusUnavailable."""
    found: dict[str, int] = {}
    while True:
        query = {"subjects_filter": pattern, "offset": len(found)}
        answer = await connection.api(f"STREAM.INFO.{stream}", query)
        page: dict[str, int] = answer["state"].get("subjects") or {}
        found.update(page)
        if not page or len(found) >= int(answer.get("total", 0)):
            return found


async def end_if_empty(connection: Connection, stream: str, subject: str) -> int:
    """The end of the log while no record stands on a subject, else 0. Raises BusUnavailable.

    Both by one answer of one server, which takes the end first: two may be asked while a leader is replaced, and what
    comes between two questions would stand before an end that was asked for last.
    """
    # Only how many subjects there are, and no page of their names.
    found = await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": subject, "offset": _NO_PAGE})
    return 0 if found.get("total") else int(found["state"]["last_seq"])


async def own_place(connection: Connection, stream: str, draft: Draft, after: int) -> int | None:
    """The place of our own copy of a draft that the server refused, behind `after`; None when it was never stored.

    Raises BusUnavailable when that cannot be known now.
    """
    if guards_itself(draft):  # on the guarded subjects our copy can only be the first
        record = await first_record(connection, stream, draft.subject, after)
        if record is None:
            return None
        ours = record.body == draft.body if draft.id is None else record.headers.get(MESSAGE_ID) == draft.id
        return record.seq if ours else None

    async def newest() -> int:
        last = await last_record(connection, stream, draft.subject)
        return last.seq if last is not None and last.seq > after else 0

    reader = BoundedReader(connection, stream, (draft.subject,), after, None, None, newest)
    try:
        await reader.open()
        async for record in reader:
            if record.headers.get(MESSAGE_ID) == draft.id:
                return record.seq
    finally:
        await reader.close()
    return None


async def holds(connection: Connection, stream: str, place: int, draft: Draft) -> bool:
    """Whether the record at a place is a copy of a draft, or was one that has been removed since."""
    record = await _get(connection, stream, {"seq": place})
    if record is not None:
        return (record.subject, record.body) == (draft.subject, draft.body)
    found = await connection.api(f"STREAM.INFO.{stream}")
    return place <= int(found["state"]["last_seq"])


async def _get(connection: Connection, stream: str, query: dict[str, object]) -> Record | None:
    try:
        return stored(await connection.api(f"STREAM.MSG.GET.{stream}", query))
    except ApiError as error:
        if error.code == _NO_MESSAGE:
            return None
        raise
