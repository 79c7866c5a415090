"""Traces for OpenTelemetry, while they happen and afterwards: from the log, so that both are the same spans."""

import logging
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

from convive.agents.journal._journal import Place
from convive.agents.journal._waiting import Where
from convive.agents.otel._export_thread import INTERVAL_S, Background
from convive.agents.otel._measured_log import Appended, MeasuredLog
from convive.agents.otel._otel_settings import Export, export_of, shown_url
from convive.agents.traces._finished import finished
from convive.agents.traces._trace import Trace
from convive.agents.traces._trace_reading import read_trace
from convive.bus import Bus, Conversation, ConviveError, Log, Record, RunContext, RunId

EXIT_S = 3.0
"""How long the end of a process may wait for a collector, at most."""
PATIENCE_S = 0.05
"""Between two looks at whether the thread has room again."""
MOST_KNOWN = 10_000

T = TypeVar("T")
_log = logging.getLogger("convive.agents")


class NotExported(ConviveError):
    """A collector did not take a trace, or not all of it. What it took it may be sent again."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was sent: where to, how many spans, and how many nodes are not over yet and were left out."""

    url: str
    spans: int
    open_nodes: int


async def export_trace(where: Where, which: str, environ: Mapping[str, str] = os.environ) -> Exported:
    """Send a trace, found as by `find_trace`, to the collector that the standard's environment variables name.

    The same trace gives the same bytes each time, and ids that a backend knows. Raises UnknownRun, BadCollector,
    NotExported, and errors of the bus.
    """
    export = export_of(environ, asked=True)
    assert export is not None  # noqa: S101 - it was asked for
    assert export.traces is not None  # noqa: S101 - the same
    trace = await read_trace(where, which, keep_events=export.content)
    return await _beside(partial(_send, trace, export, export.traces))


def _send(trace: Trace, export: Export, url: str) -> Exported:
    from convive.agents.otel._otel import SpanMaker, resource  # half a second: only for those who export
    from convive.agents.otel._otel_send import Collector, batch_of

    maker, collector = SpanMaker(resource(), export.content), Collector(url, export.timeout_s)
    nodes = list(finished(trace))
    spans = deque([*(span for node in nodes for span in maker.spans(node)), *maker.missing(trace)])
    every, sent = len(spans), 0
    try:
        while spans:
            batch = batch_of(spans)
            outcome = collector.send(maker.request(batch))
            if outcome.why:
                raise NotExported(
                    f"{shown_url(url)}: {outcome.why}. {sent} of {every} spans were sent before that. Nothing "
                    "is lost: the trace is in the log, and can be sent again as it is."
                )
            sent += len(batch)
    finally:
        collector.close()
    return Exported(shown_url(url), every, sum(1 for root in trace.roots for _ in root.walk()) - len(nodes))


async def _beside(work: Callable[[], T]) -> T:
    """The result of something that blocks, in a thread that a process does not wait for when this is cancelled."""
    found: list[T] = []
    failed: list[Exception] = []
    done, tell = anyio.Event(), _teller()

    def main() -> None:
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001 - raised again below, where it is waited for
            failed.append(error)
        tell(done.set)

    threading.Thread(target=main, name="convive-export", daemon=True).start()
    await done.wait()
    if failed:
        raise failed[0]
    return found[0]


def _teller() -> Callable[[Callable[[], object]], None]:
    """How another thread has something done in this event loop, if that is still there."""
    token = anyio.lowlevel.current_token()

    def tell(what: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            anyio.from_thread.run_sync(what, token=token)

    return tell


class Exporting:
    """A live export, for as long as its context."""

    def __init__(self, *, only_taken: bool) -> None:
        self.runs: dict[RunId, None] | None = {} if only_taken else None
        self.roots: dict[RunId, None] | None = {} if only_taken else None
        self.put_append: Callable[[Appended], object] | None = None
        """What is told of an append of this process; None when nobody counts them."""

    def measured(self, bus: Bus) -> Bus:
        """The same bus, for all that is to be measured: the appends that are made through it are counted here, if
        metrics are exported. Of several exports in one process, one is to measure."""
        put = self.put_append
        return bus if put is None else bus.around(lambda log: MeasuredLog(log, put))

    def take(self, run: RunContext) -> None:
        """Export this run and those that it calls: for an export of what is taken only."""
        if self.runs is not None and self.roots is not None:
            _keep(self.runs, run.run_id)
            _keep(self.roots, run.root_run_id)


def _keep(known: dict[T, None], one: T) -> None:
    """Remember one more, and forget the oldest of too many."""
    known[one] = None
    if len(known) > MOST_KNOWN:
        del known[next(iter(known))]


@asynccontextmanager
async def exporting(
    where: Conversation | Place,
    *,
    only_taken: bool = False,
    warn: Callable[[str], object] = _log.warning,
    environ: Mapping[str, str] = os.environ,
) -> AsyncGenerator[Exporting]:
    """Send what happens there to a collector while it happens, if the standard's environment variables name one.

    Of a conversation, all of its trace from its beginning; of another place, the runs from now on. One process is to
    do that for a conversation: the one that leads it. `only_taken`: only runs that are named to `take`. While a
    conversation is exported, its `log` measures the appends that are made through it; what else is to be measured goes
    through a bus of `measured`.

    Nothing that happens in the block waits for a collector, fails with it, or is slowed by it. The first trouble is
    told to `warn`; on leaving, what is left is sent, within `EXIT_S` seconds. What did not arrive is in the log:
    `export_trace` sends it.
    """
    taken = Exporting(only_taken=only_taken)
    follower = await _follower(where, taken, warn, environ)
    if follower is None:
        yield taken
        return
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.follow)
        try:
            with follower.measuring():
                yield taken
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
            failure = error
        finally:
            with anyio.CancelScope(shield=True):
                await follower.finish()
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _follower(
    where: Conversation | Place, taken: Exporting, warn: Callable[[str], object], environ: Mapping[str, str]
) -> "_Follower | None":
    try:
        export = export_of(environ)
        if export is None:
            return None
        follower = _Follower(where, export, taken, warn)
        await follower.begin()
    except ConviveError as error:
        warn(f"traces are not exported: {error}")
        return None
    return follower


