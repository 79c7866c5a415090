"""Traces as JSON data, for whoever is no Python."""

from convive.agents.traces._node import Node

_MOST_LEVELS = 100


def node_json(node: Node, level: int = 0, *, events: bool = False) -> dict[str, object]:
    """A node and all below it, as nested objects; in a tree without end, the lowest level has all that is below it.

    `events`: with what the journals say of each, where the trace keeps that."""
    below = node.children if level < _MOST_LEVELS else [*node.walk()][1:] if level == _MOST_LEVELS else []
    told = {"events": [event.model_dump(mode="json") for event in node.events]} if events else {}
    usage, cost = node.total_usage, node.total_cost
    return {
        "run_id": node.run_id,
        "root_run_id": node.run.root_run_id,
        "parent_run_id": node.run.parent_run_id,
        "kind": node.kind,
        "name": node.name,
        "part": node.part,
        "status": node.status,
        "seat": node.seat or None,
        "turn": node.turn,
        "model": node.model or None,
        "session_id": node.session_id,
        "conversation": node.conversation,
        "seqs": node.seqs,
        "started_s": node.started_s,
        "ended_s": node.ended_s,
        "attempts": max(1, len(node.attempts)),
        "attempt_seqs": node.attempts,
        "tokens": usage.model_dump(),
        "cost": None if cost is None else {"known": cost.known, "complete": cost.complete, "currency": cost.currency},
        "error": node.error or None,
        "detail": node.detail or None,
        "orphan": node.orphan,
        "damage": node.damage,
        "copied": node.copied,
        "origin": None if node.origin is None else node.origin.model_dump(),
        **told,
        "children": [node_json(child, level + 1, events=events) for child in below],
    }
