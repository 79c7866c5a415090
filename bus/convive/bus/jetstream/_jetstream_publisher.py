"""Durable appends: one inbox for all acknowledgements, deadlines, and retries of the same bytes.

nats-py's own `publish_async` leaves futures unresolved after a server restart, and its `publish` turns a
late acknowledgement into a second record. Here every draft carries an id or a guard that its own record moves
(docs/adr/0002), so sending it again is safe: the server stores it once (architecture.md section 3, "What bites").
"""

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from pydantic_core import from_json

from convive.bus.jetstream._connect import CLOSED, Connection
from convive.bus.jetstream._jetstream_own import holds, own_place
from convive.bus.log._errors import BusUnavailable, Conflict, MaybeAppended, NotAppended
from convive.bus.log._log import MESSAGE_ID, TTL, Draft, check_batch, check_draft, guards_itself

ATTEMPT_S = 2.0
"""An acknowledgement that is this late was probably lost: the same bytes are sent again."""

SWEEP_S = 0.25
"""How often appends in flight are looked after: the precision of both deadlines."""

RETRY_S = 0.1
"""How long to wait before asking again what has no answer yet."""

WINDOW = 1000
"""Pipelined appends in flight. More gains nothing, and a server drops what overflows its ingest queue."""

_WRONG_LAST_SEQUENCE = 10071
_GUARDED_WRITE_IN_FLIGHT = 10164
_DUPLICATE_IN_BATCH = 10201
_NO_STREAM = -1
"""Ours, and no `err_code`: the answer has status 503 and no body, since nobody takes the subject."""

_TRY_AGAIN = {
    _GUARDED_WRITE_IN_FLIGHT: 0.002,
    10008: RETRY_S,  # a leader is being elected
    10158: 0.01,  # an earlier copy of ours is on its way through the replicas
    10176: 0.01,  # part of a batch was lost on the way
    10210: 0.01,  # too many batches at once
    _NO_STREAM: RETRY_S,
}
"""Refusals that pass, and how many seconds to wait before the next attempt."""

_LOOK = "Look whether it is there before you append it again: without an id it would be stored twice."
_KNOWN = "the server knows the id of this batch, and its first record is not there any more"
_LOOK_WHAT_IS_LEFT = "It was stored before; look what is left of it."
_LEFT = "the connection was closed before an acknowledgement came"

_NO_ROOM = (10023, 10047)
_BATCH_BYTES = 96
"""What a batch adds to the headers of a record, at most."""

_LAST_SEQUENCE = re.compile(r"(\d+)\s*$")


@dataclass(slots=True)
class _InFlight:
    drafts: tuple[Draft, ...]
    headers: tuple[dict[str, str], ...]
    reply: str
    answer: asyncio.Future[dict[str, Any]]
    began_s: float
    sent_s: float
    behind: int
    """Where earlier copies of it can stand: only behind this sequence number."""
    new: bool
    """No earlier call can have stored it, since its id was made up for this one."""
    attempts: int = 0
    unsure: bool = False
    """An attempt had no answer, so a copy may be stored."""


