"""The nodes of a trace: what was done, by whom, when, at what cost, and what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from convive.agents._journal import JournalEvent
from convive.agents._model import Usage
from convive.agents._prices import Cost
from convive.bus import Origin, RunContext, RunId

Kind = Literal["conversation", "turn", "run", "trip", "tool"]
Status = Literal["running", "waiting", "ok", "passed", "failed", "cancelled", "revoked", "interrupted"]

OVER: frozenset[Status] = frozenset({"ok", "passed", "failed", "cancelled", "revoked", "interrupted"})


@dataclass(slots=True)
class Node:
    """One thing that was done. Times are the server's, in seconds since 1970; `seqs` are places in that log.

    `usage` and `cost` are of this node alone; `total_usage` and `total_cost` are sums over all below it.
    """

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
    children: list["Node"] = field(default_factory=list["Node"], repr=False)
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
    attempts: list[int] = field(default_factory=list[int])
    """Where each attempt began: of a trip or a tool call that was begun once, one place."""
    attempts_s: list[float] = field(default_factory=list[float])
    """When each of them began."""
    error: str = ""
    detail: str = ""
    """A few of its words: what was said, a tool's arguments, why it passed."""
    orphan: bool = False
    """Whether what stands above it is not in the log."""
    damage: list[str] = field(default_factory=list[str])
    """What could not be read of it."""
    origin: Origin | None = None
    """For a fork: the conversation that it begins with."""
    reason: str = ""
    """Why an answer or a run ended: the model's stop reason, or how the run finished."""
    call_id: str = ""
    """Of a tool call: the model's id for it."""
    called_by: str | None = None
    """Of a run: the part of the run above that says it called it; empty when only that run's end tells of it."""
    events: list[JournalEvent] = field(default_factory=list[JournalEvent], repr=False)
    """What the journal holds of it, for a trace that keeps events."""

    @property
    def run_id(self) -> RunId:
        """The id of the run that this is, or is a part of."""
        return self.run.run_id

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it itself."""
        return self.status in OVER

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
