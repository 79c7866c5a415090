"""What `trace`, `runs` and `cost` do."""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import anyio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from convive.agents import Cost, Node, Trace, Usage, find_trace, follow_trace, read_trace
from convive.bus import BadRecord, Bus, ConviveError, Opened, Record, event_of
from convive.scenarios._commands import tell
from convive.scenarios._transcript import shown
from convive.scenarios._tree import TreeLine, duration, tree_lines

COLOURS = {
    "failed": "bold red",
    "interrupted": "red",
    "running": "cyan",
    "waiting": "yellow",
    "revoked": "dim",
    "head": "dim",
}

_REDRAW_S = 0.25

Group = Literal["session", "agent", "model"]


async def show_trace(bus: Bus, which: str, run: str | None, *, live: bool, as_json: bool) -> None:
    """A trace as it is now; `live`, until it is over."""
    if live and not as_json:
        await _show_live(bus, which)
        return
    trace = await read_trace(bus, which)
    if run is not None:
        _print_node(_node(trace, run))
    elif as_json:
        asked = (await find_trace(bus, which)).asked
        roots = [trace.runs[asked]] if asked in trace.runs else trace.roots
        for root in roots:
            print(json.dumps(node_row(root), ensure_ascii=False))  # noqa: T201 - standard output is this command's result
    else:
        asked = (await find_trace(bus, which)).asked
        _print(tree_lines(trace, _width(), time.time(), trace.runs.get(asked)))


def _width() -> int:
    return Console().width


def _print(lines: Iterable[TreeLine]) -> None:
    out = Console(highlight=False, soft_wrap=True)
    for line in lines:
        out.print(Text(line.text, style=COLOURS.get(line.status, "")))


async def _show_live(bus: Bus, which: str) -> None:
    out = Console(highlight=False)
    trace = Trace()
    async with follow_trace(bus, which) as states:
        if not out.is_terminal:
            async for trace in states:  # noqa: B007 - the last one is printed
                pass
            _print(tree_lines(trace, out.width, time.time()))
            return
        with Live(console=out, auto_refresh=False, vertical_overflow="ellipsis", transient=True) as screen:
            trace = await anext(states)  # from here on always the same
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_draw, trace, out, screen)
                async for _ in states:
                    pass
                tasks.cancel_scope.cancel()
    _print(tree_lines(trace, out.width, time.time()))


async def _draw(trace: Trace, out: Console, screen: Live) -> None:
    """Show it now and then, until cancelled: what is under way grows also when nothing comes, and a long tree takes its
    time."""
    while True:
        began_s = time.monotonic()
        lines = tree_lines(trace, out.width, time.time())
        room = max(4, out.height - 1)
        text = Text("\n").join(Text(line.text, COLOURS.get(line.status, "")) for line in lines[-room:])
        screen.update(text, refresh=True)
        await anyio.sleep(max(_REDRAW_S, 4 * (time.monotonic() - began_s)))


def node_row(node: Node) -> dict[str, object]:
    """A node and all below it, as nested objects."""
    usage, cost = node.total_usage, node.total_cost
    return {
        "run_id": node.run_id,
        "root_run_id": node.run.root_run_id,
        "parent_run_id": node.run.parent_run_id,
        "kind": node.kind,
        "name": node.name,
        "part": node.part,
        "status": node.status,
        "seat": node.seat or None,
        "turn": node.turn,
        "model": node.model or None,
        "session_id": node.session_id,
        "conversation": node.conversation,
        "seqs": node.seqs,
        "started_s": node.started_s,
        "ended_s": node.ended_s,
        "attempts": max(1, len(node.attempts)),
        "tokens": usage.model_dump(),
        "cost": None if cost is None else {"known": cost.known, "complete": cost.complete, "currency": cost.currency},
        "error": node.error or None,
        "detail": node.detail or None,
        "orphan": node.orphan,
        "damage": node.damage,
        "origin": None if node.origin is None else node.origin.model_dump(),
        "children": [node_row(child) for child in node.children],
    }


def _node(trace: Trace, run: str) -> Node:
    found = [node for id, node in trace.runs.items() if id.startswith(run)]
    if len(found) != 1:
        raise ConviveError(f"{len(found)} runs of this trace have an id that begins with {run!r}.")
    return found[0]


def _print_node(node: Node) -> None:
    """One run, opened: what it was told and what it answered."""
    out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    out.print(Text(f"{shown(node.name)}  {node.run_id}  {node.status}", style="bold"))
    if node.run.parent_run_id:
        out.print(
            Text(f"  below {node.run.parent_run_id}, in {node.conversation}, records {node.seqs[0]}-{node.seqs[1]}")
        )
    for part in node.children:
        out.print(Text(f"{shown(part.name)} ({part.status})", style="bold" if part.kind == "trip" else ""))
        if part.kind == "run":
            out.print(Text(f"  {part.run_id}"))
        for words in (part.detail, part.error):
            if words:
                out.print(Text(f"  {shown(words)}"))
    if node.detail or node.error:
        out.print(Text(f"= {shown(node.detail or node.error)}"))


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
        took = duration((root.ended_s or root.last_s) - root.started_s)
        cost = "" if root.total_cost is None else str(root.total_cost)
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
            for part in run.children:
                if part.kind == "trip":
                    name = part.model if by == "model" else _group(run, by)
                    groups.setdefault(name, _Sum()).add(part.usage, part.cost, by == "model")
    groups.pop("", None)
    rows = sorted(groups.items(), key=lambda row: (-(row[1].cost or Cost()).known, row[0]))
    if as_json:
        for name, found in rows:
            print(json.dumps(_cost_row(by, name, found), ensure_ascii=False))  # noqa: T201 - the command's result
        return
    out = Console(highlight=False, soft_wrap=True)
    unit = "answers" if by == "model" else "runs"
    width = max([len(by), *(len(shown(name)) for name, _ in rows)])
    out.print(Text(f"{by:{width}}  {unit:>7}  {'read':>9}  {'written':>9}  cost", style="dim"))
    for name, found in rows:
        usage = found.usage
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        cost = "" if found.cost is None else str(found.cost)
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
