"""Workers: take queued runs and carry them out, each from where its journal stands."""

import importlib
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import anyio

from convive.agents.journal._chain import LEAVE_RUN, Chain, RunTaken
from convive.agents.journal._journal import Place, RunFailed, RunStarted, journal_event_of
from convive.agents.models._errors import ModelAnswerBroken, ModelError
from convive.agents.models._failover import OnFailure, telling
from convive.agents.models._model import Answer, Delta, Model, Request, holds_to_schema
from convive.agents.queues._channel import announce
from convive.agents.queues._queue import OUTCOMES, QueuedRun, RunOrder, order_of, place_of, queueing_on
from convive.agents.runs._agent import Agent
from convive.agents.runs._result import AgentResult
from convive.agents.runs._run import OtherRun
from convive.bus import BadRecord, Bus, ConviveError, Lease, NewerRecord, NotAppended, RunContext, WorkQueue

RETRY_S = 1.0
"""How long after a first failure a run is taken up again; each further one doubles it, up to `RETRY_MOST_S`."""

RETRY_MOST_S = 300.0
LEAVING_S = 5.0
LOST_S = 1.0

_log = logging.getLogger("convive.agents")


class UnknownAgent(ConviveError):
    """A worker was given a run of an agent that it does not have."""


class WorkersLost(ConviveError):
    """Every attempt at a run was broken off, as by a worker that was killed: the run may be what kills them."""


class TryLater(ConviveError):
    """The model's provider asks to come back later. The run stands where it is."""


async def work(
    bus: Bus,
    agents: Mapping[str, Agent],
    *,
    queue: str = "default",
    concurrency: int = 1,
    retry_s: float = RETRY_S,
    lease_s: float = 10.0,
    begun: Callable[[RunContext], object] | None = None,
) -> None:
    """Carry out the runs of a queue, `concurrency` at a time, until cancelled. Any number of workers may.

    A run that this worker leaves, by being cancelled or killed, is continued by another: its journal says what is done.
    An overloaded provider, an error that somebody can mend and an agent that is not known here are tried again,
    after `retry_s` and then twice as long each time; when the order's attempts are spent, the run has failed, and
    the job is kept as a dead one. What ends a run otherwise (also a failure) ends the job. Callbacks are called
    before that, and again when the worker is lost meanwhile; one that raises is an attempt that failed. When the
    attempts are spent, `on_failure` is called once at most. A run that needs answers is put aside; `answer(bus, ...)`
    in any process has a worker go on with it, with all its attempts again. `begun` is told of each
    run that is taken up. Raises BadName, BusUnavailable, WrongStream.
    """
    _check_agents(agents)
    if concurrency < 1:
        raise ValueError(f"a worker does one run at a time at least, not {concurrency}")
    jobs = await bus.work_queue(queue, lease_s=lease_s)
    worker = _Worker(bus, jobs, await place_of(bus, queue), dict(agents), retry_s, begun)
    with queueing_on(bus):
        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(concurrency):
                    tasks.start_soon(take_jobs, jobs, worker.settle)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def _check_agents(agents: object) -> None:
    given = list(cast("Mapping[object, object]", agents).values()) if isinstance(agents, Mapping) else [None]
    if not all(isinstance(each, Agent) for each in given):
        raise TypeError('agents= takes agents by their names, as in {"support": support}.')


