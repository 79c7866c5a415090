"""Several suspended runs resumed at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio

from convive.agents.answers._resume import resume
from convive.agents.journal._interrupts import Interrupt, Resolution
from convive.agents.journal._waiting import Where
from convive.agents.runs._agent import Agent
from convive.agents.runs._result import AgentResult


@dataclass(frozen=True, slots=True)
class ResumeRequest:
    """One run to resume, as `resume` takes it. `key` is the caller's own, and comes back with the outcome."""

    run_id: str
    answers: Mapping[str, Resolution]
    agent: Agent[Any]
    token: str | None = None
    key: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class ResumeOutcome:
    """What became of one request: a result, or the error that kept it from one."""

    request: ResumeRequest
    result: AgentResult[Any] | None = None
    error: Exception | None = None

    @property
    def key(self) -> str:
        """The key of the request."""
        return self.request.key


@dataclass(frozen=True, slots=True)
class ResumedRuns:
    """The outcomes in the order of the requests."""

    outcomes: tuple[ResumeOutcome, ...] = field(default=())

    @property
    def completed(self) -> tuple[ResumeOutcome, ...]:
        """Those whose run is over, whatever its status."""
        return tuple(each for each in self.outcomes if each.result is not None and each.result.status != "suspended")

    @property
    def suspended(self) -> tuple[ResumeOutcome, ...]:
        """Those whose run waits again."""
        return tuple(each for each in self.outcomes if each.result is not None and each.result.status == "suspended")

    @property
    def errors(self) -> tuple[ResumeOutcome, ...]:
        """Those that could not be resumed."""
        return tuple(each for each in self.outcomes if each.error is not None)

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """All that is waited for now."""
        return tuple(each for outcome in self.suspended if outcome.result for each in outcome.result.interrupts)

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing went wrong."""
        return not self.suspended and not self.errors


async def resume_many(
    where: Where,
    requests: Iterable[ResumeRequest],
    *,
    on_error: Literal["capture", "raise"] = "capture",
    concurrency: int | None = None,
) -> ResumedRuns:
    """Resume several runs, side by side or at most `concurrency` at a time, in order.

    An error stays with its request, or with `on_error="raise"` stops the others (which are then cancelled as their
    `on_cancel` says) and is raised. Raises ValueError when two requests are for one run, before anything is resumed.
    """
    if concurrency is not None and concurrency < 1:
        raise ValueError(f"concurrency={concurrency}: at least one run at a time is resumed.")
    wanted = list(requests)
    if len({request.run_id for request in wanted}) < len(wanted):
        raise ValueError("two requests are for one run; put all its answers into one")
    limiter = anyio.Semaphore(concurrency or max(1, len(wanted)))
    outcomes: dict[int, ResumeOutcome] = {}
    failures: list[Exception] = []

    async with anyio.create_task_group() as group:

        async def one(place: int, request: ResumeRequest) -> None:
            try:
                result = await resume(
                    where,
                    request.run_id,
                    request.answers,
                    agent=request.agent,
                    token=request.token,
                    force=request.force,
                )
                outcomes[place] = ResumeOutcome(request, result)
            except Exception as error:  # noqa: BLE001 - kept with its request, or raised below outside of the group
                outcomes[place] = ResumeOutcome(request, error=error)
                if on_error == "raise":
                    failures.append(error)
                    group.cancel_scope.cancel()
            finally:
                limiter.release()

        for place, request in enumerate(wanted):
            await limiter.acquire()
            group.start_soon(one, place, request)
    if failures:
        raise failures[0]
    return ResumedRuns(tuple(outcomes[place] for place in range(len(wanted))))
