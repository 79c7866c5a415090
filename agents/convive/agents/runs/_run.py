"""The performer: carries out what `next_step` decides and appends the outcome to the run's journal."""

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import anyio

from convive.agents.journal._chain import LEAVE_RUN
from convive.agents.journal._fold import fold, opening_of
from convive.agents.journal._interrupts import Interrupt, Resolution
from convive.agents.journal._journal import (
    ChildRun,
    Resumed,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunStarted,
    Suspended,
)
from convive.agents.models._errors import ModelError
from convive.agents.models._messages import Message
from convive.agents.runs import _events as shown
from convive.agents.runs._asking import Asking
from convive.agents.runs._execution import Aborted, execution_of
from convive.agents.runs._frame import frame_above
from convive.agents.runs._result import AgentResult, result_of
from convive.agents.runs._settings import Settings, Task, digests
from convive.agents.runs._steps import Ask, Finish, Step, Stop, Suspend, UseTools, may_stop, next_step
from convive.agents.runs._stops import holds
from convive.agents.runs._tool_phase import ToolPhase
from convive.agents.tools._gates import in_bounds
from convive.agents.tools._stopping import CancelMode
from convive.bus import ConviveError, NotAppended

MOST_BELOW = 10
"""How many runs may stand below a run, one below the other."""

_log = logging.getLogger("convive.agents")


class OtherRun(ConviveError):
    """The run id belongs to a run with another input or source. Nothing ran."""


class NestedTooDeeply(ConviveError):
    """Agents call agents below them without end, it seems. The run did not begin."""

    def __init__(self, agent: str) -> None:
        super().__init__(
            f"agent {agent!r} was not asked: {MOST_BELOW} runs stand above it, each called by the one before. "
            "An agent that is among its own tools, or below them, has to come to an end by itself."
        )


