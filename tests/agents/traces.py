"""Records as a log gives them, written by hand: what no run would write, and in whatever order."""

from collections.abc import Iterable, Iterator
from itertools import islice

from convive.agents import Node, Place, ToolUse, Trace, Usage
from convive.agents.journal._journal import (
    ChildRun,
    JournalEvent,
    ModelAnswered,
    RunFinished,
    RunStarted,
    ToolCalled,
    ToolReturned,
    TripStarted,
)
from convive.agents.models._model import StopReason
from convive.agents.runs._frame import Frame, call_key
from convive.bus import Chair, Ended, Event, Granted, Opened, Record, Revoked, RunContext, Said, SeatName

ADA = SeatName("ada")


class Writer:
    """The records of one log, a second apart. `base`: where its journals and its floor stand."""

    def __init__(self, base: str = "cv.00.shop", began_s: float = 1e9) -> None:
        self.base = base
        self.records: list[Record] = []
        self._began_s = began_s
        self._links = 0

    def put(self, subject: str, event: Event | bytes, run: RunContext, **headers: str) -> Record:
        """One more record; `headers` beside those of the run."""
        seq = len(self.records) + 1
        body = event if isinstance(event, bytes) else event.body()
        record = Record(f"{self.base}.{subject}", seq, self._began_s + seq, {**run.headers(), **headers}, body)
        self.records.append(record)
        return record

    def journal(self, run: RunContext, *events: JournalEvent | bytes, **headers: str) -> None:
        """These events in the journal of a run."""
        for event in events:
            self.put(f"run.{run.root_run_id}.{run.run_id}", event, run, **headers)

    def opened(self, run: RunContext) -> None:
        """The conversation begins."""
        event = Opened(run_id=run.run_id, topic="figs", chairs=(Chair(seat=ADA),))
        self._links = 1
        self.put("bus.floor.host", event, run)

    def granted(self, run: RunContext, turn: int) -> RunContext:
        """Ada has the floor; the run of her turn."""
        own = run.child()
        event = Granted(turn=turn, seat=ADA, run_id=own.run_id, deadline_s=2e9, link=self._link())
        self.put("bus.floor.host", event, run)
        return own

    def said(self, run: RunContext, turn: int) -> None:
        """Ada has said something."""
        self.put("bus.floor.ada", Said(turn=turn, run_id=run.run_id, text="Figs.", link=self._link()), run)

    def revoked(self, above: RunContext, run: RunContext, turn: int) -> None:
        """The floor is taken back."""
        self.put("bus.floor.host", Revoked(turn=turn, run_id=run.run_id, reason="late", link=self._link()), above)

    def closed(self, above: RunContext) -> None:
        """The conversation ends."""
        self.put("bus.floor.host", Ended(reason="enough", link=self._link()), above)

    def _link(self) -> int:
        self._links += 1
        return self._links - 1


def below(call: int, input: str, agent: str = "helper", *, above: RunContext) -> RunContext:
    """The run that a tool call of the first answer makes, as the tool does."""
    key = call_key(above.run_id, 0, call)
    return Frame(above, Place.local(), key, fresh=True, on_cancel="record", session_id=None).child(agent, input)


def began(run: RunContext, agent: str = "clerk", input: str | None = None) -> RunStarted:
    """The first record of a run."""
    return RunStarted(agent=agent, model="test/m", root=run.root_run_id, parent=run.parent_run_id, input=input)


def answered(*tools: str, trip: int = 0) -> tuple[TripStarted, ModelAnswered]:
    """An answer that calls these tools."""
    parts = tuple(ToolUse(id=f"c{n}", name=name, arguments={}) for n, name in enumerate(tools))
    stop: StopReason = "tool_use" if tools else "end"
    usage = Usage(input_tokens=1, output_tokens=1)
    answer = ModelAnswered(trip=trip, parts=parts, stop_reason=stop, usage=usage, cost=0.5, known_cost=0.5)
    return TripStarted(trip=trip), answer


def called(index: int = 0, name: str = "ask", trip: int = 0) -> ToolCalled:
    return ToolCalled(trip=trip, index=index, call_id=f"c{index}", name=name)


def returned(index: int = 0, name: str = "ask", children: Iterable[RunContext] = (), trip: int = 0) -> ToolReturned:
    told = tuple(ChildRun(run_id=child.run_id, agent="helper", status="completed") for child in children)
    return ToolReturned(trip=trip, index=index, call_id=f"c{index}", name=name, content="", children=told)


def ended(text: str = "Done.") -> RunFinished:
    return RunFinished(text=text)


def folded(records: Iterable[Record]) -> Trace:
    trace = Trace()
    for record in records:
        trace.apply(record)
    return trace


def nodes(trace: Trace) -> list[Node]:
    """All nodes of a trace, and a thousand at most: a tree that is none has no end."""
    walks = (islice(root.walk(), 1_000) for root in [*trace.roots, *trace.runs.values()])
    return list({(node.run_id, node.part): node for walk in walks for node in walk}.values())


def lines(trace: Trace) -> list[str]:
    """A trace as indented lines: kind, name and status."""
    return [line for root in trace.roots for line in _lines(root, 0)]


def _lines(node: Node, depth: int) -> Iterator[str]:
    yield f"{'  ' * depth}{node.kind} {node.name} {node.status}"
    for child in node.children:
        yield from _lines(child, depth + 1)
