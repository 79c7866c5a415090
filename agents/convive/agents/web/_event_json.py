"""Events as JSON data, for whoever is no Python."""

from dataclasses import fields

from pydantic import JsonValue

from convive.agents.models._schema import cleaned, jsonable
from convive.agents.runs._events import AnyRunEvent, RunFailed, RunFinished, RunSuspended
from convive.agents.runs._result import AgentResult


def event_json(event: AnyRunEvent) -> dict[str, JsonValue]:
    """An event: its `type`, `run_id`, `root_run_id` and `parent_run_id`, and its own fields by their names.

    A result is status, text, finish_reason, data, error, usage, cost, known_cost, artifacts, interrupts and
    resume_token; its messages and its report stay where they are.
    """
    found: dict[str, JsonValue] = {
        "type": event.type,
        "run_id": event.run_id,
        "root_run_id": event.root_run_id,
        "parent_run_id": event.parent_run_id,
    }
    for each in fields(event):
        if each.name not in ("run", "result"):
            found[each.name] = jsonable(cleaned(getattr(event, each.name)))
    if isinstance(event, RunFinished | RunFailed | RunSuspended):
        found["result"] = result_json(event.result)
    return found


def result_json(result: AgentResult) -> dict[str, JsonValue]:
    """A result, as `event_json` has it."""
    error = result.error
    told: dict[str, object] = {
        "status": result.status,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "data": result.data,
        "error": error and {"error": error.error, "message": error.message, "transient": error.transient},
        "usage": result.usage,
        "cost": result.cost,
        "known_cost": result.report.known_cost,
        "artifacts": result.artifacts,
        "interrupts": result.interrupts,
        "resume_token": result.resume_token,
    }
    return {name: jsonable(cleaned(value)) for name, value in told.items()}
