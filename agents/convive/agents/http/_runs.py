"""Runs: followed, looked at as a trace, and answered."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from pydantic import Field
from starlette.responses import Response

from convive.agents.answers._resume import answer
from convive.agents.entities import EntityName
from convive.agents.http._asked import Asked, as_json
from convive.agents.http._events import Events
from convive.agents.http._problems import Refused
from convive.agents.http._requests import Body, after_of, body_of
from convive.agents.http._tokens import Verb
from convive.agents.journal._interrupts import Resolution
from convive.agents.journal._journal import journal_event_of
from convive.agents.journal._refusals import UnknownRun
from convive.agents.journal._waiting import pending, suspension_json
from convive.agents.runs._run_events import run_events
from convive.agents.traces._node import Node
from convive.agents.traces._trace_json import node_json
from convive.agents.traces._trace_reading import read_trace
from convive.agents.web import SSE_HEADERS, UI_STREAM_HEADERS, sse, ui_stream
from convive.bus import BadName, BadRecord, Conversation, Record, run_id

_OVER = ("run_finished", "run_failed", "run_cancelled")


class Answers(Body):
    """Answers by the id of what waits, and, from somebody who has seen its token, that."""

    answers: dict[str, Resolution] = Field(min_length=1, max_length=1_000)
    token: str | None = None


async def trace_of_conversation(asked: Asked) -> Response:
    """Who called whom in a conversation, as `convive trace --json` has it."""
    await asked.bus.existing(asked.name)
    trace = await read_trace(asked.bus, asked.name)
    return as_json({"trace": _shown(asked, trace.roots)})


async def trace_of_run(asked: Asked) -> Response:
    """A run and all below it, as `convive trace --json` has it."""
    await _find(asked, "read")
    trace = await read_trace(asked.bus, asked.name)
    node = trace.runs.get(run_id(asked.name))
    if node is None:  # nothing of it can be read, or a conversation is called like it
        raise UnknownRun(f"there is no run {asked.name} here that can be read.")
    return as_json({"trace": _shown(asked, [_turn_of(node)])})


def _shown(asked: Asked, roots: list[Node]) -> list[object]:
    """The nodes, without those that are kept beside what may not be seen: runs call others anywhere."""

    def seen(nodes: list[Node]) -> list[Node]:
        return [node for node in nodes if asked.held.may("read", "runs", shown_space(node.conversation))]

    top = seen(roots)
    for root in top:
        for node in root.walk():  # which goes on with the children that are left
            node.children = seen(node.children)
    return [node_json(root) for root in top]


def _turn_of(node: Node) -> Node:
    """A turn and its run are one id: the turn."""
    above = node.parent
    return above if above is not None and above.run_id == node.run_id else node


async def follow(asked: Asked) -> Response:
    """The events of a run, until its last: `format=ui` as the AI SDK reads them, `tree=1` with those of runs below."""
    place = await _find(asked, "read")
    query = asked.request.query_params
    form, tree = query.get("format", "events"), query.get("tree", "0")
    if form not in ("events", "ui") or tree not in ("0", "1") or (form == "ui" and tree == "1"):
        raise Refused(400, "give format=events or format=ui, and tree=1 for the runs below with format=events.")
    after = await after_of(asked.request, place.log)
    last = await place.log.last(f"{place.subjects.base}.run.*.{asked.name}")
    if after and last is not None and last.seq <= after and _is_end(last):
        return Response(status_code=204)  # a browser connects no more then

    @asynccontextmanager
    async def opened() -> AsyncGenerator[AsyncIterator[bytes]]:
        async with (
            run_events(place, asked.name, after=after, tree=tree == "1") as events,
            aclosing(ui_stream(events) if form == "ui" else sse(events)) as frames,
        ):
            yield frames

    return Events(opened, asked.held.until_s, UI_STREAM_HEADERS if form == "ui" else SSE_HEADERS)


def _is_end(record: Record) -> bool:
    try:
        return journal_event_of(record).type in _OVER
    except BadRecord:
        return False


async def list_waiting(asked: Asked) -> Response:
    """What waits for somebody's answer, the longest waiting first."""
    only = asked.request.query_params.get("conversation")
    if only is not None and not asked.held.may("read", "runs", only):
        return as_json({"pending": []})
    there = asked.bus if only is None else await asked.bus.existing(only)
    waiting = [each for each in await pending(there) if asked.held.may("read", "runs", shown_space(each.conversation))]
    return as_json({"pending": [suspension_json(each) for each in waiting]})


async def give(asked: Asked) -> Response:
    """Answer what a run waits for; says who goes on with it."""
    await _find(asked, "write")
    given = await body_of(asked.request, Answers)
    goes_on = await answer(asked.bus, asked.name, given.answers, token=given.token)
    return as_json({"goes_on": goes_on})


async def _find(asked: Asked, verb: Verb) -> Conversation:
    """Beside what a run is kept. One that may not be seen is not there, as far as whoever asks is told."""
    try:
        place = await asked.bus.run_place(asked.name)
    except BadName as error:
        raise Refused(404, str(error)) from None
    if place is None or not asked.held.may("read", "runs", shown_space(place.id)):
        raise UnknownRun(f"there is no run {asked.name} here, or it has not begun.")
    asked.held.check(verb, "runs", shown_space(place.id))
    return place


def shown_space(space: str) -> str:
    """The name that rights know a name space by: that of a conversation, or of an entity, as in `shop/main`."""
    entity = EntityName.of_space(space)
    return space if entity is None else str(entity)
