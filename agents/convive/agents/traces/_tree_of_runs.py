"""Where each run of a trace stands: below its turn, the call that made it or the run above, however logs are mixed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite

from convive.agents.journal._journal import ChildRun
from convive.agents.runs._frame import call_key, called_run_id, what_is_asked
from convive.agents.runs._prices import Cost
from convive.agents.traces._node import Node, Status
from convive.bus import RunId

_TIME = 12
"""The part of an id that it has from the run above, where it was derived from that."""
_MOST_ALIKE = 16
"""How often a tool call may ask the same of the same agent and still be known, before it returns, as what did."""

_CHILD_STATUS: dict[str, Status] = {"completed": "ok", "failed": "failed", "cancelled": "cancelled"}


class TreeOfRuns:
    """The runs of a trace and what they stand below. What stands above a run may be read later than the run."""

    def __init__(self) -> None:
        self.conversations: list[Node] = []
        self.runs: dict[RunId, Node] = {}
        self.tops: dict[RunId, Node] = {}
        """The runs that stand below nothing."""
        self.turns: dict[RunId, Node] = {}
        self._calls: dict[RunId, Node] = {}  # the call of each run that a call has named
        self._named: dict[Node, list[RunId]] = {}  # the same by the call
        self._unseen: dict[RunId, tuple[ChildRun, Node]] = {}  # those of them that no record was of so far
        self._asked: dict[RunId, str] = {}  # of the others: what they were asked
        self._lost: dict[RunId, dict[RunId, Node]] = {}  # runs, by the one above them that is not there
        self._uncalled: dict[RunId, dict[RunId, Node]] = {}  # runs that stand directly below a run, by that one

    def add_conversation(self, node: Node) -> None:
        """A conversation has begun."""
        self.conversations.append(node)
        self._find(node.run_id)

    def add_turn(self, node: Node, conversation: Node) -> None:
        """A turn has begun."""
        self.turns[node.run_id] = node
        node.put_below(conversation)
        run = self.runs.get(node.run_id)
        if run is None:
            self._find(node.run_id)
            return
        self._place(run)
        for each in [below for below in run.children if below.kind == "run"]:
            self._place(each)

    def add_run(self, node: Node) -> None:
        """A run has begun."""
        self.runs[node.run_id] = self.tops[node.run_id] = node
        self._unseen.pop(node.run_id, None)
        if node.run_id in self._calls:
            node.called_by = self._calls[node.run_id].part
        self._place(node)
        self._find(node.run_id)

    def asked(self, node: Node, agent: str, input: str) -> None:
        """A run says what it was asked, from which follows what call made it."""
        if node.called_by is None and node.run.parent_run_id is not None and node.run_id not in self.turns:
            self._asked[node.run_id] = what_is_asked(agent, input)
            self._place(node)

    def calling(self, node: Node, call: Node) -> None:
        """A tool call of a run is carried out."""
        beside = self._uncalled.get(node.run_id, {}).values()
        for each in [run for run in beside if self._call_of(run, node, [call]) is not None]:
            self._put(each, call)

    def called(self, children: Iterable[ChildRun], by: Node) -> None:
        """A tool call, or a run at its end, names the runs that it called. One that was queued is never named."""
        for child in children:
            below = self.runs.get(child.run_id)
            if by.kind == "tool":
                self._calls[child.run_id] = by
                self._named.setdefault(by, []).append(child.run_id)
                if below is not None:
                    self._put(below, by)
                else:
                    self._unseen[child.run_id] = child, by
            if below is not None and below.called_by is None:
                below.called_by = by.part
            if below is not None and below.name == "?":
                below.name = child.agent  # its own first record is missing

    def complete(self) -> None:
        """Add the runs that calls have named and that no record is of: what the callers know of them."""
        for child, call in [*self._unseen.values()]:
            own = call.run.child(child.run_id)
            node = Node("run", child.agent, own, "", call.started_s, call.seqs, call.conversation)
            node.status, node.ended_s = _CHILD_STATUS[child.status], call.ended_s
            node.copied = call.run_id in self.runs and self.runs[call.run_id].copied
            node.harm("its journal is not in the log")
            if child.run_id not in self._lost:  # else those below are there, and count themselves
                known = isfinite(child.known_cost)
                node.usage = child.usage
                node.cost = Cost(child.known_cost if known else 0.0, known and child.cost is not None)
            self.add_run(node)

    def forget(self, node: Node) -> None:
        """Let go of a turn, a run or a call."""
        if node.kind == "turn":
            self.turns.pop(node.run_id, None)
        elif node.kind == "tool":
            for child in self._named.pop(node, ()):
                self._calls.pop(child, None)
                self._unseen.pop(child, None)
        elif node.kind == "run":
            for known in (self.runs, self.tops, self._calls, self._unseen, self._asked):
                known.pop(node.run_id, None)
            _take(self._uncalled, node)
            _take(self._lost, node)

    def _place(self, node: Node) -> None:
        """Put a run where it belongs, as far as that is known."""
        parent = node.run.parent_run_id
        above = self.turns.get(node.run_id) or self._calls.get(node.run_id)
        if above is None and parent is not None:
            run, turn = self.runs.get(parent), self.turns.get(parent)
            above = run or turn or self._conversation(parent)
            node.orphan = above is None
            if run is not None:
                beside = turn is not None and _began_after(node, run)
                above = self._call_of(node, run, run.children) or (turn if beside else run)
            elif above is None or above is turn:  # a turn stands for its run, which may have a journal
                self._lost.setdefault(parent, {})[node.run_id] = node
        if above is not None:
            self._put(node, above)

    def _conversation(self, run: RunId) -> Node | None:
        return next((node for node in self.conversations if node.run_id == run), None)

    def _put(self, node: Node, above: Node) -> None:
        if node.parent is above:
            return
        if node.fits_below(above):
            node.put_below(above)
            for below in node.walk() if node.children else (node,):
                below.goes_on(below.status)
            self.tops.pop(node.run_id, None)
            _take(self._uncalled, node)
            if above.kind == "run":
                self._uncalled.setdefault(above.run_id, {})[node.run_id] = node
            if above.kind != "turn" or above.run_id in self.runs:
                _take(self._lost, node)
        elif node.parent is None:
            _take(self._lost, node)
            node.orphan, node.run = True, replace(node.run, parent_run_id=None)
            node.harm("what is said to stand above it cannot: it is that itself, stands below it, or is too far down")

    def _find(self, run: RunId) -> None:
        """Place anew what waited for this run."""
        for each in [*self._lost.get(run, {}).values()]:
            self._place(each)

    def _call_of(self, node: Node, run: Node, calls: Sequence[Node]) -> Node | None:
        """Which of these calls of a run made another run, by its id: while a call goes on, nothing else tells.

        It is one of the last as a rule, and few calls ask twice for the same.
        """
        asked, above = self._asked.get(node.run_id), run.run_id
        if asked is None or node.run_id[:_TIME] != above[:_TIME]:
            return None
        numbers = range(1, _MOST_ALIKE + 1)
        tries = ((call, number) for number in numbers for call in reversed(calls) if call.kind == "tool")
        made = (call for call, number in tries if called_run_id(above, _key(call), asked, number) == node.run_id)
        return next(made, None)


def _key(call: Node) -> str:
    _, trip, index = call.part.split("/")
    return call_key(call.run_id, int(trip), int(index))


def _take(known: dict[RunId, dict[RunId, Node]], node: Node) -> None:
    """Strike a run off a list of runs by the one above them."""
    parent = node.run.parent_run_id
    beside = known.get(parent) if parent is not None else None
    if parent is not None and beside is not None:
        beside.pop(node.run_id, None)
        if not beside:
            del known[parent]


def _began_after(node: Node, run: Node) -> bool:
    """Whether a run began when the one that it names above it was over: what the seat did next in that turn."""
    return run.ended_s is not None and run.conversation == node.conversation and node.started_s >= run.ended_s
