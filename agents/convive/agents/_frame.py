"""The run around this code. An agent called inside a tool finds here where it belongs."""

import hashlib
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from convive.agents._journal import Place
from convive.bus import RunContext, derive_run_id

OnCancel = Literal["record", "leave"]
"""What cancellation of the executing task means: "record", the run is over and its journal says so; "leave",
only this process stops, and the run can be continued from its journal. "leave" holds as well for what a
person can mend: a refused key, an error in the application's own code."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A tool call that is being carried out. `key` is its idempotency key, `fresh` whether it is the first attempt."""

    run: RunContext
    place: Place
    key: str
    fresh: bool
    on_cancel: OnCancel
    session_id: str | None
    children: Counter[str] = field(default_factory=Counter[str])

    def child(self, agent: str, input: str) -> RunContext:
        """The run of an agent that is called here.

        Its id is the same when the tool runs again after a crash, so that the child's journal is found and
        continued: it is derived from the call, the agent, the input and how often that came already.
        """
        what = hashlib.blake2b(f"{agent}\0{input}".encode(), digest_size=10).hexdigest()
        self.children[what] += 1
        return self.run.child(derive_run_id(self.run.run_id, f"{self.key}/{what}/{self.children[what]}"))


_current: ContextVar[Frame | None] = ContextVar("convive_run", default=None)


def current_frame() -> Frame | None:
    """The tool call that this code is part of, if any."""
    return _current.get()


def current_run() -> RunContext | None:
    """The run that this code is part of, if any."""
    frame = _current.get()
    return None if frame is None else frame.run


@contextmanager
def inside(frame: Frame) -> Generator[None]:
    """Code in this block, and tasks and threads that it starts, belong to the call."""
    token = _current.set(frame)
    try:
        yield
    finally:
        _current.reset(token)
