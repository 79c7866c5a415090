"""Several processes in one seat: whose turn it is, and when another one takes it over.

The first in the journal of the turn's run has the turn. The others ask now and then whether it is still at it.
"""

import contextlib
from dataclasses import dataclass

import anyio

from convive.bus import BusUnavailable, Conversation, Log, RunContext

STANDBY_S = 5.0
"""How long whoever leads has to be late, or whoever has a turn silent, before another process acts."""

LOOKS = 5
"""How often a double asks in that time."""

PRESENT_AFTER_S = 0.2


def present_after(turn_s: float) -> float:
    """How long a turn takes before its process can be asked for. One that is over sooner costs no requests; whoever
    asks waits longer than that first. `turn_s`: how long it may take, which both know."""
    return min(PRESENT_AFTER_S, turn_s / 20)


@dataclass(frozen=True, slots=True)
class Silence:
    """What a double has found: how many looks in a row were without a sign of life, and the run's last record then.

    It counts looks and not time, so that a double that was stopped itself, or could not reach the server, has not heard
    less for that.
    """

    looks: int = 0
    place: int | None = None
    heard: bool = False
    """Whether the last look that found out anything found somebody there."""

    @property
    def is_over(self) -> bool:
        """Whether the turn is to be taken over."""
        return self.looks >= LOOKS

    def after(self, *, here: bool, place: int) -> "Silence":
        """After one more look: whether somebody was there, and where the run's last record stood."""
        if here:
            return Silence(heard=True)
        wrote = self.place is not None and place != self.place
        return Silence(0 if wrote else self.looks + 1, place)


def patience_after(patience_s: float, had_s: float) -> float:
    """How long the other process has to be silent next time, when this one has lost a turn after `had_s`.

    Who lost it at once was second. Who had it for so long was overtaken although it was there: two that do not hear one
    another must not go on taking the turn from each other, and paying for it each time.
    """
    return 2 * patience_s if had_s >= patience_s else patience_s


async def until_silent(conversation: Conversation, run: RunContext, silent_s: float) -> None:
    """Wait until whoever executes a run has shown no sign of life for `silent_s`, and at most a fifth longer.

    A sign is an answer, or a record in the journal or the text of the run. Raises BusUnavailable when the bus is gone
    for good.
    """
    look_s, silence = silent_s / LOOKS, Silence()
    log, subjects = conversation.log, conversation.subjects
    next_s = anyio.current_time()
    while not silence.is_over:
        # Not at once: whoever began just now can be asked for in a moment.
        next_s = max(next_s, anyio.current_time() - look_s) + look_s
        await anyio.sleep_until(next_s)
        journal = subjects.journal(run.root_run_id, run.run_id)
        silence = await look(log, journal, f"{subjects.base}.*.{run.root_run_id}.{run.run_id}", look_s, silence)


async def look(log: Log, subject: str, written: str, look_s: float, silence: Silence) -> Silence:
    """What is found by one more look at who is present on `subject` and writes to `written`, for `look_s` at most.

    Raises BusUnavailable when the bus is gone for good.
    """
    here = await log.is_present(subject, look_s)
    # While the server is away nobody is heard, which says nothing of them.
    with contextlib.suppress(BusUnavailable):
        last = None if here else await log.last(written)
        return silence.after(here=bool(here), place=0 if last is None else last.seq)
    return silence
