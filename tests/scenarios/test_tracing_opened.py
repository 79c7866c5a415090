"""`convive trace X --run ID`: one turn or run, opened: what it was told, what it thought, called and got back."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import typer

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    Approve,
    Deny,
    Edit,
    Limits,
    ModelOverloaded,
    Place,
    Plan,
    Resolution,
    Text,
    Thinking,
    ToolUse,
    Trace,
    Usage,
    assistant,
    host_seats,
    pending,
    read_trace,
    resume,
    supervise,
    tool,
    user,
)
from convive.agents.testing import ScriptedModel, crash_before
from convive.bus import Bus, Chair, ConviveError, MemoryLog, RunContext, SeatName, memory_bus
from convive.scenarios.cli._opened import MAX_LINES, opened_lines
from convive.scenarios.cli._trace_cli import check_options
from convive.scenarios.cli._tracing import View, find_node

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

ESC = "\x1b[31m\x07\u202e"


@tool
def weigh(what: str) -> str:
    """Weigh something."""
    if what == "air":
        raise ValueError(f"it floats {ESC}")
    return f"2 pounds\n  of {what}"


def said(text: str) -> Answer:
    parts = (Thinking(thinking="They want\na number."), Text(text=text))
    return Answer(parts=parts, stop_reason="end", usage=Usage(input_tokens=10, output_tokens=1))


def uses(*calls: tuple[str, dict[str, Any]], stop_reason: Any = "tool_use") -> Answer:
    parts = tuple(ToolUse(id=f"c{n}", name=name, arguments=given) for n, (name, given) in enumerate(calls))
    return Answer(parts=parts, stop_reason=stop_reason, usage=Usage(input_tokens=5, output_tokens=2))


def ada() -> Agent:
    helper = Agent("helper", model=ScriptedModel([uses(("weigh", {"what": "air"})), said("Nothing.")]), tools=[weigh])
    model = ScriptedModel([uses(("weigh", {"what": "figs"}), ("help", {"prompt": "air?"})), said("Two pounds.")])
    return Agent("ada", model=model, tools=[weigh, helper.as_tool("help", "Ask")])


def opened(trace: Trace, which: str, *, full: bool = False) -> list[str]:
    lines = opened_lines(find_node(trace, which), None, full=full)
    assert all(line.text.isprintable() for line in lines)
    return [" " * line.indent + line.text for line in lines]


def at(lines: list[str], *words: str) -> None:
    """All of these lines are there, in this order; figures of time vary and are left out by whoever asks."""
    rest = iter(lines)
    for each in words:
        assert any(line == each or line.startswith(f"{each}  ") for line in rest), f"{each!r} in {lines}"


@asynccontextmanager
async def dinner() -> AsyncGenerator[Bus]:
    """Ada answers with a tool and a helper that calls another, then Bob cannot."""

    def broken(request: object) -> str:
        raise ModelOverloaded("the kitchen is full")

    async with memory_bus() as bus:
        conversation, run = await bus.conversation("dinner"), RunContext.root()
        await conversation.open(run, "figs", [Chair(seat=SeatName("ada")), Chair(seat=SeatName("bob"))])
        bob = Agent("bob", model=ScriptedModel(broken), tools=[])
        seats = {SeatName("ada"): AgentSeat(ada()), SeatName("bob"): AgentSeat(bob)}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, conversation, seats)
            tasks.start_soon(supervise, conversation, Plan(turns=2, opens=False, toasts=False), run)
        yield bus


async def test_a_turn_shows_thoughts_calls_results_and_what_to_open_next() -> None:
    async with dinner() as bus:
        trace = await read_trace(bus, "dinner", keep_events=True)
    helper = next(run for run in trace.runs.values() if run.name == "helper")
    at(
        opened(trace, "turn:1"),
        "✓ turn 1 ada",
        "  read 30 tokens, wrote 6",
        "  ✓ ada  scripted/test  ok",
        "    ✓ answer 1",
        "    ✓ weigh",
        '      with: {"what":"figs"}',
        "      gave back:",
        "        2 pounds",
        "          of figs",
        "    ✓ help",
        '      with: {"prompt":"air?"}',
        "      gave back: Nothing.",
        "      ✓ helper",
        "    ✓ answer 2",
        "      thinks:",
        "        They want",
        "        a number.",
        "      says: Two pounds.",
        "    = finished: its last answer",
        "  = said: Two pounds.",
    )
    (link,) = (line for line in opened(trace, "turn:1") if line.endswith(f"--run {helper.run_id[-6:]}"))
    assert link.startswith("      ✓ helper  scripted/test  ok  ")
    below = opened(trace, helper.run_id[-6:])
    at(
        below,
        "✓ helper",
        "  told: air?",
        "  ✗ weigh",
        '    with: {"what":"air"}',
        "    error: ValueError: it floats [31m",
    )
    assert f"  below dinner > turn 1 ada > ada > help  --run {(helper.run.parent_run_id or '')[-6:]}" in below
    at(opened(trace, "turn:2"), "- turn 2 bob", "  ✗ bob", "    error: ModelOverloaded: the kitchen is full")
    root = trace.root
    assert root is not None
    at(opened(trace, root.run_id), "✓ dinner", "  topic: figs", "  ✓ turn 1 ada", "    Two pounds.", "  - turn 2 bob")


async def opened_run(agent: Agent, asked: str, *answers: Resolution, **given: Any) -> list[str]:
    place, run = Place(MemoryLog(), "cv.00.work", live=False), RunContext.root()
    await agent.execute(asked, place=place, run=run, **given)
    for each in answers:
        (waiting,) = await pending(place)
        await resume(place, run.run_id, {waiting.interrupts[0].id: each}, agent=agent)
    return opened(await read_trace(place, run.run_id, keep_events=True), run.run_id)


async def test_a_run_shows_its_history_and_its_input() -> None:
    history = [each for n in range(5) for each in (user(f"q{n}"), assistant(f"a{n}"))]
    lines = await opened_run(Agent("ada", model=ScriptedModel(["Yes."])), "And now?", history=history)
    at(
        lines,
        "  told before",
        "    … 4 earlier messages (--full)",
        "    user: q2",
        "    assistant: a4",
        "  told: And now?",
        "  ✓ answer 1",
        "    says: Yes.",
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Approve(), ['    with: {"amount":5}', "    answered: approved", "    gave back: paid 5"]),
        (Deny("too dear"), ["    answered: denied: too dear", "    error: too dear"]),
        (Edit({"amount": 3}), ['    answered: approved with {"amount": 3}', "    gave back: paid 3"]),
    ],
)
async def test_an_approval_shows_what_was_asked_and_who_it_was_answered(answer: Resolution, words: list[str]) -> None:
    @tool(needs_approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    def agent() -> Agent:
        return Agent("clerk", model=ScriptedModel([uses(("pay", {"amount": 5})), said("Done.")]), tools=[pay])

    lines = await opened_run(agent(), "go")
    at(lines, "? clerk", "  ? pay", '    with: {"amount":5}', "    waits for: an approval")
    lines = await opened_run(agent(), "go", answer)
    at(lines, "    waited for: an approval")
    for word in words:
        assert [line for line in lines if line.startswith(word)], "\n".join([word, *lines])


async def test_calls_that_are_never_carried_out_and_limits_are_told() -> None:
    cut = Agent("ada", model=ScriptedModel([uses(("weigh", {"what": "figs"}), stop_reason="length")]), tools=[weigh])
    lines = await opened_run(cut, "go")
    at(lines, '    wants: weigh {"what": "figs"}')
    assert [line for line in lines if line.startswith("  = finished (length)")]
    again = Agent("ada", model=ScriptedModel([uses(("weigh", {"what": "figs"}))] * 3), tools=[weigh])
    lines = await opened_run(again, "go", limits=Limits(trips=1))
    assert [line for line in lines if line.startswith("  = finished (limit)")]
    assert [line for line in lines if line.startswith("  warning: ")]


async def test_what_was_broken_off_says_where_and_where_it_was_begun_again() -> None:
    place, run = Place(MemoryLog(), "cv.00.work", live=False), RunContext.root()
    with crash_before("model_answered", trip=0).on(place) as dying:
        await ada().execute("go", place=dying, run=run)
    await ada().execute(place=place, run=run)
    lines = opened(await read_trace(place, run.run_id, keep_events=True), run.run_id)
    at(lines, "  ✓ answer 1 (attempt 2)", "    broken off behind record 2, begun again at record 3", "  ✓ weigh")


async def test_a_long_text_is_cut_and_whole_on_request() -> None:
    place, run = Place(MemoryLog(), "cv.00.work", live=False), RunContext.root()
    long = "\n".join(f"{ESC}line {n}" for n in range(100))
    await Agent("ada", model=ScriptedModel([f"{long}"])).execute(long, place=place, run=run)
    trace = await read_trace(place, run.run_id, keep_events=True)
    cut, whole = opened(trace, run.run_id), opened(trace, run.run_id, full=True)
    assert [line.strip() for line in cut if "line " in line].count("[31mline 3") == 2
    assert len([line for line in cut if "[31mline" in line]) == 2 * MAX_LINES
    assert len([line for line in cut if line.endswith("more characters (--full)")]) == 2
    assert len([line for line in whole if "[31mline" in line]) == 200


async def test_an_id_is_found_by_its_beginning_its_end_and_its_turn() -> None:
    async with dinner() as bus:
        trace = await read_trace(bus, "dinner", keep_events=True)
    turn = next(node for root in trace.roots for node in root.walk() if node.turn == 1)
    for which in (
        turn.run_id,
        turn.run_id[:20],
        turn.run_id[-6:],
        f"…{turn.run_id[-6:]}",
        "turn:1",
        turn.run_id.upper(),
    ):
        assert find_node(trace, which) is turn
    with pytest.raises(ConviveError, match="no run of this trace") as unknown:
        find_node(trace, f"{turn.run_id[:-1]}x")
    assert f"Did you mean {turn.run_id}" in str(unknown.value)
    with pytest.raises(ConviveError, match="no run of this trace") as unknown:
        find_node(trace, f"{turn.run_id[-6:-1]}x")
    assert f"Did you mean {turn.run_id[-6:]}" in str(unknown.value)
    with pytest.raises(ConviveError, match="4 runs of this trace") as several:
        find_node(trace, turn.run_id[:4])
    assert all(f"{node.run_id}  " in str(several.value) for node in trace.runs.values())
    assert "turn 1 ada" in str(several.value)
    for which in ("", " ", "zz", ESC):
        with pytest.raises(ConviveError, match="Ids end the lines of the tree"):
            find_node(trace, which)
    for which in ("turn:9", "turn:", "turn:x"):
        with pytest.raises(ConviveError, match=f"this trace has no '{which}': the last one is turn:2"):
            find_node(trace, which)


async def test_a_person_opens_a_turn_of_a_party(person: "Person") -> None:
    """What was heard comes from the bus: the journal of a turn refers to it in place of a copy."""
    await person.does("run", "dinner-party", "--model", "scripted/party", "--turns", "3", "--conversation", "eve")
    said_there = await person.said("eve")
    done = await person.does("trace", "eve", "--run", "turn:3")
    assert (done.code, done.err) == (0, "")
    assert f"    says: {said_there[2]}" in [line[2:] for line in done.lines]
    assert f"  = said: {said_there[2]}" in done.lines
    place = done.lines.index("  heard since it spoke last")
    heard = done.lines[place + 1 : place + 4]
    assert heard[0].startswith("    * ")
    assert heard[1] == f"    Host: {said_there[0]}"
    (hint,) = (line for line in done.lines if "all of it: " in line)
    replayed = await person.does(*hint.split("convive ")[1].split(";")[0].split(), "--plain")
    assert hint.endswith("convive memory eve --seat diogenes")
    assert replayed.lines == [line.strip() for line in done.lines[place + 1 : place + 4]]
    (row,) = (await person.does("trace", "eve", "--run", "turn:3", "--json")).rows
    assert row["heard"]["lines"] == replayed.lines
    events = [event["type"] for event in row["children"][0]["children"][0]["events"]]
    assert events == ["trip_started", "model_answered"]
    _, thought = row["children"]
    assert (thought["kind"], thought["name"]) == ("run", "Diogenes thinks")
    (below,) = (await person.does("trace", "eve", "--run", thought["run_id"], "--json")).rows
    assert below["heard"] == row["heard"]
    assert json.dumps(below["events"]) == json.dumps(thought["events"])


async def test_options_that_would_do_nothing_are_refused(person: "Person") -> None:
    for view, export in (
        (View(run="turn:1", live=True), None),
        (View(run="turn:1", depth=2), None),
        (View(full=True), None),
        (View(run="turn:1", full=True, as_json=True), None),
        (View(as_json=True, depth=2), None),
        (View(live=True, depth=2), None),
        (View(as_json=True), "otlp"),
    ):
        with pytest.raises(typer.BadParameter, match=r"leave out|never cut|--depth folds"):
            check_options(view, export)
    for view in (View(), View(live=True, as_json=True), View(run="a", full=True), View(run="a", as_json=True)):
        check_options(view, None)
    check_options(View(), "otlp")
    done = await person.does("trace", "eve", "--run", "turn:1", "--live")
    assert (done.code, "leave out --live" in " ".join(done.err.split())) == (2, True)
