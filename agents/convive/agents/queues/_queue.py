"""Queued runs: an order on a work queue, a run that keeps its journal on the bus, a handle that follows it."""

import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import anyio
from pydantic import JsonValue, TypeAdapter, ValidationError

from convive.agents.journal._fold import opening_of
from convive.agents.journal._folding import Folding
from convive.agents.journal._journal import Place, journal_event_of
from convive.agents.models._messages import Message
from convive.agents.queues._channel import channel_space
from convive.agents.runs._frame import current_frame
from convive.agents.runs._incoming import incoming
from convive.agents.runs._result import AgentResult, result_of
from convive.bus import (
    BadRecord,
    Bus,
    ConviveError,
    Event,
    Job,
    Record,
    RunContext,
    RunId,
    Tail,
    WorkQueue,
    is_slug,
    queue_name,
    run_of,
    unreadable,
)

PARKING_S, LOOKS = 1.0, 20
"""How long it may take from the record that a run waits until its job is parked; how often one looks meanwhile."""

MAX_ATTEMPTS = 5
"""How often a run is begun or continued before it is given up, unless its sender says otherwise."""

Callback = str | Callable[[Any], object]
UpdateName = Literal["chunk", "done", "error", "paused"]

OUTCOMES: dict[str, UpdateName] = {
    "run_finished": "done",
    "run_failed": "error",
    "run_cancelled": "error",
    "suspended": "paused",
}
"""Journal records that say how a run came out. Everything else in the journal is a step on the way."""

ENDINGS = ("done", "error")
_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class NoBus(ConviveError):
    """A run was to be queued, and nobody said on which bus. Nothing was sent."""


class BadCallback(ConviveError):
    """A callback that another process could not find. Nothing was sent."""


class QueuedAlready(ConviveError):
    """A run of that id was queued, or run, with another input or for another agent. Nothing was sent."""


class RunOrder(Event):
    """The body of a job: which agent is to do what. The job's id is the run's, its headers are those of the run."""

    type: Literal["run_order"] = "run_order"
    agent: str
    input: str | None = None
    history: tuple[Message, ...] = ()
    session_id: str | None = None
    max_attempts: int = MAX_ATTEMPTS
    on_success: str | None = None
    on_failure: str | None = None
    channel: str | None = None
    event_prefix: str | None = None


def order_of(job: Job) -> tuple[RunOrder, RunContext]:
    """Read a job. Raises BadRecord, or NewerRecord for an order that a newer version sent."""
    try:
        order, run = RunOrder.model_validate_json(job.body), run_of(job.headers)
    except ValidationError as error:
        raise unreadable(f"job {job.id}", 0, job.body, error, "an order for a run") from None
    except ConviveError as error:
        raise BadRecord(f"job {job.id}", 0, f"not an order for a run: {error}") from None
    if run is None or run.run_id != job.id:
        raise BadRecord(f"job {job.id}", 0, "not an order for a run: its headers name another run, or none")
    return order, run


async def place_of(bus: Bus, queue: str) -> Place:
    """Where the runs of a queue keep their journals: the name space `queue-<name>`. Raises BadName."""
    space = await bus.conversation(f"queue-{queue_name(queue)}")
    return Place(space.log, space.subjects.base)


def keyed_run(queue: str, key: str) -> RunContext:
    """The run of a key: the same in every process, so that sending it again is sending it once."""
    return RunContext.root(RunId(hashlib.blake2b(f"{queue}\0{key}".encode(), digest_size=16).hexdigest()))


@dataclass(frozen=True, slots=True)
class RunUpdate:
    """What happened in a queued run. `data` is the record: a journal event, or live text as `_live` describes it.

    `seq` is its place: `events(after=seq)` goes on behind it. `name` is "chunk" for steps and live text; "done",
    "error" and "paused" are how the run came out, each exactly once to a follower, since they are journal records.
    A prefix that the follower asked for stands before the name.
    """

    name: str
    run_id: RunId
    seq: int
    data: dict[str, JsonValue]


