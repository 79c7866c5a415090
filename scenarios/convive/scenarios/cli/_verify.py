"""`convive verify`: is this conversation whole, is this history linearizable? What was found, told to a person."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convive.agents import RunFate, Verdict, verify
from convive.bus import Conversation, ConviveError, Finding, Linearity, Part, check_history, read_history
from convive.scenarios.cli._transcript import shown

WIDTH = 80
SHOWN = 10
"""How many findings of a kind are printed. All that are kept are in the JSON."""

_PARTS: dict[Part, str] = {
    "bus": "bus",
    "memory": "memories",
    "inbox": "inboxes",
    "run": "journals",
    "stream": "streams",
    "other": "elsewhere",
}
_FATES: tuple[RunFate, ...] = ("ended", "waiting", "open", "left", "damaged")


class Unsound(ConviveError):
    """A check came to a bad end, and its report says how."""


async def check_conversation(conversation: Conversation, until: int | None, *, as_json: bool) -> None:
    """Print what a pass over a conversation found. Raises Unsound when that is anything wrong."""
    verdict = await verify(conversation, until)
    if verdict.bus.through == 0:
        raise ConviveError(
            f"{conversation.id} has no record at or before {until}. Give a later --until, or leave it out."
        )
    lines = [json.dumps(as_object(verdict), ensure_ascii=False)] if as_json else report(verdict)
    for line in lines:
        print(line)  # noqa: T201 - standard output is this command's result
    if not verdict.whole:
        raise Unsound(
            f"{conversation.id} is damaged: {_many(sum(verdict.counts.values()), 'finding')}. Nothing was changed."
        )


def check_file(path: Path, *, as_json: bool) -> None:
    """Print whether a recorded history is linearizable. Raises BadHistory; Unsound when it is not, or nobody knows."""
    found = check_history(read_history(path))
    if as_json:
        lines = [json.dumps(asdict(found), ensure_ascii=False)]
    else:
        lines = [line for name, text in _rows_of(path, found) for line in _wrapped(name, text)]
    for line in lines:
        print(line)  # noqa: T201 - standard output is this command's result
    match found.answer:
        case "linearizable":
            return
        case "not linearizable":
            raise Unsound(f"{shown(str(path))} is not linearizable. Somebody was told what cannot have been.")
        case "unknown":
            raise Unsound(
                f"whether {shown(str(path))} is linearizable is not known. Fewer operations with unknown ends in one "
                "log, or their `position` where it was found later, make the search shorter."
            )


def _rows_of(path: Path, found: Linearity) -> Iterator[tuple[str, str]]:
    yield "history", shown(path.name)
    logs, processes = _many(found.logs, "log"), _many(found.processes, "process", "es")
    ambiguous = f", {found.ambiguous} with an unknown end" if found.ambiguous else ""
    yield "has", f"{_many(found.operations, 'operation')} on {logs} by {processes}{ambiguous}"
    yield "answer", found.answer
    if found.why:
        yield "why", shown(found.why)


def as_object(verdict: Verdict) -> dict[str, Any]:
    """A verdict as `--json` prints it."""
    bus = verdict.bus
    return {
        "conversation": verdict.conversation,
        "whole": verdict.whole,
        "through": bus.through,
        "head": bus.head,
        "content_head": bus.content_head,
        "closed": bus.floor.closed is not None,
        "links": bus.floor.links,
        "turns": bus.fates,
        "records": bus.parts,
        "memories": {"count": bus.memories, "dropped": bus.dropped},
        "runs": dict(verdict.runs),
        "counts": dict(verdict.counts),
        "findings": [
            {"kind": one.kind, "seq": one.seq, "subject": one.subject, "why": one.why} for one in verdict.findings
        ],
    }


def report(verdict: Verdict) -> list[str]:
    """A verdict in lines of at most 80 columns."""
    return [line for name, text in _rows(verdict) for line in _wrapped(name, text)]


def _rows(verdict: Verdict) -> Iterator[tuple[str, str]]:
    bus = verdict.bus
    floor = bus.floor
    state = "not opened" if floor.opened is None else "closed" if floor.closed is not None else "open"
    yield verdict.conversation, f"{state}, {_many(floor.turn, 'turn')}{_listed(bus.fates, ': ')}"
    parts = {name: bus.parts[part] for part, name in _PARTS.items() if part in bus.parts}
    yield "records", f"{sum(parts.values())} up to {bus.through}{_listed(parts, ': ', number_last=True)}"
    dropped = f", {bus.dropped} not committed" if bus.dropped else ""
    yield "memories", f"{bus.memories} count{dropped}"
    runs = {fate: verdict.runs[fate] for fate in _FATES if fate in verdict.runs}
    yield "runs", f"{sum(runs.values())}{_listed(runs, ': ')}"
    yield "damage", _listed(verdict.counts) or "none"
    for kind in verdict.counts:
        of_kind = [one for one in verdict.findings if one.kind == kind]
        for one in of_kind[:SHOWN]:
            yield f"  {kind}", _told(one)
        if verdict.counts[kind] > SHOWN:
            yield f"  {kind}", f"and {verdict.counts[kind] - SHOWN} more"
    yield "head", bus.head
    yield "content", bus.content_head


def _told(finding: Finding) -> str:
    return f"{finding.seq} on {shown(finding.subject)}: {shown(finding.why)}"


def _listed(counts: Mapping[Any, int], before: str = "", *, number_last: bool = False) -> str:
    """`3 said, 1 passed`, or `bus 3, journals 1`."""
    items = [f"{name} {number}" if number_last else f"{number} {name}" for name, number in counts.items()]
    return before + ", ".join(items) if items else ""


def _many(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{plural}"


def _wrapped(name: str, text: str) -> list[str]:
    indent = " " * 10
    return textwrap.wrap(f"{name:9} {text}", WIDTH, subsequent_indent=indent, break_on_hyphens=False)
