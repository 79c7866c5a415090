"""The tree of runs, as a fold: who called whom, with what, what it cost, where it failed. Live and afterwards the same.

    conversation > turn > run > trip, tool > run > ...

A run without a conversation is a root of its own. What cannot be placed is kept below the root and marked.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from convive.agents._fold import RunState, fold
from convive.agents._journal import (
    ChildRun,
    Ending,
    JournalEvent,
    ModelAnswered,
    Resumed,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunStarted,
    Suspended,
    ToolCalled,
    ToolReturned,
    TripStarted,
    journal_event_of,
)
from convive.agents._node import Kind, Node, Status
from convive.agents._prices import Cost
from convive.agents._schema import json_of
from convive.bus import (
    BadRecord,
    ConviveError,
    Ended,
    Floor,
    Granted,
    Opened,
    Passed,
    Record,
    Revoked,
    RunContext,
    RunId,
    Said,
    address_of,
    event_of,
    fold_floor,
    happened_s,
    run_of,
)


class Trace:
    """Folds the records of one trace, those of a conversation's floor and of journals, from any number of logs.

    Records of one log come in its order; logs may be mixed in any way. `ended` is told of each node that ends by a
    record of its own. With `keep_events` nodes hold what the journals say of them.
    """

    def __init__(self, ended: Callable[[Node], None] | None = None, *, keep_events: bool = False) -> None:
        self.conversations: list[Node] = []
        self.runs: dict[RunId, Node] = {}
        self._turns: dict[RunId, Node] = {}
        self._floors: dict[str, Floor] = {}
        self._states: dict[RunId, RunState] = {}
        self._parts: dict[tuple[RunId, str], Node] = {}
        self._calls: dict[RunId, Node] = {}
        """The tool call of each run below one, as far as calls have said so."""
        self._lost: dict[RunId, list[Node]] = {}  # orphans by what lacks above them
        self._ended = ended
        self._keep_events = keep_events

    @property
    def roots(self) -> list[Node]:
        """What has nothing above it: the conversation, or the run, and whatever is an orphan without it."""
        runs = [node for node in self.runs.values() if node.parent is None]
        if not self.conversations:
            return sorted(runs, key=lambda node: (node.orphan, node.started_s))
        return [*self.conversations, *runs]

    @property
    def root(self) -> Node | None:
        """The first of the roots."""
        return next(iter(self.roots), None)

    @property
    def is_over(self) -> bool:
        """Whether the outermost of it has ended."""
        return bool(self.roots) and all(root.is_over for root in self.roots)

    def apply(self, record: Record) -> None:
        """Take one more record; one that is neither a link nor of a journal changes nothing."""
        address = address_of(record.subject)
        if (time_s := happened_s(record)) != record.time_s:
            record = replace(record, time_s=time_s)
        if address.kind == "floor":
            self._linked(address.conversation, record)
        elif address.kind == "run":
            self._journaled(address.conversation, record)

    def forget(self, node: Node) -> None:
        """Let go of a node that is over and of all below it, for a trace that is followed for long."""
        for below in node.walk():
            self._parts.pop((below.run_id, below.part), None)
            if below.kind == "run":
                self.runs.pop(below.run_id, None)
                self._states.pop(below.run_id, None)
                self._calls.pop(below.run_id, None)
            elif below.kind == "turn":
                self._turns.pop(below.run_id, None)
        if node.parent is not None:
            node.parent.children.remove(node)

    # The floor

    def _linked(self, conversation: str, record: Record) -> None:
        before = self._floors.get(conversation, Floor())
        floor = self._floors[conversation] = fold_floor(before, record)
        if floor.links == before.links:
            return  # no valid link
        event, run = event_of(record), _run_of(record)
        match event:
            case Opened():
                own = run or RunContext.root(event.run_id)
                node = Node(
                    "conversation", conversation, own, "", record.time_s, (record.seq, record.seq), conversation
                )
                node.detail, node.origin = event.topic, event.origin
                self.conversations.append(node)
                for each in self._lost.pop(own.run_id, ()):  # of another log, and read before this one
                    _place(each, node)
            case Granted():
                above = self._conversation(conversation)
                own = RunContext(event.run_id, above.run.root_run_id, above.run_id)
                node = Node("turn", f"turn {event.turn}", own, "turn", record.time_s, (record.seq, record.seq))
                node.seat, node.turn, node.conversation = event.seat, event.turn, conversation
                self._turns[event.run_id] = node
                _place(node, above)
                known = self.runs.get(event.run_id)
                if known is not None:
                    _place(known, node)
            case Said() | Passed() | Revoked():
                turn = self._turns[event.run_id]
                self._end(turn, _TURN_STATUS[event.type], record)
                turn.detail = event.text if isinstance(event, Said) else event.reason
            case Ended():
                node = self._conversation(conversation)
                self._end(node, "ok", record)
                node.detail = node.detail or event.reason
            case _:
                pass

    def _conversation(self, name: str) -> Node:
        return next(node for node in self.conversations if node.conversation == name)

    # Journals

    def _journaled(self, conversation: str, record: Record) -> None:
        run = _run_of(record)
        if run is None:
            return
        node = self.runs.get(run.run_id)
        if node is None:
            node = self._new_run(conversation, run, record)
        elif record.seq <= node.seqs[1]:
            return  # told before
        node.seqs = (node.seqs[0], record.seq)
        try:
            event = journal_event_of(record)
            state = fold(self._states.get(run.run_id, _NOTHING), event)
        except (BadRecord, ValueError) as bad:
            node.damage.append(f"record {record.seq}: {bad}")
            return
        self._states[run.run_id] = state
        self._told(node, event, record, state)
        if state.ended is not None:
            # An ended run needs no state any more; a record behind its end is damage.
            self._states[run.run_id] = RunState(started=state.started, ended=state.ended, outline=True)

    def _new_run(self, conversation: str, run: RunContext, record: Record) -> Node:
        node = Node("run", "?", run, "", record.time_s, (record.seq, record.seq), conversation)
        self.runs[run.run_id] = node
        node.called_by = self._calls[run.run_id].part if run.run_id in self._calls else None
        turn = self._turns.get(run.run_id)
        if turn is not None:
            _place(node, turn)
        elif run.parent_run_id is not None:
            self._below(node, run.parent_run_id)
        for each in self._lost.pop(run.run_id, ()):
            self._below(each, run.run_id)
        return node

    def _below(self, node: Node, parent: RunId) -> None:
        above = self._calls.get(node.run_id) or self.runs.get(parent)
        if above is None:
            above = next((one for one in self.conversations if one.run_id == parent), None)
            node.orphan = above is None
            if above is None:
                self._lost.setdefault(parent, []).append(node)
        elif above.kind == "run":
            calls = [call for call in above.children if call.kind == "tool" and call.status in ("running", "waiting")]
            above = calls[0] if len(calls) == 1 else above  # of several, the one that names it when it returns
        if above is not None:
            _place(node, above)

    def _told(self, node: Node, event: JournalEvent, record: Record, state: RunState) -> None:
        if self._keep_events and isinstance(event, RunStarted | Ending):
            node.events.append(event)
        match event:
            case RunStarted():
                node.name, node.model, node.session_id = event.agent, event.model, event.session_id
            case TripStarted():
                part = self._part(node, "trip", f"llm/{event.trip}", f"answer {event.trip + 1}", record, event)
                part.attempts.append(record.seq)
                part.attempts_s.append(record.time_s)
                part.model = node.model
            case ModelAnswered():
                part = self._part(node, "trip", f"llm/{event.trip}", f"answer {event.trip + 1}", record, event)
                part.usage, part.model = event.usage, event.model or node.model
                part.cost = Cost(event.known_cost, event.cost is not None)
                trip, part.reason = state.trips[-1], event.stop_reason
                part.detail = trip.text if event.rejected is None else f"rejected: {event.rejected.reason}"
                self._end(part, "ok", record)
            case ToolCalled():
                part = self._part(node, "tool", f"tool/{event.trip}/{event.index}", event.name, record, event)
                part.attempts.append(record.seq)
                part.attempts_s.append(record.time_s)
                part.status, part.call_id = "running", event.call_id
                part.detail = json_of(state.trips[-1].calls[event.index].arguments)
            case ToolReturned():
                part = self._part(node, "tool", f"tool/{event.trip}/{event.index}", event.name, record, event)
                if not part.detail:
                    part.detail = json_of(state.trips[-1].calls[event.index].arguments)
                part.error, part.call_id = event.content if event.is_error else "", event.call_id
                self._called(event.children, part)
                self._end(part, "failed" if event.is_error else "ok", record)
            case Suspended():
                for each in event.interrupts:
                    part = self._part(node, "tool", f"tool/{each.trip}/{each.index}", each.tool, record, event)
                    part.detail = json_of(each.arguments)
                self._waits(node, "waiting")
            case Resumed():
                self._waits(node, "running")
            case RunFinished():
                node.detail, node.reason = event.text, event.reason
                self._end(node, "ok", record)
            case RunFailed():
                node.error, node.reason = f"{event.error}: {event.message}", event.error
                self._called(event.children, node)
                self._end(node, "failed", record)
            case RunCancelled():
                node.error = event.reason
                self._called(event.children, node)
                self._end(node, "cancelled", record)

    def _called(self, children: Iterable[ChildRun], by: Node) -> None:
        """A tool call, or a run at its end, names the runs that it called. One that was queued is never named."""
        for child in children:
            below = self.runs.get(child.run_id)
            if by.kind == "tool":
                self._calls[child.run_id] = by
                if below is not None:
                    _place(below, by)
            if below is not None and below.called_by is None:
                below.called_by = by.part

    def _part(self, above: Node, kind: Kind, part: str, name: str, record: Record, event: JournalEvent) -> Node:
        known = self._parts.get((above.run_id, part))
        if known is None:
            seqs = (record.seq, record.seq)
            known = Node(kind, name, above.run, part, record.time_s, seqs, above.conversation)
            self._parts[above.run_id, part] = known
            _place(known, above)
        known.events += [event] if self._keep_events else []
        known.seqs = (known.seqs[0], record.seq)
        return known

    def _end(self, node: Node, status: Status, record: Record) -> None:
        """End a node. What is still open in it will not go on."""
        node.status, node.ended_s, node.seqs = status, record.time_s, (node.seqs[0], record.seq)
        for below in node.walk() if node.children else ():
            if below is not node and not below.is_over and _ends_with(below, node):
                below.status, below.ended_s = "interrupted", None
        if self._ended is not None:
            self._ended(node)

    def _waits(self, node: Node, status: Status) -> None:
        node.status = status
        for part in node.children:
            if part.kind == "tool" and not part.is_over:
                part.status = status


_NOTHING = RunState(outline=True)
_TURN_STATUS: dict[str, Status] = {"said": "ok", "passed": "passed", "revoked": "revoked"}


def _place(node: Node, above: Node) -> None:
    """Put a node where it belongs, in order of time."""
    if node.parent is not None:
        node.parent.children.remove(node)
    node.parent, node.orphan = above, False
    place = len(above.children)
    while place and above.children[place - 1].started_s > node.started_s:
        place -= 1
    above.children.insert(place, node)


def _ends_with(below: Node, node: Node) -> bool:
    """Whether something open goes on no more when what it is a part of ends: a run that was queued does."""
    if node.kind in ("run", "tool"):
        return below.run_id == node.run_id
    return below.conversation == node.conversation


def _run_of(record: Record) -> RunContext | None:
    try:
        return run_of(record.headers)
    except ConviveError:
        return None
