"""A log that passes everything on: the beginning of one that counts, records, or fails at a chosen moment."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from convive.bus.log._log import Draft, Log, Record, Tail


class LogAround:
    """Passes every call to another log. Override what is to be different; a method calls no other one of its own."""

    def __init__(self, log: Log) -> None:
        self.inner = log

    async def append(self, draft: Draft) -> int:
        return await self.inner.append(draft)

    async def append_all(self, drafts: Sequence[Draft]) -> list[int]:
        return await self.inner.append_all(drafts)

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        return await self.inner.append_batch(drafts)

    def check(self, draft: Draft) -> None:
        self.inner.check(draft)

    async def post(self, draft: Draft) -> None:
        await self.inner.post(draft)

    def read(
        self, *subjects: str, after: int = 0, until: int | None = None, since_s: float | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        return self.inner.read(*subjects, after=after, until=until, since_s=since_s)

    def latest(self, *subjects: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        return self.inner.latest(*subjects)

    def follow(self, *subjects: str, after: int = 0, since_s: float | None = None) -> AbstractAsyncContextManager[Tail]:
        return self.inner.follow(*subjects, after=after, since_s=since_s)

    async def last(self, subject: str) -> Record | None:
        return await self.inner.last(subject)

    async def subjects(self, pattern: str) -> dict[str, int]:
        return await self.inner.subjects(pattern)

    async def end(self) -> int:
        return await self.inner.end()

    async def purge(self, subject: str, until: int) -> int:
        return await self.inner.purge(subject, until)

    def present(self, subject: str) -> AbstractAsyncContextManager[None]:
        return self.inner.present(subject)

    async def is_present(self, subject: str, timeout_s: float) -> bool | None:
        return await self.inner.is_present(subject, timeout_s)
