"""What the runs of a conversation were told once: answers of models and results of tools, told again instead of asking.

A `Place` that has a `Recorded` makes the engine take both from there. Code, prompts, tools' schemas and verdicts on
answers are those of now, so whatever they do differently shows.
"""

from collections import Counter, defaultdict
from collections.abc import Collection

from pydantic import JsonValue

from convive.agents.journal._interrupts import args_hash
from convive.agents.journal._journal import (
    JournalEvent,
    ModelAnswered,
    Resumed,
    RunCancelled,
    RunFailed,
    Suspended,
    ToolCalled,
    ToolReturned,
)
from convive.agents.models._errors import ModelError
from convive.agents.models._model import Answer
from convive.bus import ConviveError, RunContext, RunId

_PARTS = ("the instructions", "the messages", "the tools", "the sampling or the output's schema")


class Differs(ConviveError):
    """A run does something else than what was recorded of it."""

    def __init__(self, run_id: RunId, seq: int, what: str) -> None:
        self.run_id = run_id
        self.seq = seq
        self.what = what
        super().__init__(f"run {run_id} differs from its recording at {seq}: {what}")


class Unanswered(Differs):
    """The run was called off there, or nobody answered it: what comes next came from outside, and there is no more."""

    def __init__(self, run_id: RunId) -> None:
        super().__init__(run_id, 0, "it was called off, or nobody answered it")


class RecordedFailure(ModelError):
    """The model failed when this was recorded, and so it does again."""

    def __init__(self, recorded: RunFailed) -> None:
        super().__init__(recorded.message)
        self.transient = recorded.transient


class Recorded:
    """The recordings of runs. `difference` is the first thing that a run did differently, whoever caught the error."""

    def __init__(self) -> None:
        self.difference: Differs | None = None
        self.told = 0
        """How many answers were told again."""
        self.unchecked = 0
        """How many of them were recorded without the digest of their request."""
        self.unanswered = False
        """Whether a run has come to where it was called off, or waited in vain. Whoever reads it resets it."""
        self._given_up: set[RunId] = set()
        self._answers: dict[tuple[RunId, int], tuple[int, ModelAnswered]] = {}
        self._results: dict[tuple[RunId, int, int], ToolReturned] = {}
        self._rewritten: dict[tuple[RunId, int, int], tuple[int, JsonValue]] = {}
        self._failures: dict[RunId, RunFailed] = {}
        self._last: dict[RunId, int] = {}
        self._children: dict[RunId, list[RunId]] = defaultdict(list)
        self._taken = Counter[RunId]()
        self._same: dict[RunId, RunId] = {}

    def take(self, run: RunContext, seq: int, event: JournalEvent) -> None:
        """Note what a journal's record says."""
        run_id = run.run_id
        if run_id not in self._last and run.parent_run_id is not None:
            self._children[run.parent_run_id].append(run_id)
        self._last[run_id] = seq
        match event:
            case ModelAnswered():
                self._answers[run_id, event.trip] = seq, event
            case ToolCalled() if event.arguments is not None:
                self._rewritten[run_id, event.trip, event.index] = seq, event.arguments
            case ToolReturned():
                self._results[run_id, event.trip, event.index] = event
            case RunFailed():
                self._failures[run_id] = event
            case Suspended() | RunCancelled():
                self._given_up.add(run_id)
            case Resumed():
                self._given_up.discard(run_id)
            case _:
                pass

    def below(self, run_id: RunId) -> set[RunId]:
        """A recorded run and all below it."""
        return {run_id}.union(*(self.below(child) for child in self._children[run_id]))

    def _recording(self, run: RunContext) -> RunId:
        """The recorded run that a run of now is: that of its id, else the next one below its parent that nobody was.
        In a fork the ids of runs below a run do not follow from its own."""
        if run.run_id not in self._last and run.run_id not in self._same and run.parent_run_id is not None:
            parent = self._same.get(run.parent_run_id, run.parent_run_id)
            place = self._taken[parent]
            free = self._children[parent][place : place + 1]
            self._taken[parent] += len(free)
            self._same[run.run_id] = free[0] if free else run.run_id
        return self._same.get(run.run_id, run.run_id)

    def answer(self, run: RunContext, trip: int, asked: str) -> Answer:
        """The answer to a request. Raises Differs when something else is asked, and RecordedFailure."""
        run_id = self._recording(run)
        seq, event = self._answers.pop((run_id, trip), (0, None))
        if event is None:
            self._check_given_up(run_id)
            failed = self._failures.get(run_id)
            if failed is not None:
                raise RecordedFailure(failed)
            raise self._differs(
                run_id, self._last[run_id], f"it asks its model for answer {trip + 1}, which is not there"
            )
        if event.asked is None:
            self.unchecked += 1
        elif event.asked != asked:
            pairs = zip(_PARTS, event.asked.split("."), asked.split("."), strict=False)
            other = " and ".join(part for part, was, now in pairs if was != now)
            raise self._differs(
                run_id, seq, f"its model is asked something else for answer {trip + 1}: {other} changed"
            )
        self.told += 1
        return Answer(parts=event.parts, stop_reason=event.stop_reason, usage=event.usage, model=event.model)

    def result(self, run: RunContext, trip: int, index: int) -> ToolReturned:
        """What a tool gave back. Raises Differs for a call that was not made."""
        run_id = self._recording(run)
        found = self._results.get((run_id, trip, index))
        if found is None:
            self._check_given_up(run_id)
            raise self._differs(
                run_id, self._last.get(run_id, 0), f"call {index + 1} of answer {trip + 1} never returned"
            )
        return found

    def check_arguments(self, run: RunContext, trip: int, index: int, arguments: JsonValue) -> None:
        """Raises Differs when a hook rewrote the arguments of a call, and now they come out otherwise."""
        run_id = self._recording(run)
        seq, was = self._rewritten.get((run_id, trip, index), (0, arguments))
        if args_hash(was) != args_hash(arguments):
            raise self._differs(run_id, seq, f"call {index + 1} of answer {trip + 1} is made with other arguments")

    def _check_given_up(self, run_id: RunId) -> None:
        """Raises Unanswered. Those above such a run come to nothing as well."""
        if self.unanswered or run_id in self._given_up:
            self.unanswered = self.difference is None
            raise Unanswered(run_id)

    def left(self, runs: Collection[RunId]) -> Differs | None:
        """What runs that are over never asked for, if anything."""
        left = sorted((seq, trip, run) for (run, trip), (seq, _) in self._answers.items() if run in runs)
        if not left:
            return None
        seq, trip, run = left[0]
        return self._differs(run, seq, f"answer {trip + 1} is not asked for any more")

    def _differs(self, run_id: RunId, seq: int, what: str) -> Differs:
        found = Differs(run_id, seq, what)
        self.difference = self.difference or found
        return found
