"""The run around this code. An agent called inside a tool finds here where it belongs."""

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, cast

from convive.agents.journal._interrupts import Interrupt, Resolution
from convive.agents.journal._journal import ChildRun, Place
from convive.agents.models._messages import Message
from convive.agents.runs._audience import Observers
from convive.agents.runs._meter import Meter
from convive.agents.tools._stopping import Stopping
from convive.bus import RunContext, RunId, derive_run_id

OnCancel = Literal["record", "leave"]
"""What cancellation of the executing task means: "record", the run is over and its journal says so; "leave",
only this process stops, and the run can be continued from its journal. "leave" holds as well for what a
person can mend: a refused key, an error in the application's own code."""


class ChildWaits(BaseException):
    """An agent that was called inside a tool is suspended, and so is the tool. Not an Exception, so that the tool's own
    `except Exception` lets it through: the tool is called again when there are answers."""


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
    answers: Mapping[str, Resolution] = field(default_factory=dict[str, Resolution])
    """What the runs below may have been waiting for."""
    waiting: list[Interrupt] = field(default_factory=list[Interrupt])
    """What they wait for now."""
    observers: tuple[Observers, ...] = ()
    """Those of the runs above, the outermost first."""
    spent: dict[RunId, ChildRun] = field(default_factory=dict[RunId, ChildRun])
    """The runs below that are over."""
    left: list[Callable[[str], Awaitable[None]]] = field(default_factory=list[Callable[[str], Awaitable[None]]])
    """Ends those that wait or were left to be continued, for a reason, when the call will not be made again."""
    meter: Meter | None = None
    stopping: Stopping | None = None
    hops: int = 0
    depth: int = 1
    """How many runs stand above those that are called here, this one included."""
    history: Callable[[], tuple[Message, ...]] = tuple
    """The conversation of the run so far."""

    def child(self, agent: str, input: str) -> RunContext:
        """The run of an agent that is called here.

        Its id is the same when the tool runs again after a crash, so that the child's journal is found and
        continued: it is derived from the call, the agent, the input and how often that came already.
        """
        what = what_is_asked(agent, input)
        self.children[what] += 1
        return self.run.child(called_run_id(self.run.run_id, self.key, what, self.children[what]))


def call_key(run: RunId, trip: int, index: int) -> str:
    """The idempotency key of a tool call."""
    return f"{run}-{trip}-{index}"


def what_is_asked(agent: str, input: str) -> str:
    """A digest of which agent is called, and with what."""
    return hashlib.blake2b(f"{agent}\0{input}".encode(), digest_size=10).hexdigest()


def called_run_id(above: RunId, key: str, what: str, number: int) -> RunId:
    """The id of the run that a tool call makes when it asks this for the `number`-th time, from 1."""
    return derive_run_id(above, f"{key}/{what}/{number}")


_current: ContextVar[Frame | None] = ContextVar("convive_run", default=None)


def current_frame() -> Frame | None:
    """The tool call that this code is part of, if any."""
    return _current.get()


def current_run() -> RunContext | None:
    """The run that this code is part of, if any."""
    frame = _current.get()
    return None if frame is None else frame.run


def frame_above(run: RunContext) -> Frame | None:
    """The tool call that called this run, if this code is part of that call."""
    frame = _current.get()
    return frame if frame is not None and run.parent_run_id == frame.run.run_id else None


def hand_up(run: RunContext, interrupts: Iterable[Interrupt]) -> None:
    """Suspend the tool call around this code, if any, for what a run in it waits for. Raises ChildWaits."""
    frame, waited_for = frame_above(run), tuple(interrupts)
    if frame is not None and waited_for:
        frame.waiting.extend(waited_for)
        raise ChildWaits(f"run {run.run_id} waits for {len(waited_for)} answers")


def goes_on_later(error: BaseException) -> bool:
    """Whether suspended children are behind an error, a task group's included. What failed beside them in the group
    fails again, if it does, when the tool is called again."""
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return all(isinstance(each, Exception) or goes_on_later(each) for each in inner)
    return isinstance(error, ChildWaits)


@contextmanager
def inside(frame: Frame) -> Generator[None]:
    """Code in this block, and tasks and threads that it starts, belong to the call."""
    token = _current.set(frame)
    try:
        yield
    finally:
        _current.reset(token)


async def end_below(frame: Frame, reason: str) -> None:
    """End the runs below a call that wait or were left to be continued, since nobody will."""
    with inside(frame):
        for end in frame.left:
            await end(reason)
