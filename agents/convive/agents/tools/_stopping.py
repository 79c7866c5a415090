"""The wish to end a run early, seen by the runs below it too."""

import asyncio
import math
from typing import Literal

import anyio

CancelMode = Literal["now", "after_tools", "after_trip"]
"""When a run that is called off ends: at once; when the tools that run are done; when the trip and its tools are."""


class Stopping:
    """Whether somebody called this run off, or one above it, why, and when it ends."""

    def __init__(self, above: "Stopping | None" = None) -> None:
        self._above = above
        self._own: str | None = None
        self.mode: CancelMode | None = None
        self.in_tools = False

    def ask_for(self, reason: str, mode: CancelMode) -> None:
        """Call the run off. The first reason counts, and the earliest end."""
        if self._own is None:
            self._own = reason
        if self.mode is None or mode == "now" or self.mode == "after_trip":
            self.mode = mode

    @property
    def reason(self) -> str | None:
        """Why the run was called off, or the one above it at once; None if it was not."""
        if self._own is not None or self._above is None:
            return self._own
        return self._above.reason if self._above._at_once else None

    @property
    def _at_once(self) -> bool:
        return self.mode == "now" or (self._above is not None and self._above._at_once)


def being_cancelled() -> bool:
    """Whether a cancellation that came up here is of this task. On asyncio, whoever awaits a task or a future that
    somebody else cancelled is told so by the same exception."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0 or anyio.current_effective_deadline() == -math.inf
