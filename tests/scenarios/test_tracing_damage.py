"""`convive trace`, `runs` and `cost` on what is not as it should be: records that are missing, of other versions, or
none at all. Everything is said, and nothing is a traceback."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest

from convive.agents import Agent, Answer, Place, Request, ToolUse, Usage
from convive.agents.testing import ScriptedModel, otlp_receiver
from convive.bus import (
    SCHEMA,
    Chair,
    Draft,
    EmbeddedServer,
    RunContext,
    SeatName,
    embedded_server,
    open_bus,
)

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parents[1] / "golden" / "schema-1.jsonl"
ADA = SeatName("ada")


@pytest.fixture
async def server(person: "Person") -> AsyncGenerator[EmbeddedServer]:
    async with embedded_server(person.folder / ".convive") as made:
        yield made


def chief() -> Agent:
    def answer(request: Request) -> Answer | str:
        if request.messages[-1].text:
            use = ToolUse(id="c", name="help", arguments={"prompt": "air?"})
            return Answer(parts=(use,), stop_reason="tool_use", usage=Usage(input_tokens=7, output_tokens=2))
        return "so be it"

    said = Answer(
        parts=(ToolUse(id="n", name="none", arguments={}),), stop_reason="length", usage=Usage(input_tokens=3)
    )
    helper = Agent("helper", model=ScriptedModel(lambda request: said))
    return Agent("chief", model=ScriptedModel(answer), tools=[helper.as_tool("help", "Ask")])


async def a_turn(server: EmbeddedServer, name: str) -> RunContext:
    """A conversation of one turn, whose run has a run below it. Returns that of the turn."""
    async with open_bus(server.url) as bus:
        conversation, run = await bus.conversation(name), RunContext.root()
        turn = run.child()
        await conversation.open(run, "figs", [Chair(seat=ADA)])
        await conversation.grant(await conversation.floor(), ADA, turn, 2e9)
        await chief().execute("go", place=Place(conversation.log, conversation.subjects.base), run=turn)
        floor = await conversation.floor()
        assert floor.open_grant is not None
        await conversation.say(floor, floor.open_grant, "so be it", turn)
        await conversation.close(await conversation.floor(), run)
    return turn


async def purge(url: str, subject: str, keep: int = 0) -> int:
    """Take records out of a store, as somebody may who has the server's own tool. Returns how many are gone."""
    connection, gone = await nats.connect(url), 0
    for info in await connection.jetstream().streams_info():
        body = json.dumps({"filter": subject} | ({"keep": keep} if keep else {}))
        answer = await connection.request(f"$JS.API.STREAM.PURGE.{info.config.name}", body.encode())
        gone += json.loads(answer.data).get("purged", 0)
    await connection.close()
    return gone


def below(row: Any) -> list[Any]:
    return [row, *(each for child in row["children"] for each in below(child))]


async def row_of(person: "Person", which: str) -> Any:
    (row,) = (await person.does("trace", which, "--json")).rows
    return row


