"""Run context: which run wrote a record, and where it stands in the tree of runs.

It travels in three headers of our own and in the W3C `traceparent` header, so that any process, in any
language, continues the same trace.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from convive.bus._ids import RunId, mint_run_id, run_id

RUN, ROOT, PARENT, TRACEPARENT = "Cv-Run", "Cv-Root", "Cv-Parent", "traceparent"


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run: its id, the outermost run above it, and the run directly above it (None: it is the root)."""

    run_id: RunId
    root_run_id: RunId
    parent_run_id: RunId | None = None

    @classmethod
    def root(cls, run: RunId | None = None) -> Self:
        """A run without a parent; without an id a new one is minted."""
        own = run or mint_run_id()
        return cls(own, own)

    def child(self, run: RunId | None = None) -> "RunContext":
        """A run directly below this one; without an id a new one is minted."""
        return RunContext(run or mint_run_id(), self.root_run_id, self.run_id)

    def headers(self) -> dict[str, str]:
        """The headers that every record of this run carries.

        `traceparent` is `00-<root_run_id>-<last 8 bytes of run_id>-01` (W3C Trace Context, version 00).
        A root run leaves out `Cv-Root` and `Cv-Parent`.
        """
        own = {RUN: self.run_id, TRACEPARENT: f"00-{self.root_run_id}-{self.run_id[16:]}-01"}
        if self.parent_run_id is not None:
            own[ROOT] = self.root_run_id
            own[PARENT] = self.parent_run_id
        return own


def run_of(headers: Mapping[str, str]) -> RunContext | None:
    """The run that wrote a record, or None when the record names none. Raises BadName for a malformed id."""
    own = headers.get(RUN)
    if own is None:
        return None
    parent = headers.get(PARENT)
    return RunContext(run_id(own), run_id(headers.get(ROOT, own)), run_id(parent) if parent else None)
