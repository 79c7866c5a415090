"""What a process asked of the log and what it was told, written down so that kill -9 loses none of it."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convive.bus import BusUnavailable, Conflict, Draft, Log, LogAround, MaybeAppended, NotAppended


def value_of(subject: str, body: bytes) -> str:
    """What a record is known by, whoever sees it."""
    return hashlib.blake2b(subject.encode() + b"\0" + body, digest_size=12).hexdigest()


def log_of(subject: str) -> str:
    """What a guard on this subject watches: the whole floor, or the subject itself."""
    head, floor, _ = subject.partition(".bus.floor.")
    return f"{head}{floor}*" if floor else subject


class Notes:
    """A file of JSON lines; each is with the kernel before the next thing happens."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **line: Any) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def notes_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; the last one may be torn."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return [json.loads(line) for line in lines[:-1] if line]


class Recorded(LogAround):
    """A log, each of whose appends is noted: before it is sent, and when it is answered."""

    def __init__(self, log: Log, notes: Notes) -> None:
        super().__init__(log)
        self._notes = notes
        self._count = 0

    async def append(self, draft: Draft) -> int:
        if draft.replaces:  # a producer's mark, which is gone with the next one
            return await self.inner.append(draft)
        number = self._call(draft)
        try:
            place = await self.inner.append(draft)
        except Conflict as conflict:
            self._end(number, "conflict", conflict.actual if conflict.actual >= 0 else None)
            raise
        except NotAppended:
            self._end(number, "refused")
            raise
        except (MaybeAppended, BusUnavailable):
            self._end(number, "unknown")
            raise
        self._end(number, "appended", place)
        return place

    async def append_all(self, drafts: Sequence[Draft]) -> list[int]:
        numbers = [self._call(draft) for draft in drafts]
        places = await self.inner.append_all(drafts)
        for number, place in zip(numbers, places, strict=True):
            self._end(number, "appended", place)
        return places

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        """A producer's: its mark, and records of which each says what it is, and so is known when it is tried again."""
        numbers = [self._call(replace(draft, id=draft.body.decode(), guard=None)) for draft in drafts[1:]]
        try:
            first, *places = await self.inner.append_batch(drafts)
        except NotAppended:
            for number in numbers:
                self._end(number, "refused")
            raise
        except (MaybeAppended, BusUnavailable):
            for number in numbers:
                self._end(number, "unknown")
            raise
        for number, place in zip(numbers, places, strict=True):
            self._end(number, "appended", place)
        return [first, *places]

    def _call(self, draft: Draft) -> int:
        self._count += 1
        self._notes.write(
            pid=os.getpid(),
            n=self._count,
            call=time.monotonic(),
            subject=draft.subject,
            value=value_of(draft.subject, draft.body),
            id=draft.id,
            expected=None if draft.guard is None else draft.guard.last,
        )
        return self._count

    def _end(self, number: int, result: str, position: int | None = None) -> None:
        self._notes.write(pid=os.getpid(), n=number, **{"return": time.monotonic()}, result=result, position=position)
