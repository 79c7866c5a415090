"""`convive trace`, `runs` and `cost` on what is not as it should be: records that are missing, of other versions, or
none at all. Everything is said, and nothing is a traceback."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest

from convive.agents import Agent, Answer, Place, Request, ToolUse, UnknownRun, Usage, export_trace
from convive.agents.testing import ScriptedModel, otlp_receiver
from convive.bus import (
    SCHEMA,
    Bus,
    Chair,
    ConviveError,
    Draft,
    EmbeddedServer,
    RunContext,
    SeatName,
    embedded_server,
    open_bus,
)
from convive.scenarios.cli._spending import Group, show_cost, show_runs
from convive.scenarios.cli._tracing import View, show_trace

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parents[1] / "golden" / "schema-1.jsonl"
ADA = SeatName("ada")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[EmbeddedServer]:
    """One of its own: `runs` and `cost` look at all that there is."""
    async with embedded_server(tmp_path / "data") as made:
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


async def a_turn(bus: Bus, name: str) -> RunContext:
    """A conversation of one turn, whose run has a run below it. Returns that of the turn."""
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


class Eyes:
    """What the commands print, from this process: a new one for each look costs a second."""

    def __init__(self, bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
        self.bus = bus
        self._capsys = capsys

    async def trace(self, which: str, **view: Any) -> list[str]:
        await show_trace(self.bus, which, View(**view))
        return self._lines()

    async def row(self, which: str, **view: Any) -> Any:
        (line,) = await self.trace(which, as_json=True, **view)
        return json.loads(line)

    async def runs(self) -> list[Any]:
        await show_runs(self.bus, 20, as_json=True)
        return [json.loads(line) for line in self._lines()]

    async def cost(self, by: Group) -> list[Any]:
        await show_cost(self.bus, None, by, as_json=True)
        return [json.loads(line) for line in self._lines()]

    def _lines(self) -> list[str]:
        lines = self._capsys.readouterr().out.splitlines()
        assert all(line.isprintable() for line in lines)
        return lines


@pytest.fixture
async def eyes(server: EmbeddedServer, capsys: pytest.CaptureFixture[str]) -> AsyncGenerator[Eyes]:
    async with open_bus(server.url) as bus:
        yield Eyes(bus, capsys)


def below(row: Any) -> list[Any]:
    return [row, *(each for child in row["children"] for each in below(child))]


async def test_a_run_whose_journal_is_gone_stands_where_its_caller_names_it(server: EmbeddedServer, eyes: Eyes) -> None:
    """Issue 5: a trace with missing records is shown as such: in the tree, in JSON, in `cost`, and at a collector."""
    await a_turn(eyes.bus, "desk")
    whole = await eyes.row("desk")
    helper = next(each for each in below(whole) if each["name"] == "helper")
    assert await purge(server.url, f"cv.*.desk.run.*.{helper['run_id']}") == 4
    tree = await eyes.trace("desk")
    path, end = "turn 1 ada > chief > help > helper (damaged)", helper["run_id"][-6:]
    assert tree[0] == f"! {path} ({end}): its journal is not in the log"
    (line,) = (line for line in tree if "✓ helper (damaged)" in line)
    assert line.split()[-3:] == ["3+0", "free", end]
    row = await eyes.row("desk")
    found = next(each for each in below(row) if each["name"] == "helper")
    assert (found["run_id"], found["damage"]) == (helper["run_id"], ["its journal is not in the log"])
    assert (found["status"], found["tokens"]) == ("ok", helper["tokens"])
    assert row["tokens"] == whole["tokens"]
    spent = {each["agent"]: (each["runs"], each["tokens"]["input_tokens"]) for each in await eyes.cost("agent")}
    assert spent == {"chief": (1, 7), "helper": (1, 3)}
    assert [each["model"] for each in await eyes.cost("model")] == ["(missing)", "scripted/test"]
    assert [each["runs"] for each in await eyes.runs()] == [2]
    assert "  damaged: its journal is not in the log" in await eyes.trace("desk", run=end)
    with otlp_receiver() as collector:
        await export_trace(eyes.bus, "desk", collector.environ)
    (span,) = (span for span in collector.spans if span.name == "invoke_agent helper")
    assert span.attributes["convive.damage"] == ["its journal is not in the log"]
    assert span.span_id == helper["run_id"][16:]
    above = {each.span_id: each.name for each in collector.spans}
    assert above[span.parent_id] == "execute_tool help"


async def test_a_journal_without_its_beginning_is_damaged_and_keeps_what_is_below_it(
    server: EmbeddedServer, eyes: Eyes
) -> None:
    turn = await a_turn(eyes.bus, "desk")
    assert await purge(server.url, f"cv.*.desk.run.*.{turn.run_id}", keep=3)
    tree = await eyes.trace("desk")
    assert tree[0].startswith(f"! turn 1 ada > ? (damaged) ({turn.run_id[-6:]}): records ")
    assert "the journal does not begin with run_started" in tree[0]
    assert [line[:29].rstrip() for line in tree[2:]] == [
        "✓ desk",
        "└ ✓ turn 1 ada",
        "  └ ! ? (damaged)",
        "    └ ✓ helper",
        "      └ ✓ answer 1",
    ]
    opened = await eyes.trace("desk", run="turn:1")
    assert len([line for line in opened if "damaged: records " in line]) == 1
    assert "  = said: so be it" in opened
    row = next(each for each in below(await eyes.row("desk")) if each["damage"])
    assert len(row["damage"]) == 3
    with otlp_receiver() as collector:
        await export_trace(eyes.bus, "desk", collector.environ)
    damage = [span.attributes["convive.damage"] for span in collector.spans if "convive.damage" in span.attributes]
    assert damage == [row["damage"]]


async def test_a_floor_without_one_of_its_links_says_so_and_loses_no_run(server: EmbeddedServer, eyes: Eyes) -> None:
    turn = await a_turn(eyes.bus, "desk")
    assert await purge(server.url, "cv.*.desk.bus.floor.ada") == 1
    tree = await eyes.trace("desk")
    assert tree[0].startswith("! desk (damaged) (")
    assert "link 3 where link 2 was due" in tree[0]
    assert "  └ ✓ chief" in [line[:11] for line in tree]
    assert await purge(server.url, "cv.*.desk.bus.floor.*")
    with pytest.raises(UnknownRun, match="there is no run and no conversation 'desk'"):
        await eyes.trace("desk")
    left = await eyes.trace(turn.run_id)
    assert [line[:20].rstrip() for line in left[1:3]] == ["✓ chief (orphan)", "├ ✓ answer 1"]


async def test_what_an_older_version_wrote_is_a_trace_like_any_other(eyes: Eyes) -> None:
    """Issue 5: a log from an older schema."""
    await _restored(eyes.bus, GOLDEN.read_text(encoding="utf-8").splitlines())
    for which, status in (("b", "ok"), ("c", "failed"), ("d", "cancelled"), ("a", "waiting")):
        row = await eyes.row(which * 32)
        assert (row["status"], [each["damage"] for each in below(row) if each["damage"]]) == (status, [])
        assert f"  {status}" in (await eyes.trace(which * 32, run=which * 32))[0]
    row = await eyes.row("golden")
    assert [each["status"] for each in row["children"]] == ["ok", "passed", "revoked"]
    assert len(await eyes.runs()) == 5
    assert [each["answers"] for each in await eyes.cost("model")] == [8]


NEWER = (
    {"schema": SCHEMA + 1, "type": "thought_better", "of": "it"},
    {"schema": SCHEMA + 1, "type": "trip_started", "trip": 1, "attempt": 1, "mood": "good"},
)


@pytest.mark.parametrize("body", NEWER, ids=["another kind", "another field"])
async def test_what_a_newer_version_wrote_is_told_and_nothing_breaks(eyes: Eyes, body: dict[str, object]) -> None:
    turn = await a_turn(eyes.bus, "desk")
    there = await eyes.bus.existing("desk")
    for subject in (f"{there.subjects.base}.run.{turn.root_run_id}.{turn.run_id}", there.subjects.link(ADA)):
        await there.log.append(Draft(subject, json.dumps(body).encode(), turn.headers()))
    why = f"a newer version wrote it (schema {SCHEMA + 1}, this one reads {SCHEMA})"
    assert [why in line for line in (await eyes.trace("desk"))[:3]] == [True, True, False]
    assert [line for line in await eyes.trace("desk", run="turn:1") if why in line]
    assert (await eyes.row("desk"))["status"] == "ok"
    assert (len(await eyes.runs()), len(await eyes.cost("session"))) == (1, 1)


async def test_a_bus_without_any_run_says_what_to_do(person: "Person", server: EmbeddedServer, eyes: Eyes) -> None:
    there = {"CONVIVE_NATS_URL": server.url}
    for command, words in (("runs", "No runs yet."), ("cost", "No model has answered yet.")):
        done = await person.does(command, env=there)
        assert (done.code, done.out, done.err.strip()) == (0, "", words)
    assert (await eyes.runs(), await eyes.cost("model")) == ([], [])
    await eyes.bus.conversation("tonight")  # named, and nothing is in it
    for live in (False, True):
        with pytest.raises(UnknownRun, match="`convive runs` lists the runs"):
            await eyes.trace("tonight", live=live)


async def test_a_conversation_that_has_just_been_opened_is_a_trace_of_one_line(eyes: Eyes) -> None:
    conversation = await eyes.bus.conversation("tonight")
    await conversation.open(RunContext.root(), "figs", [Chair(seat=ADA)])
    tree = await eyes.trace("tonight")
    assert [line.split("  ")[0] for line in tree[1:]] == ["… tonight"]
    assert "  topic: figs" in await eyes.trace("tonight", run=tree[1].split()[-1])


async def test_nobody_at_a_url_is_told_with_the_url(person: "Person") -> None:
    for command in (("trace", "eve", "--live"), ("runs",)):
        done = await person.does(*command, "--url", "nats://127.0.0.1:9")
        assert "no NATS server at nats://127.0.0.1:9" in done.complaint


async def test_ids_that_are_none_or_mean_several_are_told_with_near_ones(
    person: "Person", server: EmbeddedServer, eyes: Eyes
) -> None:
    turn = await a_turn(eyes.bus, "desk")

    async def refused(which: str, **view: Any) -> str:
        with pytest.raises(ConviveError) as refusal:
            await eyes.trace(which, **view)
        assert len(str(refusal.value)) < 400
        return str(refusal.value)

    assert "Did you mean desk?" in await refused("dsk")
    assert turn.run_id in await refused(f"{turn.run_id[:-1]}x")
    several = await refused(turn.run_id[:6])
    assert "3 runs have ids that begin with" in several
    assert turn.run_id in several
    several = await refused("desk", run=turn.run_id[:6])
    assert "3 runs of this trace have an id that begins or ends with" in several
    assert f"  {turn.run_id}  turn 1 ada" in several.splitlines()
    for which in ("", " ", "x" * 5000, "../..", "cv.*.>"):
        assert "there is no run" in await refused(which)
        assert "Ids end the lines" in await refused("desk", run=which)
    done = await person.does("cost", "\x1b[31mred", env={"CONVIVE_NATS_URL": server.url})
    assert "there is no run" in done.complaint
    assert "\x1b" not in done.err


async def _restored(bus: Bus, lines: list[str]) -> None:
    """Records of a file, in a conversation's own partition."""
    golden = await bus.conversation("golden")
    for line in lines:
        record = json.loads(line)
        subject = f"{golden.subjects.base}.{record['subject'].split('.', 3)[3]}"
        record["headers"].pop("Nats-Msg-Id", None)
        await golden.log.append(Draft(subject, record["body"].encode(), record["headers"]))
