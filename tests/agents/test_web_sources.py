"""What is iterated for a browser: entered, iterated and left by one and the same task."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest

from convive.agents import Agent, Place, run_events
from convive.agents.runs import _events as shown
from convive.agents.testing import ScriptedModel
from convive.agents.web import sse, ui_stream
from convive.bus import MemoryLog, RunContext
from tests.agents.test_web import chunks, frames, whole

pytestmark = pytest.mark.anyio


async def test_a_generator_may_execute_the_run_itself() -> None:
    """3.2: a run holds a task group, which only the task that entered it may leave"""

    async def events() -> AsyncIterator[shown.AnyRunEvent]:
        async with Agent("ada", model=ScriptedModel(["one two"])).stream("x") as run:
            async for event in run:
                yield event

    assert frames(await whole(sse(events())))[-1]["event"] == "run_finished"
    assert chunks(await whole(ui_stream(events())))[-1]["type"] == "finish"


async def test_whoever_leaves_between_two_events_leaves_the_generator_at_once() -> None:
    left: list[str] = []

    async def events(name: str) -> AsyncIterator[shown.AnyRunEvent]:
        try:
            with anyio.CancelScope():
                for _ in range(9):
                    yield shown.RunStarted(RunContext.root(), "ada")
        finally:
            left.append(name)

    for body, name in ((sse(events("sse")), "sse"), (ui_stream(events("ui")), "ui")):
        async with aclosing(body):
            await anext(body)
        assert left[-1] == name


async def test_the_last_chunk_does_not_cut_short_who_is_told_of_the_end() -> None:
    saved: list[str] = []

    async def save(event: shown.RunFinished) -> None:
        await anyio.sleep(0.01)
        saved.append(event.result.text)

    async def events() -> AsyncIterator[shown.AnyRunEvent]:
        async with Agent("ada", model=ScriptedModel(["one"]), on={"run_finished": save}).stream("x") as run:
            async for event in run:
                yield event

    await whole(ui_stream(events()))
    assert saved == ["one"]


async def test_the_last_event_ends_the_stream_though_its_source_goes_on() -> None:
    over = anyio.Event()

    async def events() -> AsyncIterator[shown.AnyRunEvent]:
        run = RunContext.root()
        yield shown.RunStarted(run, "ada")
        yield shown.RunCancelled(run, "enough")
        try:
            await anyio.sleep_forever()
        finally:
            over.set()

    with anyio.fail_after(10):
        assert chunks(await whole(ui_stream(events(), ping_s=0.01)))[-1]["type"] == "abort"
    assert over.is_set()


async def test_an_error_behind_the_first_events_comes_out_as_it_is() -> None:
    async def events() -> AsyncIterator[shown.AnyRunEvent]:
        yield shown.RunStarted(RunContext.root(), "ada")
        raise ZeroDivisionError

    body = sse(events())
    await anext(body)
    with pytest.raises(ZeroDivisionError):
        await anext(body)
    place = Place(MemoryLog(), "cv.00.web")
    result = await Agent("ada", model=ScriptedModel(["one"])).prompt("x", place=place)
    async with run_events(place, result.run_id) as followed:
        assert json.loads(frames(await whole(sse(followed)))[-1]["data"])["result"]["text"] == "one"


async def test_pings_without_a_pause_do_not_keep_the_events_out() -> None:
    async with Agent("ada", model=ScriptedModel(["one"])).stream("x") as run:
        with anyio.fail_after(10):
            assert frames(await whole(sse(run, ping_s=1e-9)))[-1]["event"] == "run_finished"
        for wrong in (0, -1.0, float("nan")):
            for body in (sse(run, ping_s=wrong), ui_stream(run, ping_s=wrong)):
                with pytest.raises(ValueError, match="ping_s"):
                    await anext(body)
