"""`convive trace` of logs that are not ours: whatever they hold, a terminal gets a tree, and nothing that it obeys."""

import json
from typing import Any

import pytest
from rich.cells import cell_len

from convive.agents import Node, Trace, node_json
from convive.agents.journal._journal import ModelAnswered, RunFailed, RunStarted, ToolReturned, TripStarted
from convive.agents.models._messages import ToolUse
from convive.bus import HOST, Draft, RunContext, memory_bus
from convive.scenarios.cli._opened import opened_lines
from convive.scenarios.cli._spending import show_cost, show_runs
from convive.scenarios.cli._tree import tree_lines
from tests.agents.traces import Writer, answered, began, called, ended, folded, returned

ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b31m\u202e"
ROOT = RunContext.root()


def text(trace: Trace) -> list[str]:
    return [line.text for line in tree_lines(trace, 100, 2e9, depth=10_000)]


def depth(row: dict[str, Any], level: int = 0) -> int:
    return max((depth(child, level + 1) for child in row["children"]), default=level)


@pytest.mark.parametrize("upwards", [False, True])
def test_a_tree_without_end_is_shown_whole(upwards: bool) -> None:
    chain = [ROOT]
    for _ in range(1_500):
        chain.append(chain[-1].child())
    writer = Writer()
    for run in reversed(chain) if upwards else chain:
        writer.journal(run, began(run), ended())
    trace = folded(writer.records)
    shown = text(trace)
    assert sum("━" in line for line in shown) == 1_501
    assert max(map(len, shown[-1_000:])) <= 100
    rows = [node_json(root) for root in trace.roots]
    assert json.dumps(rows).count('"run_id"') == 1_501
    assert max(depth(row) for row in rows) <= 200


def hostile() -> Trace:
    writer = Writer()
    use = ToolUse(id=ESCAPES, name=ESCAPES, arguments={ESCAPES: ESCAPES})
    writer.journal(
        ROOT,
        RunStarted(agent=ESCAPES, model=ESCAPES, root=ROOT.run_id),
        TripStarted(trip=0),
        ModelAnswered(trip=0, parts=(use,), stop_reason="tool_use", model=ESCAPES),
        ToolReturned(trip=0, index=0, call_id="c", name=ESCAPES, content=ESCAPES, is_error=True),
        RunFailed(error=ESCAPES, message=ESCAPES),
    )
    trace = Trace(keep_events=True)
    for record in writer.records:
        trace.apply(record)
    return trace


def test_no_escape_reaches_a_terminal() -> None:
    trace = hostile()
    for line in [*text(trace), *(each.text for each in opened_lines(trace.runs[ROOT.run_id], None, full=True))]:
        assert line.isprintable()
        assert "red" in line or "\x1b" not in line


@pytest.mark.parametrize(
    "told",
    [
        b'"usage":{"input_tokens":1%s}' % (b"0" * 400),
        b'"usage":{"input_tokens":-7,"output_tokens":99999999999}',
        b'"cost":NaN',
        b'"cost":null,"known_cost":Infinity',
        b'"cost":-1e308',
    ],
)
def test_no_number_breaks_a_tree_or_its_json(told: bytes) -> None:
    answer = b'{"type":"model_answered","trip":0,"parts":[],"stop_reason":"end",%s}' % told
    writer = Writer()
    writer.journal(ROOT, began(ROOT), TripStarted(trip=0), answer, ended())
    trace = folded(writer.records)
    assert "✓ answer 1" in "".join(text(trace))
    json.dumps([node_json(root) for root in trace.roots], allow_nan=False)


@pytest.mark.anyio
async def test_one_conversation_that_is_none_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    async with memory_bus() as bus:
        for name, headers in (("a", {"Cv-Run": "nonsense"}), ("b", {**ROOT.headers(), "Cv-Root": "../.."})):
            bad = await bus.conversation(name)
            await bad.log.append(Draft(bad.subjects.link(HOST), b"{}", headers))
        eve = await bus.conversation("eve")
        writer, run = Writer(eve.subjects.base), RunContext.root()
        writer.put("bus.floor.host", b"{}", RunContext.root())
        writer.opened(run)
        writer.granted(run, 1)
        for record in writer.records:
            await eve.log.append(Draft(record.subject, record.body, record.headers))
        await show_runs(bus, 20, as_json=True)
        (row,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert (row["run_id"], row["name"], row["status"]) == (run.run_id, "eve", "running")
        await show_cost(bus, None, "model", as_json=True)


def test_clocks_that_differ_leave_bars_on_their_axis() -> None:
    """A queued run of a server whose clock is behind by minutes."""
    writer, other = Writer(), Writer("cv.01.queue-default", 1e9 - 500)
    child = ROOT.child()
    writer.journal(ROOT, began(ROOT), *answered("send"), called(), returned(children=[child]), ended())
    other.journal(child, began(child), ended())
    lines = text(folded([*writer.records, *other.records]))
    assert max(map(len, lines)) <= 100
    assert [line.index("━") for line in lines[1:]] == [59, 59, 59, 40]


def test_names_of_wide_letters_keep_their_columns() -> None:
    writer = Writer()
    writer.journal(ROOT, began(ROOT, "料理長" * 3), *answered(), ended())
    _, run, answer = text(folded(writer.records))
    assert cell_len(run.partition("━")[0]) == 40
    assert cell_len(answer.partition("━")[0]) >= 40
    writer.journal(ROOT.child(), began(ROOT.child(), "料理長" * 30), ended())
    assert max(map(cell_len, text(folded(writer.records)))) <= 100


def test_a_long_conversation_is_drawn_in_proportion() -> None:
    """Each line has its sums, and no part of the tree is added up more than once for that."""
    looks = 0

    class Counting(Node):
        def walk(self):  # type: ignore[no-untyped-def]
            nonlocal looks
            for node in super().walk():
                looks += 1
                yield node

    top = Counting("conversation", "eve", ROOT, "", 1.0, (1, 1), status="ok", ended_s=2.0)
    above: Node = top
    for level in range(50):
        below = Counting("run", "clerk", ROOT, str(level), 1.0, (1, 1), status="ok", ended_s=2.0)
        below.put_below(above)
        above = below
    trace = Trace()
    trace.conversations.append(top)
    assert len(text(trace)) == 52
    assert looks < 51 * 6
