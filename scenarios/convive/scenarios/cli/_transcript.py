"""A transcript as a terminal shows it: nothing from the wire gets there as it is."""

import json
from typing import Any

from convive.bus import Record, TranscriptLine, address_of, happened_s


def plain(line: TranscriptLine) -> str:
    """A line of a transcript as text, on one line."""
    text, speaker = shown(line.text), shown(line.speaker)
    match line.style:
        case "speech":
            return f"{speaker}: {text}"
        case "aside":
            return f"{speaker} (aside): {text}"
        case "stage":
            return f"* {text}"


def shown(text: str) -> str:
    """Text from the bus as a terminal may show it: on one line, without control characters."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable())


def record_as_json(record: Record) -> str:
    """A record of the bus as one JSON object: its place, its author, and the event."""
    address = address_of(record.subject)
    event: Any
    try:
        event = json.loads(record.body)
    except (ValueError, RecursionError):
        event = {"unreadable": record.body.decode(errors="replace")}
    shown = {"seq": record.seq, "time_s": round(happened_s(record), 3), "kind": address.kind, "seat": address.name}
    return json.dumps({**shown, "event": event}, ensure_ascii=False)
