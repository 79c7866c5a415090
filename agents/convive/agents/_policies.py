"""Who speaks next: pure functions of the floor."""

import re
from collections.abc import Callable

from convive.bus import HOST, Floor, SeatName

Policy = Callable[[Floor], SeatName | None]
"""The seat to grant next, or None to wait for somebody to sit down. Must depend on nothing but the floor."""


def round_robin(floor: Floor) -> SeatName | None:
    """The guest whose last turn is longest ago; among those who had none, the one who sits first.

    With nobody coming or going this is the order of the seats, again and again. Who joins late is next.
    """
    last = dict(floor.turns_of)
    return min(_guests(floor), key=lambda seat: last.get(seat, 0), default=None)


def addressed_next(floor: Floor) -> SeatName | None:
    """Who was just addressed by name speaks next, else round robin.

    The first guest named in what was heard last, other than its speaker, gets the floor. A guest who has been
    passed over for two whole rounds comes first all the same, so that two who name each other silence nobody.
    """
    waiting = round_robin(floor)
    guests = _guests(floor)
    if waiting is None or floor.heard is None:
        return waiting
    if floor.turn - dict(floor.turns_of).get(waiting, 0) > 2 * len(guests):
        return waiting
    named = [
        (place, seat)
        for seat in guests
        if seat != floor.heard.seat and (place := _place_of(seat, floor.heard.text)) >= 0
    ]
    return min(named)[1] if named else waiting


POLICIES: dict[str, Policy] = {"round-robin": round_robin, "addressed": addressed_next}
"""The shipped policies by the names that files and options use."""


def _guests(floor: Floor) -> list[SeatName]:
    return [chair.seat for chair in floor.seats if chair.seat != HOST]


def _place_of(seat: SeatName, text: str) -> int:
    words = r"[\s-]+".join(re.escape(part) for part in seat.split("-"))
    match = re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE)
    return match.start() if match else -1
