"""A run's text on the bus while it is produced: coalesced, never waited for, never kept for long.

Bodies on `{base}.live.{root}.{run}`:

    {"type":"delta","trip":0,"attempt":1,"offset":12,"text":"..."}     `offset` counts characters of that attempt
    {"type":"update","trip":0,"call":"...","name":"...","value":...}   progress of a tool
    {"type":"end","trip":0,"attempt":1,"length":80}                    the attempt's text is whole

A viewer drops what it has when `trip` or `attempt` changes. No text of an attempt comes after its "end",
the answer's journal record comes after that, and after the run's last record nothing comes at all.
"""

import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from pydantic import JsonValue

from convive.agents.journal._journal import Place
from convive.agents.models._schema import clean, json_of
from convive.bus import ConviveError, Draft, NotAppended, RunContext

LIVE_TTL_S = 120
MOST_UPDATES = 1_000
"""How many updates of tools wait to be posted."""

_INTERVAL_S = 0.05
_PATIENCE_S = 1.0

_log = logging.getLogger("convive.agents")


class Live:
    """Posts for one run. `text`, `update` and `stop` never wait; `pump` runs beside the run and does the sending."""

    def __init__(
        self, place: Place, run: RunContext, interval_s: float = _INTERVAL_S, patience_s: float = _PATIENCE_S
    ) -> None:
        self._log = place.log
        self._subject = place.live_text(run)
        self._headers = run.headers()
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._trip, self._attempt, self._offset = 0, 0, 0
        self._text: list[str] = []
        self._ready = deque[str]()
        self._updates = deque[str](maxlen=MOST_UPDATES)
        self._wake = anyio.Event()
        self._turn = anyio.Lock(fast_acquire=True)
        self._over = False

    def begin(self, trip: int, attempt: int) -> None:
        """A new attempt: its offsets count from 0."""
        self._trip, self._attempt, self._offset = trip, attempt, 0
        self._text.clear()

    def text(self, piece: str) -> None:
        """More text of the attempt."""
        self._text.append(piece)
        self._wake.set()

    def update(self, trip: int, call_id: str, name: str, value: JsonValue) -> None:
        """Progress of a tool. Of more than can be posted, the latest are."""
        self._updates.append(json_of({"type": "update", "trip": trip, "call": call_id, "name": name, "value": value}))
        self._wake.set()

    @asynccontextmanager
    async def pumping(self) -> AsyncGenerator[None]:
        """Pumps beside the block, and no longer; the block's own error comes out as it is."""
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self.pump)
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def pump(self) -> None:
        """Send what there is, at most once an interval, until cancelled."""
        while not self._over:
            await self._wake.wait()
            self._wake = anyio.Event()
            await self._send()
            await anyio.sleep(self._interval_s)

    async def settle(self) -> None:
        """Send the rest of the attempt and its end marker. Waits at most `patience_s`: live text may be lost."""
        with anyio.move_on_after(self._patience_s) as scope:
            self._gather()
            marker = {"type": "end", "trip": self._trip, "attempt": self._attempt, "length": self._offset}
            self._ready.append(json_of(marker))
            await self._send()
        if scope.cancelled_caught:
            self.stop()  # or it would come after the answer's record

    def stop(self) -> None:
        """Send nothing more."""
        self._over = True
        self._updates.clear()
        self._ready.clear()
        self._text.clear()

    def _gather(self) -> None:
        text = clean("".join(self._text))
        self._text.clear()
        if text:
            place = {"type": "delta", "trip": self._trip, "attempt": self._attempt, "offset": self._offset}
            self._ready.append(json_of({**place, "text": text}))
            self._offset += len(text)

    async def _send(self) -> None:
        async with self._turn:
            self._gather()
            while (waiting := self._updates or self._ready) and not self._over:
                body = waiting.popleft().encode()
                try:
                    await self._log.post(Draft(self._subject, body, self._headers, ttl_s=LIVE_TTL_S))
                except NotAppended as error:
                    _log.info("something live of a run is not shown: %s", error)  # too large; the next may not be
                except ConviveError as error:
                    _log.info("live text of a run is off: %s", error)
                    self.stop()