class Performer:
    """Executes one run: starts it, or continues it from its journal, or finds it ended. For one use.

    `emit` takes every event, in this task, and must not raise. After `call_off` a cancellation of the executing task
    is recorded whatever the task says.
    """

    def __init__(self, settings: Settings, task: Task, emit: shown.Emit | None = None) -> None:
        self.task = task
        self._settings = settings
        self._execution = execution = execution_of(settings, task, emit)
        self._chain, self._live = execution.chain, execution.live
        self._audience, self._stopping = execution.audience, execution.stopping
        self._asking = Asking(execution)
        self._tools = ToolPhase(execution, lambda: (*self._asking.opening, *self._chain.state.messages))
        self._cause: Exception | None = None

    def call_off(self, reason: str, mode: CancelMode) -> bool:
        """Call the run off; says whether the executing task is to be cancelled for that."""
        self._stopping.ask_for(reason, mode)
        return mode == "now" or (mode == "after_tools" and not self._stopping.in_tools)

    async def perform(self) -> AgentResult:
        """The run's result, also when it failed or had been cancelled.

        Raises RunTaken when another process executes it, errors of the bus (the run can then be continued
        later), and whatever the application's own callables raise (the run has then failed). Exactly one
        terminal record is written, unless the bus is lost or the task says `on_cancel="leave"`.
        """
        try:
            if self._live is None:
                return await self._to_the_end()
            async with self._live.pumping():
                return await self._to_the_end()
        finally:
            self._account()

    def result(self) -> AgentResult:
        """The result of the run that has ended, as far as this process saw it."""
        state = self._chain.state
        if state.started is None:
            state = fold(state, self._started())
        if state.ended is None and (state.suspended is None or self._stopping.reason is not None):
            state = fold(state, RunCancelled(reason=self._stopping.reason or ""))
        return result_of(state, self.task.run, self._asking.opening, self._cause, self._settings.output)

    @property
    def ended(self) -> bool:
        """Whether the journal has its terminal record."""
        return self._chain.state.ended is not None

    async def _to_the_end(self) -> AgentResult:
        under_way = False
        try:
            await self._begin()
            under_way = True
            self._execution.meter.begin(self._chain.state)
            if not self.ended:
                await self._execution.hooks.tell("on_start")
            while not self.ended:
                state = self._chain.state
                meter = self._execution.meter
                stop = may_stop(state) and await holds(self._settings.stop, state)
                step = next_step(state, meter.limits(state), stop, meter.elapsed_s)
                if self._is_over(step):
                    await self._abort()
                elif isinstance(step, Suspend) and not await self._answered(step.suspended):
                    break
                else:
                    await self._carry_out(step)
        except anyio.get_cancelled_exc_class():
            await self._cancelled()
            raise
        except Exception as error:
            if not under_way or self._chain.lost or isinstance(error, LEAVE_RUN) or self.ended:
                raise
            if self.task.on_cancel == "leave" and _mendable(error):
                raise
            await self._failed(error)
            if not isinstance(error, ModelError | NotAppended):
                raise
        result = self.result()
        above = frame_above(self.task.run)
        if result.status == "suspended" and above is not None:
            above.left.append(self._end_left)
        await self._show_end(result)
        return result

    def _account(self) -> None:
        """Tell the tool call around this run what it used, however it ended."""
        frame, state = frame_above(self.task.run), self._chain.state
        if frame is None or state.started is None or state.ended is None:
            return
        status: Literal["completed", "failed", "cancelled"] = "completed"
        if not isinstance(state.ended, RunFinished):
            status = "failed" if isinstance(state.ended, RunFailed) else "cancelled"
        run = self.task.run.run_id
        frame.spent[run] = ChildRun(
            run_id=run,
            agent=state.started.agent,
            status=status,
            usage=state.usage,
            tool_calls=state.tool_calls,
            cost=state.cost,
            known_cost=state.known_cost,
        )

    async def _begin(self) -> None:
        task, chain = self.task, self._chain
        above = frame_above(task.run)
        if above is not None and above.depth >= MOST_BELOW:
            raise NestedTooDeeply(self._settings.name)
        if task.input is None and not task.history:
            await chain.read()  # nothing to start from: the run must be there
        new, started = chain.state.started is None, None
        if new:
            started = self._started()
            self._asking.opening = _opening(started, task)
            if task.fresh:
                await chain.append(started)
            else:
                new = await chain.start(started)
        known = chain.state.started
        assert known is not None  # noqa: S101 - for the type checker: appended or read
        if not new:
            _check_same(known, task)
        if known is not started:  # read, or cleaned before it was appended
            self._asking.opening = _opening(known, task)
        if self._audience:
            await self._audience.tell(shown.RunStarted(task.run, known.agent, resumed=not new))

    def _started(self) -> RunStarted:
        task, referred = self.task, self.task.source is not None
        return RunStarted(
            agent=self._settings.name,
            model=self._settings.model.name,
            root=task.run.root_run_id,
            parent=task.run.parent_run_id,
            session_id=task.session_id,
            input=None if referred else task.input,
            history=() if referred else task.history,
            source=task.source,
            meta=task.meta,
        )

    def _is_over(self, step: Step) -> bool:
        """Whether the run was called off and has come to where it ends."""
        if self._stopping.mode is None or isinstance(step, Finish | Stop):
            return False
        return self._stopping.mode != "after_trip" or not isinstance(step, UseTools)

    async def _abort(self) -> None:
        reason = self._stopping.reason or ""
        await self._end(RunCancelled(reason=reason))

    async def _carry_out(self, step: Step) -> None:
        match step:
            case Ask():
                await self._asking.ask(step)
            case UseTools():
                await self._use_tools(step)
            case Suspend():
                pass  # answered by now
            case Finish():
                if step.warning:
                    _log.warning("run %s of %s: %s", self.task.run.run_id, self._settings.name, step.warning)
                await self._end(RunFinished(text=step.text, reason=step.reason, warning=step.warning))
            case Stop():
                await self._end(RunFailed(error=step.error, message=step.message))

    async def _use_tools(self, step: UseTools) -> None:
        self._stopping.in_tools = True
        try:
            waiting = await self._tools.carry_out(step)
        except Aborted as abort:
            self._stopping.ask_for(str(abort), "after_tools")
            return
        finally:
            self._stopping.in_tools = False
        if waiting:
            await self._suspend(waiting)
        else:
            await self._execution.hooks.tell("on_tool_phase_complete")

    async def _suspend(self, waiting: Sequence[Interrupt]) -> None:
        own, waiting = self.task.run.run_id, in_bounds(waiting)
        expires_s = self._settings.expires_s
        await self._chain.append(
            Suspended(
                interrupts=tuple(each for each in waiting if each.run_id == own),
                below=tuple(each for each in waiting if each.run_id != own),
                token=secrets.token_urlsafe(24),
                expires_at=None if expires_s is None else time.time() + expires_s,
                tools=digests(tool.spec for tool in self._settings.tools.values()),
            )
        )

    async def _answered(self, suspended: Suspended) -> bool:
        """Whether the run above was given answers for this one, which then goes on."""
        frame = frame_above(self.task.run)
        given: Mapping[str, Resolution] = {} if frame is None else frame.answers
        answers = {each.id: given[each.id] for each in suspended.everything if each.id in given}
        if answers:
            await self._chain.append(Resumed(answers=answers))
        return bool(answers)

    async def _end(self, event: RunFinished | RunFailed | RunCancelled) -> None:
        if self._live:
            self._live.stop()
        if not isinstance(event, RunFinished):
            reason = event.reason if isinstance(event, RunCancelled) else "the run above it failed"
            event = event.model_copy(update={"children": await self._tools.give_up(reason)})
        await self._chain.append(event)

    async def _failed(self, error: Exception) -> None:
        self._cause = error
        transient = isinstance(error, ModelError) and error.transient
        await self._end(RunFailed.of(error, transient=transient))
        if not isinstance(error, ModelError | NotAppended):
            await self._show_end(self.result())

    async def _cancelled(self) -> None:
        frame = frame_above(self.task.run)
        # A sibling's suspension cancels the tasks beside it: those runs are continued when the tool is called again.
        left = self.task.on_cancel == "leave" or (frame is not None and bool(frame.waiting))
        leave = left and self._stopping.reason is None
        if leave or self._chain.lost:
            if frame is not None:
                frame.left.append(self._end_left)
            return
        with anyio.CancelScope(shield=True):
            try:
                await self._chain.settle()
                if self._chain.state.started is not None and not self.ended:
                    await self._end(RunCancelled(reason=self._stopping.reason or ""))
            except ConviveError as error:
                # The cancellation must go on; without its end in the journal the run can be continued.
                _log.warning("run %s was cancelled, and its journal could not say so: %s", self.task.run.run_id, error)
                return
            await self._show_end(self.result())

    async def _end_left(self, reason: str) -> None:
        """End this run, which waits or was left: the call that it belongs to will not be made again."""
        try:
            if not self._chain.lost:
                await self._chain.settle()
            if self._chain.lost or self._chain.state.started is None or self.ended:
                return
            await self._end(RunCancelled(reason=reason))
        except ConviveError as error:
            # The run above ends all the same, and without it nobody goes on with this one.
            _log.warning("run %s could not be ended: %s", self.task.run.run_id, error)
            return
        self._account()
        await self._show_end(self.result())

    async def _show_end(self, result: AgentResult) -> None:
        hooks, run, why = self._execution.hooks, self.task.run, result.error
        # The run is over: calling it off changes nothing any more, least of all that whoever watches is told.
        with anyio.CancelScope(shield=True):
            match result.status:
                case "completed":
                    await hooks.tell_of_end("on_finish", result)
                    await self._execution.show(shown.RunFinished(run, result))
                case "suspended":
                    await self._execution.show(shown.RunSuspended(run, result))
                case "failed":
                    await hooks.tell_of_end("on_error", why)
                    await self._execution.show(shown.RunFailed(run, result))
                case "cancelled":
                    await hooks.tell_of_end("on_abort", why.message if why else "")
                    await self._execution.show(shown.RunCancelled(run, why.message if why else ""))


def _mendable(error: Exception) -> bool:
    """Whether a person can mend it, so that the run had better wait: a refused key, a bug in the application."""
    return error.mendable if isinstance(error, ModelError) else not isinstance(error, NotAppended)


def _check_same(known: RunStarted, task: Task) -> None:
    same = known.source == task.source and (task.source is not None or task.input in (None, known.input))
    if not same:
        raise OtherRun(
            f"run {task.run.run_id} was started with another {'input' if task.source is None else 'source'}. "
            "Continue it with the same one, or take a new run id."
        )


def _opening(started: RunStarted, task: Task) -> tuple[Message, ...]:
    """The messages before the model's first word: from the journal, or from the caller where it refers to a source."""
    told = task if started.source is not None else started
    opening = opening_of(told.history, told.input)
    if not opening:
        raise ValueError("a run needs an input, or a history")
    return opening
