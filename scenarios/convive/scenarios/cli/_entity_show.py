"""What the commands on entities print."""

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import JsonValue
from rich.console import Console
from rich.text import Text

from convive.agents import Trace, entities, node_json
from convive.agents.entities import EntityName, EntityState, entity_json
from convive.bus import Bus, ConviveError
from convive.scenarios.cli._commands import tell
from convive.scenarios.cli._tracing import COLOURS
from convive.scenarios.cli._transcript import shown
from convive.scenarios.cli._tree import tree_lines

ROWS = 20
"""Rows of a collection, letters and runs that are shown to a person; `--json` has all."""
INPUT_BYTES = 1_048_576

STYLES = {"busy": "cyan", "paused": "yellow", "stopped": "dim", "finished": "green"}


def value_of(text: str) -> JsonValue:
    """What a person wrote: JSON where it is, else the text itself; `-` is standard input. Raises ConviveError."""
    if text == "-":
        text = sys.stdin.read(INPUT_BYTES + 1)
        if len(text) > INPUT_BYTES:
            raise ConviveError("standard input is longer than 1 MiB, which no letter holds. Nothing was sent.")
    try:
        found: JsonValue = json.loads(text, parse_constant=_no_json)
    except ValueError:
        return text
    return found


async def tell_end(bus: Bus, state: EntityState, until: int | None) -> None:
    """Say so when a place is asked for that is not there yet."""
    if until is None:
        return
    end = await (await bus.conversation(EntityName.of(state.name).space)).log.end()
    if until > end:
        tell(f"Nothing is at {until} yet: its log ends at {end}. This is {state.name} as it is now.")


def show(state: EntityState, runs: Trace | None = None, *, as_json: bool) -> None:
    """One entity, whole, and what it did."""
    if as_json:
        row = (
            entity_json(state)
            if runs is None
            else {**entity_json(state), "runs": [node_json(each) for each in runs.roots]}
        )
        print(json.dumps(row, ensure_ascii=False))  # noqa: T201 - the command's result
        return
    out = Console(highlight=False, soft_wrap=True)
    out.print(Text.assemble((state.name, "bold"), "  ", (state.status, STYLES.get(state.status, ""))))
    _line(out, "args", "" if state.args is None else _json(state.args))
    _line(out, "parent", state.parent)
    _line(out, "wakes", f"{state.wakes}{f', the last in run {state.last.run_id}' if state.last else ''}")
    _line(out, "result", "" if state.result is None else _json(state.result))
    for collection, rows in sorted(state.rows.items()):
        out.print(Text(f"{shown(collection)} ({len(rows)})", style="bold"))
        for key, row in list(rows.items())[-ROWS:]:
            out.print(Text(f"  {shown(key)}  {_json(row)}"))
        if len(rows) > ROWS:
            out.print(Text(f"  ... and {len(rows) - ROWS} before; --json shows all", style="dim"))
    for name, status in state.children.items():
        _line(out, "child", f"{name} {status}")
    for name in state.observers:
        _line(out, "observer", name)
    for id, timer in state.timers.items():
        _line(out, "due", f"{_clock(timer.at_s)} {shown(id)}")
    for waiting in state.waiting[:ROWS]:
        sender = f" from {waiting.letter.sender}" if waiting.letter.sender else ""
        _line(out, "waits", f"{waiting.seq} {waiting.letter.kind}{sender} {_json(waiting.letter.value)}")
    for failure in state.errors:
        out.print(Text(f"failed     {failure.seq} {failure.kind}: {shown(failure.error)}", style="bold red"))
    if state.damage:
        out.print(Text(f"damage     {state.damage} records could not be read", style="bold red"))
    if state.newer:
        out.print(Text(f"newer      {shown(state.newer)}", style="bold red"))
    for line in () if runs is None else tree_lines(runs, out.width, time.time(), latest=ROWS):
        out.print(Text(line.text, style=COLOURS.get(line.status, "")))


def show_all(states: Sequence[EntityState], which: str, *, as_json: bool) -> None:
    """A line each. `which`: what they are the states of, such as `busy entities`."""
    if as_json:
        for state in states:
            print(json.dumps(entity_json(state), ensure_ascii=False))  # noqa: T201 - the command's result
        return
    if not states:
        tell(f"No {which}.")
        return
    out = Console(highlight=False, soft_wrap=True)
    width = max(len(state.name) for state in states)
    out.print(Text(f"{'entity':{width}}  {'status':9}  {'wakes':>6}  {'waits':>6}  {'failed':>6}", style="dim"))
    for state in states:
        line = (
            f"{state.name:{width}}  {state.status:9}  {state.wakes:>6}  {len(state.waiting):>6}  {len(state.errors):>6}"
        )
        out.print(Text(line, style=STYLES.get(state.status, "")))


async def follow(bus: Bus, name: str, *, as_json: bool) -> None:
    """A line a wake, until the entity is over."""
    await entities.look(bus, name)
    out = Console(highlight=False, soft_wrap=True)
    told = 0
    async with entities.follow(bus, name, after=0) as states:
        async for state in states:
            if state.last is None or state.last_handled is None or state.wakes == told:
                continue
            told, letter, last = state.wakes, state.last_handled.letter, state.last
            if as_json:
                print(last.model_dump_json(by_alias=True, exclude_none=True), flush=True)  # noqa: T201 - the result
            else:
                sender = f" from {letter.sender}" if letter.sender else ""
                value = "" if letter.value is None else f" {_json(letter.value)}"
                out.print(Text(f"{told:>5}  {letter.kind}{sender}{value}{_came(last)}"))
            if state.is_over and not state.waiting:
                return


def _came(last: entities.Woken) -> str:
    """What came of a wake, in short."""
    parts: list[str] = []
    if last.error is not None:
        parts.append(f"failed: {shown(last.error)}")
    if last.changes:
        parts.append(", ".join(f"{change.collection}[{shown(change.key)}]" for change in last.changes[:3]))
    if len(last.changes) > 3:
        parts.append(f"{len(last.changes) - 3} rows more")
    if last.letters:
        parts.append(f"{len(last.letters)} letter{'s' if len(last.letters) > 1 else ''} sent")
    if last.finished:
        parts.append(f"finished: {_json(last.result)}")
    return f" -> {'; '.join(parts)}" if parts else ""


def _line(out: Console, what: str, text: str) -> None:
    if text:
        out.print(Text(f"{what:10} {shown(text)}"))


def _json(value: JsonValue) -> str:
    return shown(json.dumps(value, ensure_ascii=False))


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _no_json(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")
