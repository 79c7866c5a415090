"""The linearizability checker: known good and known bad histories, and an oracle that tries every order."""

from collections.abc import Iterator, Sequence
from itertools import chain, combinations, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convive.bus import AppendOp, Operation, ReadOp, check_history, next_digest


def append(call: float, end: float, position: int, value: str = "", expected: int | None = None) -> AppendOp:
    return AppendOp(
        call_s=call,
        return_s=end,
        value=value or f"v{position}",
        expected=expected,
        result="appended",
        position=position,
    )


def unknown(call: float, value: str, expected: int | None = None, position: int | None = None) -> AppendOp:
    return AppendOp(call_s=call, value=value, expected=expected, result="unknown", position=position)


def conflict(call: float, end: float, expected: int, actual: int | None = None) -> AppendOp:
    return AppendOp(call_s=call, return_s=end, value="no", expected=expected, result="conflict", position=actual)


def read(call: float, end: float, position: int, *values: str) -> ReadOp:
    return ReadOp(call_s=call, return_s=end, result="read", position=position, digest=digest(*values))


def digest(*values: str) -> str:
    found = ""
    for value in values:
        found = next_digest(found, value)
    return found


GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "one after the other": [append(0, 1, 3), read(2, 3, 3, "v3"), append(4, 5, 9), read(6, 7, 9, "v3", "v9")],
    "a read beside an append saw it": [append(0, 3, 5), read(1, 2, 5, "v5")],
    "a read beside an append did not see it": [append(0, 3, 5), read(1, 2, 0)],
    "two at once, the later call first": [append(0, 9, 5), append(1, 9, 4), read(10, 11, 5, "v4", "v5")],
    "a guard that held": [append(0, 1, 4), append(2, 3, 6, expected=4)],
    "a guard on an empty log": [append(0, 1, 4, expected=0)],
    "of two rivals one": [append(0, 5, 4, expected=0), conflict(1, 4, 0, 4)],
    "a conflict that was told nothing": [append(0, 5, 4), conflict(1, 4, 0)],
    "an ambiguous append took effect": [unknown(0, "a"), read(1, 2, 7, "a")],
    "an ambiguous append did not": [unknown(0, "a"), read(1, 2, 0), append(3, 4, 2), read(5, 6, 2, "v2")],
    "an ambiguous append took effect late": [
        unknown(0, "a"),
        append(1, 2, 2),
        read(3, 4, 2, "v2"),
        read(5, 6, 8, "v2", "a"),
    ],
    "a guard tells of an ambiguous append": [unknown(0, "a"), append(1, 2, 9, expected=4), read(3, 4, 9, "a", "v9")],
    "a conflict tells of an ambiguous append": [unknown(0, "a"), conflict(1, 2, 0, 6), read(3, 4, 6, "a")],
    "an ambiguous append that was found": [unknown(0, "a", position=3), append(1, 2, 5), read(3, 4, 5, "a", "v5")],
    "two of many ambiguous ones": [*(unknown(0, f"u{n}") for n in range(20)), read(1, 2, 40, "u7", "u3")],
    "an ambiguous guarded append that lost": [append(0, 1, 4), unknown(2, "a", expected=0), read(3, 4, 4, "v4")],
    "a refused append": [AppendOp(call_s=0, return_s=1, value="a", result="refused"), read(2, 3, 0)],
    "a read that failed": [append(0, 1, 4), ReadOp(call_s=2, result="unknown")],
    "logs of their own": [
        append(0, 1, 9).model_copy(update={"log": "a"}),
        read(2, 3, 0).model_copy(update={"log": "b"}),
    ],
}

