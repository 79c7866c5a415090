"""A visitor's word: said without the floor, by somebody who has no seat."""

from convive.bus.conversation._conversation import Conversation
from convive.bus.conversation._events import Interjected
from convive.bus.log._errors import Closed, ConviveError
from convive.bus.log._ids import HOST, seat_name, slugify
from convive.bus.log._runs import RunContext

MAX_WORDS = 20_000
"""Characters of an interjection."""


class NotSaid(ConviveError):
    """It cannot be said like this, or not by them. Nothing was said."""


async def interject(conversation: Conversation, name: str, text: str) -> int:
    """Say something without the floor, as somebody who has no seat; returns its place. Everybody hears it, and the
    guests take it up when they speak next.

    Raises UnknownConversation, Closed, BadName, NotSaid (nothing, too much, or the name of somebody who sits there), or
    MaybeAppended: saying it again may have it there twice.
    """
    said = " ".join(text.split())
    if not said or len(said) > MAX_WORDS:
        raise NotSaid(f"say between 1 and {MAX_WORDS} characters. Nothing was said.")
    seat = seat_name(slugify(name) or name)
    if seat == HOST:
        raise NotSaid("'host' is the supervisor's own name; speak up under another one.")
    floor = await conversation.floor()
    if floor.closed is not None:
        raise Closed(conversation.id)
    if any(chair.seat == seat for chair in floor.seats):
        raise NotSaid(f"{seat} sits at the table and speaks with the floor; speak up under another name.")
    run = (conversation.run_of(floor) or RunContext.root()).child()
    return await conversation.aside(seat, Interjected(text=said), run)
