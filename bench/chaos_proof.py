"""What must hold when a chaos run is over, whatever happened in it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_record import log_of, notes_of, value_of
from convive.agents import verify
from convive.bus import AppendOp, Bus, Operation, ReadOp, Record, check_history

Key = tuple[str, str, str | int | None]


@dataclass
class Attempt:
    """What a process asked for, and what it was told, if it lived to hear it."""

    call: float
    subject: str
    value: str
    id: str | None
    expected: int | None
    process: str
    result: str = "unknown"
    end: float | None = None
    position: int | None = None


@dataclass
class Proof:
    """The faults that were found, none: all is well; and what there was to find them in."""

    faults: list[str] = field(default_factory=list[str])
    counts: Counter[str] = field(default_factory=Counter[str])

    def fault(self, what: str) -> None:
        self.counts["faults"] += 1
        if len(self.faults) < 20:
            self.faults.append(what)


def attempts_of(paths: Iterable[Path]) -> list[Attempt]:
    """Every append that a process noted."""
    found: list[Attempt] = []
    for path in paths:
        open_calls: dict[tuple[int, int], Attempt] = {}
        for line in notes_of(path):
            key = (line["pid"], line["n"])
            if "call" in line:
                asked = {name: line[name] for name in ("call", "subject", "value", "id", "expected")}
                attempt = open_calls[key] = Attempt(**asked, process=f"{path.stem}/{line['pid']}")
                found.append(attempt)
            else:
                attempt = open_calls.pop(key)
                attempt.result, attempt.end, attempt.position = line["result"], line["return"], line["position"]
    return found


def operations(attempts: Iterable[Attempt], records: Iterable[Record], proof: Proof) -> list[AppendOp]:
    """The attempts as operations, those for one record as one.

    The same draft may be tried by several processes, one after another dying, or by doubles at once: it is stored once,
    and all that are told a place are told the same. So it happened between the first call and the first answer.
    """
    groups: dict[Key, list[Attempt]] = {}
    for number, attempt in enumerate(attempts):
        same = attempt.id if attempt.id is not None else attempt.expected
        own = (attempt.subject, attempt.value, same if same is not None else -number)
        groups.setdefault(own, []).append(attempt)
    open_places = _places(records)
    appended = {one.position for group in groups.values() for one in group if one.result == "appended"}
    made: list[AppendOp] = []
    for group in groups.values():
        told = sorted((one for one in group if one.result == "appended"), key=lambda one: one.end or 0)
        if len({one.position for one in told}) > 1:
            proof.fault(
                f"{group[0].subject}: one record was acknowledged at {sorted({one.position or 0 for one in told})}"
            )
        unsure = [one for one in group if one.result == "unknown"]
        best = told[0] if told else unsure[0] if unsure else None
        if best is not None:
            first_s = min(one.call for one in (*told, *unsure))
            free = [place for place in open_places.get(best.value, ()) if place not in appended]
            found = free[0] if not told and len(free) == 1 else None
            made.append(_operation(best, call_s=first_s, position=best.position or found))
        made += [_operation(one, call_s=one.call, position=one.position) for one in group if one.result == "conflict"]
        proof.counts["acknowledged"] += bool(told)
        proof.counts["ambiguous"] += bool(unsure and not told)
        proof.counts["conflicts"] += sum(one.result == "conflict" for one in group)
    return made


def _operation(attempt: Attempt, *, call_s: float, position: int | None) -> AppendOp:
    return AppendOp.model_validate(
        {
            "process": attempt.process,
            "log": log_of(attempt.subject),
            "call": call_s,
            "return": attempt.end,
            "value": attempt.value,
            "expected": attempt.expected,
            "result": attempt.result,
            "position": position,
        }
    )


def _places(records: Iterable[Record]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for record in records:
        found.setdefault(value_of(record.subject, record.body), []).append(record.seq)
    return found


def reads_of(paths: Iterable[Path]) -> list[ReadOp]:
    """What readers saw."""
    return [
        ReadOp.model_validate({"process": path.stem, "result": "read", **line})
        for path in paths
        for line in notes_of(path)
    ]


def check_records(made: Iterable[AppendOp], records: Mapping[int, Record], proof: Proof) -> None:
    """Nothing that was acknowledged is missing, nothing is doubled, and nothing is there that nobody asked for."""
    asked: Counter[str] = Counter()
    for op in made:
        if op.result == "conflict":
            continue
        asked[op.value] += 1
        record = records.get(op.position or 0)
        if op.result == "appended" and (record is None or value_of(record.subject, record.body) != op.value):
            proof.fault(f"{op.log}: acknowledged at {op.position} and not there")
    stored = Counter(value_of(record.subject, record.body) for record in records.values())
    for record in records.values():
        value = value_of(record.subject, record.body)
        if stored[value] > asked[value]:
            proof.fault(
                f"{record.subject}: stored {stored[value]} times, asked for {asked[value]} times, at {record.seq}"
            )
    proof.counts["records"] = len(records)


def check_producers(counted: Iterable[Record], marks: Iterable[Record], proof: Proof) -> None:
    """Each producer's numbers stand there from 0 on, once and in order, as many as its mark says."""
    stored: Counter[str] = Counter()
    for record in counted:
        name, _, number = record.body.decode().partition(" ")
        if int(number) != stored[name]:
            proof.fault(f"producer {name}: {number} at {record.seq}, where {stored[name]} was due")
        stored[name] = int(number) + 1
    noted = {mark.subject.rpartition(".")[2]: int(json.loads(mark.body)["stored"]) for mark in marks}
    for name in sorted(stored.keys() | noted.keys()):
        if stored[name] != noted.get(name, 0):
            proof.fault(f"producer {name}: {stored[name]} records are there, its mark says {noted.get(name, 0)}")
    proof.counts["counted"] = sum(stored.values())


