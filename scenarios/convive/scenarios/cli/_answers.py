"""What `pending`, `approve`, `deny`, `answer` and `resume` do."""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from convive.agents import (
    Agent,
    AgentResult,
    GoesOn,
    Interrupt,
    Resolution,
    Result,
    Suspension,
    answer,
    go_on,
    peek,
    pending,
    resume,
    suspension_json,
)
from convive.bus import Bus, ConviveError, UnknownConversation, conversation_id
from convive.scenarios.cli._calls import BadChoice, called, is_called, json_text, short_ids, short_runs, who
from convive.scenarios.cli._commands import Where, tell
from convive.scenarios.cli._transcript import shown
from convive.scenarios.cli._work import load_agents

_CALL = 400
"""Characters of a call in a table that no terminal cuts."""


async def show_pending(bus: Bus, conversation: str | None, options: str, *, as_json: bool) -> None:
    """What waits for an answer, the longest waiting first. Raises BadName."""
    waiting = await pending(bus)
    short = short_runs([each.run_id for each in waiting])
    if conversation is not None:
        name = conversation_id(conversation)
        waiting = [each for each in waiting if each.conversation == name]
        if not waiting and name not in await bus.conversations():
            raise UnknownConversation(name)
    if as_json:
        for each in waiting:
            print(json.dumps(suspension_json(each), ensure_ascii=False))  # noqa: T201 - standard output is this command's result
    elif not waiting:
        tell("Nothing waits for an answer.")
    else:
        _print_table(waiting, short)
        kinds = {interrupt.kind for each in waiting for interrupt in each.interrupts}
        verbs = {"approval": ("approve RUN", "deny RUN"), "client_tool": ("answer RUN VALUE",)}
        how = [f"convive {verb}{options}" for kind, each in verbs.items() if kind in kinds for verb in each]
        tell(f"Answer with: {' | '.join(how)}")


