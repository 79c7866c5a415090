"""Suspended runs, from any process: look at them, answer what they wait for, go on, or call them off."""

import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from pydantic import JsonValue, ValidationError

from convive.agents._agent import Agent
from convive.agents._chain import Chain, RunTaken
from convive.agents._fold import RunState
from convive.agents._interrupts import Approve, Deny, Edit, Interrupt, Resolution, Result, args_hash, plain
from convive.agents._journal import Place, Resumed, RunCancelled, RunStarted, Suspended, journal_event_of
from convive.agents._options import RunOptions
from convive.agents._output import Data
from convive.agents._result import AgentResult
from convive.agents._schema import BadArguments
from convive.agents._settings import Settings, digests
from convive.bus import Conversation, ConviveError, RunContext, RunId
from convive.bus import run_id as checked_id


class ResumeRefused(ConviveError):
    """A run cannot be resumed like this. Nothing changed: what it waits for, it still waits for."""


class UnknownRun(ResumeRefused):
    """There is no such run here, or it is a run below another one, which is the one to resume."""


class NotSuspended(ResumeRefused):
    """The run does not wait for anything: it is under way, or over."""


class AlreadyResumed(NotSuspended):
    """This suspension was answered before: its token is used up, or somebody else was first."""


class SuspensionExpired(ResumeRefused):
    """The time to answer is over."""


class BadAnswers(ResumeRefused):
    """A token or an answer that does not belong to this suspension, or does not fit what is waited for."""


class AgentChanged(ResumeRefused):
    """The run was suspended by an agent of another name, or with other tools. `force=True` resumes it all the same."""


@dataclass(frozen=True, slots=True)
class Suspension:
    """A suspended run, looked at without changing it."""

    run: RunContext
    agent: str
    interrupts: tuple[Interrupt, ...]
    token: str
    expires_at: float | None
    session_id: str | None
    trips: int
    meta: JsonValue = None
    """What the caller of the run gave as `meta`."""

    @property
    def run_id(self) -> RunId:
        """The run's id."""
        return self.run.run_id


Where = Place | Conversation
"""Where a run has its journal: a place, or the conversation beside which it is kept."""


async def peek(where: Where, run_id: str) -> Suspension:
    """What a suspended run waits for. Raises UnknownRun, NotSuspended, and errors of the bus."""
    chain, run = await _read(_place(where), run_id)
    return _suspension(run, chain.state)


async def pending(where: Where) -> list[Suspension]:
    """All suspended runs of a place that are nobody's children, the oldest first."""
    place = _place(where)
    found: list[tuple[int, Suspension]] = []
    for subject in await place.log.subjects(f"{place.base}.run.*.*"):
        root, run_id = subject.split(".")[-2:]
        last = await place.log.last(subject) if root == run_id else None
        if last is not None and isinstance(journal_event_of(last), Suspended):
            found.append((last.seq, await peek(place, run_id)))
    return [suspension for _, suspension in sorted(found, key=lambda each: each[0])]


async def resume(
    where: Where,
    run_id: str,
    answers: Mapping[str, Resolution],
    *,
    agent: Agent[Data],
    token: str | None = None,
    force: bool = False,
    **options: Unpack[RunOptions],
) -> AgentResult[Data]:
    """Answer what a suspended run waits for, and execute it to its end or to its next suspension.

    `answers` are by the id of the interrupt, those of runs below included; what is left out is waited for again.
    Raises as `accept_answers` before anything changed, and then as `Agent.execute`. Should this process stop in
    between, `agent.execute(run=..., place=...)` goes on with the answers.
    """
    given = await accept_answers(where, run_id, answers, agent=agent, token=token, force=force)
    merged: Any = {**given, **options}
    result: AgentResult[Data] = await agent.execute(**merged)
    return result


async def accept_answers(
    where: Where,
    run_id: str,
    answers: Mapping[str, Resolution],
    *,
    agent: Agent[Any],
    token: str | None = None,
    force: bool = False,
) -> RunOptions:
    """Put answers into a run's journal, which uses up the suspension, and return the options to go on with:
    `agent.execute(**options)`, or `agent.stream(**options)` to watch.

    Everything is checked first. Raises UnknownRun, NotSuspended, AlreadyResumed (a used token, or another process was
    first), SuspensionExpired, BadAnswers or AgentChanged; then nothing changed.
    """
    place = _place(where)
    chain, run = await _read(place, run_id)
    state = chain.state
    if token is not None and _known(token, state.used_tokens):
        raise AlreadyResumed(f"run {run_id}: this token was used. A token is good for one resumption.")
    suspended = _waiting(run, state)
    if token is not None and not _known(token, [suspended.token]):
        raise BadAnswers(f"run {run_id}: the token is not that of its suspension.")
    if suspended.expires_at is not None and time.time() > suspended.expires_at:
        late_s = time.time() - suspended.expires_at
        raise SuspensionExpired(
            f"run {run_id}: the time to answer was over {late_s:.0f} s ago. Cancel it, or run anew."
        )
    started = state.started
    assert started is not None  # noqa: S101 - `_read` looked
    settings = agent.settings()
    if not force:
        _check_agent(run, started, suspended, settings)
        await _check_below(place, run, suspended, settings)
    checked = _checked(suspended, answers, settings)
    try:
        await chain.append(Resumed(answers=checked))
    except RunTaken as taken:
        raise AlreadyResumed(f"run {run_id}: somebody else resumed it at the same time.") from taken
    return {"run": run, "place": place, "source": started.source, "session_id": started.session_id}


