"""Who speaks next: pure functions of the floor."""

import re
from collections.abc import Callable
from functools import lru_cache

from convive.bus import HOST, Chair, Floor, SeatName

Policy = Callable[[Floor], SeatName | None]
"""The seat to grant next, or None to wait for somebody to sit down. Must depend on nothing but the floor."""


def round_robin(floor: Floor) -> SeatName | None:
    """The guest whose last turn is longest ago; among those who had none, the one who sits first.

    With nobody coming or going this is the order of the seats, again and again. Who joins late is next.
    """
    last = dict(floor.turns_of)
    return min((chair.seat for chair in _guests(floor)), key=lambda seat: last.get(seat, 0), default=None)


def addressed_next(floor: Floor) -> SeatName | None:
    """Who was just addressed by name speaks next, else round robin.

    The first guest named in what was heard last, other than its speaker, gets the floor, once: if that turn comes to
    nothing, the round goes on. A guest who has been passed over for two whole rounds comes first all the same, so that
    two who name each other silence nobody.
    """
    waiting = round_robin(floor)
    heard = floor.heard
    if waiting is None or heard is None or floor.turn > floor.heard_turn:
        return waiting
    guests = _guests(floor)
    if floor.turn - dict(floor.turns_of).get(waiting, 0) > 2 * len(guests):
        return waiting
    others = (chair for chair in guests if chair.seat != heard.seat)
    named = [(place, chair.seat) for chair in others if (place := _place_of(chair, heard.text)) >= 0]
    return min(named)[1] if named else waiting


POLICIES: dict[str, Policy] = {"round-robin": round_robin, "addressed": addressed_next}
"""The shipped policies by the names that files and options use."""


def _guests(floor: Floor) -> list[Chair]:
    return [chair for chair in floor.seats if chair.seat != HOST]


def _place_of(chair: Chair, text: str) -> int:
    """Where a text names somebody first: by the whole name, the last word of it, or the seat; -1: nowhere."""
    names = {chair.shown, chair.seat.replace("-", " "), *chair.shown.split()[-1:]}
    places = [match.start() for name in names if name.strip() and (match := _whole_words(name).search(text))]
    return min(places, default=-1)


@lru_cache(maxsize=1024)
def _whole_words(name: str) -> re.Pattern[str]:
    words = r"[\s-]+".join(re.escape(word) for word in name.split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
