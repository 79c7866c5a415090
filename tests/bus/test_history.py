"""Histories of some length, from executions that were linearizable, and files that hold them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convive.bus import AppendOp, BadHistory, Operation, ReadOp, check_history, next_digest, read_history
from tests.proportion import times_as_long


class Execution:
    """Processes at one log, each of whose operations happens at one moment between its call and its return."""

    def __init__(self, seed: int, operations: int, *, found: bool = False) -> None:
        self.chance = Random(seed)  # noqa: S311 - a schedule, not a secret
        self.found = found
        self.history: list[Operation] = []
        self.states: list[tuple[int, str]] = [(0, "")]
        moments = sorted(self.chance.uniform(0, operations) for _ in range(operations))
        for number, moment in enumerate(moments):
            self.history.append(self.operation(f"v{number}", moment))
        self.chance.shuffle(self.history)

    def operation(self, value: str, moment: float) -> Operation:
        chance, (tail, seen) = self.chance, self.states[-1]
        call, end = moment - chance.expovariate(0.3), moment + chance.expovariate(0.3)
        what = chance.random()
        if what < 0.3:
            return ReadOp(process="r", call_s=call, return_s=end, result="read", position=tail, digest=seen)
        expected = chance.choice([None, tail, chance.choice(self.states)[0]])
        if what > 0.97:  # the answer got lost, and often the request
            happens = chance.random() < 0.6 and expected in (None, tail)
            place = self.store(value) if happens else None
            known = place if self.found else None
            return AppendOp(call_s=call, value=value, expected=expected, result="unknown", position=known)
        if expected not in (None, tail):
            told = chance.choice([None, tail])
            return AppendOp(call_s=call, return_s=end, value=value, expected=expected, result="conflict", position=told)
        place = self.store(value)
        return AppendOp(
            process="w", call_s=call, return_s=end, value=value, expected=expected, result="appended", position=place
        )

    def store(self, value: str) -> int:
        tail, seen = self.states[-1]
        self.states.append((tail + self.chance.randint(1, 3), next_digest(seen, value)))
        return self.states[-1][0]

    def picked(self, fits: Callable[[Operation], bool]) -> int:
        """The place in the history of an operation like that."""
        return self.chance.choice([at for at, op in enumerate(self.history) if fits(op)])


def changed(op: Operation, **to: object) -> Operation:
    return op.model_copy(update=to)


def is_appended(op: Operation) -> bool:
    return op.result == "appended"


def a_value_is_lost(own: Execution) -> None:
    at = own.picked(lambda op: op.result == "read" and bool(op.position))
    op = own.history[at]
    before = next(seen for place, seen in reversed(own.states) if place < (op.position or 0))
    own.history[at] = changed(op, digest=before)


def a_read_is_stale(own: Execution) -> None:
    """It saw what was there before an append that had returned before the read was called."""
    last = max((op for op in own.history if is_appended(op)), key=lambda op: op.position or 0)
    place, seen = next(state for state in reversed(own.states) if state[0] < (last.position or 0))
    call = (last.return_s or 0) + 1
    own.history.append(ReadOp(call_s=call, return_s=call + 1, result="read", position=place, digest=seen))


def a_place_is_given_twice(own: Execution) -> None:
    one = own.picked(is_appended)
    other = own.picked(lambda op: is_appended(op) and op is not own.history[one])
    own.history[other] = changed(own.history[other], position=own.history[one].position, expected=None)


def two_appends_change_places(own: Execution) -> None:
    appends = sorted(
        (at for at, op in enumerate(own.history) if is_appended(op)), key=lambda at: own.history[at].call_s
    )
    one, other = appends[0], appends[-1]
    first, last = own.history[one], own.history[other]
    assert (first.return_s or 0) < last.call_s
    own.history[one], own.history[other] = (
        changed(first, position=last.position, expected=None),
        changed(last, position=first.position, expected=None),
    )


@given(seed=st.integers(0, 2**32), found=st.booleans())
@settings(max_examples=60)
def test_what_happened_in_one_order_is_linearizable(seed: int, found: bool) -> None:
    assert check_history(Execution(seed, 120, found=found).history).answer == "linearizable"


@pytest.mark.parametrize(
    "change", [a_value_is_lost, a_read_is_stale, a_place_is_given_twice, two_appends_change_places]
)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=30)
def test_what_cannot_have_happened_is_not(change: Callable[[Execution], None], seed: int) -> None:
    own = Execution(seed, 120)
    change(own)
    found = check_history(own.history)
    assert found.answer == "not linearizable"
    assert 1 <= found.line <= len(own.history)


def test_a_long_history_takes_time_in_proportion() -> None:
    def checked(operations: int) -> Callable[[], object]:
        history = Execution(7, operations, found=True).history
        assert check_history(history).answer == "linearizable"
        return partial(check_history, history)

    assert times_as_long(checked, 4_000, 16_000) < 3


def test_the_search_gives_up_rather_than_hang() -> None:
    """Forty appends that nobody knows the end of, and a read that none of their orders explains."""
    history: list[Operation] = [AppendOp(call_s=0, value=f"v{n}", result="unknown") for n in range(40)]
    history.append(ReadOp(call_s=1, return_s=2, result="read", position=90, digest="0" * 64))
    found = check_history(history, states=3_000)
    assert found.answer == "unknown"
    assert found.why == "the log: no order was found among 3,000 states; the ends of 40 appends are unknown"
    bad = [changed(op, log="other") for op in (*history[:0], ReadOp(call_s=1, return_s=2, result="read", position=1))]
    assert check_history([*history, *bad], states=3_000).answer == "not linearizable", "a fault elsewhere is certain"


def test_the_counts_are_those_of_the_file() -> None:
    own = Execution(3, 200)
    found = check_history(own.history)
    assert (found.operations, found.logs, found.processes) == (200, 1, 3)
    assert found.ambiguous == sum(op.result == "unknown" for op in own.history) > 0


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = Execution(5, 100).history
    file = tmp_path / "history.jsonl"
    file.write_text("".join(f"{op.line()}\n" for op in history))
    assert list(read_history(file)) == history


FINE = '{"op":"read","call":1,"return":2,"result":"read","position":0}\n'
WRONG = {
    "": "not an operation: Invalid JSON: EOF",
    "junk": "not an operation: Invalid JSON: expected value",
    "[]": "not an operation: Input should be",
    '{"op":"swap"}': "not an operation: Input tag 'swap' found",
    '{"op":"read","call":1,"return":2,"result":"read"}': "not an operation: it read up to no position",
    '{"op":"read","call":3,"return":2,"result":"read","position":1}': "not an operation: it returned before it was",
    '{"op":"read","call":3,"result":"read","position":1}': "not an operation: it has a result and no return",
    '{"op":"read","call":NaN,"return":2,"result":"read","position":1}': "not an operation: call: Input should be",
    '{"op":"append","call":1,"return":2,"value":"a","result":"appended"}': "not an operation: it was appended at no po",
    '{"op":"append","call":1,"return":2,"value":"a","result":"conflict"}': "not an operation: a conflict without a gu",
    '{"op":"append","call":1,"return":2,"value":"a","result":"done"}': "not an operation: result: Input should be 'app",
    '{"op":"append","call":1,"return":2,"result":"refused","x":1}': "not an operation: value: Field required",
    "x" * 20_000: "longer than 16,384 bytes",
}


@pytest.mark.parametrize("line", WRONG, ids=lambda line: line[:60])
def test_a_line_that_is_no_operation_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(f"{FINE}{line}\n{FINE}")
    with pytest.raises(BadHistory) as caught:
        list(read_history(file))
    assert caught.value.line == 2
    assert str(caught.value).startswith(f"{file}, line 2: {WRONG[line]}")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadHistory, match=r"none: cannot be read: No such file"):
        list(read_history(tmp_path / "none"))
    with pytest.raises(BadHistory, match=r"cannot be read: Is a directory"):
        list(read_history(tmp_path))
