"""The performer: carries out what `next_step` decides and appends the outcome to the run's journal."""

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import anyio
from pydantic import JsonValue

from convive.agents import _events as shown
from convive.agents._audience import Audience
from convive.agents._chain import LEAVE_RUN, Chain
from convive.agents._errors import ModelAnswerBroken, ModelError
from convive.agents._fold import fold, joined
from convive.agents._frame import frame_above
from convive.agents._interrupts import Interrupt, Resolution
from convive.agents._journal import (
    ChildRun,
    ModelAnswered,
    Rejected,
    Resumed,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunStarted,
    Suspended,
    TripStarted,
)
from convive.agents._live import Live
from convive.agents._messages import Message, ToolUse, user
from convive.agents._meter import Meter
from convive.agents._model import Answer, Request, Sampling, TextDelta, holds_to_schema
from convive.agents._result import AgentResult, result_of
from convive.agents._schema import clean
from convive.agents._settings import AskContext, Retry, Settings, Task, digests
from convive.agents._steps import Ask, Finish, Step, Stop, Suspend, UseTools, next_step
from convive.agents._tool_phase import ToolPhase
from convive.bus import ConviveError, NotAppended

_BROKEN_RETRIES = 2
_log = logging.getLogger("convive.agents")


class OtherRun(ConviveError):
    """The run id belongs to a run with another input or source. Nothing ran."""


