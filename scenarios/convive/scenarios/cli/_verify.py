"""`convive verify`: is this conversation or entity whole, is this history linearizable? What was found, told to a
person."""

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convive.agents import RunFate, Verdict, verify
from convive.agents.entities import EntityVerdict, verify_entity
from convive.bus import (
    Bus,
    Conversation,
    ConviveError,
    Finding,
    FindingKind,
    Linearity,
    Part,
    check_history,
    read_history,
)
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
    _tell(conversation.id, lines, verdict.counts, whole=verdict.whole)


async def check_entity(bus: Bus, name: str, until: int | None, *, as_json: bool) -> None:
    """Print what a pass over an entity found. Raises Unsound when that is anything wrong."""
    verdict = await verify_entity(bus, name, until)
    lines = [json.dumps(_entity_object(verdict), ensure_ascii=False)] if as_json else _entity_report(verdict)
    _tell(verdict.state.name, lines, verdict.counts, whole=verdict.whole)


def _tell(name: str, lines: Iterable[str], counts: Mapping[Any, int], *, whole: bool) -> None:
    for line in lines:
        print(line)  # noqa: T201 - standard output is this command's result
    if not whole:
        raise Unsound(f"{name} is damaged: {_many(sum(counts.values()), 'finding')}. Nothing was changed.")


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
        **_found(verdict.counts, verdict.findings),
    }


def _found(counts: Mapping[FindingKind, int], findings: Sequence[Finding]) -> dict[str, Any]:
    rows = [{"kind": one.kind, "seq": one.seq, "subject": one.subject, "why": one.why} for one in findings]
    return {"counts": dict(counts), "findings": rows}


def _entity_object(verdict: EntityVerdict) -> dict[str, Any]:
    return {
        "entity": verdict.state.name,
        "whole": verdict.whole,
        "through": verdict.bus.through,
        "head": verdict.bus.head,
        "content_head": verdict.bus.content_head,
        "status": verdict.state.status,
        "wakes": verdict.state.wakes,
        "letters": {"came": verdict.letters, "again": verdict.again, "elsewhere": verdict.elsewhere},
        "sent": {"count": verdict.sent, "under_way": verdict.under_way},
        "records": verdict.bus.parts,
        "runs": dict(verdict.runs),
        **_found(verdict.counts, verdict.findings),
    }


def _entity_report(verdict: EntityVerdict) -> list[str]:
    state, bus = verdict.state, verdict.bus
    parts = {name: bus.parts[part] for part, name in _PARTS.items() if part in bus.parts}
    came = f"{_many(verdict.letters, 'letter')} came"
    came += f", {verdict.again} of them again, which did not count" if verdict.again else ""
    sent = f"{verdict.sent} sent" + (f", {verdict.under_way} under way" if verdict.under_way else "")
    elsewhere = f"; of {verdict.elsewhere} the other side is not on this bus" if verdict.elsewhere else ""
    runs = {fate: verdict.runs[fate] for fate in _FATES if fate in verdict.runs}
    rows = [
        (state.name, f"{state.status}, {_many(state.wakes, 'wake')}"),
        ("records", f"{sum(parts.values())} up to {bus.through}{_listed(parts, ': ', number_last=True)}"),
        ("letters", f"{came}, {sent}{elsewhere}"),
        ("runs", f"{sum(runs.values())}{_listed(runs, ': ')}"),
        *_damage(verdict.counts, verdict.findings),
        ("head", bus.head),
        ("content", bus.content_head),
    ]
    return [line for name, text in rows for line in _wrapped(name, text)]


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
    yield from _damage(verdict.counts, verdict.findings)
    yield "head", bus.head
    yield "content", bus.content_head


def _damage(counts: Mapping[FindingKind, int], findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    yield "damage", _listed(counts) or "none"
    for kind in counts:
        of_kind = [one for one in findings if one.kind == kind]
        for one in of_kind[:SHOWN]:
            yield f"  {kind}", _told(one)
        if counts[kind] > SHOWN:
            yield f"  {kind}", f"and {counts[kind] - SHOWN} more"


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
