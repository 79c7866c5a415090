"""What `convive trace` does."""

import difflib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

import anyio
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from convive.agents import Node, Trace, TracePlace, find_trace, follow_trace, node_json, read_trace
from convive.bus import Bus, ConviveError, Granted, Transcript, UnknownConversation, event_of
from convive.scenarios.cli._commands import tell
from convive.scenarios.cli._leading import nobody_leads, overdue
from convive.scenarios.cli._opened import Heard, OpenedLine, opened_lines
from convive.scenarios.cli._transcript import plain, shown
from convive.scenarios.cli._tree import ID, TreeLine, clipped, name_of, tree_lines

COLOURS = {
    "failed": "bold red",
    "interrupted": "red",
    "running": "cyan",
    "waiting": "yellow",
    "revoked": "dim",
    "head": "dim",
}

_REDRAWN_S = 0.25


@dataclass(frozen=True, slots=True)
class View:
    """How somebody wants to see a trace. `run` opens one node of it; `full`, with all words of it."""

    run: str | None = None
    depth: int | None = None
    live: bool = False
    full: bool = False
    as_json: bool = False


async def show_trace(bus: Bus, which: str, view: View, options: str = "") -> None:
    """A trace as it is now; `live`, until it is over. `options` are what another command has to be told to come to
    this bus."""
    if view.run is not None:
        await _show_opened(bus, which, view.run, view)
        return
    place = await find_trace(bus, which)
    there = None if place.conversation is None else await bus.existing(place.conversation)
    stopped = there is not None and await overdue(there, await there.floor()) is not None
    if there is not None and stopped:
        tell(nobody_leads([there.id], options))
    if view.live and not view.as_json and Console().is_terminal:
        await _show_live(bus, which, place)
    elif view.live:
        async with follow_trace(bus, which) as states:
            async for _ in states:
                pass
    trace = await read_trace(bus, which)
    asked = _asked(trace, place)
    if view.as_json:
        for root in trace.roots if asked is None else [asked]:
            print(json.dumps(node_json(root), ensure_ascii=False))  # noqa: T201 - standard output is this command's result
        return
    # What is under way was so until now, as far as anybody knows, unless nobody leads it.
    now_s = max(root.last_s for root in trace.roots) if stopped else time.time()
    _print(tree_lines(trace, Console().width, now_s, asked, view.depth))


def _asked(trace: Trace, place: TracePlace) -> Node | None:
    """The run that was asked for, of a turn the turn; None: all of it."""
    run = trace.runs.get(place.asked)
    above = None if run is None else run.parent
    return above if above is not None and above.run_id == place.asked else run


def _print(lines: Iterable[TreeLine]) -> None:
    out = Console(highlight=False)
    for line in lines:
        wraps = out.is_terminal and cell_len(line.text) > out.width  # between words: only what failed is as long
        out.print(Text(line.text, style=COLOURS.get(line.status, "")), soft_wrap=not wraps)


async def _show_live(bus: Bus, which: str, place: TracePlace) -> None:
    """Draws at a pace of its own: what is under way gets longer between records, and a burst of them is one change."""
    out = Console(highlight=False)
    latest = Trace()

    async def draw() -> None:
        while True:
            began_s = time.monotonic()
            lines = tree_lines(latest, out.width, time.time(), _asked(latest, place), long=max(4, out.height - 2))
            drawn = clipped(lines, max(4, out.height - 1))
            text = Text("\n", no_wrap=True, overflow="ellipsis")
            screen.update(text.join(Text(line.text, COLOURS.get(line.status, "")) for line in drawn), refresh=True)
            await anyio.sleep(max(_REDRAWN_S, 4 * (time.monotonic() - began_s)))  # a long tree takes its time

    try:
        with Live(console=out, auto_refresh=False, vertical_overflow="crop", transient=True) as screen:
            async with follow_trace(bus, which) as states, anyio.create_task_group() as tasks:
                latest = await anext(states)
                tasks.start_soon(draw)
                async for state in states:
                    latest = state
                tasks.cancel_scope.cancel()
    except anyio.get_cancelled_exc_class():  # what was seen last stays on the screen
        _print(tree_lines(latest, out.width, time.time(), _asked(latest, place)))
        raise