class Performer:
    """Executes one run: starts it, or continues it from its journal, or finds it ended. For one use.

    `emit` takes every event, in this task, and must not raise. `cancel_reason` may be set before the
    executing task is cancelled; then the cancellation is recorded whatever the task says.
    """

    def __init__(self, settings: Settings, task: Task, emit: shown.Emit | None = None) -> None:
        self.task = task
        self.cancel_reason: str | None = None
        self._settings = settings
        self._chain = Chain(task.place, task.run)
        self._live = Live(task.place, task.run) if task.place.live else None
        above = task.observers if task.observers is not settings.observers else None
        self._audience = Audience(emit, settings.on, task.listeners, task.on, settings.observers, above)
        frame = frame_above(task.run)
        self._meter = Meter(task.run.run_id, settings.limits, None if frame is None else frame.meter)
        self._tools = ToolPhase(settings, task, self._chain, self._live, self._audience, self._meter)
        self._opening: tuple[Message, ...] = ()
        self._cause: Exception | None = None

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
        if state.ended is None and (state.suspended is None or self.cancel_reason is not None):
            state = fold(state, RunCancelled(reason=self.cancel_reason or ""))
        return result_of(state, self.task.run, self._opening, self._cause, self._settings.output)

    @property
    def ended(self) -> bool:
        """Whether the journal has its terminal record."""
        return self._chain.state.ended is not None

    async def _to_the_end(self) -> AgentResult:
        under_way = False
        try:
            await self._begin()
            under_way = True
            while self._chain.state.ended is None:
                step = next_step(self._chain.state, self._meter.limits(self._chain.state), self._settings.stop)
                if isinstance(step, Suspend) and not await self._answered(step.suspended):
                    break
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
            run_id=run, agent=state.started.agent, status=status, usage=state.usage, tool_calls=state.tool_calls
        )

    async def _begin(self) -> None:
        task, chain = self.task, self._chain
        if task.input is None and not task.history:
            await chain.read()  # nothing to start from: the run must be there
        new = chain.state.started is None
        if new:
            started = self._started()
            self._opening = _opening(started, task)
            if task.fresh:
                await chain.append(started)
            else:
                new = await chain.start(started)
        known = chain.state.started
        assert known is not None  # noqa: S101 - for the type checker: appended or read
        if not new:
            _check_same(known, task)
            self._opening = _opening(known, task)
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
        )

    async def _carry_out(self, step: Step) -> None:
        match step:
            case Ask():
                await self._ask(step)
            case UseTools():
                waiting = await self._tools.carry_out(step)
                if waiting:
                    await self._suspend(waiting)
            case Suspend():
                pass  # answered by now
            case Finish():
                if step.warning:
                    _log.warning("run %s of %s: %s", self.task.run.run_id, self._settings.name, step.warning)
                await self._end(RunFinished(text=step.text, reason=step.reason, warning=step.warning))
            case Stop():
                await self._end(RunFailed(error=step.error, message=step.message))

    async def _suspend(self, waiting: Sequence[Interrupt]) -> None:
        own = self.task.run.run_id
        expires_s = self._settings.expires_s
        await self._chain.append(
            Suspended(
                interrupts=tuple(each for each in waiting if each.run_id == own),
                below=tuple(each for each in waiting if each.run_id != own),
                token=secrets.token_urlsafe(24),
                expires_at=None if expires_s is None else time.time() + expires_s,
                tools=digests(self._settings.specs),
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

    async def _ask(self, step: Ask) -> None:
        attempt = step.attempt
        while True:
            await self._chain.append(TripStarted(trip=step.trip, attempt=attempt))
            if self._audience:
                await self._audience.tell(shown.TripStarted(self.task.run, step.trip, attempt))
            began = time.perf_counter()
            try:
                answer = await self._answer(step.trip, attempt)
                break
            except ModelAnswerBroken as error:
                if attempt - step.attempt >= _BROKEN_RETRIES:
                    raise
                _log.info("run %s: trip %d is asked for again: %s", self.task.run.run_id, step.trip, error)
                attempt += 1
        event = self._judged(answer, step.trip, round(time.perf_counter() - began, 6))
        await self._chain.keep(event)
        self._meter.limits(self._chain.state)
        if self._audience:
            trip = self._chain.state.trips[-1]
            rejected = None if event.rejected is None else event.rejected.reason
            await self._audience.tell(
                shown.TripFinished(self.task.run, step.trip, trip.finish_reason, trip.text, trip.usage, rejected)
            )

    async def _answer(self, trip: int, attempt: int) -> Answer:
        request = await self._request(trip, attempt)
        if self._live:
            self._live.begin(trip, attempt)
            if request.messages[-1].role == "assistant":
                self._live.text(request.messages[-1].text)  # the answer continues these words
        answer: Answer | None = None
        async with self._settings.model.stream(request) as items:
            async for item in items:
                if isinstance(item, Answer):
                    answer = item
                elif isinstance(item, TextDelta):
                    if self._live:
                        self._live.text(item.text)
                    if self._audience:
                        await self._audience.tell(shown.TextDelta(self.task.run, trip, item.text))
                elif self._audience:
                    await self._audience.tell(shown.ThinkingDelta(self.task.run, trip, item.text))
        if answer is None:
            raise ModelAnswerBroken(f"{self._settings.model.name} ended its stream without an answer.")
        if self._live:
            await self._live.settle()
        return answer

    async def _request(self, trip: int, attempt: int) -> Request:
        settings, task = self._settings, self.task
        context = AskContext(task.run, settings.name, trip, attempt, task.session_id, task.deps)
        system, sampling = settings.instructions, settings.sampling
        if not isinstance(system, str):
            given = system(context)
            system = given if isinstance(given, str) else await given
        if not isinstance(sampling, Sampling):
            sampling = sampling(context)
        added = self._chain.state.messages
        messages = joined((*self._opening, *added)) if added else self._opening
        schema: Mapping[str, JsonValue] | None = None
        if settings.output is not None and holds_to_schema(settings.model):
            schema = settings.output.schema
        elif settings.output is not None:
            system = f"{system}\n\n{settings.output.instruction}".lstrip()
        return Request(system, messages, settings.specs, sampling, schema)

    def _judged(self, answer: Answer, trip: int, took_s: float) -> ModelAnswered:
        refined, rejected = None, None
        cut = answer.stop_reason == "length"
        final = cut or not any(isinstance(part, ToolUse) for part in answer.parts)
        final = final and answer.stop_reason != "refusal"
        if self._settings.refine is not None and final:
            verdict = self._settings.refine(answer.text)
            if isinstance(verdict, Retry):
                rejected = Rejected(reason=verdict.reason, feedback=verdict.feedback, fallback=verdict.fallback)
            elif verdict != answer.text:
                refined = verdict
        if self._settings.output is not None and final and rejected is None:
            rejected = self._settings.output.judge(answer.text if refined is None else refined)
        return ModelAnswered(
            trip=trip,
            parts=answer.parts,
            stop_reason=answer.stop_reason,
            usage=answer.usage,
            model=answer.model,
            took_s=took_s,
            refined=refined,
            rejected=rejected,
        )

    async def _end(self, event: RunFinished | RunFailed | RunCancelled) -> None:
        if self._live:
            self._live.stop()
        await self._chain.append(event)

    async def _failed(self, error: Exception) -> None:
        self._cause = error
        transient = isinstance(error, ModelError) and error.transient
        kind = type(error).__name__
        await self._end(RunFailed(error=kind, message=clean(str(error)) or kind, transient=transient))
        if not isinstance(error, ModelError | NotAppended):
            await self._show_end(self.result())

    async def _cancelled(self) -> None:
        frame = frame_above(self.task.run)
        # A sibling's suspension cancels the tasks beside it: those runs are continued when the tool is called again.
        left = self.task.on_cancel == "leave" or (frame is not None and bool(frame.waiting))
        leave = left and self.cancel_reason is None
        if leave or self._chain.lost:
            return
        with anyio.CancelScope(shield=True):
            try:
                await self._chain.settle()
                if self._chain.state.started is None or self.ended:
                    return
                await self._end(RunCancelled(reason=self.cancel_reason or ""))
            except ConviveError as error:
                # The cancellation must go on; without its end in the journal the run can be continued.
                _log.warning("run %s was cancelled, and its journal could not say so: %s", self.task.run.run_id, error)
                return
            if self._audience:
                await self._audience.tell(shown.RunCancelled(self.task.run, self.cancel_reason or ""))

    async def _show_end(self, result: AgentResult) -> None:
        if not self._audience:
            return
        if result.status == "completed":
            await self._audience.tell(shown.RunFinished(self.task.run, result))
        elif result.status == "failed":
            await self._audience.tell(shown.RunFailed(self.task.run, result))
        elif result.status == "suspended":
            await self._audience.tell(shown.RunSuspended(self.task.run, result))
        else:
            await self._audience.tell(shown.RunCancelled(self.task.run, result.error.message if result.error else ""))


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
    new = () if told.input is None else (user(told.input),)
    opening = joined((*told.history, *new))
    if not opening:
        raise ValueError("a run needs an input, or a history")
    return opening