class _Follower:
    """Hands every record of a place to the thread that exports."""

    def __init__(
        self, where: Conversation | Place, export: Export, taken: Exporting, warn: Callable[[str], object]
    ) -> None:
        self._where = where
        self._log: Log = where.log
        self._measures = export.metrics is not None
        self._whole = isinstance(where, Conversation)
        self._base = where.subjects.base if isinstance(where, Conversation) else where.base
        self._again = where.id if isinstance(where, Conversation) else "RUN"
        self._subjects = [f"{self._base}.run.*.*"]
        if isinstance(where, Conversation):
            self._subjects.append(where.subjects.floor)
        self._roots = taken.roots
        self._warn = warn
        self._warned = False
        self._began = self._after = 0
        self._reading = anyio.Lock()
        self._known: dict[str, None] = {}
        self._background = Background(export, taken.runs)
        taken.put_append = self._background.put_append if self._measures else None

    async def begin(self) -> None:
        """Settle from where on. Raises errors of the bus."""
        self._began = await self._end()
        self._after = 0 if self._whole else self._began
        self._background.start()

    @contextmanager
    def measuring(self) -> Generator[None]:
        """Have the appends of a conversation measured that are made here: nothing in the log tells of them."""
        if not isinstance(self._where, Conversation) or not self._measures:
            yield
            return
        self._where.log = MeasuredLog(self._log, self._background.put_append)
        try:
            yield
        finally:
            self._where.log = self._log

    async def _end(self) -> int:
        last = await self._log.last(f"{self._base}.>")
        return 0 if last is None else last.seq

    async def follow(self) -> None:
        """Hand over what is there and what comes, until cancelled. Raises nothing.

        What came is read once in a while: that costs the process far less than to be woken for each record.
        """
        while True:
            try:
                await self._catch_up()
            except ConviveError as error:
                self._complain(f"traces are not exported for now: {error}")
            if self._background.trouble:
                self._complain(f"{self._background.trouble}.")
            await anyio.sleep(INTERVAL_S)

    async def _catch_up(self) -> None:
        async with self._reading:
            end = await self._end()
            if end <= self._after:
                return
            async with self._log.read(*self._subjects, after=self._after, until=end) as records:
                async for record in records:
                    if self._whole or await self._is_wanted(record):
                        await self._hand_over(record, fresh=record.seq > self._began)
                    self._after = record.seq
            self._after = end

    async def _hand_over(self, record: Record, *, fresh: bool) -> None:
        """Give a record to the thread, when that has room for it: what was there before may be long."""
        while self._background.is_behind:  # noqa: ASYNC110 - its thread sets no event
            await anyio.sleep(PATIENCE_S)
        self._background.put(record, fresh=fresh)

    async def _is_wanted(self, record: Record) -> bool:
        """Whether a record is of a trace that is exported; of one that began earlier, hands over what was before."""
        root, run = record.subject.split(".")[-2:]
        if self._roots is not None and root not in self._roots:
            return False
        if root not in self._known:
            if run != root or b'"type":"run_started"' not in record.body:
                async with self._log.read(f"{self._base}.run.{root}.*", until=record.seq - 1) as earlier:
                    async for one in earlier:
                        await self._hand_over(one, fresh=False)
            _keep(self._known, root)
        return True

    async def finish(self) -> None:
        """Have everything sent that was written so far, as far as that takes `EXIT_S` seconds. Raises nothing."""
        done = anyio.Event()
        with anyio.move_on_after(EXIT_S) as scope:
            try:
                await self._catch_up()
            except ConviveError as error:
                self._complain(f"the end of what happened is not exported: {error}")
            tell = _teller()
            if not self._background.is_over:
                self._background.finish(lambda: tell(done.set))
                await done.wait()
        if scope.cancelled_caught:
            self._background.abandon()
            self._complain("traces could not all be exported: the collector did not answer in time.")
        elif self._background.trouble:
            self._complain(f"{self._background.trouble}.")

    def _complain(self, words: str) -> None:
        """Tell of the first trouble; the rest of it is no news."""
        if not self._warned:
            self._warned = True
            self._warn(
                f"{words} Nothing else is affected. The log has it all: convive trace {self._again} --export otlp"
            )
