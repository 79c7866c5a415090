"""`convive trace`, `runs` and `cost`, and the tree as text."""

import json
import os
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from rich.cells import cell_len

from convive.agents import Cost, Node, Trace, Usage
from convive.agents.testing import otlp_receiver
from convive.bus import RunContext, derive_run_id
from convive.bus.testing import run_number
from convive.scenarios.cli._tree import clipped, error_of, money, tree_lines

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
    weighed = derive_run_id(ROOT.run_id, "weigh")
    assert lines[0] == f"✗ turn 1 ada > Ada > weigh (attempt 2) ({weighed[-6:]}): it floats"
    assert max(len(line) for line in lines[1:]) <= 80
    assert [line[:29].rstrip() for line in lines[2:]] == [
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
    lines = [line[:-7] for line in lines]  # without the ids
    assert lines[2].endswith("Σ1201+30  Σ≥$0.0100")
    assert lines[5].endswith(" 1200+30    $0.0100")
    assert lines[9].endswith(" 1+0          ?")
    assert lines[6].rstrip().endswith("500 ms")


def test_bars_share_one_axis() -> None:
    lines = [line.text for line in tree_lines(party(), 80, 5.0)]
    bars = [line[30:40] for line in lines[2:]]
    assert bars[0] == "━" * 10
    assert bars[1] == "━" * 5 + " " * 5
    assert bars[5] == " " * 5 + "━" * 5
    wide = [line.text for line in tree_lines(party(), 120, 5.0)]
    assert wide[2].count("━") == 30
    assert max(len(line) for line in wide[1:]) == 120


def test_a_long_name_is_cut_and_never_wraps() -> None:
    for name in ("x" * 200, "宴" * 50, "a\x1b[2Jb\nc" * 20):
        trace = Trace()
        trace.conversations.append(node("conversation", name, 1.0, 2.0))
        lines = [line.text for line in tree_lines(trace, 80, 2.0)]
        assert max(cell_len(line) for line in lines) <= 80
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(("width", "title"), [(79, "read+written"), (70, "read+written"), (50, "cost"), (36, "took")])
def test_a_narrow_terminal_gets_less_in_a_line_and_not_more_lines(width: int, title: str) -> None:
    wide, lines = tree_lines(party(), 80, 5.0), tree_lines(party(), width, 5.0)
    begin = next(at for at, line in enumerate(lines) if line.status == "head")
    assert len(lines) == len(wide)
    assert max(cell_len(line.text) for line in lines[begin:]) <= width
    assert lines[begin].text.split()[-1] == "run"
    assert title in lines[begin].text
    assert [line.text[-7:] for line in lines[begin:]] == [line.text[-7:] for line in wide[begin:]]


def long_party(turns: int) -> Trace:
    """Each turn has a run with an answer and a tool; the tool of the fourth fails, and the last turn goes on."""
    made = list[Node]()
    for turn in range(1, turns + 1):
        why = {"status": "failed", "error": "spilt"} if turn == 4 else {}
        ended = None if turn == turns else turn + 0.9
        answer, pour = node("trip", "answer 1", turn, turn + 0.5), node("tool", "pour", turn, ended, **why)
        run = node("run", "Ada", turn, ended, answer, pour)
        made.append(node("turn", f"turn {turn}", turn, ended, run, seat="ada", turn=turn))
    trace = Trace()
    trace.conversations.append(node("conversation", "eve", 1.0, None, *made))
    return trace


def test_a_long_tree_is_folded_with_counts_but_for_what_failed_or_goes_on() -> None:
    """Issue 5: collapse with child counts, jump to the error."""
    lines = [line.text for line in tree_lines(long_party(200), 80, 201.0)]
    names = [line[:29].rstrip() for line in lines[2:]]
    assert lines[0].startswith("✗ turn 4 ada > Ada > pour (")
    assert names[:9] == [
        "… eve",
        "├ ✓ turn 1 ada             +3",
        "├ ✓ turn 2 ada             +3",
        "├ ✓ turn 3 ada             +3",
        "├ ✓ turn 4 ada",
        "│ └ ✓ Ada",
        "│   ├ ✓ answer 1",
        "│   └ ✗ pour",
        "├ ✓ turn 5 ada             +3",
    ]
    assert names[-6:-1] == [
        "├ ✓ turn 199 ada           +3",
        "└ … turn 200 ada",
        "  └ … Ada",
        "    ├ ✓ answer 1",
        "    └ … pour",
    ]
    assert lines[-1].startswith("+n: 594 lines are folded.")


def test_a_tree_is_unfolded_as_deep_as_is_asked_for() -> None:
    for depth, lines in ((1, 10 + 2 * 3), (2, 2 * 10 + 2 * 2), (3, 4 * 10), (99, 4 * 10)):
        drawn = [line for line in tree_lines(long_party(10), 80, 11.0, depth=depth) if line.text[:1] in "…├│└ "]
        assert len([line for line in drawn if line.status != "head"]) == lines + 1
    whole = tree_lines(long_party(10), 80, 11.0)
    assert whole == tree_lines(long_party(10), 80, 11.0, depth=99)
    assert not [line for line in whole if "folded" in line.text]


def test_a_screen_shows_the_beginning_with_what_failed_and_where_things_go_on() -> None:
    lines = tree_lines(long_party(200), 80, 201.0)
    drawn = [line.text for line in clipped(lines, 24)]
    assert len(drawn) == 24
    assert drawn[0].startswith("✗ turn 4 ada > Ada > pour")
    assert drawn[2].startswith("… eve")
    assert drawn[3].strip() == f"… {len(lines) - 23} lines …"
    assert drawn[4:] == [line.text for line in lines[-20:]]
    assert clipped(lines, len(lines)) == lines
    assert len(clipped(lines, 4)) == 4


def test_what_was_broken_off_is_told_once_and_what_waits_stands_in_front() -> None:
    broken = node(
        "run", "Ada", 1.0, None, node("trip", "answer 1", 1.0, None, status="interrupted"), status="interrupted"
    )
    revoked = node("turn", "turn 1", 1.0, 2.0, broken, seat="ada", status="revoked", detail="too slow")
    pay = node("tool", "pay", 3.0, None, status="waiting")
    waits = node("turn", "turn 2", 3.0, None, node("run", "Bob", 3.0, None, pay, status="waiting"), seat="bob")
    trace = Trace()
    trace.conversations.append(node("conversation", "eve", 1.0, None, revoked, waits))
    lines = [line.text for line in tree_lines(trace, 80, 4.0)]
    assert lines[0].startswith("x turn 1 ada (")
    assert lines[0].endswith("): too slow")
    assert lines[1].startswith("? turn 2 bob > Bob > pay (")
    assert lines[1].endswith("waits for an answer: convive pending")
    assert "read+written" in lines[2]


def test_an_error_that_a_model_reads_as_json_is_shown_in_words() -> None:
    said = '{"error":"tool_failed","message":"it floats","type":"ValueError"}'
    assert error_of(said) == "ValueError: it floats"
    for other in ("it floats", "{", '{"a":1}', '{"message":3}', ""):
        assert error_of(other) == other


def test_money_says_what_it_does_not_know() -> None:
    shown = [money(Cost(0.00001)), money(Cost(12345.678)), money(Cost(2.0, currency="EUR")), money(None)]
    assert shown == ["<$0.0001", "$12346", "2.0000 EUR", ""]
    assert [money(Cost()), money(Cost(0.0, complete=False))] == ["free", "?"]


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
    assert opened.lines[0].startswith(f"✓ {row['children'][1]['name']} {row['children'][1]['seat']}  ok")
    (alone,) = (await person.does("trace", run["run_id"], "--json")).rows
    assert alone == row["children"][1]  # a turn and its run are one id: all that the seat did in it
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
    assert (await person.does("trace", "eve", "--live", "--json")).rows == [row]


async def test_whoever_reads_only_the_beginning_of_a_tree_has_seen_enough(person: "Person") -> None:
    await person.does(*HELD)
    read, write = os.pipe()
    os.close(read)
    for command in (("trace", "eve"), ("runs",), ("trace", "eve", "--run", "turn:2")):
        done = await anyio.run_process(
            [str(person.program), *command], cwd=person.folder, env=person.env(), stdout=write, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
    os.close(write)


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
