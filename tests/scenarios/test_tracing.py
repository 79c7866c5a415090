"""`convive trace`, `runs` and `cost`, and the tree as text."""

import json
from typing import TYPE_CHECKING, Any

import pytest

from convive.agents import Cost, Node, Trace, Usage
from convive.agents.testing import otlp_receiver
from convive.bus import RunContext, derive_run_id
from convive.bus.testing import run_number
from convive.scenarios._tree import tree_lines

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

ROOT = RunContext.root(run_number(1))


def node(kind: Any, name: str, began: float, ended: float | None, *children: Node, **given: Any) -> Node:
    run = ROOT.child(derive_run_id(ROOT.run_id, name))
    status = given.pop("status", "ok" if ended is not None else "running")
    made = Node(kind, name, run, "", began, (1, 2), status=status, ended_s=ended, children=list(children), **given)
    for child in children:
        child.parent = made
    return made


def party() -> Trace:
    asked = node("trip", "answer 1", 1.0, 2.0, usage=Usage(input_tokens=1200, output_tokens=30), cost=Cost(0.01))
    weighed = node("tool", "weigh", 2.0, 2.5, status="failed", error="it\nfloats", attempts=[4, 9])
    run = node("run", "Ada", 1.0, 3.0, asked, weighed)
    first = node("turn", "turn 1", 1.0, 3.0, run, seat="ada", turn=1)
    unknown = node("trip", "answer 1", 3.0, None, usage=Usage(input_tokens=1), cost=Cost(0.0, complete=False))
    second = node("turn", "turn 2", 3.0, None, node("run", "Bob", 3.0, None, unknown), seat="bob", turn=2)
    trace = Trace()
    trace.conversations.append(node("conversation", "eve", 1.0, None, first, second))
    return trace


def test_a_tree_fits_a_terminal_and_begins_with_what_failed() -> None:
    lines = [line.text for line in tree_lines(party(), 80, 5.0)]
    assert lines[0] == "✗ turn 1 ada > Ada > weigh (attempt 2): it floats"
    assert max(len(line) for line in lines[1:]) <= 80
    assert [line[:30].rstrip() for line in lines[2:]] == [
        "… eve",
        "├ ✓ turn 1 ada",
        "│ └ ✓ Ada",
        "│   ├ ✓ answer 1",
        "│   └ ✗ weigh (attempt 2)",
        "└ … turn 2 bob",
        "  └ … Bob",
        "    └ … answer 1",
    ]


def test_sums_are_marked_as_sums_and_unknown_costs_as_unknown() -> None:
    lines = [line.text for line in tree_lines(party(), 80, 5.0)]
    assert lines[2].endswith("Σ1201+30  Σ≥$0.0100")
    assert lines[5].endswith(" 1200+30    $0.0100")
    assert lines[9].endswith(" 1+0          ?")
    assert lines[6].rstrip().endswith("500 ms")


def test_bars_share_one_axis() -> None:
    lines = [line.text for line in tree_lines(party(), 80, 5.0)]
    bars = [line[31:47] for line in lines[2:]]
    assert bars[0] == "━" * 16
    assert bars[1] == "━" * 8 + " " * 8
    assert bars[5] == " " * 8 + "━" * 8


def test_a_long_name_is_cut_and_never_wraps() -> None:
    trace = Trace()
    trace.conversations.append(node("conversation", "x" * 200, 1.0, 2.0))
    assert max(len(line.text) for line in tree_lines(trace, 80, 2.0)) <= 80


HELD = ("run", "dinner-party", "--model", "scripted/party", "--turns", "2", "--plain", "--conversation", "eve")


async def test_a_party_is_traced_listed_and_added_up(person: "Person") -> None:
    await person.does(*HELD)
    told = await person.does("trace", "eve")
    assert told.code == 0, told.err
    assert [line.split("  ")[0] for line in told.lines[1:4]] == ["✓ eve", "├ ✓ turn 1 host", "│ └ ✓ Host"]
    (row,) = (await person.does("trace", "eve", "--json")).rows
    assert {"run_id", "root_run_id", "kind", "name", "status", "children"} <= row.keys()
    assert (row["kind"], row["name"], row["status"], len(row["children"])) == ("conversation", "eve", "ok", 4)
    run = row["children"][1]["children"][0]
    assert (run["kind"], run["root_run_id"]) == ("run", row["run_id"])
    opened = await person.does("trace", "eve", "--run", run["run_id"][:20])
    assert opened.lines[0] == f"{run['name']}  {run['run_id']}  ok"
    (alone,) = (await person.does("trace", run["run_id"], "--json")).rows
    assert alone == run
    (listed,) = (await person.does("runs", "--json")).rows
    assert (listed["name"], listed["status"], listed["run_id"]) == ("eve", "ok", row["run_id"])
    assert "eve" in (await person.does("runs")).out
    (spent,) = (await person.does("cost", "eve", "--json")).rows
    assert spent["model"] == "scripted/party"
    agents = (await person.does("cost", "--by", "agent", "--json")).rows
    assert "Host" in [each["agent"] for each in agents]
    with otlp_receiver() as collector:
        sent = await person.does("trace", "eve", "--export", "otlp", env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    assert (sent.code, "spans sent to" in sent.err) == (0, True), sent.err
    assert {span.name for span in collector.spans} >= {"invoke_workflow eve", "invoke_agent Host"}
    live = await person.does("trace", "eve", "--live")
    assert live.out == told.out


async def test_an_unknown_id_suggests_near_ones_and_no_store_is_made(person: "Person") -> None:
    nothing = await person.does("runs")
    assert (nothing.code, "nothing is kept in" in nothing.err) == (1, True)
    await person.does(*HELD)
    for which, why in [("evee", "Did you mean eve?"), ("0" * 32, "there is no run"), ("", "there is no run")]:
        unknown = await person.does("trace", which)
        assert unknown.code == 1
        assert why in unknown.err
        assert "Traceback" not in unknown.err
    assert json.loads((await person.does("trace", "eve", "--json")).out)["status"] == "ok"
