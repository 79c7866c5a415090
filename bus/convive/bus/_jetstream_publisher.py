"""Durable appends: one inbox for all acknowledgements, deadlines, and retries of the same bytes.

nats-py's own `publish_async` leaves futures unresolved after a server restart, and its `publish` turns a
late acknowledgement into a second record. Here every draft carries an id or a guard that its own record moves
(docs/adr/0002), so sending it again is safe: the server stores it once (architecture.md section 3, "What bites").
"""

import asyncio
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from convive.bus._connect import CLOSED, ApiError, Connection
from convive.bus._errors import BusUnavailable, Conflict, MaybeAppended, NotAppended
from convive.bus._jetstream_records import stored
from convive.bus._log import MESSAGE_ID, Draft, Guard, check_draft, matches

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
_SAME_ID_IN_FLIGHT = 10158
"""On several nodes: an earlier copy is on its way through the replicas. Whether it arrives, only asking again tells."""
_IN_FLIGHT = (_GUARDED_WRITE_IN_FLIGHT, _SAME_ID_IN_FLIGHT)
_TEMPORARILY_UNAVAILABLE = 10008
_NO_ROOM = (10023, 10047)
_NO_MESSAGE = 10037
_NO_STREAM = -1
"""Ours, and no `err_code`: the answer has status 503 and no body, since nobody takes the subject."""

_LAST_SEQUENCE = re.compile(r"(\d+)\s*$")


@dataclass(slots=True)
class _InFlight:
    draft: Draft
    headers: dict[str, str]
    reply: str
    answer: asyncio.Future[dict[str, Any]]
    began_s: float
    sent_s: float
    unanswered: int = 1
    """How many copies of it went out that nothing was heard of."""