def _print_table(waiting: Sequence[Suspension], short: dict[str, str]) -> None:
    """A line a call that waits; the call gets what is left of a terminal's line."""
    head = ("run", "where", "who", "since", "id", "call")
    rows = [
        (short[each.run_id], each.conversation[:20], who(each)[:12], _ago(each.since_s), shown_id, called(interrupt))
        for each in waiting
        for interrupt, shown_id in zip(each.interrupts, short_ids(each.interrupts), strict=True)
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    out = Console(highlight=False, soft_wrap=True)
    for number, row in enumerate((head, *rows)):
        cells = [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]
        text = Text("  ".join(cells), style="dim" if number == 0 else "")
        text.truncate(out.width if out.is_terminal else sum(widths) + _CALL, overflow="ellipsis")
        out.print(text)


async def find_waiting(bus: Bus, run: str) -> Suspension:
    """The suspended run of that id, or the only one that waits and has an id that begins so. Raises as `peek`, or
    BadChoice."""
    if re.fullmatch(r"[0-9a-f]{32}", run):
        return await peek(bus, run)
    waiting = await pending(bus)
    found = [each for each in waiting if run and each.run_id.startswith(run)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadChoice(f"no run that waits has an id that begins with {shown(run)!r}. See: convive pending")
    short = short_runs([each.run_id for each in waiting])
    several = ", ".join(f"{short[each.run_id]} ({who(each)})" for each in found[:5])
    raise BadChoice(f"{len(found)} runs that wait begin with {run!r}: {several}. Give more of the id.")


def choose(waiting: Suspension, id: str | None) -> Interrupt:
    """What is meant of what a run waits for: by its id, by the end of it, or without one if it is the only. Raises
    BadChoice."""
    found = [each for each in waiting.interrupts if id is None or is_called(each, id)]
    if len(found) == 1:
        return found[0]
    listed = "\n".join(f"{short} {called(each)[:_CALL]}" for short, each in _shortened(waiting.interrupts))
    why = "say which" if id is None else f"{shown(id)!r} is {'none' if not found else 'more than one'} of them"
    raise BadChoice(f"the run waits for {len(waiting.interrupts)} answers; {why}:\n{listed}")


def _shortened(interrupts: Sequence[Interrupt]) -> list[tuple[str, Interrupt]]:
    return list(zip(short_ids(interrupts), interrupts, strict=True))


async def give(
    bus: Bus, run: str, id: str | None, resolve: Callable[[Interrupt], Resolution], agent: str | None, where: Where
) -> None:
    """Answer one thing that a run waits for; with an agent, also execute the run here and print its text."""
    loaded = None if agent is None else load_agents(agent)
    waiting = await find_waiting(bus, run)
    interrupt = choose(waiting, id)
    resolution = resolve(interrupt)
    _check_kind(interrupt, resolution)
    answers = {interrupt.id: resolution}
    if loaded is not None:
        chosen = _agent(loaded, waiting.agent)
        print_result(await resume(bus, waiting.run_id, answers, agent=chosen, token=waiting.token), where)
        return
    goes_on = await answer(bus, waiting.run_id, answers, token=waiting.token)
    tell(f"{_done(resolution)} {called(interrupt)}. {_by_whom(goes_on, waiting, where)}")
    left = [each for each in waiting.interrupts if each is not interrupt]
    if left:
        tell(f"It then waits for {len(left)} more: {', '.join(called(each) for each in left)}")


def _check_kind(interrupt: Interrupt, resolution: Resolution) -> None:
    gives = isinstance(resolution, Result)
    if gives and interrupt.kind == "approval":
        raise BadChoice(f"{called(interrupt)} waits for an approval: use `convive approve` or `convive deny`.")
    if not gives and resolution.type != "deny" and interrupt.kind == "client_tool":
        raise BadChoice(f"{called(interrupt)} runs elsewhere and waits for its result: use `convive answer RUN VALUE`.")


def _done(resolution: Resolution) -> str:
    match resolution.type:
        case "approve":
            return "Approved:"
        case "edit":
            return f"Approved with {json_text(resolution.arguments)} in place of what stands in"
        case "deny":
            return "Denied:"
        case "result":
            return "Given to"


def _by_whom(goes_on: GoesOn, waiting: Suspension, where: Where) -> str:
    match goes_on:
        case "seat":
            return f"{waiting.seat} goes on in {waiting.conversation}, as soon as a process sits there."
        case "worker":
            return f"A worker goes on with it ({waiting.conversation})."
        case "nobody":
            return f"Nobody executes the run now; go on with it:\n  {_resume_command(waiting.run_id, where)}"


def _resume_command(run: str, where: Where) -> str:
    return f"convive resume {run} --agent module:name{where.options}"


async def go_on_here(bus: Bus, run: str, agent: str, where: Where) -> None:
    """Execute a run from where its journal stands, and print its text. Raises as `go_on`."""
    loaded = load_agents(agent)
    if len(loaded) > 1:
        raise BadChoice(f"{agent} has {len(loaded)} agents; name one: module:name.")
    print_result(await go_on(bus, run, agent=next(iter(loaded.values()))), where)


def _agent(loaded: dict[str, Agent[Any]], name: str) -> Agent[Any]:
    """The agent of that name, or the only one, which is then refused for its name."""
    return loaded.get(name) or next(iter(loaded.values()))


def print_result(result: AgentResult[Any], where: Where) -> None:
    """The text of a run, or what it waits for now. Raises ConviveError for one that failed."""
    if result.error is not None:
        raise ConviveError(f"run {result.run_id} {result.status}: {result.error.message}")
    if result.text:
        sys.stdout.write(f"{result.text}\n")
    if result.interrupts:
        calls = ", ".join(called(each) for each in result.interrupts)
        tell(f"It waits again, for {calls}: convive pending{where.options}")


def _ago(since_s: float) -> str:
    passed_s = max(0, int(time.time() - since_s))
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed_s >= seconds:
            return f"{passed_s // seconds} {unit}"
    return f"{passed_s} s"
