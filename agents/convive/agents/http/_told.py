"""What is said at a table, for whoever is no Python: a fold of the bus, one JSON object a record that counts."""

from pydantic import JsonValue
from pydantic_core import from_json

from convive.bus import (
    BadRecord,
    Chair,
    Ended,
    Floor,
    Granted,
    Opened,
    Passed,
    Record,
    Revoked,
    Said,
    Transcript,
    address_of,
    event_of,
    happened_s,
)

Told = dict[str, JsonValue]


class Table:
    """Folds the bus and the live text of a conversation. What everybody at the table can know is told: no memories, no
    settings of the party, no runs beside the one that has the floor."""

    def __init__(self) -> None:
        self._transcript = Transcript()

    @property
    def floor(self) -> Floor:
        """The floor after the last record."""
        return self._transcript.floor

    def push(self, record: Record) -> Told | None:
        """What one more record tells, by its `type`: that of the event, `text` while somebody speaks, or `damaged`.
        None for what tells nothing."""
        if address_of(record.subject).kind == "live":
            return self._live(record)
        before = self.floor
        lines = list(self._transcript.apply(record))
        told: Told = {"seq": record.seq, "time_s": round(happened_s(record), 3)}
        if self.floor.damaged > before.damaged:
            return {**told, "type": "damaged", **({"text": lines[0].text} if lines else {})}
        if self.floor.links == before.links and not lines:
            return None
        try:
            event = event_of(record)
        except BadRecord:
            return None
        seat = event.seat if isinstance(event, Granted) else address_of(record.subject).name
        told |= {"type": event.type, "seat": seat, "speaker": self._transcript.speaker(seat)}
        if lines:
            told |= {"style": lines[0].style, "text": lines[0].text}
        match event:
            case Opened():
                told |= {"topic": event.topic, "seats": _seats(event.chairs)}
            case Granted():
                told |= {"turn": event.turn, "run_id": event.run_id, "deadline_s": event.deadline_s}
            case Said():
                told |= {"turn": event.turn, "run_id": event.run_id}
                told |= {} if event.data is None else {"data": event.data}
            case Passed() | Revoked():
                told |= {"turn": event.turn, "run_id": event.run_id, "reason": event.reason}
            case Ended():
                told |= {"reason": event.reason}
            case _:
                pass
        return told

    def _live(self, record: Record) -> Told | None:
        """A piece of what whoever has the floor is saying; `offset` counts characters of this attempt, and another
        `trip` or `attempt` begins anew."""
        held = self.floor.open_grant
        if held is None or address_of(record.subject).name != held.grant.run_id:
            return None
        try:
            found: JsonValue = from_json(record.body)
        except ValueError:
            return None
        match found:
            case {"type": "delta", "trip": int(trip), "attempt": int(again), "offset": int(start), "text": str(text)}:
                piece: Told = {"trip": trip, "attempt": again, "offset": start, "text": text}
                turn: Told = {"seat": held.grant.seat, "turn": held.grant.turn, "run_id": held.grant.run_id}
                return {"seq": record.seq, "type": "text", **turn, **piece}
            case _:
                return None


def floor_json(name: str, floor: Floor) -> Told:
    """How a conversation stands. `state` is open, over or unreadable; `speaking` is the seat that has the floor."""
    held = floor.open_grant
    return {
        "conversation": name,
        "topic": floor.opened.topic if floor.opened else "",
        "state": "unreadable" if floor.opened is None else "over" if floor.closed is not None else "open",
        "speaking": None if held is None else held.grant.seat,
        "turn": floor.turn,
        "seats": _seats(floor.seats),
        "last_s": round(floor.at_s, 3),
    }


def _seats(chairs: tuple[Chair, ...]) -> list[JsonValue]:
    return [{"seat": chair.seat, "name": chair.shown, "about": chair.about} for chair in chairs]
