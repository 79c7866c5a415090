"""Fault points: a process that ends exactly behind, or just before, a certain record, to test what comes after."""

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NoReturn, TypeVar, cast

import anyio
from pydantic import JsonValue
from pydantic_core import from_json

from convive.agents.journal._journal import Place
from convive.bus import Conversation, Draft, Log, LogAround, Record, Tail

Where = TypeVar("Where", Place, Conversation, Log)


class Crashed(BaseException):
    """The process is gone, as far as the log can tell. Not an Exception, so that no `except Exception` survives it."""


class NotCrashed(AssertionError):
    """A block ended and its crash point had not been reached: the test tests nothing."""


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Where a process is to end: at the `nth` record of that kind whose body holds these fields. See `crash_after`."""

    when: Literal["after", "before"]
    kind: str | None
    nth: int
    kill: bool
    fields: Mapping[str, JsonValue]

    def __post_init__(self) -> None:
        if self.nth < 1:
            raise ValueError(f"records are counted from 1: nth={self.nth} is never reached")

    def __str__(self) -> str:
        given = [] if self.kind is None else [repr(self.kind)]
        given += [f"{name}={value!r}" for name, value in self.fields.items()]
        return f"crash_{self.when}({', '.join((*given, f'nth={self.nth}'))})"

    def matches(self, body: bytes) -> bool:
        """Whether a record with that body is one that counts."""
        event = _event(body)
        return self.kind in (None, event.get("type")) and all(
            event.get(each) == self.fields[each] for each in self.fields
        )

    @contextmanager
    def on(self, where: Where) -> Generator[Where]:
        """The same place (or conversation, or log), which crashes there: `with crash_after(...).on(place) as dying:`.

        The block is left where the crash happens, without an error, and its process is dead to the log: whatever it
        still asks of `dying` raises Crashed, and nothing more is stored. Go on with the original behind the block.
        Raises NotCrashed when the block ends otherwise. Appends within it go one by one.
        """
        log = _CrashingLog(_log_of(where), self)
        try:
            yield _with(where, log)
        except BaseException as error:
            if not only_crashed(error):
                raise
        if not log.dead:
            told = ", ".join(f"{count} {kind}" for kind, count in log.stored.items()) or "nothing"
            raise NotCrashed(f"{self} was not reached. What the block appended: {told}.")


def crash_after(kind: str | None = None, /, *, nth: int = 1, kill: bool = False, **fields: JsonValue) -> CrashPoint:
    """A crash when a record is stored, and before anything else happens: `crash_after("tool_called", trip=0)`.

    `kind` is the record's `type`, such as "model_answered" in a journal or "granted" on the floor; None: any. `fields`
    must be in its body, `nth` counts those that match. The records of runs below count, too. By default the crash is an
    exception, Crashed, that goes through everything (a `finally:` on its way is carried out, but reaches the log no
    more); with `kill=True` the process kills itself with SIGKILL, for tests with processes of their own.

    Before a process is gone, what it did beside the log is done: `crash_before("tool_returned")` is the moment when a
    tool has had its effect and nobody knows.
    """
    return CrashPoint("after", kind, nth, kill, fields)


def crash_before(kind: str | None = None, /, *, nth: int = 1, kill: bool = False, **fields: JsonValue) -> CrashPoint:
    """A crash instead of storing a record; all that led to it has happened. Otherwise as `crash_after`."""
    return CrashPoint("before", kind, nth, kill, fields)


def only_crashed(error: BaseException) -> bool:
    """Whether nothing but a crash is behind an error, a task group's included."""
    if isinstance(error, BaseExceptionGroup):
        return all(only_crashed(each) for each in cast("BaseExceptionGroup[BaseException]", error).exceptions)
    return isinstance(error, Crashed)


class _CrashingLog(LogAround):
    """A log up to the crash point, and a dead one from there."""

    def __init__(self, log: Log, point: CrashPoint) -> None:
        self.dead = False
        self.stored = Counter[str]()
        super().__init__(log)
        self._point = point
        self._left = point.nth
        self._turn = anyio.Lock(fast_acquire=True)

    async def append(self, draft: Draft) -> int:
        async with self._turn:
            (seq,) = await self._append([draft])
            return seq

    async def append_all(self, drafts: Sequence[Draft]) -> list[int]:
        async with self._turn:
            return await self._append(drafts)

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        async with self._turn:
            self._living()
            counted = sum(self._point.matches(draft.body) for draft in drafts)
            if counted >= self._left and self._point.when == "before":
                self._crash()
            places = await self.inner.append_batch(drafts)
            self.stored.update(str(_event(draft.body).get("type", "unknown")) for draft in drafts)
            self._left -= counted
            if self._left <= 0 and counted:
                self._crash()
            return places

    async def end(self) -> int:
        self._living()
        return await self.inner.end()

    async def purge(self, subject: str, until: int) -> int:
        self._living()
        return await self.inner.purge(subject, until)

    async def post(self, draft: Draft) -> None:
        self._living()
        await self.inner.post(draft)

    def read(
        self, *subjects: str, after: int = 0, until: int | None = None, since_s: float | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        self._living()
        return self.inner.read(*subjects, after=after, until=until, since_s=since_s)

    def follow(self, *subjects: str, after: int = 0, since_s: float | None = None) -> AbstractAsyncContextManager[Tail]:
        self._living()
        return self.inner.follow(*subjects, after=after, since_s=since_s)

    def latest(self, *subjects: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        self._living()
        return self.inner.latest(*subjects)

    async def last(self, subject: str) -> Record | None:
        self._living()
        return await self.inner.last(subject)

    async def subjects(self, pattern: str) -> dict[str, int]:
        self._living()
        return await self.inner.subjects(pattern)

    def present(self, subject: str) -> AbstractAsyncContextManager[None]:
        self._living()
        return self.inner.present(subject)

    async def is_present(self, subject: str, timeout_s: float) -> bool | None:
        self._living()
        return await self.inner.is_present(subject, timeout_s)

    async def _append(self, drafts: Sequence[Draft]) -> list[int]:
        self._living()
        counted = [place for place, draft in enumerate(drafts) if self._point.matches(draft.body)]
        if len(counted) >= self._left:
            fatal = counted[self._left - 1]
            await self._store(drafts[: fatal + 1 if self._point.when == "after" else fatal])
            self._crash()
        seqs = await self._store(drafts)
        self._left -= len(counted)
        return seqs

    async def _store(self, drafts: Sequence[Draft]) -> list[int]:
        if len(drafts) == 1:
            seqs = [await self.inner.append(drafts[0])]
        else:
            seqs = await self.inner.append_all(drafts) if drafts else []
        self.stored.update(str(_event(draft.body).get("type", "unknown")) for draft in drafts)
        return seqs

    def _crash(self) -> NoReturn:
        self.dead = True
        if self._point.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise Crashed(f"{self._point}")

    def _living(self) -> None:
        if self.dead:
            raise Crashed(f"{self._point}: this process is gone. Go on with the original, behind the block.")


def _log_of(where: Place | Conversation | Log) -> Log:
    return where.log if isinstance(where, Place | Conversation) else where


def _with(where: Where, log: Log) -> Where:
    if isinstance(where, Place):
        return replace(where, log=log)
    if isinstance(where, Conversation):
        return Conversation(log, where.id, where.subjects)
    return log


def _event(body: bytes) -> Mapping[str, JsonValue]:
    try:
        event: JsonValue = from_json(body)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
