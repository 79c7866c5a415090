"""Many records by few requests, without a consumer, which would be a worker of a queue: pages (NATS ADR-31)."""

import contextlib
import json

import anyio
import nats.errors
from nats.aio.msg import Msg

from convive.bus.jetstream._connect import API_ATTEMPT_S, CLOSED, Connection
from convive.bus.jetstream._jetstream_own import last_record, subjects_of
from convive.bus.jetstream._jetstream_records import paged
from convive.bus.log._log import Record, whole_number

PAGE, PAGE_BYTES = 1_000, 8_388_608
"""The most that a server is asked for at once."""


async def last_records(connection: Connection, stream: str, pattern: str) -> list[Record]:
    """The last record of each subject that matches, in the order of the stream: two requests and one a page.

    Which subjects there are is the leader's word. Pages come from any server, so that one which was asked to may have
    an older record of a subject; what it has not heard of at all is asked of the leader, one by one. Raises
    BusUnavailable.
    """
    there = await subjects_of(connection, stream, pattern)
    found: dict[str, Record] = {}
    after, more = 0, bool(there)
    while more:
        page, more = await _page(connection, stream, pattern, after)
        found.update((record.subject, record) for record in page if record.subject in there)
        more = more and bool(page)
        after = page[-1].seq if page else after
    for subject in there.keys() - found.keys():
        if (record := await last_record(connection, stream, subject)) is not None:
            found[subject] = record
    return sorted(found.values(), key=lambda record: record.seq)


async def _page(connection: Connection, stream: str, pattern: str, after: int) -> tuple[list[Record], bool]:
    """Some of the records behind a place, and whether there may be more. None when no server answers in time."""
    found: list[Record] = []
    pending, ended = 1, anyio.Event()

    async def receive(message: Msg) -> None:
        nonlocal pending
        record = paged(message)
        if record is not None:
            found.append(record)
            return
        headers: dict[str, str] = message.headers or {}
        pending = whole_number(headers.get("Nats-Num-Pending", "")) or 0
        ended.set()

    inbox = connection.inbox()
    subscription = await connection.subscribe(inbox, receive)
    query = {"seq": after + 1, "next_by_subj": pattern, "batch": PAGE, "max_bytes": PAGE_BYTES}
    try:
        with anyio.move_on_after(API_ATTEMPT_S):
            await connection.client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(query).encode(), reply=inbox)
            await ended.wait()
    except CLOSED:
        raise connection.closed() from None
    except nats.errors.OutboundBufferLimitError:
        return [], False
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
    return found, pending > 0