class QueuedRun:
    """A run that was sent, followed from any process: `find_queued(bus, queue, run_id)` needs nothing else."""

    def __init__(self, place: Place, run: RunContext) -> None:
        self.run = run
        self._place = place

    @property
    def run_id(self) -> RunId:
        """The run's id."""
        return self.run.run_id

    async def result(self) -> AgentResult:
        """The run's result, once it has ended or is suspended, however long ago. Cancelling this leaves the run alone.

        Failed, cancelled and given-up runs have a result too. Raises BusUnavailable, or BadRecord for a damaged
        journal.
        """
        folding, paused = Folding(), False
        async with self._place.log.follow(self._place.journal(self.run)) as tail:
            while folding.now.ended is None and not (paused and tail.caught_up):
                record = await tail.next()
                if record is None:
                    continue
                event = journal_event_of(record)
                paused = OUTCOMES.get(event.type) == "paused"
                try:
                    folding.take(event)
                except ValueError as error:
                    raise BadRecord(record.subject, record.seq, str(error)) from None
        state = folding.state
        started = state.started
        assert started is not None  # noqa: S101 - the fold refuses anything before it
        return result_of(state, self.run, opening_of(started.history, started.input))

    @asynccontextmanager
    async def events(self, *, after: int = 0, prefix: str = "") -> AsyncGenerator[AsyncIterator[RunUpdate]]:
        """What happened behind `after`, then what happens; ends behind "done" or "error".

        A suspended run gives "paused" and the iteration waits for it to go on; leave it if that is not wanted. Live
        text is there for two minutes, the text of the answer always. Raises BusUnavailable out of the iteration.
        """
        subjects = (self._place.journal(self.run), self._place.live_text(self.run))
        async with self._place.log.follow(*subjects, after=after) as tail:
            yield _Updates(tail, self.run_id, prefix)


class _Updates:
    """One follower's place. No generator: one that is left half-way would wait to be finalized."""

    def __init__(self, tail: Tail, run: RunId, prefix: str) -> None:
        self._tail = tail
        self._run = run
        self._prefix = prefix
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RunUpdate:
        if self._over:
            raise StopAsyncIteration
        update = None
        while update is None:
            record = await self._tail.next()
            update = None if record is None else shown_by(record, self._run)
        self._over = update.name in ENDINGS
        return replace(update, name=self._prefix + update.name)


def update_of(record: Record, run: RunId, prefix: str = "") -> RunUpdate:
    """What a record of a run, of its journal or live, tells those who follow it. Raises BadRecord."""
    data = _json_of(record)
    name = "chunk" if ".live." in record.subject else OUTCOMES.get(str(data.get("type")), "chunk")
    return RunUpdate(prefix + name, run, record.seq, data)


def shown_by(record: Record, run: RunId, prefix: str = "") -> RunUpdate | None:
    """The same; None for live text that is none of ours: it is for the eye, and ends nothing."""
    try:
        return update_of(record, run, prefix)
    except BadRecord:
        if ".live." in record.subject:
            return None
        raise


def _json_of(record: Record) -> dict[str, JsonValue]:
    try:
        return _OBJECT.validate_json(record.body)
    except ValidationError:
        raise BadRecord(record.subject, record.seq, "not a JSON object") from None


async def wake_worker(bus: Bus, place: Place, run: RunId) -> bool:
    """Have a worker go on with a queued run that was paused; says whether one has it, or will. Raises as `send`."""
    space = place.base.rpartition(".")[2]
    if space.startswith("queue-"):
        return await _woken(await bus.work_queue(space[6:]), str(run))
    source = await _source(place, run)
    queue, job, entity = (source.get(name, "") for name in ("queue", "carrier", "entity"))
    if not (isinstance(queue, str) and isinstance(job, str) and isinstance(entity, str) and job and is_slug(queue)):
        return False
    jobs = await bus.work_queue(queue)
    if not await _woken(jobs, job):  # it is lost, or another one went on with this wake
        await jobs.send(Job(f"{run}-{secrets.token_hex(4)}", _EntityJob(entity=entity).body()))
    return True


async def _woken(jobs: WorkQueue, job: str) -> bool:
    if await jobs.waiting(job) is None:
        return False
    # Whoever carries it out may be about to park it, and be lost before it has seen that there is an answer.
    for _ in range(LOOKS):
        if await jobs.wake(job) or await jobs.waiting(job) is None:
            break
        await anyio.sleep(PARKING_S / LOOKS)
    return True


class _EntityJob(Event):
    """The job of whoever goes on with an entity: what every host reads, see `EntityJob` there."""

    type: Literal["entity_job"] = "entity_job"
    entity: str


async def _source(place: Place, run: RunId) -> dict[str, JsonValue]:
    """What a run came from, by its first record: of an entity's wake it says on which queue which job carries it."""
    async with place.log.read(f"{place.base}.run.*.{run}") as records:
        async for record in records:
            event = journal_event_of(record)
            source = event.source if event.type == "run_started" else None
            return source if isinstance(source, dict) else {}
    return {}


async def find_queued(bus: Bus, run_id: RunId, *, queue: str = "default", root: RunId | None = None) -> QueuedRun:
    """A handle on a queued run by its id, in any process. `root`: the outermost run above it, when there is one.

    Nothing is asked: a run that no worker has begun yet has no records. Raises BadName.
    """
    return QueuedRun(await place_of(bus, queue), RunContext(run_id, root or run_id))


