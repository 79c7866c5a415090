"""A short chaos run with a fixed seed, and that its proof would have seen what it looks for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos_proof import (
    Attempt,
    Proof,
    attempts_of,
    check_followers,
    check_order,
    check_producers,
    check_records,
    operations,
)
from chaos_record import value_of
from convive.bus import Record

ROOT = Path(__file__).parent.parent
SUBJECT = "cv.00.plain.stream.a"


def test_a_short_run_of_kills_loses_and_doubles_nothing() -> None:
    """Some 20 s of kills with a fixed seed. By hand: `bench/chaos.py --seed N --minutes 10 --nodes 3`."""
    command = [sys.executable, str(ROOT / "bench" / "chaos.py"), "--seed", "7", "--minutes", "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "proof     all of it holds" in done.stdout
    assert "servers killed" in done.stdout
    assert "processes killed" in done.stdout
    assert " counted" in done.stdout
    assert " 0 counted" not in done.stdout


def record(seq: int, body: str, subject: str = SUBJECT) -> Record:
    return Record(subject, seq, 0, {}, body.encode())


def attempt(body: str, **more: Any) -> Attempt:
    told: dict[str, Any] = {"call": 1.0, "id": None, "expected": None, "process": "p", **more}
    return Attempt(subject=SUBJECT, value=value_of(SUBJECT, body.encode()), **told)


def acknowledged(body: str, position: int, **more: Any) -> Attempt:
    return attempt(body, result="appended", position=position, **{"end": 2.0, **more})


def found(attempts: list[Attempt], records: list[Record]) -> list[str]:
    proof = Proof()
    made = operations(attempts, records, proof)
    check_records(made, {one.seq: one for one in records}, proof)
    return proof.faults


CASES: dict[str, tuple[list[Attempt], list[Record], list[str]]] = {
    "there": ([acknowledged("a", 3)], [record(3, "a")], []),
    "one draft, tried twice": ([attempt("a", id="x"), acknowledged("a", 3, id="x")], [record(3, "a")], []),
    "nobody knows, and it is there": ([attempt("a")], [record(3, "a")], []),
    "nobody knows, and it is not": ([attempt("a")], [], []),
    "missing": ([acknowledged("a", 3)], [], ["acknowledged at 3 and not there"]),
    "another one": ([acknowledged("a", 3)], [record(3, "b")], ["acknowledged at 3 and not there", "asked for 0 times"]),
    "doubled": ([acknowledged("a", 3)], [record(3, "a"), record(4, "a")], ["stored 2 times, asked for 1 times"] * 2),
    "unasked": ([], [record(3, "a")], ["stored 1 times, asked for 0 times"]),
    "refused and there": ([attempt("a", result="refused", end=2.0)], [record(3, "a")], ["asked for 0 times"]),
    "told two places": (
        [acknowledged("a", 3, id="x"), acknowledged("a", 4, id="x")],
        [record(3, "a")],
        ["one record was acknowledged at [3, 4]"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_missing_doubled_or_unasked_is_a_fault(name: str) -> None:
    attempts, records, wanted = CASES[name]
    faults = found(attempts, records)
    assert len(faults) == len(wanted), faults
    assert all(want in fault for want, fault in zip(wanted, faults, strict=True))


def test_a_producer_whose_records_are_not_there_once_and_in_order_is_a_fault() -> None:
    def faults(numbers: str, mark: int | None = 3) -> list[str]:
        proof = Proof()
        counted = [record(seq, f"one {number}") for seq, number in enumerate(numbers, 1)]
        body = f'{{"instance": "x", "stored": {mark}}}'
        check_producers(counted, [] if mark is None else [record(99, body, f"{SUBJECT}.producer.one")], proof)
        return proof.faults

    assert faults("012") == faults("", 0) == faults("", None) == []
    assert faults("02") == ["producer one: 2 at 2, where 1 was due"]
    assert faults("0112") == ["producer one: 1 at 3, where 2 was due"]
    assert faults("021")[:2] == ["producer one: 2 at 2, where 1 was due", "producer one: 1 at 3, where 3 was due"]
    assert faults("01") == ["producer one: 2 records are there, its mark says 3"]
    assert faults("012", None) == ["producer one: 3 records are there, its mark says 0"]


def test_a_follower_that_saw_another_order_or_not_all_is_a_fault(tmp_path: Path) -> None:
    there = [record(1, "a"), record(2, "b")]
    lines = [
        json.dumps({"seq": one.seq, "subject": one.subject, "value": value_of(one.subject, one.body)}) for one in there
    ]
    for name, seen in {"all": lines, "swapped": lines[::-1], "half": lines[:1], "twice": [*lines, lines[1]]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in seen))
    proof = Proof()
    check_followers(sorted(tmp_path.glob("*.jsonl")), there, proof)
    assert proof.faults == ["half: saw 1 of 2 records", "swapped: differ at 1", "twice: saw 3 of 2 records"]


def test_a_history_that_is_not_linearizable_is_a_fault(tmp_path: Path) -> None:
    proof = Proof()
    made = operations([acknowledged("a", 3), acknowledged("b", 2, call=5.0, end=6.0)], [], proof)
    check_order([*made], tmp_path / "history.jsonl", proof)
    assert len(proof.faults) == 1
    assert proof.faults[0].startswith("the history is not linearizable: ")


def test_what_was_under_way_when_a_process_died_is_unknown(tmp_path: Path) -> None:
    call = {"pid": 1, "call": 1.0, "subject": SUBJECT, "value": "v", "id": None, "expected": 4}
    end = {"pid": 1, "n": 1, "return": 2.0, "result": "conflict", "position": 9}
    notes = tmp_path / "sit-0.jsonl"
    notes.write_text(f'{json.dumps(call | {"n": 1})}\n{json.dumps(end)}\n{json.dumps(call | {"n": 2})}\n{{"torn')
    one, other = attempts_of([notes])
    assert (one.result, one.end, one.position) == ("conflict", 2.0, 9)
    assert (other.result, other.end, other.position) == ("unknown", None, None)
