"""What `runs` and `cost` do: what was done on a bus, and what it cost."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from convive.agents import Cost, Node, Trace, Usage, node_json, read_trace
from convive.bus import BadRecord, Bus, Opened, Record, event_of
from convive.scenarios.cli._commands import tell
from convive.scenarios.cli._leading import STOPPED, nobody_leads, stopped
from convive.scenarios.cli._tracing import COLOURS
from convive.scenarios.cli._transcript import shown
from convive.scenarios.cli._tree import ID, cell, duration, money

Group = Literal["session", "agent", "model"]

_NAME = 60
_BESIDE_NAME = ID + 54
"""What a line of `runs` has beside a name."""
_BESIDE_GROUP = 43
"""What a line of `cost` has beside a name."""
_QUIET_S = 600.0
"""Of what has told nothing for so long, it is said."""


@dataclass(slots=True)
class _Sum:
    """What a group of runs used."""

    runs: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: Cost | None = None

    def add(self, usage: Usage, cost: Cost | None, runs: int = 0) -> None:
        self.runs += runs
        self.usage += usage
        if cost is not None:
            self.cost = cost if self.cost is None else self.cost + cost


async def show_runs(bus: Bus, count: int, options: str = "", *, as_json: bool) -> None:
    """The outermost runs, the latest last: conversations, and runs that nobody called. `options` are what another
    command has to be told to come to this bus."""
    roots = sorted((root for trace in await _traces(bus) for root in trace.roots), key=lambda root: root.started_s)
    rows = roots[-count:]
    late = await _stopped(bus, rows)
    if as_json:
        for root in rows:
            row: dict[str, object] = {key: value for key, value in node_json(root).items() if key != "children"}
            row |= {"last_s": root.last_s, "overdue_s": late.get(root.conversation), "runs": _runs_in(root)}
            print(json.dumps(row, ensure_ascii=False))  # noqa: T201 - the command's result
        return
    if not rows:
        tell("No runs yet.")
        return
    out = Console(highlight=False, soft_wrap=True)
    # Of a terminal's line, the name gets what is left.
    room = max(8, out.width - _BESIDE_NAME) if out.is_terminal else _NAME
    names = min(room, max(4, *(cell_len(shown(root.name)) for root in rows)))
    head = f"{cell('name', names)}  {'status':11}  {'began':11}  {'took':>7}  {'runs':>4}  cost"
    out.print(Text(f"{'run':{ID}}  {head}", style="dim"))
    for root in rows:
        when = datetime.fromtimestamp(root.started_s, UTC).astimezone().strftime("%m-%d %H:%M")
        status, end_s = _status(root, late)
        took = duration(max(0.0, end_s - root.started_s))
        told = f"{status:11}  {when}  {took:>7}  {_runs_in(root):>4}  {money(root.total_cost)}"
        line = f"{shown(root.run_id[-ID:])}  {cell(shown(root.name), names)}  {told}"
        out.print(Text(line, style=COLOURS.get(root.status, "")))
    if late:
        tell(nobody_leads(late, options))


def _runs_in(root: Node) -> int:
    return sum(node.kind == "run" for node in root.walk())


async def _stopped(bus: Bus, roots: Sequence[Node]) -> Mapping[str, float]:
    """Those of the conversations that nobody seems to lead."""
    named = {root.conversation for root in roots if root.kind == "conversation" and not root.is_over}
    floors = await bus.conversations() if named else {}
    return await stopped(bus, {name: floor for name, floor in floors.items() if name in named})


def _status(root: Node, late: Mapping[str, float]) -> tuple[str, float]:
    """How a run stands, and until when it took: of one that goes on, nobody knows whether it still does."""
    now_s, last_s = time.time(), root.last_s
    if root.is_over:
        return root.status, root.ended_s or last_s
    if root.kind == "conversation" and root.conversation in late:
        return STOPPED, last_s
    quiet_s = now_s - last_s
    if root.status == "running" and quiet_s > _QUIET_S:
        return f"quiet {duration(quiet_s)}", last_s
    return root.status, now_s


async def _traces(bus: Bus) -> list[Trace]:
    """Every trace of a bus, each log read once."""
    traces: dict[str, Trace] = {}
    for pattern, log in (await bus.partitions()).items():
        async with log.read(f"{pattern}.bus.floor.*", f"{pattern}.run.*.*") as records:
            roots: dict[str, str] = {}
            async for record in records:
                parts = record.subject.split(".")
                if parts[3] == "run":
                    root = parts[4]
                else:
                    base = ".".join(parts[:3])
                    root = roots[base] = roots.get(base) or _run_of(record)
                if root:
                    traces.setdefault(root, Trace()).apply(record)
    for trace in traces.values():
        trace.complete()
    return list(traces.values())


def _run_of(record: Record) -> str:
    """The run of the conversation that a record opens, if it does."""
    try:
        event = event_of(record)
    except BadRecord:
        return ""
    return event.run_id if isinstance(event, Opened) else ""


async def show_cost(bus: Bus, which: str | None, by: Group, *, as_json: bool) -> None:
    """What the answers of models cost, in groups, of one trace or of all. Of all, those with which a fork begins count
    for the conversation that it comes from, where that is on this bus."""
    traces = await _traces(bus) if which is None else [await read_trace(bus, which)]
    origins = {node.run_id for trace in traces for node in trace.conversations}
    groups: dict[str, _Sum] = {}
    for trace in traces:
        twice = any(node.origin is not None and node.origin.run_id in origins for node in trace.conversations)
        for run in trace.runs.values():
            if not (twice and run.copied):
                groups.setdefault(_group(run, by), _Sum()).runs += by != "model"
            if run.cost is not None and not (twice and run.copied):
                # As its caller tells: the journal is missing, and with it each answer.
                groups.setdefault(_group(run, by) or "(missing)", _Sum()).add(run.usage, run.cost)
            for part in run.children:
                if part.kind == "trip" and not (twice and part.copied):
                    name = part.model if by == "model" else _group(run, by)
                    answers = by == "model" and part.status == "ok"
                    groups.setdefault(name, _Sum()).add(part.usage, part.cost, answers)
    groups.pop("", None)
    rows = sorted(groups.items(), key=lambda row: (-(row[1].cost or Cost()).known, row[0]))
    if as_json:
        for name, found in rows:
            print(json.dumps(_cost_row(by, name, found), ensure_ascii=False))  # noqa: T201 - the command's result
        return
    if not rows:
        tell("No model has answered yet.")
        return
    out = Console(highlight=False, soft_wrap=True)
    unit = "answers" if by == "model" else "runs"
    room = max(8, out.width - _BESIDE_GROUP) if out.is_terminal else _NAME
    width = min(room, max([len(by), *(cell_len(shown(name)) for name, _ in rows)]))
    out.print(Text(f"{by:{width}}  {unit:>7}  {'read':>9}  {'written':>9}  cost", style="dim"))
    for name, found in rows:
        usage = found.usage
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        cost = money(found.cost)
        out.print(Text(f"{cell(shown(name), width)}  {found.runs:>7}  {read:>9}  {usage.output_tokens:>9}  {cost}"))


def _group(run: Node, by: Group) -> str:
    return {"session": run.session_id or "(no session)", "agent": run.name, "model": ""}[by]


def _cost_row(by: Group, name: str, found: _Sum) -> dict[str, object]:
    cost = found.cost
    return {
        by: name,
        "answers" if by == "model" else "runs": found.runs,
        "tokens": found.usage.model_dump(),
        "cost": None if cost is None else {"known": cost.known, "complete": cost.complete, "currency": cost.currency},
    }
