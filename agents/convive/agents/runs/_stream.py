"""A run that is watched while it happens. It has a task of its own, so the watcher may leave at any time."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic, Self

import anyio

from convive.agents.runs._events import AnyRunEvent
from convive.agents.runs._frame import hand_up
from convive.agents.runs._result import AgentResult, RunUnfinished
from convive.agents.runs._run import Performer
from convive.agents.runs._settings import Settings, Task
from convive.agents.tools._output import Data
from convive.agents.tools._stopping import CancelMode
from convive.bus import RunId


class RunStream(Generic[Data]):
    """A run under way. Iterate it for its events, from the first, as often and by as many as you like."""

    def __init__(self, settings: Settings, task: Task) -> None:
        self._performer = Performer(settings, task, self._emit)
        self._events: list[AnyRunEvent] = []
        self._more = anyio.Event()
        self._done = anyio.Event()
        self._scope = anyio.CancelScope()
        self._outcome: AgentResult[Data] | None = None
        self._error: Exception | None = None

    @property
    def run_id(self) -> RunId:
        """The run's id."""
        return self._performer.task.run.run_id

    def __aiter__(self) -> AsyncIterator[AnyRunEvent]:
        return _Watcher(self)

    async def result(self) -> AgentResult[Data]:
        """The result, once the run has ended; also after the block was left, and without having iterated.

        Failed and cancelled runs have a result too. Raises what broke the execution itself (RunTaken, an error
        of the bus or of the application's own code), or RunUnfinished when it was told to leave the run.
        """
        await self._done.wait()
        if self._outcome is not None:
            hand_up(self._performer.task.run, self._outcome.interrupts)
            return self._outcome
        raise self._error or RunUnfinished(self._performer.task.run)

    def cancel(self, reason: str = "", mode: CancelMode = "now") -> None:
        """Call the run off, and with it the runs below. Its result has status "cancelled" and the reason; too late, it
        changes nothing.

        "now" aborts the request and the tools that run; "after_tools" aborts a request, and lets tools come to their
        end; "after_trip" lets the model answer, too, and its tools run. A final answer that comes still counts.
        """
        if self._performer.call_off(reason, mode):
            self._scope.cancel()

    async def drive(self) -> None:
        """Execute the run. Raises nothing but cancellation from outside."""
        try:
            with self._scope:
                self._outcome = await self._performer.perform()
            if self._scope.cancelled_caught:
                self._outcome = self._performer.result()
        except Exception as error:  # noqa: BLE001 - raised out of `result` and to whoever iterates
            self._error = error
        except anyio.get_cancelled_exc_class():
            if self._performer.ended:
                self._outcome = self._performer.result()
            raise
        finally:
            self._done.set()
            self._more.set()

    async def _emit(self, event: AnyRunEvent) -> None:
        self._events.append(event)
        self._more.set()
        self._more = anyio.Event()

    async def event(self, place: int) -> AnyRunEvent | None:
        """The event at that place, once there is one; None after the last. Raises what broke the execution."""
        while place >= len(self._events):
            if self._done.is_set():
                if self._error is not None:
                    raise self._error
                return None
            await self._more.wait()
        return self._events[place]


class _Watcher:
    """One reader's place in a stream. No generator: one that is left half-way would wait to be finalized."""

    def __init__(self, stream: RunStream[Any]) -> None:
        self._stream = stream
        self._place = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyRunEvent:
        event = await self._stream.event(self._place)
        if event is None:
            raise StopAsyncIteration
        self._place += 1
        return event


@asynccontextmanager
async def streaming(settings: Settings, task: Task) -> AsyncGenerator[RunStream[Any]]:
    """Execute a run beside the block. Leaving the block waits for the run's end; an error in it cancels the run."""
    stream = RunStream[Any](settings, task)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(stream.drive)
        try:
            yield stream
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
            failure = error
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure
