"""Is a history linearizable? Whether one order explains what everybody was told, and agrees with the clock.

The object is a log: its state is a tail and a digest of its values. An append moves the tail to its own, higher
position, and only if its guard names the tail; a conflict saw another tail than it expected; a read saw tail and
digest. An operation that returned before another was called stands before it. Logs are checked one by one:
linearizability is a property of each object alone (Herlihy and Wing 1990).

The search is that of Wing and Gong with the memory of states of Lowe, made narrow by what positions tell:

- appends with a position have no other order than that of their positions;
- reads and conflicts change nothing, so the first moment that fits one is as good as any;
- an append with an unknown end and no position is taken for stored only where nothing less explains the rest, first one
  of them, then two, and so on, so that a read which fits settles all before it.
"""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, count
from typing import Literal

from convive.bus.verify._history import AppendOp, Operation, ReadOp, next_digest

STATES = 200_000
"""How many states are looked at for one log before the search gives up."""

Answer = Literal["linearizable", "not linearizable", "unknown"]


@dataclass(frozen=True, slots=True)
class Linearity:
    """The answer for a history; `unknown`: the search gave up.

    `why` tells of the first log that is not linearizable, or that was given up; `line` is the operation that fits
    nowhere, counted from 1 (0: none in particular). `ambiguous` counts operations whose end is unknown.
    """

    answer: Answer
    operations: int = 0
    logs: int = 0
    processes: int = 0
    ambiguous: int = 0
    why: str = ""
    line: int = 0


def check_history(operations: Iterable[Operation], states: int = STATES) -> Linearity:
    """Look for an order that explains a history, among at most `states` states of each log.

    Takes memory for each operation and each state that is looked at.
    """
    logs: dict[str, _Log] = {}
    processes: set[str] = set()
    total = ambiguous = 0
    for total, operation in enumerate(operations, 1):
        logs.setdefault(operation.log, _Log()).add(total, operation)
        processes.add(operation.process)
        ambiguous += operation.result == "unknown"
    found = Linearity("linearizable", total, len(logs), len(processes), ambiguous)
    for name, log in logs.items():
        answer, line, why = log.search(states)
        if answer == "not linearizable" or (answer == "unknown" and found.answer == "linearizable"):
            found = replace(found, answer=answer, line=line, why=f"{name or 'the log'}: {why}")
        if answer == "not linearizable":
            break
    return found


@dataclass(frozen=True, slots=True)
class _Op:
    """An operation as the search needs it. `place`: where it was stored, or the tail it saw; None: not known."""

    line: int
    call_s: float
    return_s: float
    place: int | None
    expected: int | None
    value: str
    digest: str | None

    def told(self, stored: bool) -> str:
        """What the operation says of the log."""
        if stored:
            return f"was stored at {self.place}" + ("" if self.expected is None else f" behind {self.expected}")
        if self.place is None:
            return f"found the tail not at {self.expected}"
        return f"found the tail at {self.place}"


@dataclass(frozen=True, slots=True)
class _State:
    """A log at some moment of an order. Without `exact` its tail is at `tail` or beyond, and not at one of `never`."""

    tail: int = 0
    exact: bool = True
    digest: str = ""
    never: tuple[int, ...] = ()

    def may_be_at(self, place: int) -> bool:
        """Whether the tail can be there."""
        return place == self.tail if self.exact else place >= self.tail and place not in self.never


@dataclass(frozen=True, slots=True)
class _Node:
    """How far an order has come: `stored` definite appends, the looks before `first` and those in `later`, of which
    `pinned` know the tail that they saw, and `used` of the ambiguous appends."""

    state: _State = _State()
    stored: int = 0
    first: int = 0
    later: frozenset[int] = frozenset()
    pinned: int = 0
    used: frozenset[int] = frozenset()

    @property
    def done(self) -> int:
        return self.stored + self.first + len(self.later) + len(self.used)


