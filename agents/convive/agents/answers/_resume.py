"""Suspended runs, from any process: answer what they wait for, go on, or call them off."""

import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

from convive.agents.journal._chain import Chain, RunTaken
from convive.agents.journal._interrupts import Approve, Deny, Edit, Interrupt, Resolution, Result, args_hash, plain
from convive.agents.journal._journal import Place, Resumed, RunCancelled, RunStarted, Suspended
from convive.agents.journal._refusals import (
    AgentChanged,
    AlreadyResumed,
    BadAnswers,
    ResumeRefused,
    SuspensionExpired,
    TurnOver,
)
from convive.agents.journal._waiting import Found, Turns, Where, find_run, turns_around, waiting_for
from convive.agents.models._json_schema import check_outermost
from convive.agents.models._schema import BadArguments, check_data
from convive.agents.queues._queue import wake_worker
from convive.agents.runs._agent import Agent
from convive.agents.runs._options import RunOptions
from convive.agents.runs._result import AgentResult
from convive.agents.runs._settings import Settings, digests
from convive.agents.tools._output import Data
from convive.agents.tools._tools import Tool
from convive.bus import Bus, RunContext, run_of

GoesOn = Literal["seat", "worker", "nobody"]
"""Who goes on with a run that was answered: the seat whose turn it is, a worker of the queue that it is on, or nobody
before somebody executes it."""


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
    """Answer what a suspended run waits for, and execute it here to its end or to its next suspension.

    `answers` are by the id of the interrupt, those of runs below included; what is left out is waited for again.
    Raises as `accept_answers` before anything changed, and then as `Agent.execute`. Should this process stop in
    between, `agent.execute(run=..., place=...)` goes on with the answers. The run of a turn has its input in its seat:
    give it as `history`, or let the seat go on (`answer`). For a queued run give the bus: a worker then settles its
    order.
    """
    _check_input(await find_run(where, run_id), options)
    found, _ = await _accept(where, run_id, answers, agent, token, force)
    return await _execute(where, found, agent, options)


async def go_on(where: Where, run_id: str, *, agent: Agent[Data], **options: Unpack[RunOptions]) -> AgentResult[Data]:
    """Execute a run from where its journal stands: one that was answered and that nobody goes on with, or whose process
    is gone. One that another process executes is taken from it.

    Raises UnknownRun, ResumeRefused for a run that has its input elsewhere, as `resume`, and as `Agent.execute`.
    """
    found = await find_run(where, run_id)
    _check_input(found, options)
    return await _execute(where, found, agent, options)


async def answer(
    where: Where,
    run_id: str,
    answers: Mapping[str, Resolution],
    *,
    agent: Agent[Any] | None = None,
    token: str | None = None,
    force: bool = False,
) -> GoesOn:
    """Answer what a suspended run waits for, and have it gone on with where that is due; says by whom.

    A seat that waits with the floor goes on by itself, a worker takes a queued run up again (for that `where` has to be
    the bus). Raises as `accept_answers`; a worker that was not told of an answer before is told then.
    """
    try:
        found, turns = await _accept(where, run_id, answers, agent, token, force)
    except AlreadyResumed:
        if isinstance(where, Bus):
            earlier = await find_run(where, run_id)
            await wake_worker(where, earlier.place, earlier.run.run_id)
        raise
    if found.run.run_id in turns.seats:
        return "seat"
    woken = isinstance(where, Bus) and await wake_worker(where, found.place, found.run.run_id)
    return "worker" if woken else "nobody"


async def accept_answers(
    where: Where,
    run_id: str,
    answers: Mapping[str, Resolution],
    *,
    agent: Agent[Any] | None = None,
    token: str | None = None,
    force: bool = False,
) -> RunOptions:
    """Put answers into a run's journal, which uses up the suspension, and return the options to go on with:
    `agent.execute(**options)`, or `agent.stream(**options)` to watch.

    Everything is checked first. Raises UnknownRun, NotSuspended, AlreadyResumed (a used token, or another process was
    first), SuspensionExpired, TurnOver, BadAnswers or AgentChanged; then nothing changed. Without the `agent`, edited
    arguments and results are checked at their outermost level, names and types (`Interrupt.takes`), and the rest when
    the run goes on: what does not fit is told to the model then, and not carried out.
    """
    found, _ = await _accept(where, run_id, answers, agent, token, force)
    return _options(found)


async def cancel_run(where: Where, run_id: str, reason: str = "") -> bool:
    """Call off a run that waits, and the runs below it that are not over; says whether it was not over yet.

    A run that another process executes is called off as well: that process stops at its next record. Broken off, it is
    completed by doing it again. Raises UnknownRun, and errors of the bus.
    """
    found = await find_run(where, run_id)
    place, run = found.place, found.run
    called_off = await _call_off(place, run, reason)
    if not called_off and not isinstance(found.state.ended, RunCancelled):
        return False
    below: dict[str, RunContext] = {}
    async with place.log.latest(f"{place.base}.run.{run.root_run_id}.*") as records:
        async for record in records:
            if (one := run_of(record.headers)) is not None:
                below[one.run_id] = one
    for one in below.values():
        if _is_below(one, run, below):
            await _call_off(place, one, reason)
    if isinstance(where, Bus):
        await wake_worker(where, place, run.run_id)
    return called_off


def _options(found: Found) -> RunOptions:
    started = found.state.started
    assert started is not None  # noqa: S101 - a journal that folds begins with it
    return {"run": found.run, "place": found.place, "source": started.source, "session_id": started.session_id}