async def _show_opened(bus: Bus, which: str, run: str, view: View) -> None:
    trace = await read_trace(bus, which, keep_events=True)
    node = find_node(trace, run)
    heard = await _heard(bus, trace, node)
    if view.as_json:
        said = None if heard is None else {"cue": heard.cue, "lines": heard.lines, "until": heard.until}
        row = node_json(node, events=True) | {"heard": said}
        print(json.dumps(row, ensure_ascii=False))  # noqa: T201 - standard output is this command's result
        return
    out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for line in opened_lines(node, heard, full=view.full):
        _print_indented(out, line)


def _print_indented(out: Console, line: OpenedLine) -> None:
    if out.soft_wrap:
        out.print(Text(f"{'':{line.indent}}{line.text}".rstrip(), style=line.style))
    else:
        out.print(Padding(Text(line.text, style=line.style), (0, 0, 0, line.indent), expand=False))


def find_node(trace: Trace, which: str) -> Node:
    """The turn or run of that id, by its beginning or its end, or `turn:3`. A turn and its run are one id: the turn.

    Raises ConviveError that names near ones, or all that are meant.
    """
    nodes: dict[str, Node] = {}
    for root in trace.roots:
        for node in root.walk():
            if node.kind in ("conversation", "turn", "run"):
                nodes.setdefault(node.run_id, node)
    wanted = which.strip().removeprefix("…").lower()
    found = [node for node in nodes.values() if wanted and node.kind == "turn" and wanted == f"turn:{node.turn}"]
    found = found or ([nodes[wanted]] if wanted in nodes else [])
    found = found or [node for id, node in nodes.items() if wanted and (id.startswith(wanted) or id.endswith(wanted))]
    if len(found) == 1:
        return found[0]
    if found:
        listed = "\n".join(f"  {node.run_id}  {name_of(node)}" for node in found[:8])
        more = f"\n  and {len(found) - 8} more" if len(found) > 8 else ""
        raise ConviveError(
            f"{len(found)} runs of this trace have an id that begins or ends with {wanted!r}:\n{listed}{more}"
        )
    if wanted.startswith("turn:"):
        turns = [node.turn for node in nodes.values() if node.turn]
        there = f"the last one is turn:{max(turns)}" if turns else "it has no turns"
        raise ConviveError(f"this trace has no {shown(wanted)[:80]!r}: {there}.")
    near = difflib.get_close_matches(wanted, nodes, n=3, cutoff=0.5)
    near += [id[-ID:] for id in nodes if difflib.get_close_matches(wanted, [id[-ID:]], cutoff=0.6)][:3]
    hint = f"Did you mean {' or '.join(near)}?" if near else "Ids end the lines of the tree that `convive trace` shows."
    raise ConviveError(f"no run of this trace has an id that begins or ends with {shown(which)[:80]!r}. {hint}")


async def _heard(bus: Bus, trace: Trace, node: Node) -> Heard | None:
    """What the seat had heard before a turn, or before a run whose prompt was made from a turn."""
    turn = node if node.kind == "turn" else _turn_behind(trace, node)
    if turn is None:
        return None
    try:
        there = await bus.existing(turn.conversation)
    except UnknownConversation:
        return None
    transcript, lines, cue = Transcript(), list[str](), None
    async with there.read(until=turn.seqs[0]) as records:
        async for record in records:
            for line in transcript.apply(record):
                lines = [] if line.style == "speech" and line.seat == turn.seat else [*lines, plain(line)]
            if record.seq == turn.seqs[0]:
                granted = event_of(record)
                cue = granted.cue if isinstance(granted, Granted) else None
    return Heard(tuple(lines), cue, turn.conversation, turn.seqs[0] - 1, turn.seat)


def _turn_behind(trace: Trace, node: Node) -> Node | None:
    """The turn that a run's journal refers to in place of a prompt."""
    source = next((event.source for event in node.events if event.type == "run_started"), None)
    if not isinstance(source, dict):
        return None
    turns = (
        turn for root in trace.roots if root.kind == "conversation" for turn in root.children if turn.kind == "turn"
    )
    place = (source.get("conversation"), source.get("turn"))
    return next((turn for turn in turns if (turn.conversation, turn.turn) == place), None)