class _Log:
    """The operations on one log."""

    def __init__(self) -> None:
        self._stored: list[_Op] = []
        self._looks: list[_Op] = []
        self._maybe: list[_Op] = []
        self._soonest: list[float] = []
        self._tails: list[int] = []
        self._telling = True

    def add(self, line: int, operation: Operation) -> None:
        """Sort an operation in by what it can do to the log."""
        if operation.result == "refused" or (isinstance(operation, ReadOp) and operation.result == "unknown"):
            return
        end_s = math.inf if operation.result == "unknown" or operation.return_s is None else operation.return_s
        if isinstance(operation, AppendOp):
            expected, value, digest = operation.expected, operation.value, None
        else:
            expected, value, digest = None, "", operation.digest
        op = _Op(line, operation.call_s, end_s, operation.position, expected, value, digest)
        if isinstance(operation, ReadOp) or operation.result == "conflict":
            self._looks.append(op)
        elif operation.position:
            self._stored.append(op)
        else:
            self._maybe.append(op)

    def search(self, states: int) -> tuple[Answer, int, str]:
        """The answer, and of a bad one the line that fits nowhere, and why."""
        self._stored.sort(key=lambda op: (op.place, op.call_s))
        self._looks.sort(key=lambda op: op.call_s)
        self._maybe.sort(key=lambda op: op.call_s)
        for one, other in zip(self._stored, self._stored[1:], strict=False):
            if one.place == other.place:
                why = f"two appends were stored at {one.place}, those of lines {one.line} and {other.line}"
                return "not linearizable", other.line, why
        ends = [op.return_s for op in self._stored]
        self._soonest = [*reversed([*accumulate(reversed(ends), min)]), math.inf]
        self._tails = sorted(op.place for op in self._looks if op.place is not None)
        values = [op.value for op in (*self._stored, *self._maybe)]
        self._telling = len(set(values)) == len(values)
        return self._best_first(states)

    def _best_first(self, states: int) -> tuple[Answer, int, str]:
        """Of all that was begun, go on with what takes the fewest ambiguous appends for stored, then with the longest.

        An entry with `insert` stands for all the ways to take one more of them for stored at that point.
        """
        ticket = count()
        queue = [(0, 0, next(ticket), False, _Node())]
        seen: set[_Node] = set()
        best, steps = _Node(), 0
        while queue:
            inserted, _, _, insert, node = heapq.heappop(queue)
            if insert:
                for after in self._inserted(node):
                    steps += 1
                    heapq.heappush(queue, (inserted, -after.done, next(ticket), False, after))
                continue
            node, settled = self._look(node)
            if node.done >= best.done:
                best = node
            if node.stored == len(self._stored) and node.first == len(self._looks):
                return "linearizable", 0, ""
            if node in seen:
                continue
            if settled:  # whatever else was begun can only come to the same, or to nothing
                queue.clear()
                seen.clear()
                inserted = 0
            seen.add(node)
            steps += 1
            if steps > states:
                why = f"no order was found among {states:,} states; the ends of {len(self._maybe)} appends are unknown"
                return "unknown", 0, why
            for after in (*self._conceded(node), *self._next_stored(node)):
                heapq.heappush(queue, (inserted, -after.done, next(ticket), False, after))
            if len(node.used) < len(self._maybe):
                heapq.heappush(queue, (inserted + 1, -node.done, next(ticket), True, node))
        line, why = self._objection(best)
        return "not linearizable", line, why

    def _deadline(self, node: _Node) -> float:
        """What is called later than this cannot be next: something else had returned by then."""
        soonest = self._soonest[node.stored]
        for _, op in self._open_looks(node):
            if op.call_s > soonest:
                break
            soonest = min(soonest, op.return_s)
        return soonest

    def _open_looks(self, node: _Node, called_by_s: float = math.inf) -> Iterator[tuple[int, _Op]]:
        """The looks that are not done, in the order of their calls."""
        for number in range(node.first, len(self._looks)):
            op = self._looks[number]
            if op.call_s > called_by_s:
                return
            if number not in node.later:
                yield number, op

    def _look(self, node: _Node) -> tuple[_Node, bool]:
        """Do every look that fits now and could not fit better later.

        Says whether a read among them has settled what was stored before: no other order would bring it there.
        """
        settled = False
        while True:
            did: dict[int, _Op] = {}
            state, open_conflicts = node.state, False
            for number, op in self._open_looks(node, self._deadline(node)):
                if op.digest is not None:
                    if op.digest == state.digest and state.may_be_at(op.place or 0):
                        state = _State(op.place or 0, True, state.digest)
                        did[number], settled = op, True
                elif state.exact and _saw(state, op):
                    did[number] = op
                else:
                    open_conflicts = True
            if not did:
                return node, settled and self._telling and not open_conflicts
            node = _with_looks(node, did, state)

    def _conceded(self, node: _Node) -> Iterator[_Node]:
        """While the tail is not known, a conflict may say something of it here, or of a later one."""
        if node.state.exact:
            return
        for number, op in self._open_looks(node, self._deadline(node)):
            if op.digest is None and op.place is not None and _saw(node.state, op):
                yield _with_looks(node, {number: op}, _State(op.place, True, node.state.digest))
            elif op.digest is None and op.place is None and op.expected is not None:
                never = tuple(sorted({*node.state.never, op.expected}))
                yield _with_looks(node, {number: op}, replace(node.state, never=never))

    def _next_stored(self, node: _Node) -> Iterator[_Node]:
        """The next of the appends whose positions are known, if it can be next."""
        if node.stored == len(self._stored):
            return
        op, state = self._stored[node.stored], node.state
        place = op.place or 0
        guarded = op.expected is None or (op.expected < place and state.may_be_at(op.expected))
        # Whoever saw a lower tail saw it before this.
        missed = node.pinned < bisect_left(self._tails, place)
        if op.call_s <= self._deadline(node) and place > state.tail and guarded and not missed:
            yield replace(node, state=_State(place, True, next_digest(state.digest, op.value)), stored=node.stored + 1)

    def _inserted(self, node: _Node) -> Iterator[_Node]:
        """Each of the appends with an unknown end that can be next."""
        state = node.state
        if node.pinned < (bisect_right if state.exact else bisect_left)(self._tails, state.tail):
            return
        deadline_s = self._deadline(node)
        for number, op in enumerate(self._maybe):
            if op.call_s > deadline_s:
                return
            if number not in node.used and (op.expected is None or state.may_be_at(op.expected)):
                least = 1 + max(state.tail, op.expected or 0)
                after = _State(least, False, next_digest(state.digest, op.value))
                yield replace(node, state=after, used=node.used | {number})

    def _objection(self, node: _Node) -> tuple[int, str]:
        """The operation that had to be next where the search came furthest, and what stood in its way."""
        stored = self._stored[node.stored :]
        left = [*stored, *(op for _, op in self._open_looks(node))]
        op = min(left, key=lambda one: (one.return_s, one.call_s))
        is_stored = op in stored
        for other in left:
            back = op.place is not None and other.place is not None and other.place < op.place
            if back and other.call_s > op.return_s:
                why = f"though line {op.line} {op.told(stored=is_stored)} and had returned before"
                return (
                    other.line,
                    f"no order explains that line {other.line} {other.told(stored=other in stored)}, {why}",
                )
        what = op.told(stored=is_stored)
        if op.digest is not None and op.place == node.state.tail:
            what = f"found other contents up to {op.place}"
        tail = f"{'' if node.state.exact else 'at least '}{node.state.tail}"
        return op.line, f"no order explains that line {op.line} {what}, when the tail was {tail}"


def _saw(state: _State, op: _Op) -> bool:
    """Whether a conflict can have been told of this tail."""
    if op.place is not None:
        return op.place != op.expected and state.may_be_at(op.place)
    return op.expected != state.tail


def _with_looks(node: _Node, did: Mapping[int, _Op], state: _State) -> _Node:
    first, later = node.first, {*node.later, *did}
    while first in later:
        later.remove(first)
        first += 1
    pinned = node.pinned + sum(op.place is not None for op in did.values())
    return replace(node, state=state, first=first, later=frozenset(later), pinned=pinned)
