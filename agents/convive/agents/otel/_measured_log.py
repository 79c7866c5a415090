"""How long appends take, and how they end, as the process that makes them sees it."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from convive.bus import ConviveError, Draft, Log, LogAround

T = TypeVar("T")


class Appended(NamedTuple):
    """One append, or several at once: where to (the first of them), how long until it was settled, and how it failed.

    `error` is the name of the error, empty when it was acknowledged.
    """

    subject: str
    took_s: float
    error: str = ""


class MeasuredLog(LogAround):
    """Passes everything on, and tells of each append that was settled; `tell` returns at once."""

    def __init__(self, log: Log, tell: Callable[[Appended], object]) -> None:
        super().__init__(log)
        self._tell = tell

    async def append(self, draft: Draft) -> int:
        return await self._measured((draft,), self.inner.append(draft))

    async def append_all(self, drafts: Sequence[Draft]) -> list[int]:
        return await self._measured(drafts, self.inner.append_all(drafts))

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        return await self._measured(drafts, self.inner.append_batch(drafts))

    async def _measured(self, drafts: Sequence[Draft], append: Awaitable[T]) -> T:
        """What is cancelled meanwhile counts as nothing: nobody waited for how it would end."""
        began_s, subject = time.perf_counter(), drafts[0].subject if drafts else ""
        try:
            done = await append
        except ConviveError as error:
            self._tell(Appended(subject, time.perf_counter() - began_s, type(error).__name__))
            raise
        if drafts:
            self._tell(Appended(subject, time.perf_counter() - began_s))
        return done