def check_followers(paths: Iterable[Path], followed: Iterable[Record], proof: Proof) -> None:
    """Every follower saw all of it, once, in the order of the log."""
    there = [(record.seq, record.subject, value_of(record.subject, record.body)) for record in followed]
    for path in paths:
        seen = [(line["seq"], line["subject"], line["value"]) for line in notes_of(path)]
        proof.counts["followed"] += len(seen)
        if seen != there:
            at = next((at for at, (one, other) in enumerate(zip(seen, there, strict=False)) if one != other), None)
            where = f"differ at {there[at][0]}" if at is not None else f"saw {len(seen)} of {len(there)} records"
            proof.fault(f"{path.stem}: {where}")


async def check_parties(bus: Bus, names: Iterable[str], proof: Proof) -> None:
    """Every party came to its end and is whole: one speaker a turn is a part of that."""
    for name in names:
        verdict = await verify(await bus.existing(name))
        floor = verdict.bus.floor
        proof.counts["turns"] += floor.turn
        proof.counts["revoked"] += verdict.bus.fates.get("revoked", 0)
        for finding in verdict.findings:
            proof.fault(f"{name}: {finding.kind} at {finding.seq}, {finding.subject}: {finding.why}")
        if floor.closed is None or sum(verdict.bus.fates.values()) != floor.turn or "open" in verdict.bus.fates:
            proof.fault(f"{name}: not at its end, {verdict.bus.fates} of {floor.turn} turns")


def check_order(history: list[Operation], file: Path, proof: Proof) -> None:
    """What everybody was told is linearizable. The history stays in the file."""
    file.write_text("".join(f"{op.line()}\n" for op in history))
    found = check_history(history)
    proof.counts["operations"] = found.operations
    if found.answer != "linearizable":
        proof.fault(f"the history is {found.answer}: {found.why}")


def all_lines(evidence: Path, role: str) -> list[Path]:
    """The notes of all processes of a role."""
    return sorted(evidence.glob(f"{role}-*.jsonl"))


def as_lines(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())