async def cancel_run(where: Where, run_id: str, reason: str = "") -> bool:
    """Call off a run that waits, and the runs below it that are not over; says whether it was not over yet.

    A run that another process executes is called off as well: that process stops at its next record.
    Raises UnknownRun, and errors of the bus.
    """
    place = _place(where)
    chain, run = await _read(place, run_id)
    if chain.state.ended is not None:
        return False
    try:
        await chain.append(RunCancelled(reason=reason))
    except RunTaken:
        return await cancel_run(place, run_id, reason)
    for subject in await place.log.subjects(f"{place.base}.run.{run.root_run_id}.*"):
        below = RunContext(checked_id(subject.rpartition(".")[2]), run.root_run_id, run.run_id)
        child = Chain(place, below)
        await child.read()
        if child.state.started is not None and child.state.ended is None:
            await child.append(RunCancelled(reason=reason))
    return True


def _place(where: Where) -> Place:
    return where if isinstance(where, Place) else Place(where.log, where.subjects.base)


async def _read(place: Place, run_id: str) -> tuple[Chain, RunContext]:
    run = RunContext.root(checked_id(run_id))
    chain = Chain(place, run)
    await chain.read()
    if chain.state.started is not None:
        return chain, run
    for subject in await place.log.subjects(f"{place.base}.run.*.{run_id}"):
        root = subject.split(".")[-2]
        raise UnknownRun(f"run {run_id} is a part of run {root}. Resume that one: it waits for the same answers.")
    raise UnknownRun(f"there is no run {run_id} at {place.base}.")


def _waiting(run: RunContext, state: RunState) -> Suspended:
    if state.suspended is not None and state.ended is None:
        return state.suspended
    kind = AlreadyResumed if state.used_tokens else NotSuspended
    now = "under way" if state.ended is None else f"over ({state.ended.type})"
    raise kind(f"run {run.run_id} does not wait for an answer{' any more' if state.used_tokens else ''}: it is {now}.")


def _suspension(run: RunContext, state: RunState) -> Suspension:
    suspended, started = _waiting(run, state), state.started
    assert started is not None  # noqa: S101 - `_read` looked
    return Suspension(
        run,
        started.agent,
        suspended.everything,
        suspended.token,
        suspended.expires_at,
        started.session_id,
        len(state.trips),
        started.meta,
    )


def _known(token: str, tokens: Sequence[str]) -> bool:
    return any(hmac.compare_digest(token.encode(), each.encode()) for each in tokens)


def _check_agent(run: RunContext, started: RunStarted, suspended: Suspended, settings: Settings) -> None:
    if started.agent != settings.name:
        raise AgentChanged(f"run {run.run_id} is one of agent {started.agent!r}, not of {settings.name!r}.")
    was, now = suspended.tools, digests(tool.spec for tool in settings.tools.values())
    changed = [f"{name} is gone" for name in was.keys() - now.keys()]
    changed += [f"{name} is new" for name in now.keys() - was.keys()]
    changed += [f"{name} takes other arguments" for name in was.keys() & now.keys() if was[name] != now[name]]
    if changed:
        raise AgentChanged(
            f"run {run.run_id}: agent {settings.name!r} has other tools than when it was suspended: "
            f"{', '.join(sorted(changed))}. Resume it with the agent as it was, or with force=True."
        )


async def _check_below(place: Place, run: RunContext, suspended: Suspended, settings: Settings) -> None:
    """The same for the runs below whose agents can be found: those behind `as_tool` and `handoff`."""
    for run_id in {interrupt.run_id for interrupt in suspended.below}:
        below = RunContext(run_id, run.root_run_id, run.run_id)
        chain = Chain(place, below)
        await chain.read()
        started, waiting = chain.state.started, chain.state.suspended
        found = _settings_below(started.agent, settings) if started else None
        if started is not None and waiting is not None and found is not None:
            _check_agent(below, started, waiting, found)


def _settings_below(agent: str, settings: Settings) -> Settings | None:
    if settings.name == agent:
        return settings
    for tool in settings.tools.values():
        found = None if tool.below is None else _settings_below(agent, tool.below.outline)
        if found is not None:
            return found
    return None


def _checked(suspended: Suspended, answers: Mapping[str, Resolution], settings: Settings) -> dict[str, Resolution]:
    waiting = {interrupt.id: interrupt for interrupt in suspended.everything}
    if not answers:
        raise BadAnswers(f"there is no answer. The run waits for: {', '.join(waiting)}.")
    checked: dict[str, Resolution] = {}
    for id, answer in answers.items():
        if id not in waiting:
            raise BadAnswers(f"the run does not wait for {id!r}. It waits for: {', '.join(waiting)}.")
        checked[id] = _fit(waiting[id], answer, settings)
    return checked


def _fit(interrupt: Interrupt, answer: Resolution, settings: Settings) -> Resolution:
    fitting: tuple[type, ...] = (Approve, Deny, Edit) if interrupt.kind == "approval" else (Deny, Result)
    what = f"{interrupt.tool} ({interrupt.id})"
    if type(answer) not in fitting:
        names = ", ".join(kind.__name__ for kind in fitting)
        raise BadAnswers(f"{what} waits for {names}, not for {type(answer).__name__}.")
    if interrupt.args_hash != args_hash(interrupt.arguments):
        raise BadAnswers(f"{what}: the journal's arguments are not those that were shown for approval.")
    owner = _settings_below(interrupt.agent, settings)
    tool = owner.tools.get(interrupt.tool) if owner else None
    try:
        answer = plain(answer)
        if isinstance(answer, Edit) and tool is not None:
            tool.parameters.validate(answer.arguments)
        if isinstance(answer, Result) and tool is not None and tool.result is not None:
            tool.result.validate_python(answer.value)
    except (BadArguments, ValidationError, ValueError) as error:
        raise BadAnswers(f"{what}: the answer does not fit: {error}") from None
    return answer