class _Worker:
    def __init__(
        self,
        bus: Bus,
        jobs: WorkQueue,
        place: Place,
        agents: Mapping[str, Agent],
        retry_s: float,
        begun: Callable[[RunContext], object] | None,
    ) -> None:
        self._bus = bus
        self._jobs = jobs
        self._place = place
        self._agents = agents
        self._retry_s = retry_s
        self._begun = begun

    async def settle(self, lease: Lease) -> None:
        """Carry out one job, and say what became of it."""
        try:
            order, run = order_of(lease.job)
        except NewerRecord as error:
            await self._leave(lease, error)
            return
        except BadRecord as error:
            await bury(lease, str(error))
            return
        if self._begun is not None:
            self._begun(run)
        try:
            result = await self._result(order, run, lease)
        except RunTaken as error:
            # The other one has the job, or its lease: an acknowledgement would take it from whoever comes after it.
            _log.info("%s", error)
        except LEAVE_RUN as error:
            _log.warning("run %s is left to its next attempt: %s", run.run_id, error)
            await anyio.sleep(LOST_S)
        except NewerRecord as error:
            await self._leave(lease, error)
        except (OtherRun, BadRecord, NotAppended) as error:
            await bury(lease, str(error))  # the journal under this id is not this run's, or cannot be written on
        else:
            if result is not None:
                await (self._park(run, lease) if result.status == "suspended" else lease.done())

    async def _result(self, order: RunOrder, run: RunContext, lease: Lease) -> AgentResult | None:
        """The result of a job's run; None when it is tried again, or given up. Raises what says that it is not this
        worker's, and what kept its failure out of the journal."""
        try:
            if order.channel is not None:
                await announce(self._bus, order.channel, run, self._place, order.event_prefix)
            return await self._perform(order, run, lease)
        except (*LEAVE_RUN, OtherRun, BadRecord):
            raise
        except Exception as error:  # noqa: BLE001 - an application's own; recorded when the attempts are spent
            await self._again(order, run, lease, error)
            return None

    async def _leave(self, lease: Lease, error: NewerRecord) -> None:
        """Give a job back to newer workers: it is in order, and takes no attempt of theirs."""
        _log.warning("job %s is left to a newer worker: %s", lease.job.id, error)
        await anyio.sleep(self._retry_s)
        await lease.release()

    async def _park(self, run: RunContext, lease: Lease) -> None:
        """Keep the job of a run that waits for answers until there are some."""
        try:
            await lease.park()
            # Who answered before the job was parked could not wake it.
            last = await self._place.log.last(self._place.journal(run))
            if last is not None and journal_event_of(last).type != "suspended":
                await self._jobs.wake(lease.job.id)
        except ConviveError as error:
            _log.warning("job %s waits for answers and could not be parked: %s", lease.job.id, error)

    async def _perform(self, order: RunOrder, run: RunContext, lease: Lease) -> AgentResult:
        if lease.attempt > order.max_attempts:
            raise WorkersLost(f"{order.max_attempts} attempts ended without a word: their workers were lost.")
        agent = self._agents.get(order.agent)
        if agent is None:
            raise UnknownAgent(f"no agent {order.agent!r} here. This worker knows: {', '.join(sorted(self._agents))}.")
        model = agent.settings().model
        result = await agent.execute(
            order.input,
            history=order.history,
            session_id=order.session_id,
            run=run,
            place=self._place,
            on_cancel="leave",
            model=model if lease.attempt >= order.max_attempts else _Patient(model),
        )
        await _call_back(order, result)
        return result

    async def _again(self, order: RunOrder, run: RunContext, lease: Lease, error: Exception) -> None:
        failed = RunFailed.of(error, transient=True)
        if lease.attempt < order.max_attempts and not isinstance(error, NotAppended):
            delay_s = min(self._retry_s * 2 ** (lease.attempt - 1), RETRY_MOST_S)
            _log.warning("run %s, attempt %d of %d: %s", run.run_id, lease.attempt, order.max_attempts, failed.message)
            await lease.retry(delay_s)
            return
        recorded = await self._record(order, run, failed)
        if not recorded and isinstance(error, WorkersLost):
            await lease.done()  # the last of them had done its work
            return
        await bury(lease, f"{failed.error}: {failed.message}")
        if recorded and order.on_failure is not None:
            try:
                await _call(order.on_failure, await QueuedRun(self._place, run).result())
            except Exception as raised:  # noqa: BLE001 - an application's own, and the last word on this job
                _log.error("run %s: %s failed: %s", run.run_id, order.on_failure, raised)

    async def _record(self, order: RunOrder, run: RunContext, failed: RunFailed) -> bool:
        """Write the run's end into its journal; False when it has come out already, one way or another."""
        last = await self._place.log.last(self._place.journal(run))
        if last is not None and journal_event_of(last).type in OUTCOMES:
            return False
        chain = Chain(self._place, run)
        await chain.read()
        if chain.state.started is None:
            started = RunStarted(
                agent=order.agent,
                model="",
                root=run.root_run_id,
                parent=run.parent_run_id,
                session_id=order.session_id,
                input=order.input,
                history=order.history,
            )
            try:
                await chain.append(started)
            except NotAppended:  # too large for a journal: that is why it failed
                await chain.append(started.model_copy(update={"input": None, "history": (), "source": "the job"}))
        await chain.append(failed)
        return True


class _Patient:
    """A model whose overload is no failure of the run yet: the run is left as it stands, and taken up later."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.structured_output = holds_to_schema(model)

    @property
    def name(self) -> str:
        return self._model.name

    def telling(self, on_failure: OnFailure) -> Model:
        """The same, with `on_failure` told: see `FailoverModel`."""
        return _Patient(telling(self._model, on_failure))

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Delta | Answer]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: Request) -> AsyncGenerator[AsyncIterator[Delta | Answer]]:
        try:
            async with self._model.stream(request) as items:
                yield items
        except ModelError as error:
            if error.transient and not isinstance(error, ModelAnswerBroken):
                raise TryLater(str(error)) from error
            raise


async def take_jobs(jobs: WorkQueue, settle: Callable[[Lease], Awaitable[None]]) -> None:
    """Take one job after the other, and keep each until it is settled; cancelled, give it back at once."""
    while True:
        lease = await jobs.take()
        try:
            async with _kept(lease):
                await settle(lease)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(LEAVING_S, shield=True):
                await lease.release()
            raise


@asynccontextmanager
async def _kept(lease: Lease) -> AsyncGenerator[None]:
    """Extends the lease beside the block; the block's own error comes out as it is."""

    async def extend() -> None:
        while True:
            await anyio.sleep(lease.lease_s / 3)
            await lease.extend()

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(extend)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _call_back(order: RunOrder, result: AgentResult) -> None:
    """Tell the order's callback of an outcome. An error of `on_success` is told to `on_failure`, too."""
    outcome = OUTCOMES.get({"completed": "run_finished", "suspended": "suspended"}.get(result.status, "run_failed"))
    if outcome == "done" and order.on_success is not None:
        try:
            await _call(order.on_success, result)
        except Exception as error:
            if order.on_failure is None:
                raise
            _log.warning("run %s: %s failed: %s", result.run_id, order.on_success, error)
            await _call(order.on_failure, result)
    elif outcome == "error" and order.on_failure is not None:
        await _call(order.on_failure, result)


async def _call(reference: str, result: AgentResult) -> None:
    module, _, name = reference.partition(":")
    answer = getattr(importlib.import_module(module), name)(result)
    if inspect.isawaitable(answer):
        await answer


async def bury(lease: Lease, reason: str) -> None:
    _log.error("job %s is given up: %s", lease.job.id, reason)
    try:
        await lease.bury(reason)
    except ConviveError as error:
        _log.warning("job %s could not be given up yet: %s", lease.job.id, error)