async def test_a_run_whose_journal_is_gone_stands_where_its_caller_names_it(
    person: "Person", server: EmbeddedServer
) -> None:
    """Issue 5: a trace with missing records is shown as such: in the tree, in JSON, in `cost`, and at a collector."""
    await a_turn(server, "desk")
    whole = await row_of(person, "desk")
    helper = next(each for each in below(whole) if each["name"] == "helper")
    assert await purge(server.url, f"cv.*.desk.run.*.{helper['run_id']}") == 4
    tree = await person.does("trace", "desk")
    assert tree.code == 0
    path, end = "turn 1 ada > chief > help > helper (damaged)", helper["run_id"][-6:]
    assert tree.lines[0] == f"! {path} ({end}): its journal is not in the log"
    (line,) = (line for line in tree.lines if "✓ helper (damaged)" in line)
    assert line.split()[-3:] == ["3+0", "free", end]
    row = await row_of(person, "desk")
    found = next(each for each in below(row) if each["name"] == "helper")
    assert (found["run_id"], found["damage"]) == (helper["run_id"], ["its journal is not in the log"])
    assert (found["status"], found["tokens"]) == ("ok", helper["tokens"])
    assert row["tokens"] == whole["tokens"]
    spent = {
        each["agent"]: each["tokens"]["input_tokens"]
        for each in (await person.does("cost", "--by", "agent", "--json")).rows
    }
    assert spent == {"chief": 7, "helper": 3}
    opened = await person.does("trace", "desk", "--run", end)
    assert "  damaged: its journal is not in the log" in opened.lines
    with otlp_receiver() as collector:
        await person.does("trace", "desk", "--export", "otlp", env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    (span,) = (span for span in collector.spans if span.name == "invoke_agent helper")
    assert span.attributes["convive.damage"] == ["its journal is not in the log"]
    assert span.span_id == helper["run_id"][16:]
    above = {each.span_id: each.name for each in collector.spans}
    assert above[span.parent_id] == "execute_tool help"


async def test_a_journal_without_its_beginning_is_damaged_and_keeps_what_is_below_it(
    person: "Person", server: EmbeddedServer
) -> None:
    turn = await a_turn(server, "desk")
    assert await purge(server.url, f"cv.*.desk.run.*.{turn.run_id}", keep=3)
    tree = await person.does("trace", "desk")
    assert tree.lines[0].startswith(f"! turn 1 ada > ? (damaged) ({turn.run_id[-6:]}): record ")
    assert "the journal does not begin with run_started" in tree.lines[0]
    names = [line[:29].rstrip() for line in tree.lines[2:]]
    assert names == [
        "✓ desk",
        "└ ✓ turn 1 ada",
        "  └ ! ? (damaged)",
        "    └ ✓ helper",
        "      └ ✓ answer 1",
    ]
    opened = await person.does("trace", "desk", "--run", "turn:1")
    assert len([line for line in opened.lines if "damaged: record " in line]) == 3
    assert "  = said: so be it" in opened.lines
    row = next(each for each in below(await row_of(person, "desk")) if each["damage"])
    assert len(row["damage"]) == 3
    with otlp_receiver() as collector:
        await person.does("trace", "desk", "--export", "otlp", env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    assert [
        len(span.attributes["convive.damage"]) for span in collector.spans if "convive.damage" in span.attributes
    ] == [3]


async def test_a_floor_without_one_of_its_links_says_so_and_loses_no_run(
    person: "Person", server: EmbeddedServer
) -> None:
    turn = await a_turn(server, "desk")
    assert await purge(server.url, "cv.*.desk.bus.floor.ada") == 1
    tree = await person.does("trace", "desk")
    assert tree.lines[0].startswith("! desk (damaged) (")
    assert "link 3 where link 2 was due" in tree.lines[0]
    assert "  └ ✓ chief" in [line[:11] for line in tree.lines]
    assert await purge(server.url, "cv.*.desk.bus.floor.*")
    gone = await person.does("trace", "desk")
    assert "there is no run and no conversation 'desk'" in gone.complaint
    left = await person.does("trace", turn.run_id)
    assert (left.code, [line[:9] for line in left.lines[1:3]]) == (0, ["✓ chief (", "├ ✓ answe"])
    assert "✓ chief (orphan)" in left.out


async def test_what_an_older_version_wrote_is_a_trace_like_any_other(person: "Person", server: EmbeddedServer) -> None:
    """Issue 5: a log from an older schema."""
    await _restored(server, GOLDEN.read_text(encoding="utf-8").splitlines())
    for which, status in (("b", "ok"), ("c", "failed"), ("d", "cancelled"), ("a", "waiting")):
        row = await row_of(person, which * 32)
        assert (row["status"], [each["damage"] for each in below(row) if each["damage"]]) == (status, [])
        opened = await person.does("trace", which * 32, "--run", which * 32)
        assert (opened.code, opened.err) == (0, "")
    row = await row_of(person, "golden")
    assert [each["status"] for each in row["children"]] == ["ok", "passed", "revoked"]
    assert len((await person.does("runs", "--json")).rows) == 5
    assert (await person.does("cost", "--by", "session")).code == 0


NEWER = (
    {"schema": SCHEMA + 1, "type": "thought_better", "of": "it"},
    {"schema": SCHEMA + 1, "type": "trip_started", "trip": 1, "attempt": 1, "mood": "good"},
)


@pytest.mark.parametrize("body", NEWER, ids=["another kind", "another field"])
async def test_what_a_newer_version_wrote_is_told_and_nothing_breaks(
    person: "Person", server: EmbeddedServer, body: dict[str, object]
) -> None:
    turn = await a_turn(server, "desk")
    async with open_bus(server.url) as bus:
        there = await bus.existing("desk")
        for subject in (f"{there.subjects.base}.run.{turn.root_run_id}.{turn.run_id}", there.subjects.link(ADA)):
            await there.log.append(Draft(subject, json.dumps(body).encode(), turn.headers()))
    tree = await person.does("trace", "desk")
    why = f"a newer version wrote it (schema {SCHEMA + 1}, this one reads {SCHEMA})"
    assert (tree.code, [why in line for line in tree.lines[:2]]) == (0, [True, True])
    assert why in (await person.does("trace", "desk", "--run", "turn:1")).out
    assert (await row_of(person, "desk"))["status"] == "ok"
    for command in (("runs",), ("cost",)):
        assert (await person.does(*command)).code == 0


async def test_a_bus_without_any_run_says_what_to_do(person: "Person", server: EmbeddedServer) -> None:
    for command, words in (("runs", "No runs yet."), ("cost", "No model has answered yet.")):
        done = await person.does(command)
        assert (done.code, done.out, done.err.strip()) == (0, "", words)
        assert (await person.does(command, "--json")).out == ""
    for command in ("trace", "cost"):
        unknown = await person.does(command, "tonight")
        assert "`convive runs` lists the runs" in unknown.complaint
    async with open_bus(server.url) as bus:
        await bus.conversation("tonight")  # named, and nothing is in it
    assert "there is no run" in (await person.does("trace", "tonight", "--live")).complaint


async def test_a_conversation_that_has_just_been_opened_is_a_trace_of_one_line(
    person: "Person", server: EmbeddedServer
) -> None:
    async with open_bus(server.url) as bus:
        conversation = await bus.conversation("tonight")
        await conversation.open(RunContext.root(), "figs", [Chair(seat=ADA)])
    tree = await person.does("trace", "tonight")
    assert [line.split("  ")[0] for line in tree.lines[1:]] == ["… tonight"]
    opened = await person.does("trace", "tonight", "--run", tree.lines[1].split()[-1])
    assert "  topic: figs" in opened.lines


async def test_nobody_at_a_url_is_told_with_the_url(person: "Person") -> None:
    for command in (("trace", "eve"), ("trace", "eve", "--live"), ("runs",), ("cost",)):
        done = await person.does(*command, "--url", "nats://127.0.0.1:9")
        assert "no NATS server at nats://127.0.0.1:9" in done.complaint


async def test_ids_that_are_none_or_mean_several_are_told_with_near_ones(
    person: "Person", server: EmbeddedServer
) -> None:
    turn = await a_turn(server, "desk")
    near = f"{turn.run_id[:-1]}{'0' if turn.run_id[-1] != '0' else '1'}"
    for command in ("trace", "cost"):
        assert "Did you mean desk?" in (await person.does(command, "dsk")).complaint
        assert turn.run_id in (await person.does(command, near)).complaint
        several = await person.does(command, turn.run_id[:6])
        assert "2 runs have ids that begin with" in several.complaint
        assert turn.run_id in several.complaint
        for which in ("", " ", "x" * 5000, "\x1b[31mred", "../..", "cv.*.>"):
            done = await person.does(command, which)
            assert "there is no run" in done.complaint
            assert len(done.complaint) < 400
            assert "\x1b" not in done.err
    opened = await person.does("trace", "desk", "--run", turn.run_id[:6])
    assert "3 runs of this trace have an id that begins or ends with" in opened.complaint
    assert [line.split()[1:] for line in opened.err.splitlines() if line.endswith("turn 1 ada")] == [
        ["turn", "1", "ada"]
    ]


async def _restored(server: EmbeddedServer, lines: list[str]) -> None:
    """Records of a file, in a conversation's own partition of a server."""
    async with open_bus(server.url) as bus:
        golden = await bus.conversation("golden")
        for line in lines:
            record = json.loads(line)
            subject = f"{golden.subjects.base}.{record['subject'].split('.', 3)[3]}"
            record["headers"].pop("Nats-Msg-Id", None)
            await golden.log.append(Draft(subject, record["body"].encode(), record["headers"]))
