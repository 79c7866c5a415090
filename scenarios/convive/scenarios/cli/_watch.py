"""Showing a conversation: as it is, as it happens, or as it happened."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import anyio

from convive.bus import Conversation, ConviveError, Record, address_of, fold_floor, happened_s
from convive.scenarios.cli._display import Display

LONGEST_PAUSE_S = 10.0
"""A pause of a replay at the pace in which it happened is cut to this."""


class BadPlace(ConviveError):
    """A place in a conversation that cannot be read."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a conversation: from a sequence number, a turn or a time on, to one of these, both included."""

    first: str | None = None
    last: str | None = None

    def begins(self, record: Record, turn: int) -> bool:
        """Whether a record is at or behind the beginning."""
        return self.first is None or _order(self.first, record, turn) >= 0

    def ended(self, record: Record, turn: int) -> bool:
        """Whether a record is behind the end."""
        return self.last is not None and _order(self.last, record, turn) > 0

    def ends_beyond(self, turn: int, end: int) -> bool:
        """Whether the end is a turn behind that one, or a sequence number behind that one."""
        if self.last is None:
            return False
        number = self.last.removeprefix("turn:")
        return number.isdecimal() and int(number) > (end if number == self.last else turn)


def place(text: str) -> str:
    """Check a place: `345` (a sequence number), `turn:3`, or an ISO time. Raises BadPlace."""
    if re.fullmatch(r"\d{1,18}|turn:\d{1,9}", text):
        return text
    try:
        datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise BadPlace(
            f"{text[:60]!r} is no place in a conversation: give a sequence number (345), a turn (turn:3) or a time "
            "(2026-11-20T19:30)."
        ) from None
    return text


async def watch(
    conversation: Conversation, display: Display, span: Span, seen: Callable[[int], None] | None = None
) -> None:
    """Show what is there and what comes, until the conversation is closed. `seen` gets each sequence number."""
    subjects = [conversation.subjects.bus]
    if display.wants_live:
        subjects.append(conversation.subjects.live)
    shower = _Shower(display, span)
    async with conversation.log.follow(*subjects) as tail:
        async for record in tail:
            if address_of(record.subject).kind == "live":
                display.show(record)
                continue
            if not shower.take(record):
                return
            if seen is not None:
                seen(record.seq)


async def replay(
    conversation: Conversation,
    display: Display,
    span: Span,
    speed: float | None = None,
    pause: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> None:
    """Show what is there now, then end. With a `speed`, at that multiple of the pace in which it happened.

    Raises BadPlace when there is nothing at or behind the beginning of the span.
    """
    shower = _Shower(display, span)
    shown_s: float | None = None
    async with conversation.read() as records:
        async for record in records:
            inside = shower.due(record)
            if speed and inside and shown_s is not None:
                # A party that was left for the night is not waited for until morning.
                await pause(min(LONGEST_PAUSE_S, max(0.0, happened_s(record) - shown_s)) / speed)
            if not shower.take(record):
                break
            if inside:
                shown_s = happened_s(record)
    if span.first is not None and shown_s is None:
        to = f" and at or before {span.last}" if span.last else ""
        raise BadPlace(f"nothing of {conversation.id} is at or behind {span.first}{to}.")


class _Shower:
    """Feeds a display: records before the span are folded but not shown."""

    def __init__(self, display: Display, span: Span) -> None:
        self._display = display
        self._span = span
        self._turn = 0

    def due(self, record: Record) -> bool:
        return self._span.begins(record, self._turn)

    def take(self, record: Record) -> bool:
        """Show a record. False once the span or the conversation is over."""
        before = self._display.transcript.floor
        after = fold_floor(before, record)
        self._turn = after.turn
        if self._span.ended(record, self._turn):
            return False
        opens = before.opened is None and after.opened is not None
        if self.due(record) or (opens and self._display.wants_heading):
            self._display.show(record)
        else:
            self._display.skip(record)
        return not self._display.over


def _order(place_text: str, record: Record, turn: int) -> float:
    if place_text.startswith("turn:"):
        return turn - int(place_text[5:])
    if place_text.isdigit():
        return record.seq - int(place_text)
    return happened_s(record) - datetime.fromisoformat(place_text).timestamp()