class Publisher:
    """Appends drafts to whatever stream takes their subjects."""

    def __init__(self, connection: Connection, patience_s: float) -> None:
        self._connection = connection
        self._patience_s = patience_s
        self._inbox = connection.inbox()
        self._count = 0
        self._in_flight: dict[str, _InFlight] = {}
        self._some = asyncio.Event()
        self._over = False

    async def start(self) -> None:
        """Listen for acknowledgements. Once, before the first append. Raises BusUnavailable."""
        await self._connection.subscribe(f"{self._inbox}.*", self._acknowledged)
        # A barrier: nats-py sends the PING of its `flush` before the SUB that waits with it.
        await self._connection.api("INFO")
        self._connection.on_reconnect(self._send_all_again)
        self._connection.tasks.start_soon(self._keep)

    async def append(self, stream: str, draft: Draft, schedule: Mapping[str, str] | None = None) -> int:
        """See `Log.append`. `schedule`: headers that have the server store the record elsewhere later (NATS ADR-51)."""
        flight = await self._send(draft, schedule)
        return await self._settle(stream, flight)

    async def append_all(self, stream: str, drafts: Sequence[Draft]) -> list[int]:
        """See `Log.append_all`."""
        places: list[int] = []
        for start in range(0, len(drafts), WINDOW):
            flights: list[_InFlight] = []
            try:
                for draft in drafts[start : start + WINDOW]:
                    flights.append(await self._send(draft))  # noqa: PERF401 - those sent must be known if one fails
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
            check_draft(draft)
            await self._publish(draft, _headers(draft), "")

    async def _send(self, draft: Draft, schedule: Mapping[str, str] | None = None) -> _InFlight:
        check_draft(draft)
        if self._over:
            raise self._connection.closed()
        if draft.id is None and not _guards_itself(draft):
            draft = replace(draft, id=secrets.token_hex(8))
        self._count += 1
        reply = f"{self._inbox}.{self._count}"
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        flight = _InFlight(draft, {**_headers(draft), **(schedule or {})}, reply, loop.create_future(), now_s, now_s)
        self._in_flight[reply] = flight
        self._some.set()
        try:
            await self._publish(draft, flight.headers, reply)
        except BaseException:
            del self._in_flight[reply]
            raise
        return flight

    async def _publish(self, draft: Draft, headers: dict[str, str], reply: str) -> None:
        # The server counts the headers as well, and nats-py, which does not, loses the connection for good over it.
        size, most = len(draft.body) + _size(headers), self._connection.client.max_payload
        if size > most:
            raise NotAppended(
                f"{draft.subject}: the record has {size} bytes, {len(draft.body)} of them in its body; the server "
                f"takes {most}. Nothing was appended; shorten it, or store it elsewhere and append a reference."
            )
        try:
            await self._connection.client.publish(draft.subject, draft.body, reply=reply, headers=headers or None)
        except nats.errors.OutboundBufferLimitError:
            return  # disconnected with a full buffer: it is sent again after the reconnect
        except CLOSED:
            raise self._connection.closed() from None

    async def _settle(self, stream: str, flight: _InFlight) -> int:
        loop = asyncio.get_running_loop()
        try:
            while True:
                answer = await flight.answer
                flight.unanswered -= 1
                error = answer.get("error")
                if error is None:
                    return int(answer["seq"])
                code = int(error.get("err_code", 0))
                if code == _WRONG_LAST_SEQUENCE:
                    return await self._own_or_conflict(stream, flight, str(error.get("description", "")))
                if code not in (*_IN_FLIGHT, _TEMPORARILY_UNAVAILABLE, _NO_STREAM):
                    if flight.unanswered:  # this copy was refused; an earlier one may be stored
                        raise MaybeAppended(flight.draft.subject, round(loop.time() - flight.began_s, 1))
                    raise NotAppended(_refusal(flight.draft.subject, code, str(error.get("description"))))
                if self._over or loop.time() - flight.began_s > self._patience_s:
                    raise MaybeAppended(flight.draft.subject, self._patience_s)
                # Another guarded write, or our own copy, is on its way through the replicas; or there is no leader yet.
                flight.answer = loop.create_future()
                await asyncio.sleep(0.002 if code in _IN_FLIGHT else RETRY_S)
                await self._resend([flight])
        finally:
            self._in_flight.pop(flight.reply, None)

    async def _keep(self) -> None:
        """Look after what is in flight as long as the bus is open; what is under way when it is left is given up.

        One task for all appends in flight: a deadline of its own for each would cost as much as the append. A timer of
        the loop could not start tasks: under `asyncio.run`, anyio does not know where it is in one.
        """
        try:
            while True:
                await self._some.wait()
                await asyncio.sleep(SWEEP_S)
                if self._in_flight:
                    self._look_after()
                else:
                    self._some.clear()
        finally:
            self._over = True
            now_s = asyncio.get_running_loop().time()
            for flight in self._in_flight.values():
                if not flight.answer.done():
                    waited_s = round(now_s - flight.began_s, 1)
                    flight.answer.set_exception(MaybeAppended(flight.draft.subject, waited_s))

    def _look_after(self) -> None:
        """Send again what should have been acknowledged by now, and give up what is out of patience."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        late: list[_InFlight] = []
        for flight in self._in_flight.values():
            if flight.answer.done():
                continue
            waited_s = now_s - flight.began_s
            if waited_s > self._patience_s or self._connection.client.is_closed:
                flight.answer.set_exception(MaybeAppended(flight.draft.subject, round(waited_s, 1)))
            elif now_s - flight.sent_s > ATTEMPT_S:
                late.append(flight)
        if late:
            self._connection.tasks.start_soon(self._resend, late)

    async def _own_or_conflict(self, stream: str, flight: _InFlight, description: str) -> int:
        """A refused guard may mean that our own earlier copy is what came first: one node checks guards
        before duplicates, three nodes the other way round. Read from the leader to know."""
        draft = flight.draft
        guard = draft.guard or Guard(draft.subject, 0)
        while True:
            try:
                found = await own_record(self._connection, stream, draft, guard)
            except BusUnavailable:  # no leader, or no server: it cannot be known yet
                closed = self._connection.client.is_closed
                if closed or asyncio.get_running_loop().time() - flight.began_s > self._patience_s:
                    raise MaybeAppended(draft.subject, self._patience_s) from None
                await asyncio.sleep(RETRY_S)
            else:
                break
        if found is not None:
            return found
        match = _LAST_SEQUENCE.search(description)
        raise Conflict(draft.subject, guard.last, int(match[1]) if match else -1)

    async def _acknowledged(self, message: Msg) -> None:
        flight = self._in_flight.get(message.subject)
        if flight is None or flight.answer.done():
            return
        if not message.data:
            # The stream is being created, or its leader is being elected.
            flight.answer.set_result({"error": {"err_code": _NO_STREAM, "description": "no stream takes this subject"}})
            return
        flight.answer.set_result(json.loads(message.data))

    def _send_all_again(self) -> None:
        self._connection.tasks.start_soon(self._resend, list(self._in_flight.values()))

    async def _resend(self, flights: list[_InFlight]) -> None:
        for flight in flights:
            if not flight.answer.done() and not self._connection.lost:
                flight.sent_s = asyncio.get_running_loop().time()
                flight.unanswered += 1
                try:
                    await self._publish(flight.draft, flight.headers, flight.reply)
                except (NotAppended, BusUnavailable):  # of this copy; an earlier one may be stored
                    flight.answer.set_exception(MaybeAppended(flight.draft.subject, self._patience_s))


async def own_record(connection: Connection, stream: str, draft: Draft, guard: Guard) -> int | None:
    """The place of our own copy of a draft that a guard refused, or None when it was never stored.

    Raises BusUnavailable when that cannot be known now.
    """
    after = guard.last
    while True:
        try:
            query = {"seq": after + 1, "next_by_subj": draft.subject}
            record = stored(await connection.api(f"STREAM.MSG.GET.{stream}", query))
        except ApiError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise
        ours = record.body == draft.body if draft.id is None else record.headers.get(MESSAGE_ID) == draft.id
        if ours:
            return record.seq
        # On the guarded subjects our copy can only be the first; elsewhere records of others may stand before it.
        if _guards_itself(draft):
            return None
        after = record.seq


def _refusal(subject: str, code: int, description: str) -> str:
    told = f"{subject}: the server refused the record: {description} ({code}). Nothing was appended"
    if code in _NO_ROOM:
        return f"{told}: its disk, or what JetStream may use of it, is full. Make room and start it again."
    return f"{told}."


def _guards_itself(draft: Draft) -> bool:
    """Whether the record itself moves its guard, so that it can be stored but once."""
    return draft.guard is not None and matches(draft.guard.subjects, draft.subject)


def _size(headers: dict[str, str]) -> int:
    """The bytes of headers on the wire: `NATS/1.0`, a line each, an empty line (NATS ADR-4)."""
    return 12 + sum(
        len(name) + len(value if value.isascii() else value.encode()) + 4 for name, value in headers.items()
    )


def _headers(draft: Draft) -> dict[str, str]:
    headers = dict(draft.headers)
    if draft.id is not None:
        headers[MESSAGE_ID] = draft.id
    if draft.guard is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(draft.guard.last)
        if draft.guard.subjects != draft.subject:
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = draft.guard.subjects
    if draft.ttl_s is not None:
        headers["Nats-TTL"] = str(draft.ttl_s)
    return headers
