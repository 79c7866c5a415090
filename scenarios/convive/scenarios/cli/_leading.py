"""Whether anybody leads a party, as far as its log tells: who leads does at once what is due."""

import math
import time
from collections.abc import Iterable, Mapping

from convive.agents import STANDBY_S, overdue_s
from convive.bus import Bus, Conversation, ConversationId, Floor
from convive.scenarios.party._party import PartyError
from convive.scenarios.party._party_file import party_of

STOPPED = "stopped?"
"""The state of what seems to go on no more. Nobody can know it: a process may have begun to lead just now."""

QUIET_S = 30.0
"""A run that has told nothing for so long may work no more."""

_LISTED = 3


async def stopped(bus: Bus, floors: Mapping[ConversationId, Floor]) -> dict[str, float]:
    """The parties that nobody seems to lead, and for how many seconds something has been due in each.

    At most three requests for each that is open.
    """
    found: dict[str, float] = {}
    for name, floor in floors.items():
        if floor.is_open and (late_s := await overdue(await bus.conversation(name), floor)) is not None:
            found[name] = late_s
    return found


async def overdue(conversation: Conversation, floor: Floor) -> float | None:
    """For how many seconds something has been due that nobody has done. None when somebody may well lead, and for what
    `convive run` did not open: what is due there is not known."""
    try:
        party = party_of(floor.opened.setting if floor.opened else None, f"conversation {conversation.id}")
    except PartyError:
        return None
    late_s = 0.0 if party is None else await overdue_s(conversation, floor, party.plan(), time.time())
    if late_s <= STANDBY_S:
        return None
    # Who began to lead just now gives an open turn its time anew: its run works then.
    works = floor.open_grant is not None and await _quiet_s(conversation) < QUIET_S
    return None if works else late_s


async def _quiet_s(conversation: Conversation) -> float:
    """For how many seconds no run of a conversation has told anything."""
    base = conversation.subjects.base
    last = [await conversation.log.last(subjects) for subjects in (f"{base}.run.>", conversation.subjects.live)]
    return min((time.time() - record.time_s for record in last if record is not None), default=math.inf)


def nobody_leads(names: Iterable[str], options: str) -> str:
    """What to say of parties that nobody seems to lead."""
    known = list(names)
    beside = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return (
        f"Nobody seems to lead {', '.join(known[:_LISTED])}{beside}: what was due was not done. All that was said is "
        f"kept; go on with:\n  convive run --conversation {known[0] if len(known) == 1 else 'ID'}{options}"
    )
