"""An event loop whose clock moves only when nothing is left to do: minutes of waiting take no time."""

import asyncio
import selectors
from typing import Any

TICK_S = 1e-8
"""What each round takes, so that a time that was waited for is over and not only reached."""


class VirtualTime(asyncio.SelectorEventLoop):
    """For tests: `anyio_backend` gives ("asyncio", {"loop_factory": VirtualTime})."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_Impatient(self))

    def time(self) -> float:
        return self.now_s


class _Impatient(selectors.SelectSelector):
    """Waits for nothing outside; where there is nothing to wait for inside either, the test hangs, and says so."""

    def __init__(self, loop: VirtualTime) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if timeout is None and not found:
            raise RuntimeError("nothing is left that could happen")
        self._loop.now_s += TICK_S + (0.0 if found else timeout or 0.0)
        return found
