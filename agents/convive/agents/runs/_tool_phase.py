"""The tool phase of a trip: which calls run side by side, and what the journal says of each."""

from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import anyio
from pydantic import JsonValue

from convive.agents.journal._fold import Call
from convive.agents.journal._interrupts import Approve, Edit, Interrupt, LeadingCall, args_hash
from convive.agents.journal._journal import ChildRun, ToolCalled
from convive.agents.models._messages import Message
from convive.agents.models._schema import jsonable
from convive.agents.runs import _events as shown
from convive.agents.runs._execution import Aborted, Execution
from convive.agents.runs._frame import Frame, call_key, end_below, frame_above, goes_on_later, inside
from convive.agents.runs._middleware import Abort, HookedCall, ReplaceArgs, Skip
from convive.agents.runs._steps import UseTools
from convive.agents.tools._calls import Outcome, Ready, carry_out, content_of, outcome_of, prepare, too_large
from convive.agents.tools._gates import gate, waits_for
from convive.agents.tools._tools import ToolContext
from convive.bus import NotAppended

Job = Callable[[], Awaitable[None]]


class ToolPhase:
    """Carries out the open calls of a trip and journals each outcome as it comes; the fold puts them in order."""

    def __init__(self, execution: Execution, history: Callable[[], tuple[Message, ...]]) -> None:
        self._history = history
        self._execution = execution
        self._settings = execution.settings
        self._task = execution.task
        self._chain = execution.chain
        self._live = execution.live
        self._audience = execution.audience
        self._frames: dict[tuple[int, int], Frame] = {}
        """The calls that were begun, by trip and place."""

    async def carry_out(self, step: UseTools) -> list[Interrupt]:
        """Carry out the calls that may run; what the others wait for, in this run and below, in order.

        A batch begins when all before it have returned. While one of those waits, it is only asked what it waits for.
        """
        waiting: list[Interrupt] = []
        for batch in self._batches(step.calls):
            jobs: list[Job] = []
            held = bool(waiting)
            # All of them first: where one aborts the run, none of the others was announced in vain.
            for call, passed in [await self._passed(step.trip, call) for call in batch]:
                if isinstance(passed, Interrupt):
                    waiting.append(passed)
                if held or isinstance(passed, Interrupt):
                    continue
                if self._audience:
                    await self._audience.tell(
                        shown.ToolStarted(self._task.run, step.trip, call.id, call.name, call.arguments)
                    )
                if isinstance(passed, Ready):
                    call = await self._called(step.trip, call, silent=passed.tool.silent)
                jobs.append(self._job(step.trip, call, passed, waiting))
            await _together(jobs)
        return sorted(waiting, key=lambda each: (each.run_id != self._task.run.run_id, each.trip, each.index))

    async def give_up(self, reason: str) -> tuple[ChildRun, ...]:
        """End the runs below the open calls, since their results are not waited for any more; all that are over."""
        trip = self._chain.state.trips[-1] if self._chain.state.trips else None
        frames = [self._frames.get((trip.index, call.index)) for call in trip.open_calls] if trip is not None else []
        spent: list[ChildRun] = []
        for frame in frames:
            if frame is not None:
                await end_below(frame, reason)
                spent += frame.spent.values()
        return tuple(spent)

    async def _passed(self, trip: int, call: Call) -> tuple[Call, Ready | Outcome | Interrupt]:
        """Rewrite, validate, approve: in that order. Raises Aborted."""
        if any(self._hands_over(each) for each in self._chain.state.trips[-1].calls[: call.index]):
            return call, Outcome("Skipped: the conversation was handed over.", is_error=True)
        # What was rewritten once is not rewritten again: a call that is made again is made with the same arguments.
        if call.interrupt is None and not call.rewritten and self._settings.middleware:
            hooked = HookedCall(call.id, call.name, deepcopy(call.arguments), trip)
            answer = await self._execution.hooks.before_tool(hooked)
            match answer:
                case Skip(result=result):
                    return call, Outcome(content_of(result))
                case Abort(reason=reason):
                    raise Aborted(reason)
                case ReplaceArgs(arguments=arguments):
                    given = jsonable(dict(arguments))
                    call = replace(call, arguments=given, rewritten=args_hash(given) != args_hash(call.arguments))
                case None:
                    pass
        prepared = prepare(call, self._settings.tools)
        if not isinstance(prepared, Ready):
            return call, prepared
        recorded = self._task.place.recorded
        if recorded is not None:
            recorded.check_arguments(self._task.run, trip, call.index, call.arguments)
            if prepared.tool.below is not None:
                return call, prepared
            return call, outcome_of(recorded.result(self._task.run, trip, call.index))
        return call, await gate(call, prepared, self._context(trip, call), self._settings.name)

    def _hands_over(self, call: Call) -> bool:
        if call.returned is not None:
            return bool(call.returned.handed_to)
        tool = self._settings.tools.get(call.name)
        return tool is not None and tool.handoff

    def _batches(self, calls: Sequence[Call]) -> list[list[Call]]:
        """Calls that may run side by side, in order; a sequential one stands alone."""
        batches: list[list[Call]] = []
        open_to_more = False
        for call in calls:
            tool = self._settings.tools.get(call.name)
            alone = not self._settings.parallel_tools or (tool is not None and tool.sequential)
            if open_to_more and not alone:
                batches[-1].append(call)
            else:
                batches.append([call])
            open_to_more = not alone
        return batches

    async def _called(self, trip: int, call: Call, *, silent: bool) -> Call:
        attempt = call.attempt + 1
        await self._chain.append(
            ToolCalled(
                trip=trip,
                index=call.index,
                call_id=call.id,
                name=call.name,
                attempt=attempt,
                silent=silent,
                arguments=call.arguments if call.rewritten and call.interrupt is None else None,
            )
        )
        return replace(call, attempt=attempt, silent=silent)

    def _job(self, trip: int, call: Call, passed: Ready | Outcome, waiting: list[Interrupt]) -> Job:
        async def job() -> None:
            outcome = await self._outcome(trip, call, passed, waiting) if isinstance(passed, Ready) else passed
            if outcome is not None:
                await self._returned(trip, call, outcome)

        return job

    def _context(self, trip: int, call: Call) -> ToolContext:
        task = self._task

        async def update(value: JsonValue) -> None:
            state = self._chain.state
            if state.ended is not None or all(open.index != call.index for open in state.trips[trip].open_calls):
                return  # from a thread that was given up, or a task that the tool left behind
            if self._live:
                self._live.update(trip, call.id, call.name, value)
            if self._audience:
                await self._audience.tell(shown.ToolUpdated(task.run, trip, call.id, call.name, value))

        return ToolContext(
            run=task.run,
            tool_call_id=call.id,
            tool_name=call.name,
            trip=trip,
            attempt=call.attempt,
            idempotency_key=call_key(task.run.run_id, trip, call.index),
            session_id=task.session_id,
            deps=task.deps,
            approved=isinstance(call.resolution, Approve | Edit),
            on_update=update,
        )

    async def _outcome(self, trip: int, call: Call, ready: Ready, waiting: list[Interrupt]) -> Outcome | None:
        """What the call came to; None when it waits, or a run below it does, which leaves the call open."""
        task, context = self._task, self._context(trip, call)
        above = frame_above(task.run)
        frame = Frame(
            task.run,
            task.place,
            context.idempotency_key,
            call.attempt == 1,
            task.on_cancel,
            task.session_id,
            answers=self._chain.state.resolutions,
            observers=self._execution.observers,
            meter=self._execution.meter,
            stopping=self._execution.stopping,
            hops=0 if above is None else above.hops,
            depth=1 if above is None else above.depth + 1,
            history=self._history,
        )
        self._frames[trip, call.index] = frame
        try:
            with inside(frame):
                outcome = await carry_out(ready, context)
        except BaseException as error:
            if not frame.waiting or not goes_on_later(error):
                raise
        else:
            # A tool that gathers results and exceptions alike has not noticed that it waits, and has no result yet.
            if outcome.needs is not None:
                waiting.append(waits_for(call, ready.tool, outcome.needs, context, self._settings.name))
            elif not frame.waiting:
                await end_below(frame, "the tool call that it belongs to went on without it")
                return replace(outcome, children=tuple(frame.spent.values()))
        through = LeadingCall(trip=trip, index=call.index, call_id=call.id, tool=call.name)
        waiting.extend(each.model_copy(update={"through": through}) for each in frame.waiting)
        return None

    async def _returned(self, trip: int, call: Call, outcome: Outcome) -> None:
        try:
            await self._chain.keep(outcome.event(trip, call))
        except NotAppended:
            if self._chain.lost:
                raise
            outcome = replace(too_large(call.name), took_s=outcome.took_s, children=outcome.children)
            await self._chain.keep(outcome.event(trip, call))
        if self._settings.middleware:
            hooked = HookedCall(call.id, call.name, deepcopy(call.arguments), trip)
            await self._execution.hooks.tell("after_tool", hooked, outcome.content, outcome.is_error)
        if self._audience:
            await self._audience.tell(
                shown.ToolFinished(self._task.run, trip, call.id, call.name, outcome.content, outcome.is_error)
            )


async def _together(jobs: Sequence[Job]) -> None:
    """Run all jobs at once; the first that raises stops the others and comes out as it is."""
    if not jobs:
        return
    if len(jobs) == 1:
        await jobs[0]()
        return
    failures: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def guarded(job: Job) -> None:
            try:
                await job()
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
                failures.append(error)
                group.cancel_scope.cancel()

        for job in jobs:
            group.start_soon(guarded, job)
    if failures:
        raise failures[0]
