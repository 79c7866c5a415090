"""What `runs` and `cost` do: what was done on a bus, and what it cost."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from rich.console import Console
from rich.text import Text

from convive.agents import Cost, Node, Trace, Usage, read_trace
from convive.bus import BadRecord, Bus, Opened, Record, event_of
from convive.scenarios.cli._commands import tell
from convive.scenarios.cli._tracing import COLOURS, node_row
from convive.scenarios.cli._transcript import shown
from convive.scenarios.cli._tree import duration, money

Group = Literal["session", "agent", "model"]


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


async def show_runs(bus: Bus, count: int, *, as_json: bool) -> None:
    """The outermost runs, the latest last: conversations, and runs that nobody called."""
    rows: list[tuple[Node, int]] = []
    for trace in await _traces(bus):
        rows += [(root, sum(node.kind == "run" for node in root.walk())) for root in trace.roots]
    rows.sort(key=lambda row: row[0].started_s)
    if as_json:
        for root, below in rows[-count:]:
            row = {key: value for key, value in node_row(root).items() if key != "children"}
            print(json.dumps(row | {"runs": below}, ensure_ascii=False))  # noqa: T201 - the command's result
        return
    if not rows:
        tell("No runs yet.")
        return
    out = Console(highlight=False, soft_wrap=True)
    out.print(
        Text(f"{'run':14}  {'name':22}  {'status':11}  {'began':11}  {'took':>7}  {'runs':>4}  cost", style="dim")
    )
    for root, below in rows[-count:]:
        when = datetime.fromtimestamp(root.started_s, UTC).astimezone().strftime("%m-%d %H:%M")
        end_s = root.ended_s or (root.last_s if root.is_over else time.time())
        took = duration(max(0.0, end_s - root.started_s))
        cost = money(root.total_cost)
        name = shown(root.name)[:22]
        line = f"{root.run_id[:14]}  {name:22}  {root.status:11}  {when:11}  {took:>7}  {below:>4}  {cost}"
        out.print(Text(line, style=COLOURS.get(root.status, "")))


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
    """What the answers of models cost, in groups, of one trace or of all."""
    traces = await _traces(bus) if which is None else [await read_trace(bus, which)]
    groups: dict[str, _Sum] = {}
    for trace in traces:
        for run in trace.runs.values():
            groups.setdefault(_group(run, by), _Sum()).runs += by != "model"
            if run.cost is not None:  # as its caller tells: the journal is missing, and with it each answer
                groups.setdefault(_group(run, by) or "(missing)", _Sum()).add(run.usage, run.cost)
            for part in run.children:
                if part.kind == "trip":
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
    width = max([len(by), *(len(shown(name)) for name, _ in rows)])
    out.print(Text(f"{by:{width}}  {unit:>7}  {'read':>9}  {'written':>9}  cost", style="dim"))
    for name, found in rows:
        usage = found.usage
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        cost = money(found.cost)
        out.print(Text(f"{shown(name):{width}}  {found.runs:>7}  {read:>9}  {usage.output_tokens:>9}  {cost}"))


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
