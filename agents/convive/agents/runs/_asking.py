"""One trip to the model: the request, the answer, and the verdict on it."""

import logging
import time
from collections.abc import Mapping

import anyio
from pydantic import JsonValue

from convive.agents.journal._digest import Digests
from convive.agents.journal._fold import joined
from convive.agents.journal._journal import ModelAnswered, Rejected, TripStarted
from convive.agents.models._errors import ModelAnswerBroken, ModelError
from convive.agents.models._failover import telling
from convive.agents.models._messages import Message, ToolUse
from convive.agents.models._model import (
    Answer,
    ArgumentsDelta,
    Delta,
    Model,
    Request,
    Sampling,
    TextDelta,
    ThinkingDelta,
    holds_to_schema,
)
from convive.agents.models._schema import clean
from convive.agents.runs import _events as shown
from convive.agents.runs._execution import Execution
from convive.agents.runs._prices import cost_of
from convive.agents.runs._settings import AskContext, Retry
from convive.agents.runs._steps import Ask
from convive.agents.tools._scoped import SEARCH_TOOLS, specs_of
from convive.bus import RunContext

_BROKEN_RETRIES = 2
_log = logging.getLogger("convive.agents")


class Asking:
    """Asks the model for the answers of one execution. `opening` are the messages before its first word."""

    def __init__(self, execution: Execution) -> None:
        self.opening: tuple[Message, ...] = ()
        self._execution = execution
        self._heard: Answer | None = None
        """The answer to the latest request, once it is whole."""
        self._asked, self._asked_s, self._took_s = "", 0.0, 0.0
        self._first_chunk_s: float | None = None
        self._broken: list[str] = []
        """The models whose answer to the latest request broke off, so that another one was asked."""
        self._digests = Digests()
        self._messages: tuple[Message, ...] = ()
        """The opening and what the first `_added` messages of the run added to it."""
        self._added = 0

    async def ask(self, step: Ask) -> None:
        """Ask for the answer of a trip, and keep it. Raises as `Model.stream`; a broken answer is asked for again."""
        run, show, hooks = self._execution, self._execution.show, self._execution.hooks
        hooks.context.trip = step.trip
        await hooks.tell("on_iteration")
        if self._called_off:
            return
        attempt = step.attempt
        while True:
            self._heard = None
            await run.chain.append(TripStarted(trip=step.trip, attempt=attempt))
            if run.audience:
                await show(shown.TripStarted(run.task.run, step.trip, attempt))
            try:
                with anyio.move_on_after(run.meter.left_s) as deadline:
                    request = await hooks.request(await self._request(step.trip, attempt))
                    if self._called_off:
                        return
                    await self._hear(request, step.trip, attempt)
                if deadline.cancelled_caught and self._heard is None:
                    run.meter.time_is_up()
                    return
                break
            except anyio.get_cancelled_exc_class():
                await self._keep_all_the_same(step.trip, attempt)
                raise
            except ModelAnswerBroken as error:
                if self._heard is not None:
                    break  # what broke behind the answer takes nothing from it
                if attempt - step.attempt >= _BROKEN_RETRIES:
                    raise
                _log.info("run %s: trip %d is asked for again: %s", run.task.run.run_id, step.trip, error)
                attempt += 1
        assert self._heard is not None  # noqa: S101 - for the type checker: what heard nothing was left above
        event = self._judged(self._heard, step.trip, attempt)
        await run.chain.keep(event)
        run.meter.limits(run.chain.state)
        await hooks.tell("on_usage", event.usage)
        if run.audience:
            trip = run.chain.state.trips[-1]
            rejected = None if event.rejected is None else event.rejected.reason
            finished = shown.TripFinished(run.task.run, step.trip, trip.finish_reason, trip.text, trip.usage, rejected)
            await show(finished)

    @property
    def _called_off(self) -> bool:
        """Whether a hook ended the run before the model was asked."""
        return self._execution.stopping.mode in ("now", "after_tools")

    async def _keep_all_the_same(self, trip: int, attempt: int) -> None:
        """Keep an answer that is here, and paid for, while the run is being cancelled."""
        run = self._execution
        if self._heard is None or run.chain.lost:
            return
        if run.live:
            run.live.stop()
        try:
            await run.chain.keep(self._judged(self._heard, trip, attempt))
        except Exception as error:  # noqa: BLE001 - the cancellation goes on; the answer can be asked for again
            _log.warning("run %s was cancelled, and its answer could not be kept: %s", run.task.run.run_id, error)

    async def _hear(self, request: Request, trip: int, attempt: int) -> None:
        """Ask, and listen to the end. As soon as the answer is whole, it is in `_heard`."""
        run, recorded = self._execution, self._execution.task.place.recorded
        self._first_chunk_s = None
        self._broken = []
        self._asked = self._digests.of(request)
        self._asked_s = time.perf_counter()
        if recorded is not None:
            self._heard = recorded.answer(run.task.run, trip, self._asked)
            self._took_s = 0.0
            return
        if run.live:
            run.live.begin(trip, attempt)
            if request.messages[-1].role == "assistant":
                run.live.text(request.messages[-1].text)  # the answer continues these words
        asked_of = self._model(trip)
        asking = asked_of.stream(request)
        if not hasattr(asking, "__aenter__"):
            raise TypeError(
                f"stream() of model {asked_of.name} gives an object of type {type(asking).__name__}. It has to give an "
                "asynchronous context manager around an iterator of deltas and an Answer: see @asynccontextmanager."
            )
        async with asking as items:
            async for item in items:
                if isinstance(item, Answer):
                    self._heard, self._took_s = item, self._since_asked_s()
                    continue
                if self._first_chunk_s is None and not isinstance(item, ArgumentsDelta):
                    self._first_chunk_s = self._since_asked_s()
                if run.live or run.audience or run.settings.middleware:
                    await self._show(trip, item)
        if self._heard is None:
            raise ModelAnswerBroken(f"{run.settings.model.name} ended its stream without an answer.")
        if run.live:
            await run.live.settle()

    def _since_asked_s(self) -> float:
        return round(time.perf_counter() - self._asked_s, 6)

    def _model(self, trip: int) -> Model:
        run = self._execution

        async def told(failed: Model, error: ModelError) -> None:
            if isinstance(error, ModelAnswerBroken):
                self._broken.append(failed.name)
            if run.audience:
                await run.show(shown.ModelFailed(run.task.run, trip, failed.name, type(error).__name__, str(error)))

        return telling(run.settings.model, told)

    async def _show(self, trip: int, item: Delta) -> None:
        run = self._execution
        chunk = await run.hooks.chunk(_shown(run.task.run, trip, item))
        if chunk is None:
            return
        if run.live and isinstance(chunk, shown.TextDelta):
            run.live.text(chunk.text)
        await run.show(chunk)

    async def _request(self, trip: int, attempt: int) -> Request:
        settings, task = self._execution.settings, self._execution.task
        context = AskContext(task.run, settings.name, trip, attempt, task.session_id, task.deps)
        system, sampling = settings.instructions, settings.sampling
        if not isinstance(system, str):
            given = system(context)
            system = given if isinstance(given, str) else await given
        if not isinstance(sampling, Sampling):
            sampling = sampling(context)
        specs = settings.specs
        if SEARCH_TOOLS in settings.tools:
            specs = specs_of(settings.tools, self._execution.chain.state)
        schema: Mapping[str, JsonValue] | None = None
        if settings.output is not None and holds_to_schema(settings.model):
            schema = settings.output.schema
        elif settings.output is not None:
            system = f"{system}\n\n{settings.output.instruction}".lstrip()
        return Request(clean(system), self._so_far(), specs, sampling, schema)

    def _so_far(self) -> tuple[Message, ...]:
        """The conversation up to now. What was joined once is not joined again: the same messages stand in front."""
        before, added = self._messages or self.opening, self._execution.chain.state.messages
        if len(added) > self._added:
            before = (*before[:-1], *joined((*before[-1:], *added[self._added :])))
        self._messages, self._added = before, len(added)
        return before

    def _judged(self, answer: Answer, trip: int, attempt: int) -> ModelAnswered:
        settings = self._execution.settings
        refined, rejected = None, None
        cut = answer.stop_reason == "length"
        final = cut or not any(isinstance(part, ToolUse) for part in answer.parts)
        final = final and answer.stop_reason != "refusal"
        if settings.refine is not None and final:
            verdict = settings.refine(answer.text)
            if isinstance(verdict, Retry):
                rejected = Rejected(reason=verdict.reason, feedback=verdict.feedback, fallback=verdict.fallback)
            elif verdict != answer.text:
                refined = verdict
        if settings.output is not None and final and rejected is None:
            rejected = settings.output.judge(answer.text if refined is None else refined)
        cost = cost_of(settings.cost, answer, settings.model.name, lost=attempt - 1, broken=self._broken)
        return ModelAnswered(
            trip=trip,
            parts=answer.parts,
            stop_reason=answer.stop_reason,
            usage=answer.usage,
            model=answer.model,
            took_s=self._took_s,
            cost=cost.amount,
            known_cost=cost.known,
            refined=refined,
            rejected=rejected,
            asked=self._asked,
            first_chunk_s=self._first_chunk_s,
        )


def _shown(run: RunContext, trip: int, item: Delta) -> shown.TextDelta | shown.ThinkingDelta | shown.ArgumentsDelta:
    match item:
        case TextDelta():
            return shown.TextDelta(run, trip, item.text)
        case ThinkingDelta():
            return shown.ThinkingDelta(run, trip, item.text)
        case ArgumentsDelta():
            return shown.ArgumentsDelta(run, trip, item.index, item.call_id, item.name, item.text)
