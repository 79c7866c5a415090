"""The tree of runs, as a fold: who called whom, with what, what it cost, where it failed. Live and afterwards the same.

    conversation > turn > run > trip, tool > run > ...

A run without a conversation is a root of its own. What cannot be placed is kept below the root and marked.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import isfinite

from convive.agents.journal._fold import RunState, fold, latest_alone
from convive.agents.journal._folding import fold_all
from convive.agents.journal._journal import (
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
from convive.agents.models._model import Usage
from convive.agents.models._schema import json_of
from convive.agents.runs._prices import Cost, shipped_prices
from convive.agents.traces._node import OVER, Kind, Node, Status
from convive.agents.traces._tree_of_runs import TreeOfRuns
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

    Records of one log come in its order; logs may be mixed in any way, and what was applied before changes nothing.
    `ended` is told of each node that ends by a record of its own. With `keep_events` nodes hold what the journals say
    of them; without `keep_words` answers and tools have no `detail`.
    """

    def __init__(
        self, ended: Callable[[Node], None] | None = None, *, keep_events: bool = False, keep_words: bool = True
    ) -> None:
        self._tree = TreeOfRuns()
        self.conversations, self.runs = self._tree.conversations, self._tree.runs
        self._floors: dict[str, Floor] = {}
        self._states: dict[RunId, RunState] = {}
        self._parts: dict[tuple[RunId, str], Node] = {}
        self._ended = ended
        self._keep_events = keep_events
        self._keep_words = keep_words

    @property
    def roots(self) -> list[Node]:
        """What has nothing above it: the conversation, or the run, and whatever is an orphan without it."""
        return [*self.conversations, *sorted(self._tree.tops.values(), key=lambda node: (node.orphan, node.started_s))]

    @property
    def root(self) -> Node | None:
        """The first of the roots."""
        return next(iter(self.roots), None)

    @property
    def is_over(self) -> bool:
        """Whether the outermost of it has ended: the conversation, or else the run. What lost its place does not count
        beside them: nobody may be left to end it."""
        runs = self._tree.tops.values()
        outermost = self.conversations or [run for run in runs if not run.orphan] or runs
        return bool(outermost) and all(each.is_over for each in outermost)

    def apply(self, record: Record) -> None:
        """Take one more record; one that is neither a link nor of a journal changes nothing."""
        copied = (time_s := happened_s(record)) != record.time_s
        if copied:
            record = replace(record, time_s=time_s)
        journal = _journal_of(record.subject)
        if journal is not None:
            self._journaled(*journal, record, copied=copied)
            return
        address = address_of(record.subject)
        if address.kind == "floor":
            self._linked(address.conversation, record)

    def complete(self) -> None:
        """Once all logs were read: put a node, marked as damaged, where a call names a run of which they hold nothing.

        It has what the caller knows of that run."""
        self._tree.complete()

    def forget(self, node: Node) -> None:
        """Let go of a node that is over and of all below it, for a trace that is followed for long."""
        for below in node.walk():
            self._parts.pop((below.run_id, below.part), None)
            if below.kind == "run":
                self._states.pop(below.run_id, None)
            self._tree.forget(below)
        node.take_out()

    def name_of(self, turn: Node) -> Node:
        """What stands in for a turn that was forgotten: what comes after it finds its place, and nothing is held by it.

        The turn itself stays as it was, for those who were told of it.
        """
        bare = Node("turn", turn.name, turn.run, turn.part, turn.started_s, turn.seqs, turn.conversation)
        bare.seat, bare.turn, bare.status, bare.ended_s = turn.seat, turn.turn, turn.status, turn.ended_s
        if turn.parent is not None:
            self._tree.add_turn(bare, turn.parent)
        return bare

    # The floor

    def _linked(self, conversation: str, record: Record) -> None:
        before = self._floors.get(conversation, Floor())
        if record.seq <= before.seq:
            return  # told before
        floor = self._floors[conversation] = fold_floor(before, record)
        if floor.links == before.links:  # no valid link
            if floor.opened is not None and len(floor.damage) > len(before.damage):
                self._conversation(conversation).harm(_why(record, floor.damage[-1]))
            return
        event = event_of(record)
        match event:
            case Opened():
                self._opened(conversation, event, record)
            case Granted():
                self._granted(self._conversation(conversation), event, record)
            case Said() | Passed() | Revoked():
                turn = self._tree.turns[event.run_id]
                self._end(turn, _TURN_STATUS[event.type], record)
                turn.detail = event.text if isinstance(event, Said) else event.reason
            case Ended():
                node = self._conversation(conversation)
                self._end(node, "ok", record)
                node.detail = node.detail or event.reason
            case _:
                pass

    def _opened(self, name: str, event: Opened, record: Record) -> None:
        run = _run_of(record)
        own = run if run is not None and run.run_id == event.run_id else RunContext.root(event.run_id)
        node = Node("conversation", name, own, "", record.time_s, (record.seq, record.seq), name)
        node.detail, node.origin = event.topic, event.origin
        self._tree.add_conversation(node)

    def _granted(self, above: Node, event: Granted, record: Record) -> None:
        own = above.run.child(event.run_id)
        node = Node("turn", f"turn {event.turn}", own, "turn", record.time_s, (record.seq, record.seq))
        node.seat, node.turn, node.conversation = event.seat, event.turn, above.conversation
        self._tree.add_turn(node, above)

    def _conversation(self, name: str) -> Node:
        return next(node for node in self.conversations if node.conversation == name)

    # Journals

    def _journaled(self, conversation: str, root: RunId, own: RunId, record: Record, *, copied: bool) -> None:
        run = _run_of(record)
        node = self.runs.get(own)
        if run is None or (run.run_id, run.root_run_id) != (own, root):
            if node is not None:
                node.harm(f"record {record.seq}: its headers name another run than its subject, or none")
            return
        if node is None:
            node = Node("run", "?", run, "", record.time_s, (record.seq, record.seq), conversation)
            node.copied = copied
            self._tree.add_run(node)
        elif node.conversation != conversation:
            node.harm(f"{conversation} has records of this run as well: record {record.seq}")
            return
        elif record.seq <= node.seqs[1]:
            return  # told before
        node.seqs = (node.seqs[0], record.seq)
        try:
            event = journal_event_of(record)
            state = fold(self._states.get(own, _NOTHING), event)
        except (BadRecord, ValueError) as bad:
            node.harm(_why(record, bad))
            return
        if state.ended is not None:
            self._states[own] = _OVER
        else:
            self._states[own] = latest_alone(state) if len(state.trips) > 1 or state.used_tokens else state
        self._told(node, event, record, state)
        if copied and isinstance(event, ModelAnswered):
            self._parts[own, f"llm/{event.trip}"].copied = True

    def _told(self, node: Node, event: JournalEvent, record: Record, state: RunState) -> None:
        if self._keep_events and isinstance(event, RunStarted | Resumed | Ending):
            node.events.append(event)
        match event:
            case RunStarted():
                node.name, node.model, node.session_id = event.agent, event.model, event.session_id
                self._tree.asked(node, event.agent, event.input or "")
            case TripStarted():
                part = self._part(node, "trip", f"llm/{event.trip}", f"answer {event.trip + 1}", record, event)
                part.attempts.append(record.seq)
                part.attempts_s.append(record.time_s)
                part.model = node.model
                part.cost = _unanswered(node.model)
            case ModelAnswered():
                part = self._part(node, "trip", f"llm/{event.trip}", f"answer {event.trip + 1}", record, event)
                part.usage, part.model = event.usage, event.model or node.model
                part.first_chunk_s = event.first_chunk_s
                trip, part.reason = state.trips[-1], event.stop_reason
                known = isfinite(trip.known_cost)
                part.cost = Cost(trip.known_cost if known else 0.0, known and event.cost is not None)
                if self._keep_words:
                    part.detail = trip.text if event.rejected is None else f"rejected: {event.rejected.reason}"
                self._end(part, "ok", record)
            case ToolCalled():
                part = self._part(node, "tool", f"tool/{event.trip}/{event.index}", event.name, record, event)
                part.attempts.append(record.seq)
                part.attempts_s.append(record.time_s)
                part.call_id = event.call_id
                if self._keep_words:
                    part.detail = json_of(state.trips[-1].calls[event.index].arguments)
                if part.status != "running":
                    part.goes_on("running")
                self._tree.calling(node, part)
            case ToolReturned():
                part = self._part(node, "tool", f"tool/{event.trip}/{event.index}", event.name, record, event)
                if self._keep_words and not part.detail:
                    part.detail = json_of(state.trips[-1].calls[event.index].arguments)
                part.error, part.call_id = event.content if event.is_error else "", event.call_id
                self._tree.called(event.children, part)
                self._end(part, "failed" if event.is_error else "ok", record)
            case Suspended():
                for wait in event.interrupts:
                    part = self._part(node, "tool", f"tool/{wait.trip}/{wait.index}", wait.tool, record, event)
                    part.detail = json_of(wait.arguments) if self._keep_words else ""
                self._waits(node, "waiting")
            case Resumed():
                self._waits(node, "running")
            case RunFinished():
                node.detail, node.reason = event.text, event.reason
                self._end(node, "ok", record)
            case RunFailed():
                node.error, node.reason = f"{event.error}: {event.message}", event.error
                self._tree.called(event.children, node)
                self._end(node, "failed", record)
            case RunCancelled():
                node.error = event.reason
                self._tree.called(event.children, node)
                self._end(node, "cancelled", record)

    def _part(self, above: Node, kind: Kind, part: str, name: str, record: Record, event: JournalEvent) -> Node:
        known = self._parts.get((above.run_id, part))
        if known is None:
            seqs = (record.seq, record.seq)
            known = Node(kind, name, above.run, part, record.time_s, seqs, above.conversation)
            self._parts[above.run_id, part] = known
            known.put_below(above)
            if above.status in OVER:
                known.goes_on("running")
        if self._keep_events:
            known.events.append(event)
        known.seqs = (known.seqs[0], record.seq)
        return known

    def _end(self, node: Node, status: Status, record: Record) -> None:
        """End a node. What is still open in it will not go on."""
        node.status, node.ended_s, node.seqs = status, record.time_s, (node.seqs[0], record.seq)
        inside = [*node.children]
        while inside:
            below = inside.pop()
            inside += below.children
            if below.status not in OVER and below.ends_with(node):
                below.status, below.ended_s = "interrupted", None
        if self._ended is not None:
            self._ended(node)

    def _waits(self, node: Node, status: Status) -> None:
        node.goes_on(status)
        for part in node.children:
            if part.kind == "tool" and not part.is_over:
                part.goes_on(status)


_NOTHING = RunState(outline=True)
_TURN_STATUS: dict[str, Status] = {"said": "ok", "passed": "passed", "revoked": "revoked"}
_OVER = replace(fold_all((RunStarted(agent="", model="", root=RunId("")), RunFinished(text=""))), outline=True)
"""The state of any run that has ended: nothing follows. What it said may be long, and is not needed any more."""


@lru_cache(maxsize=256)
def _unanswered(model: str) -> Cost:
    """What a request that has no answer cost: it may have been billed."""
    return shipped_prices().cost(Usage(), model)


def _why(record: Record, bad: BadRecord | ValueError) -> str:
    return f"record {record.seq}: {bad.why if isinstance(bad, BadRecord) else bad}"


@lru_cache(maxsize=4_096)  # all records of a run have the same
def _journal_of(subject: str) -> tuple[str, RunId, RunId] | None:
    """Where a run told of itself, by the subject of its journal: the conversation, the root and the run."""
    match subject.rsplit(".", 3):
        case [base, "run", root, run]:
            return base.rpartition(".")[2], RunId(root), RunId(run)
        case _:
            return None


def _run_of(record: Record) -> RunContext | None:
    try:
        return run_of(record.headers)
    except ConviveError:
        return None