BAD: dict[str, tuple[list[Operation], str]] = {
    "an acknowledged append is lost": (
        [append(0, 1, 7), read(2, 3, 0)],
        "no order explains that line 2 found the tail at 0, though line 1 was stored at 7 and had returned before",
    ),
    "an acknowledged append is lost below another": (
        [append(0, 1, 3), append(2, 3, 7), read(4, 5, 7, "v7")],
        "no order explains that line 3 found other contents up to 7, when the tail was 7",
    ),
    "a stale read": (
        [append(0, 1, 3), append(2, 3, 7), read(4, 5, 3, "v3")],
        "no order explains that line 3 found the tail at 3, though line 2 was stored at 7 and had returned before",
    ),
    "a read goes back behind another read": (
        [append(0, 9, 3), read(1, 2, 3, "v3"), read(3, 4, 0)],
        "no order explains that line 3 found the tail at 0",
    ),
    "a doubled append": (
        [append(0, 1, 3, "a"), read(2, 3, 5, "a", "a")],
        "no order explains that line 2 found the tail",
    ),
    "one place for two": (
        [append(0, 1, 3, "a"), append(0, 1, 3, "b")],
        "two appends were stored at 3, those of lines 1 and 2",
    ),
    "another order than the clock's": (
        [append(0, 1, 7), append(2, 3, 5)],
        "no order explains that line 2 was stored at 5, though line 1 was stored at 7 and had returned before",
    ),
    "values in another order": (
        [append(0, 1, 3, "a"), append(2, 3, 5, "b"), read(4, 5, 5, "b", "a")],
        "no order explains that line 3 found other contents up to 5, when the tail was 5",
    ),
    "both rivals won": (
        [append(0, 1, 3, expected=0), append(0, 1, 5, expected=0)],
        "no order explains that line 2 was stored at 5 behind 0, when the tail was 3",
    ),
    "a conflict with nobody": ([conflict(0, 1, 0)], "no order explains that line 1 found the tail not at 0, when the"),
    "a conflict before its rival": ([conflict(0, 1, 0, 4), append(2, 3, 4)], "no order explains that line 1 found the"),
    "an ambiguous append took effect twice": (
        [unknown(0, "a"), read(1, 2, 7, "a"), read(3, 4, 9, "a", "a")],
        "no order explains that line 3 found the tail at 9, when the tail was 7",
    ),
    "an ambiguous append went away again": (
        [unknown(0, "a"), read(1, 2, 7, "a"), append(3, 4, 9), read(5, 6, 9, "v9")],
        "no order explains that line 4 found other contents up to 9, when the tail was 9",
    ),
    "an ambiguous append before its call": (
        [read(0, 1, 7, "a"), unknown(2, "a")],
        "no order explains that line 1 found",
    ),
    "an ambiguous append at a place that is taken": (
        [append(0, 1, 3), unknown(2, "a"), read(3, 4, 3, "v3", "a")],
        "no order explains that line 3 found other contents up to 3, when the tail was 3",
    ),
    "a refused append is there": (
        [AppendOp(call_s=0, return_s=1, value="a", result="refused"), read(2, 3, 4, "a")],
        "no order explains that line 2 found the tail at 4, when the tail was 0",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_linearizable(name: str) -> None:
    assert check_history(GOOD[name]).answer == "linearizable"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_not_and_the_operation_that_fits_nowhere_is_named(name: str) -> None:
    history, why = BAD[name]
    found = check_history(history)
    assert found.answer == "not linearizable"
    assert found.why.startswith(f"the log: {why}")


# An oracle: every order of every choice, by the definition.


def every_order(history: Sequence[Operation]) -> Iterator[tuple[Operation, ...]]:
    maybe = [op for op in history if op.result == "unknown" and op.position is None]
    sure = [op for op in history if op.result != "refused" and not any(op is one for one in maybe)]
    for some in chain.from_iterable(combinations(maybe, number) for number in range(len(maybe) + 1)):
        for order in permutations([*sure, *some]):
            ends = [float("inf") if op.result == "unknown" else op.return_s or 0.0 for op in order]
            if all(order[i].call_s <= ends[j] for j in range(len(order)) for i in range(j)):
                yield order


def explains(order: Sequence[Operation], tails: Sequence[int]) -> bool:
    """Whether an order is one of the log, if the ambiguous appends are stored at these places."""
    tail, seen, places = 0, "", iter(tails)
    for op in order:
        if isinstance(op, ReadOp):
            if (op.position, op.digest) != (tail, seen):
                return False
        elif op.result == "conflict":
            if op.expected == tail or op.position not in (None, tail):
                return False
        else:
            place = next(places) if op.position is None else op.position
            if place <= tail or op.expected not in (None, tail):
                return False
            tail, seen = place, next_digest(seen, op.value)
    return True


def oracle(history: Sequence[Operation]) -> bool:
    for order in every_order(history):
        open_ends = sum(op.position is None and op.result == "unknown" for op in order)
        if any(explains(order, tails) for tails in combinations(range(1, 8), open_ends)):
            return True
    return False


VALUES = st.sampled_from(["a", "b"])
CALLS = st.tuples(st.integers(0, 6), st.integers(0, 3))
SEEN = st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("a", "a")])


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    call, took = draw(CALLS)
    times: dict[str, Any] = {"call_s": call, "return_s": call + took}
    expected = draw(st.none() | st.integers(0, 3))
    match draw(st.sampled_from(["append", "append", "unknown", "read", "read", "conflict"])):
        case "append":
            result = {"result": "appended", "position": draw(st.integers(1, 4))}
            return AppendOp.model_validate({**times, **result, "value": draw(VALUES), "expected": expected})
        case "unknown":
            place = draw(st.none() | st.none() | st.integers(1, 4))
            return unknown(call, draw(VALUES), expected, place)
        case "conflict":
            return conflict(call, call + took, expected or 0, draw(st.none() | st.integers(0, 4)))
        case _:
            seen = draw(SEEN)
            return read(call, call + took, draw(st.integers(len(seen), 4)) if seen else 0, *seen)


@given(st.lists(operations(), max_size=5))
@settings(max_examples=400)
def test_the_answer_is_that_of_trying_every_order(history: list[Operation]) -> None:
    found = check_history(history)
    assert found.answer == ("linearizable" if oracle(history) else "not linearizable")