class Publisher:
    """Appends drafts to whatever stream takes their subjects."""

    def __init__(self, connection: Connection, patience_s: float) -> None:
        self._connection = connection
        self._patience_s = patience_s
        self._inbox = connection.inbox()
        self._token = secrets.token_urlsafe(6)
        self._count = 0
        self._newest: dict[str, int] = {}
        self._in_flight: dict[str, _InFlight] = {}
        self._waiting = asyncio.Event()
        self._over = False

    async def start(self) -> None:
        """Listen for acknowledgements. Once, before the first append. Raises BusUnavailable."""
        await self._connection.subscribe(f"{self._inbox}.*", self._acknowledged)
        # A barrier: nats-py sends the PING of its `flush` before the SUB that waits with it.
        await self._connection.api("INFO")
        self._connection.on_reconnect(self._send_all_again)
        self._connection.tasks.start_soon(self._look_after)

    async def append(self, stream: str, draft: Draft, schedule: Mapping[str, str] | None = None) -> int:
        """See `Log.append`. `schedule`: headers that have the server store the record elsewhere later (NATS ADR-51)."""
        flight = await self._send(stream, [draft], schedule)
        return await self._settle(stream, flight)

    async def append_batch(self, stream: str, drafts: Sequence[Draft]) -> list[int]:
        """See `Log.append_batch` (NATS ADR-50)."""
        check_batch(drafts)
        if not drafts:
            return []
        first = await self._settle(stream, await self._send(stream, drafts))
        return list(range(first, first + len(drafts)))

    async def append_all(self, stream: str, drafts: Sequence[Draft]) -> list[int]:
        """See `Log.append_all`."""
        places: list[int] = []
        for start in range(0, len(drafts), WINDOW):
            flights: list[_InFlight] = []
            try:
                for draft in drafts[start : start + WINDOW]:
                    flights.append(await self._send(stream, [draft]))  # noqa: PERF401 - those sent must be known if one fails
                places += [await self._settle(stream, flight) for flight in flights]
            finally:
                for flight in flights:
                    self._in_flight.pop(flight.reply, None)
                    if flight.answer.done() and not flight.answer.cancelled():
                        flight.answer.exception()  # read: asyncio complains of errors that nobody looked at
                    flight.answer.cancel()
        return places

    async def post(self, draft: Draft) -> None:
        """See `Log.post`."""
        if not self._connection.lost:
            await self._publish(draft, self._checked(draft), "")

    def check(self, draft: Draft) -> None:
        """See `Log.check`."""
        self._checked(draft)

    def _checked(self, draft: Draft, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The headers that a draft is sent with. Raises NotAppended."""
        check_draft(draft)
        headers = {**_headers(draft), **(more or {})}
        # The server counts the headers as well, and nats-py, which does not, loses the connection for good over it.
        size, most = len(draft.body) + _size(headers) + _BATCH_BYTES, self._connection.client.max_payload
        if size > most:
            raise NotAppended(
                f"{draft.subject}: the record has {size} bytes, {len(draft.body)} of them in its body; the server "
                f"takes {most}. Nothing was appended; shorten it, or store it elsewhere and append a reference."
            )
        return headers

    async def _send(self, stream: str, drafts: Sequence[Draft], schedule: Mapping[str, str] | None = None) -> _InFlight:
        if self._over:
            raise self._connection.closed()
        headers = tuple(self._checked(draft, schedule) for draft in drafts)
        first, *others = drafts
        behind = max(first.guard.last if first.guard else 0, (first.at or 1) - 1)
        new = first.id is None and not guards_itself(first)
        if new:
            first = replace(first, id=secrets.token_hex(8))
            headers[0][MESSAGE_ID] = str(first.id)
            behind = max(behind, self._newest.get(stream, 0))
        self._count += 1
        reply = f"{self._inbox}.{self._count}"
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        every = (first, *others)
        flight = _InFlight(every, headers, reply, loop.create_future(), now_s, now_s, behind, new)
        self._in_flight[reply] = flight
        self._waiting.set()
        try:
            await self._launch(flight)
        except BaseException:
            del self._in_flight[reply]
            raise
        return flight

    async def _launch(self, flight: _InFlight) -> None:
        """Send the bytes of an append: those of a batch under a new name each time, as another batch."""
        flight.attempts += 1
        if len(flight.drafts) == 1:
            await self._publish(flight.drafts[0], flight.headers[0], flight.reply)
            return
        batch = f"{self._token}{flight.reply.rpartition('.')[2]}.{flight.attempts}"
        last = len(flight.drafts)
        for place, (draft, own) in enumerate(zip(flight.drafts, flight.headers, strict=True), 1):
            headers = {**own, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(place)}
            if place == last:
                headers["Nats-Batch-Commit"] = "1"
            await self._publish(draft, headers, flight.reply if place == last else "")

    async def _publish(self, draft: Draft, headers: dict[str, str], reply: str) -> None:
        try:
            await self._connection.client.publish(draft.subject, draft.body, reply=reply, headers=headers or None)
        except nats.errors.OutboundBufferLimitError:
            return  # disconnected with a full buffer: it is sent again after the reconnect
        except CLOSED:
            raise self._connection.closed() from None

    async def _settle(self, stream: str, flight: _InFlight) -> int:
        """The place of an append, that of its first record if it is a batch."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                answer = await flight.answer
                error = answer.get("error")
                if error is None:
                    last = int(answer["seq"])
                    self._newest[stream] = max(last, self._newest.get(stream, 0))
                    return last - len(flight.drafts) + 1
                code = int(error.get("err_code", 0))
                if code in (_WRONG_LAST_SEQUENCE, _DUPLICATE_IN_BATCH):
                    return await self._own_or_conflict(stream, flight, code, str(error.get("description", "")))
                refused = _refused(flight, code, str(error.get("description")))
                if code not in _TRY_AGAIN:
                    raise refused
                if self._over or loop.time() - flight.began_s > self._patience_s:
                    # Of one that is not new, the copy of an earlier call may be what was in the way.
                    raise refused if flight.new else _unknown(flight)
                await asyncio.sleep(_TRY_AGAIN[code])
                flight.answer = loop.create_future()
                await self._resend([flight])
        finally:
            self._in_flight.pop(flight.reply, None)

    async def _look_after(self) -> None:
        """As long as the bus is open, see to what is in flight; what is under way when it is left is given up.

        One task for all appends in flight: a deadline of its own for each would cost as much as the append.
        """
        try:
            while True:
                await self._waiting.wait()
                await asyncio.sleep(SWEEP_S)
                self._sweep()
                if not self._in_flight:
                    self._waiting.clear()
        finally:
            self._over = True
            for flight in self._in_flight.values():
                if not flight.answer.done():
                    flight.answer.set_exception(_unknown(flight, _LEFT))

    def _sweep(self) -> None:
        """Send again what should have been acknowledged by now, and give up what is out of patience."""
        now_s = asyncio.get_running_loop().time()
        late: list[_InFlight] = []
        for flight in self._in_flight.values():
            if flight.answer.done():
                continue
            if self._connection.client.is_closed:
                flight.answer.set_exception(_unknown(flight, _LEFT))
            elif now_s - flight.began_s > self._patience_s:
                flight.answer.set_exception(_unknown(flight))
            elif now_s - flight.sent_s > ATTEMPT_S:
                late.append(flight)
        if late:
            self._send_again(late)

    async def _own_or_conflict(self, stream: str, flight: _InFlight, code: int, description: str) -> int:
        """A refusal may mean that our own earlier copy is what came first: one node checks guards before duplicates,
        three nodes the other way round. Read from the leader to know."""
        while True:
            try:
                found = await self._own(stream, flight)
            except BusUnavailable:  # no leader, or no server: it cannot be known yet
                closed = self._connection.client.is_closed
                if closed or asyncio.get_running_loop().time() - flight.began_s > self._patience_s:
                    raise _unknown(flight) from None
                await asyncio.sleep(RETRY_S)
            else:
                break
        if found is not None:
            return found
        if flight.unsure and flight.drafts[0].replaces:  # what has replaced our copy leaves nothing to know it by
            raise _unknown(flight)
        if code == _DUPLICATE_IN_BATCH:
            raise _unknown(flight, _KNOWN, _LOOK_WHAT_IS_LEFT)
        draft = next((draft for draft in flight.drafts if draft.guard), flight.drafts[0])
        match = _LAST_SEQUENCE.search(description)
        expected = draft.guard.last if draft.guard else (draft.at or 1) - 1
        raise Conflict(draft.subject, expected, int(match[1]) if match else -1)

    async def _own(self, stream: str, flight: _InFlight) -> int | None:
        if flight.new and not flight.unsure:
            return None
        place = await own_place(self._connection, stream, flight.drafts[0], flight.behind)
        if place is None or len(flight.drafts) == 1:
            return place
        last = len(flight.drafts) - 1
        return place if await holds(self._connection, stream, place + last, flight.drafts[last]) else None

    async def _acknowledged(self, message: Msg) -> None:
        flight = self._in_flight.get(message.subject)
        if flight is None or flight.answer.done():
            return
        if not message.data:
            # The stream is being created, or its leader is being elected.
            flight.answer.set_result({"error": {"err_code": _NO_STREAM, "description": "no stream takes this subject"}})
            return
        flight.answer.set_result(from_json(message.data))

    def _send_all_again(self) -> None:
        self._send_again([flight for flight in self._in_flight.values() if not flight.answer.done()])

    def _send_again(self, unanswered: list[_InFlight]) -> None:
        for flight in unanswered:
            flight.unsure = True
        self._connection.tasks.start_soon(self._resend, unanswered)

    async def _resend(self, flights: list[_InFlight]) -> None:
        for flight in flights:
            if not flight.answer.done() and not self._connection.lost:
                flight.sent_s = asyncio.get_running_loop().time()
                try:
                    await self._launch(flight)
                except BusUnavailable:  # for this copy; an earlier one may be stored
                    if not flight.answer.done():
                        flight.answer.set_exception(_unknown(flight, _LEFT))


def _unknown(flight: _InFlight, why: str = "", cure: str = "") -> MaybeAppended:
    waited_s = round(asyncio.get_running_loop().time() - flight.began_s, 1)
    cure = cure or (_LOOK if flight.new else "")
    return MaybeAppended(flight.drafts[0].subject, waited_s, why=why, cure=cure)


def _refused(flight: _InFlight, code: int, description: str) -> NotAppended | MaybeAppended:
    if flight.unsure:  # this copy was refused; another may be stored
        return _unknown(flight)
    number = f" ({code})" if code > 0 else ""
    told = f"{flight.drafts[0].subject}: the server refused the record: {description}{number}. Nothing was appended"
    if code in _NO_ROOM:
        return NotAppended(
            f"{told}: its disk, or what JetStream may use of it, is full. Make room: trim, or free disk."
        )
    return NotAppended(f"{told}.")


def _size(headers: dict[str, str]) -> int:
    """The bytes of headers on the wire: `NATS/1.0`, a line each, an empty line (NATS ADR-4)."""
    return 12 + 4 * len(headers) + len("".join((*headers, *headers.values())).encode())


def _headers(draft: Draft) -> dict[str, str]:
    headers = dict(draft.headers)
    if draft.id is not None:
        headers[MESSAGE_ID] = draft.id
    if draft.guard is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(draft.guard.last)
        if draft.guard.subjects != draft.subject:
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = draft.guard.subjects
    if draft.ttl_s is not None:
        headers[TTL] = str(draft.ttl_s)
    if draft.replaces:
        headers["Nats-Rollup"] = "sub"
    if draft.at is not None:
        headers["Nats-Expected-Last-Sequence"] = str(draft.at - 1)
    return headers