@dataclass(frozen=True, slots=True)
class Queueing:
    """A run about to be queued; nothing happens before `send`. See `queued`."""

    agent: str
    input: str | None
    queue: str = "default"
    delay_s: float = 0.0
    key: str | None = None
    run: RunContext | None = None
    session_id: str | None = None
    history: Sequence[Message] = field(default=())
    max_attempts: int = MAX_ATTEMPTS
    on_success: Callback | None = None
    on_failure: Callback | None = None
    channel: str | None = None
    event_prefix: str | None = None

    async def send(self, bus: Bus | None = None) -> QueuedRun:
        """Send it, on `bus` or else on the one of `queueing_on`. It is stored when this returns.

        Sending it again, with the same key or run id, changes nothing: do that after MaybeAppended. Raises NoBus,
        BadName, BadCallback, QueuedAlready, NotAppended (too large) or another error of the bus.
        """
        if self.max_attempts < 1 or (self.input is None and not self.history):
            raise ValueError("a queued run needs an input or a history, and an attempt at least")
        if self.channel is not None:
            channel_space(self.channel)
        bus = bus or _bus.get()
        if bus is None:
            raise NoBus(
                f"the run of {self.agent!r} was not sent: there is no bus. Give one, `send(bus)`, or send within "
                "`with queueing_on(bus):`."
            )
        run, session_id = self._run()
        order = RunOrder(
            agent=self.agent,
            input=self.input,
            history=tuple(self.history),
            session_id=session_id,
            max_attempts=self.max_attempts,
            on_success=_reference(self.on_success),
            on_failure=_reference(self.on_failure),
            channel=self.channel,
            event_prefix=self.event_prefix,
        )
        work, place = await bus.work_queue(self.queue), await place_of(bus, self.queue)
        job = Job(run.run_id, order.body(), run.headers())
        if self._is_new or not await _known(order, job, run, place, await work.waiting(job.id)):
            await work.send(job, self.delay_s)
        return QueuedRun(place, run)

    @property
    def _is_new(self) -> bool:
        return self.key is None and self.run is None and current_frame() is None

    def _run(self) -> tuple[RunContext, str | None]:
        frame = current_frame()
        session_id = self.session_id or (None if frame is None else frame.session_id)
        if self.run is not None:
            return self.run, session_id
        if self.key is not None:
            return keyed_run(self.queue, self.key), session_id
        if frame is not None:  # the same again when the tool runs again, so that a crash queues nothing twice
            return frame.child(self.agent, self.input or ""), session_id
        return RunContext.root(started_from=incoming()), session_id


async def _known(order: RunOrder, job: Job, run: RunContext, place: Place, waits: Job | None) -> bool:
    """Whether this run was sent before, by what waits or by its journal. Raises QueuedAlready when it is another."""
    if waits is not None:
        if waits.body != job.body:
            raise QueuedAlready(f"run {run.run_id} was queued with other words or options. Take another key.")
        return True
    async with place.log.read(place.journal(run)) as records:
        async for record in records:
            started = journal_event_of(record)
            same = started.type == "run_started" and (started.agent, started.input) == (order.agent, order.input)
            if not same:
                raise QueuedAlready(f"run {run.run_id} ran already, with another input or agent. Take another key.")
            return True
    return False


def queued(agent: str, input: str | None = None, *, queue: str = "default", **options: Any) -> Queueing:
    """A run of the agent of that name, to be done by a worker: `await queued("support", "...").send(bus)`.

    `delay_s`: not before that. `key`: makes it one run however often it is sent; without one, or `run`, each sending
    is a run, but inside of a tool it is a child of the tool's run, and the same one when the tool is repeated.
    `on_success`, `on_failure`: `module:function`, or such a function, called with the result by the worker, at least
    once; with `on_failure` a failed run is settled, see `work`. `channel`: a name such as `user.42.support`, under
    which `follow_channel` finds the run, with `event_prefix` before the names of its updates.
    """
    return Queueing(agent, input, queue, **options)


def _reference(callback: Callback | None) -> str | None:
    """A callback by a name that another process can find. Raises BadCallback."""
    if callback is None:
        return None
    if isinstance(callback, str):
        module, colon, name = callback.partition(":")
        found = callback if module and colon and name.isidentifier() else ""
    else:
        module, name = getattr(callback, "__module__", ""), getattr(callback, "__qualname__", "")
        found = f"{module}:{name}" if module not in ("", "__main__") and str(name).isidentifier() else ""
    if not found:
        raise BadCallback(
            f"{callback!r} cannot be found by a worker in another process. Nothing was sent; give 'module:function', "
            "or a function that stands at the top of an importable module."
        )
    return found


_bus: ContextVar[Bus | None] = ContextVar("convive_queue_bus", default=None)


@contextmanager
def queueing_on(bus: Bus) -> Generator[None]:
    """Where `send()` sends to in this block, and in the tasks that it starts. A worker's runs queue on its own bus."""
    token = _bus.set(bus)
    try:
        yield
    finally:
        _bus.reset(token)