def _check_input(found: Found, options: RunOptions) -> None:
    source = found.state.started.source if found.state.started else None
    if source is not None and "history" not in options:
        raise ResumeRefused(
            f"run {found.run.run_id} has its input elsewhere ({source}), so that it cannot be executed here without "
            "`history`. Nothing changed; answer it with `answer`, and whoever began it goes on."
        )


async def _execute(where: Where, found: Found, agent: Agent[Data], options: RunOptions) -> AgentResult[Data]:
    merged: Any = {**_options(found), **options}
    result: AgentResult[Data] = await agent.execute(**merged)
    if isinstance(where, Bus) and result.status != "suspended":
        await wake_worker(where, found.place, found.run.run_id)
    return result


async def _accept(
    where: Where,
    run_id: str,
    answers: Mapping[str, Resolution],
    agent: Agent[Any] | None,
    token: str | None,
    force: bool,
) -> tuple[Found, Turns]:
    if not isinstance(answers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(answers).__name__
        raise BadAnswers(f"run {run_id}: answers go by the id of their interrupt, {{id: Approve()}}, not as {kind}.")
    found = await find_run(where, run_id)
    run, state = found.run, found.state
    if token is not None and _known(token, state.used_tokens):
        raise AlreadyResumed(f"run {run_id}: this token was used. A token is good for one resumption.")
    suspended, turns = waiting_for(found), await turns_around(found)
    if turns.over(run.run_id):
        raise TurnOver(
            f"run {run_id}: the turn of {turns.seats[run.run_id]} is over, so that nobody goes on with it. Nothing "
            "changed; cancel the run, or leave it."
        )
    if token is not None and not _known(token, [suspended.token]):
        raise BadAnswers(f"run {run_id}: the token is not that of its suspension.")
    if suspended.expires_at is not None and time.time() > suspended.expires_at:
        late_s = time.time() - suspended.expires_at
        raise SuspensionExpired(
            f"run {run_id}: the time to answer was over {late_s:.0f} s ago. Cancel it, or run anew."
        )
    started = state.started
    assert started is not None  # noqa: S101 - a journal that folds begins with it
    settings = None if agent is None else agent.settings()
    if settings is not None and not force:
        _check_agent(run, started, suspended, settings)
        await _check_below(found.place, run, suspended, settings)
    checked = _checked(suspended, answers, settings)
    chain = Chain(found.place, run)
    await chain.read()
    if chain.state != state:
        raise AlreadyResumed(f"run {run_id}: somebody else resumed it at the same time.")
    try:
        await chain.append(Resumed(answers=checked))
    except RunTaken as taken:
        raise AlreadyResumed(f"run {run_id}: somebody else resumed it at the same time.") from taken
    return found, turns


async def _call_off(place: Place, run: RunContext, reason: str) -> bool:
    """Record a run's end unless it has one."""
    while True:
        chain = Chain(place, run)
        await chain.read()
        if chain.state.started is None or chain.state.ended is not None:
            return False
        try:
            await chain.append(RunCancelled(reason=reason))
        except RunTaken:
            continue  # whoever executes it wrote first
        return True


def _is_below(one: RunContext, above: RunContext, runs: Mapping[str, RunContext]) -> bool:
    parent = one.parent_run_id
    seen = {one.run_id}
    while parent is not None and parent not in seen:
        if parent == above.run_id:
            return True
        seen.add(parent)
        parent = runs[parent].parent_run_id if parent in runs else None
    return False


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
        below = run.child(run_id)
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


def _checked(
    suspended: Suspended, answers: Mapping[str, Resolution], settings: Settings | None
) -> dict[str, Resolution]:
    waiting = {interrupt.id: interrupt for interrupt in suspended.everything}
    if not answers:
        raise BadAnswers(f"there is no answer. The run waits for: {', '.join(waiting)}.")
    checked: dict[str, Resolution] = {}
    for id, answer in answers.items():
        if id not in waiting:
            raise BadAnswers(f"the run does not wait for {id!r}. It waits for: {', '.join(waiting)}.")
        checked[id] = _fit(waiting[id], answer, settings)
    return checked


def _check_answer(interrupt: Interrupt, tool: Tool | None, answer: Resolution) -> None:
    """Raises BadArguments. Without the tool, what the run noted of it says what fits, as far as that goes."""
    match answer:
        case Edit(arguments=arguments) if tool is not None:
            tool.parameters.validate(arguments)
        case Result(value=value) if tool is not None:
            if tool.result is not None:
                check_data(tool.result, value)
        case Edit(arguments=given) | Result(value=given) if interrupt.takes is not None:
            check_outermost(interrupt.takes, given)
        case _:
            pass


def _fit(interrupt: Interrupt, answer: Resolution, settings: Settings | None) -> Resolution:
    fitting: tuple[type, ...] = (Approve, Deny, Edit) if interrupt.kind == "approval" else (Deny, Result)
    what = f"{interrupt.tool} ({interrupt.id})"
    if type(answer) not in fitting:
        names = ", ".join(kind.__name__ for kind in fitting)
        raise BadAnswers(f"{what} waits for {names}, not for {type(answer).__name__}.")
    if interrupt.args_hash != args_hash(interrupt.arguments):
        raise BadAnswers(f"{what}: the journal's arguments are not those that were shown for approval.")
    owner = None if settings is None else _settings_below(interrupt.agent, settings)
    tool = owner.tools.get(interrupt.tool) if owner else None
    try:
        answer = plain(answer)
        _check_answer(interrupt, tool, answer)
    except (BadArguments, ValueError) as error:
        raise BadAnswers(f"{what}: the answer does not fit: {error}") from None
    return answer
