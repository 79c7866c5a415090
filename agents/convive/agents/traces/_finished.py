"""Which nodes of a trace are over for good, so that they can be exported: all at once, or one by one as they end."""

from collections.abc import Collection, Iterable, Iterator

from convive.agents.traces._node import OVER, Node
from convive.agents.traces._trace import Trace
from convive.bus import Record, RunId

MOST_RUNS = 10_000
"""That a fold without end holds: what was killed and is taken up nowhere stays open for ever."""
MOST_TURNS = 1_000
"""That are over and known by name still: what a seat does then stands below its turn."""
_WENT_ON_TO_ITS_END = OVER - {"interrupted"}


def finished(trace: Trace) -> Iterator[Node]:
    """The nodes of a trace of which nothing more can be told, children first."""
    for root in trace.roots:
        for node in reversed(list(root.walk())):
            # What was broken off may still say so itself, as long as anything above it goes on.
            if node.is_over and is_settled(trace, node) and (node.status != "interrupted" or root.is_over):
                yield node


def is_settled(trace: Trace, node: Node) -> bool:
    """Whether it is certain what stands above a node: which tool call a run belongs to is told when that returns."""
    if node.kind != "run" or node.called_by is not None or node.run.parent_run_id is None:
        return True
    if node.parent is not None and node.parent.kind == "turn":
        return True
    above = trace.runs.get(node.run.parent_run_id)
    if above is not None and above.status == "interrupted":  # it may go on, and name its calls
        while above.parent is not None:
            above = above.parent
    return above is None or above.is_over


def _is_done(node: Node) -> bool:
    """Whether it and all below it went on to an end of its own."""
    return all(below.status in _WENT_ON_TO_ITS_END for below in node.walk())


class Finishing:
    """Folds records, and tells of each node once, when it is over for good. What is over is let go of. Nodes hold words
    with `keep_events` only.

    Where it holds more than `MOST_RUNS`, the oldest that go on or were broken off are let go of as well, and nothing
    more is told of them: the log has them.

    With `own`, which may grow, only these runs and those that they called count: others work at the same place.
    """

    def __init__(self, own: Collection[RunId] | None = None, *, keep_events: bool = False) -> None:
        self._own = own
        self._trace = Trace(self._note, keep_events=keep_events, keep_words=keep_events)
        self._noted: list[Node] = []
        self._let_go: dict[RunId, None] = {}
        self._turns: dict[RunId, Node] = {}  # those that are over, with all in them
        self._waiting: dict[RunId, list[Node]] = {}  # by the run that is to tell which of its calls they belong to

    def _note(self, node: Node) -> None:
        self._noted.append(node)  # the record is not folded to its end yet

    def apply(self, record: Record) -> list[Node]:
        """Take one more record, in the order of its log; the nodes that are over with it."""
        if self._let_go and record.subject.rpartition(".")[2] in self._let_go:
            return []
        self._trace.apply(record)
        if len(self._trace.runs) > MOST_RUNS:
            self._let_go_of_oldest()
        if not self._noted:
            return []
        noted, self._noted = self._noted, []
        over: list[Node] = []
        for node in noted:
            self._add_over(node, over)
        return over if self._own is None else [node for node in over if self._counts(node)]

    def _let_go_of_oldest(self) -> None:
        """Forget a tenth of the runs: those of which nothing more is to come, else the oldest, with whatever they are
        a part of."""
        runs = [*self._trace.runs.values()]
        done = [run for run in runs if is_settled(self._trace, run) and _is_done(run)]
        for run in (done or runs)[: MOST_RUNS // 10]:
            top = run
            while not done and top.parent is not None and top.parent.kind != "conversation":
                top = top.parent
            for below in top.walk():
                self._waiting.pop(below.run_id, None)
                self._let_go[below.run_id] = None
            self._trace.forget(top)
        while len(self._let_go) > MOST_RUNS:
            del self._let_go[next(iter(self._let_go))]

    def _add_over(self, node: Node, over: list[Node]) -> None:
        """Add what is over for good now that this node has ended."""
        self._add_settled([node], over)
        if node.kind in ("run", "tool") and node.run_id in self._waiting:
            self._add_settled(self._waiting.pop(node.run_id), over)
        if node.kind == "conversation":
            for below in node.walk():
                if below.status == "interrupted":
                    self._add_settled(self._waiting.pop(below.run_id, []), over)
                    over.append(below)
            self._trace.forget(node)
        elif node.kind == "turn":
            self._forget_turn(node)
        elif node.kind == "run":
            over += self._outermost(node)

    def _forget_turn(self, turn: Node) -> None:
        """Let go of what is in a turn that is over, if nothing in it goes on, and of turns that are long over."""
        if not _is_done(turn):
            return
        self._trace.forget(turn)
        self._turns[turn.run_id] = self._trace.name_of(turn)
        if len(self._turns) > MOST_TURNS:
            self._trace.forget(self._turns.pop(next(iter(self._turns))))

    def _outermost(self, node: Node) -> Iterator[Node]:
        """What ends with a run that is no part of a conversation."""
        top = node
        while top.parent is not None:
            top = top.parent
            if top.kind == "turn" and top.is_over:
                self._forget_turn(top)
        if top.kind == "conversation":
            return
        yield from (below for below in node.children if below.status == "interrupted" and below.run_id == node.run_id)
        if top.is_over and all(below.is_over for below in top.walk()):
            self._trace.forget(top)

    def _add_settled(self, nodes: Iterable[Node], over: list[Node]) -> None:
        """Add those of which it is certain where they belong; the others wait for the run that will tell."""
        for node in nodes:
            if self._own is None and node.kind != "run":
                over.append(node)
                continue
            unsettled = next((one for one in self._runs_of(node) if not is_settled(self._trace, one)), None)
            if unsettled is None or unsettled.run.parent_run_id is None:
                over.append(node)
            else:
                self._waiting.setdefault(unsettled.run.parent_run_id, []).append(node)

    def _runs_of(self, node: Node) -> Iterator[Node]:
        """The runs that decide whether a node counts, and where it belongs."""
        above: Node | None = node
        while above is not None and self._own is not None and above.run_id not in self._own:
            if above.kind == "run":
                yield above
            above = above.parent
        if self._own is None:
            yield node

    def _counts(self, node: Node) -> bool:
        """Whether it is a part of the own runs: one that no call named was queued, and is whosever took it."""
        if self._own is None:
            return True
        above: Node | None = node
        while above is not None and above.run_id not in self._own:
            if above.kind == "run" and above.called_by is None:
                return False
            above = above.parent
        return above is not None
