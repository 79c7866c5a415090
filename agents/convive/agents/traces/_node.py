"""The nodes of a trace: what was done, by whom, when, at what cost, and what came of it."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from convive.agents.journal._journal import JournalEvent
from convive.agents.models._model import Usage
from convive.agents.runs._prices import Cost
from convive.bus import Origin, RunContext, RunId

Kind = Literal["conversation", "turn", "run", "trip", "tool"]
Status = Literal["running", "waiting", "ok", "passed", "failed", "cancelled", "revoked", "interrupted"]

OVER: frozenset[Status] = frozenset({"ok", "passed", "failed", "cancelled", "revoked", "interrupted"})

MOST_LEVELS = 200
"""How far down a run may stand: runs call each other a few levels deep; a log may claim anything."""
MOST_DAMAGE = 10


@dataclass(slots=True, eq=False)
class Node:
    """One thing that was done. Times are the server's, in seconds since 1970; `seqs` are places in that log.

    `usage` and `cost` are of this node alone; `total_usage` and `total_cost` are sums over all below it. A node is
    equal to itself only.
    """

    # Its lists are made by `list`: to call `list[int]` takes five times as long, and each node has five of them.

    kind: Kind
    name: str
    run: RunContext
    part: str
    """Which part of its run: `turn`, `llm/0`, `tool/0/1`; empty for the run itself. Run and part name the node."""
    started_s: float
    seqs: tuple[int, int]
    """The first and the last record that tell of it."""
    conversation: str = ""
    parent: "Node | None" = field(default=None, repr=False)
    children: list["Node"] = field(default_factory=list, repr=False)
    status: Status = "running"
    ended_s: float | None = None
    usage: Usage = Usage()
    cost: Cost | None = None
    first_chunk_s: float | None = None
    """Of an answer that was streamed: how long its first words took."""
    model: str = ""
    seat: str = ""
    turn: int | None = None
    session_id: str | None = None
    attempts: list[int] = field(default_factory=list)
    """Where each attempt began: of a trip or a tool call that was begun once, one place."""
    attempts_s: list[float] = field(default_factory=list)
    """When each of them began."""
    error: str = ""
    detail: str = ""
    """A few of its words: what was said, a tool's arguments, why it passed. Of answers and tools only for a trace that
    keeps words."""
    orphan: bool = False
    """Whether what stands above it is not in the log."""
    damage: list[str] = field(default_factory=list)
    """What could not be read of it: the first ten."""
    origin: Origin | None = None
    """For a fork: the conversation that it begins with."""
    copied: bool = False
    """Of a run or an answer: whether its record is a copy of one in another log, as what a fork begins with."""
    reason: str = ""
    """Why an answer or a run ended: the model's stop reason, or how the run finished."""
    call_id: str = ""
    """Of a tool call: the model's id for it."""
    called_by: str | None = None
    """Of a run: the part of the run above that says it called it; empty when only that run's end tells of it."""
    events: list[JournalEvent] = field(default_factory=list, repr=False)
    """What the journal holds of it, for a trace that keeps events."""

    @property
    def run_id(self) -> RunId:
        """The id of the run that this is, or is a part of."""
        return self.run.run_id

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it itself."""
        return self.status in OVER

    def fits_below(self, above: "Node") -> bool:
        """Whether it may stand below another node: not below itself, and with what is below it not too far down."""
        levels, level = 0, [self]
        while level and levels < MOST_LEVELS:
            levels, level = levels + 1, [child for node in level for child in node.children]
        ancestor: Node | None = above
        while ancestor is not None and ancestor is not self and levels < MOST_LEVELS:
            levels, ancestor = levels + 1, ancestor.parent
        return ancestor is None

    def put_below(self, above: "Node") -> None:
        """Stand below another node from now on, in order of time. Only where it fits."""
        if self.parent is not None:
            self.take_out()
        self.parent, self.orphan = above, False
        last = above.children[-1] if above.children else None
        if last is not None and last.started_s >= self.started_s and _place(last) > _place(self):
            above.children.insert(bisect_right(above.children, _place(self), key=_place), self)
        else:
            above.children.append(self)

    def take_out(self) -> None:
        """Be no child of what stands above any more. It still says what that was: who is told of a node asks it."""
        if self.parent is None:
            return
        beside = self.parent.children
        for place in range(bisect_left(beside, _place(self), key=_place), len(beside)):
            if beside[place] is self:
                del beside[place]
                return

    def before(self) -> Iterator["Node"]:
        """What stands beside it and began earlier, the latest first."""
        beside = [] if self.parent is None else self.parent.children
        place = bisect_left(beside, _place(self), key=_place)
        return (beside[at] for at in range(place - 1, -1, -1))

    def ends_with(self, above: "Node") -> bool:
        """Whether this goes on no more when what it is a part of ends: a run that was queued does."""
        if above.kind in ("run", "tool"):
            return self.run_id == above.run_id
        return self.conversation == above.conversation

    def goes_on(self, status: Status) -> None:
        """Have a status of one that is not over, unless it is. Below something over that it ends with, it is broken
        off, until it says itself how it ended."""
        if status in OVER:
            return
        above = self.parent
        while above is not None and not (above.status in OVER and self.ends_with(above)):
            above = above.parent
        self.status = status if above is None else "interrupted"

    def harm(self, why: str) -> None:
        """Note what could not be read of it."""
        if len(self.damage) < MOST_DAMAGE:
            self.damage.append(why)

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, parents first, in order of time."""
        open_nodes: list[Node] = [self]
        while open_nodes:
            node = open_nodes.pop()
            yield node
            open_nodes.extend(reversed(node.children))

    @property
    def total_usage(self) -> Usage:
        """The tokens of this node and of all below it."""
        return sum((node.usage for node in self.walk()), Usage())

    @property
    def total_cost(self) -> Cost | None:
        """What this node and all below it cost; None when no model answered there."""
        costs = [node.cost for node in self.walk() if node.cost is not None]
        return sum(costs[1:], costs[0]) if costs else None

    @property
    def last_s(self) -> float:
        """When the last thing is known to have happened in it or below it."""
        return max(node.ended_s or node.started_s for node in self.walk())


def _place(node: Node) -> tuple[float, int, RunId]:
    """What nodes below one are in the order of; the same however their logs were mixed."""
    return node.started_s, node.seqs[0], node.run_id
