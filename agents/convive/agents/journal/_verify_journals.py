"""The journals of runs: whether each folds, has its end where something says that it ended, and belongs somewhere."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from convive.agents.journal._fold import RunState, fold, latest_alone
from convive.agents.journal._journal import JournalEvent, RunStarted, ToolCalled, ToolReturned, journal_event_of
from convive.bus import BadName, BadRecord, Record, RunContext, RunId, Verification, run_of

RunFate = Literal["ended", "waiting", "open", "left", "damaged"]
"""The journal has its end; the run waits for answers; it goes on, or was killed and may; nobody will go on with it: its
turn is over, or the run above it is; it does not fold, or lacks its end."""

_KEY = re.compile(r"([0-9a-f]{32})-(\d{1,9})-[0-9a-f]{8}")


@dataclass(slots=True)
class _Run:
    """What is known of a run. `state` is there as long as its journal is folded: what its rules look at."""

    context: RunContext
    first: int
    state: RunState | None = field(default_factory=RunState)
    records: int = 0
    last: int = 0
    fate: RunFate = "open"
    first_call: int | None = None
    children: set[RunId] = field(default_factory=set[RunId])

    @property
    def subject(self) -> str:
        """The subject of its journal, below the conversation."""
        return f"run.{self.context.root_run_id}.{self.context.run_id}"


class JournalVerification:
    """The check of the journals of a conversation, or of an entity. Apply what `Verification` says is a journal's, then
    `finish`.

    Time is linear in the records. Keeps the latest trip of each run that has not ended, and a few hundred bytes of each
    that has.
    """

    def __init__(self, checks: Verification, entity: str | None = None) -> None:
        self.wakes: dict[RunId, tuple[int, RunStarted]] = {}
        """The runs that say to be wakes of the entity, each with its place: they stand below a run of whoever sent the
        letter, or none."""
        self._checks = checks
        self._entity = entity
        self._runs: dict[RunId, _Run] = {}

    def apply(self, record: Record, context: RunContext) -> None:
        """Take the next record of a journal."""
        run = self._runs.get(context.run_id)
        if run is None:
            run = self._runs[context.run_id] = _Run(context, record.seq)
        elif run.context.root_run_id != context.root_run_id:
            self._checks.found("orphan", record, f"run {context.run_id} has a journal below another root")
            return
        try:
            event = journal_event_of(record)
        except BadRecord as bad:
            self._checks.found("foreign", record, bad.why)
            return
        if run.fate == "damaged":
            return
        why = self._objection(run, record, event)
        if why is None:
            self._take(run, record, event)
        else:
            run.fate, run.state = "damaged", None
            self._checks.found("journal", record, why)

    def finish(self) -> Mapping[RunFate, int]:
        """How many runs came to what, when all records were applied."""
        for run in self._runs.values():
            self._check_above(run)
        for run in self._runs.values():
            if run.fate == "open":
                run.fate = self._unfinished(run)
        return Counter(run.fate for run in self._runs.values())

    def fate_of(self, run: RunId) -> RunFate | None:
        """What became of a run so far; None: it has no journal."""
        found = self._runs.get(run)
        return None if found is None else found.fate

    def _objection(self, run: _Run, record: Record, event: JournalEvent) -> str | None:
        key = _KEY.fullmatch(record.headers.get("Nats-Msg-Id", ""))
        if key is not None and key[1] == run.context.run_id and int(key[2]) != run.records:
            return f"record {key[2]} of the journal where record {run.records} was due"
        if run.state is None:
            return "nothing follows the end of a run"
        if isinstance(event, RunStarted) and event.root != run.context.root_run_id:
            return f"the run began below the root {event.root[:40]}, its subject names another"
        try:
            run.state = fold(run.state, event)
        except ValueError as error:
            return str(error)
        return None

    def _take(self, run: _Run, record: Record, event: JournalEvent) -> None:
        run.records += 1
        run.last = record.seq
        match event:
            case RunStarted():
                self._check_parent(run, record, event)
                if isinstance(event.source, dict) and event.source.get("entity") == self._entity is not None:
                    self.wakes[run.context.run_id] = record.seq, event
            case ToolCalled():
                run.first_call = run.first_call or record.seq
            case ToolReturned():
                run.children |= {child.run_id for child in event.children}
            case _:
                pass
        state = run.state
        assert state is not None  # noqa: S101 - it was folded just now
        if state.ended is not None:
            run.fate, run.state = "ended", None
        else:
            run.state = latest_alone(state)

    def _check_parent(self, run: _Run, record: Record, event: RunStarted) -> None:
        """The journal itself knows best which run is above it; headers may leave it out, but not name another."""
        own = replace(run.context, parent_run_id=event.parent)
        try:
            named = run_of(record.headers)
        except BadName:
            named = None
        if named is not None and named != own and replace(named, parent_run_id=own.parent_run_id) == own:
            self._checks.found("header", record, f"the headers name the run {named.parent_run_id} above it")
        run.context = own

    def _check_above(self, run: _Run) -> None:
        """Every run was made by a turn, or by a call of a run that has a journal here."""
        parent = run.context.parent_run_id
        if parent is None or self._is_top(run.context.run_id) or self._is_top(parent):
            return
        if parent == self._checks.root and parent not in self._runs:
            why = "no grant names this run"
        elif parent not in self._runs:
            why = f"the run above it, {parent}, has no journal"
        elif not (self._runs[parent].first_call or run.first) < run.first:
            why = f"the run above it, {parent}, had called no tool"
        else:
            return
        self._checks.findings.add("orphan", run.first, run.subject, why)

    def _is_top(self, run: RunId) -> bool:
        return run in self._checks.turns or run in self.wakes

    def _unfinished(self, run: _Run) -> RunFate:
        state, parent = run.state, run.context.parent_run_id
        if state is not None and state.suspended is not None:
            return "waiting"
        above = None if parent is None else self._runs.get(parent)
        why = None
        turn = self._checks.turns.get(run.context.run_id)
        if above is not None and run.context.run_id in above.children:
            why = "the run above it has its result, and its journal has no end"
        elif turn is not None and turn.fate == "said" and self._checks.floor.closed is not None:
            why = f"turn {turn.turn} was said, the conversation is closed, and the journal of its run has no end"
        if why is not None:
            self._checks.findings.add("journal", run.last, run.subject, why)
            return "damaged"
        over = self._checks.floor.closed is not None or (turn is not None and turn.fate != "open")
        return "left" if over or (above is not None and above.fate in ("ended", "left")) else "open"
