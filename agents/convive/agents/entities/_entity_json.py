"""Entities as JSON data, for whoever is no Python."""

from pydantic import JsonValue

from convive.agents.entities._entity_state import EntityState


def entity_json(state: EntityState) -> dict[str, JsonValue]:
    """An entity as JSON data: its rows, what waits for it, its children, its failures."""
    kept = {
        "name",
        "args",
        "parent",
        "rows",
        "wakes",
        "timers",
        "children",
        "errors",
        "result",
        "damage",
        "newer",
        "seq",
    }
    row: dict[str, JsonValue] = state.model_dump(mode="json", include=kept)
    waiting: list[JsonValue] = [
        {"seq": one.seq, "kind": one.letter.kind, "sender": one.letter.sender, "value": one.letter.value}
        for one in state.waiting
    ]
    row["status"], row["waiting"], row["observers"] = state.status, waiting, list(state.observers)
    return row
