"""What `trace`, `runs` and `cost` do."""

import json
import sys
import time
from collections.abc import Iterable
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.text import Text

from convive.agents import Node, Trace, find_trace, follow_trace, read_trace
from convive.bus import Bus, ConviveError
from convive.scenarios._transcript import shown
from convive.scenarios._tree import TreeLine, tree_lines

COLOURS = {"failed": "bold red", "interrupted": "red", "running": "cyan", "waiting": "yellow", "revoked": "dim"}

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
            async for trace in states:
                lines = tree_lines(trace, out.width, time.time())
                room = max(4, out.height - 1)
                text = Text("\n").join(Text(line.text, COLOURS.get(line.status, "")) for line in lines[-room:])
                screen.update(text, refresh=True)
    _print(tree_lines(trace, out.width, time.time()))


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
    out.print(Text(f"{node.name}  {node.run_id}  {node.status}", style="bold"))
    if node.run.parent_run_id:
        out.print(
            Text(f"  below {node.run.parent_run_id}, in {node.conversation}, records {node.seqs[0]}-{node.seqs[1]}")
        )
    for part in node.children:
        out.print(Text(f"{part.name} ({part.status})", style="bold" if part.kind == "trip" else ""))
        if part.kind == "run":
            out.print(Text(f"  {part.run_id}"))
        for words in (part.detail, part.error):
            if words:
                out.print(Text(f"  {shown(words)}"))
    if node.detail or node.error:
        out.print(Text(f"= {shown(node.detail or node.error)}"))
