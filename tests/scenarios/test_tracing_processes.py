"""One conversation in three processes is one trace at the collector: what a person with `convive` gets."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

import nested
from convive.agents import Trace, find_queued, find_trace, follow_trace, queued, read_trace
from convive.agents.testing import OtlpReceiver, ReceivedSpan
from convive.bus import Bus, RunId, open_bus
from tests.scenarios.conftest import DEADLINE_S

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

GUESTS = f"""{Path(nested.__file__).read_text()}

ada = Agent("ada", model=once("ask"), tools=[ask])
basho = Agent("basho", model=once("ask"), tools=[ask])
"""
PARTY = """
topic = "why"
turns = 4
policy = "round-robin"

[[guests]]
seat = "ada"
name = "Ada"
about = "counts"
remote = true

[[guests]]
seat = "basho"
name = "Basho"
about = "walks"
remote = true
"""
SEND = """
import anyio
from convive.bus import open_bus
from convive.scenarios.cli._exporting import send_trace

async def main():
    async with open_bus() as bus:
        await send_trace(bus, "tonight")

anyio.run(main)
"""
RUN = ("run", "table.toml", "--conversation", "tonight", "--model", "scripted/party", "--plain")


WORKING = """
import os

from convive.agents import Agent, Answer, ToolUse, queued, tool
from convive.agents.testing import ScriptedModel
from convive.bus import open_bus


def calling(*names):
    def answer(request):
        if request.messages[-1].text:
            given = {"ask": {"prompt": "go"}}
            uses = tuple(ToolUse(id=name, name=name, arguments=given.get(name, {})) for name in names)
            return Answer(parts=uses, stop_reason="tool_use")
        return "so be it"
    return ScriptedModel(answer)


@tool
def look() -> str:
    \"\"\"Look.\"\"\"
    return str(os.getpid())


@tool
async def later() -> str:
    \"\"\"Leave it to others.\"\"\"
    async with open_bus() as bus:
        return (await queued("clerk", "go").send(bus)).run_id


@tool(needs_approval=True)
def pay() -> str:
    \"\"\"Pay.\"\"\"
    return str(os.getpid())


helper = Agent("helper", model=calling("look"), tools=[look]).as_tool("ask", "Ask")
ada = Agent("ada", model=calling("ask", "later"), tools=[helper, later])
basho = Agent("basho", model=calling("ask", "pay"), tools=[helper, pay])
clerk = Agent("clerk", model=calling("look"), tools=[look])
"""


def path(spans: dict[str, ReceivedSpan], span: ReceivedSpan) -> list[str]:
    above = [] if not span.parent_id else path(spans, spans[span.parent_id])
    return [*above, span.name]


async def test_three_processes_are_one_trace_without_an_orphan(person: "Person", receiver: OtlpReceiver) -> None:
    """A supervisor, and two seats elsewhere whose agents call agents that call tools. All may export, one does."""
    person.writes("guests.py", GUESTS)
    person.writes("table.toml", PARTY)
    async with person.starts(*RUN, env=receiver.environ) as host:
        await host.err.until("comes from elsewhere", times=2)
        seats = [("sit", "tonight", "--as", seat, "--agent", f"guests:{seat}") for seat in ("ada", "basho")]
        async with person.starts(*seats[0], env=receiver.environ), person.starts(*seats[1], env=receiver.environ):
            done = await host.ends()
    assert done.code == 0, done.err
    assert "export" not in done.err
    spans = {span.span_id: span for span in receiver.spans}
    assert len(spans) == len(receiver.spans)
    assert len({span.trace_id for span in spans.values()}) == 1
    (root,) = (span for span in spans.values() if not span.parent_id)
    assert root.name == "invoke_workflow tonight"
    inner = [path(spans, span) for span in spans.values() if span.name == "execute_tool look"]
    assert sorted(inner) == [
        [
            root.name,
            f"turn {turn} {seat}",
            f"invoke_agent {seat}",
            "execute_tool ask",
            "invoke_agent helper",
            "execute_tool look",
        ]
        for turn, seat in ((2, "ada"), (3, "basho"), (4, "ada"), (5, "basho"))
    ]
    sent = await anyio.run_process([sys.executable, "-c", SEND], cwd=person.folder, env=person.env(receiver.environ))
    assert sent.stderr.decode() == f"{len(spans)} spans sent to {receiver.url}/v1/traces.\n"
    assert {span.span_id: span for span in receiver.spans[len(spans) :]} == spans


async def test_queued_and_resumed_runs_of_four_processes_are_in_the_one_tree(person: "Person") -> None:
    """Issue 5, item 1: a supervisor, two seats and a worker, each a process; a fifth approves."""
    person.writes("guests.py", WORKING)
    person.writes("table.toml", PARTY.replace("turns = 4", "turns = 2"))
    sits = [("sit", "tonight", "--as", seat, "--agent", f"guests:{seat}") for seat in ("ada", "basho")]
    async with (
        person.starts("worker", "guests") as worker,
        open_bus(data=person.folder / ".convive") as bus,
        person.starts(*RUN) as host,
    ):
        await worker.err.until("Working on the queue")
        await host.err.until("comes from elsewhere", times=2)
        async with person.starts(*sits[0]), person.starts(*sits[1]):
            assert (await person.does("approve", await waiting(bus))).code == 0
            assert (await host.ends()).code == 0
        (sent,) = gave_back(await read_trace(bus, "tonight", keep_events=True), "later").values()
        queued_run = await find_queued(bus, RunId(sent), root=(await find_trace(bus, "tonight")).root)
        with anyio.fail_after(DEADLINE_S):
            await queued_run.result()
        trace = await read_trace(bus, "tonight", keep_events=True)
        worker.send(signal.SIGINT)
        await worker.ends()
    (root,) = trace.roots
    nodes = list(root.walk())
    assert {node.run.root_run_id for node in nodes} == {root.run_id}
    assert not [(node.name, node.status, node.error) for node in nodes if node.status != "ok"]
    assert not [node for node in nodes if node.orphan or node.damage]
    looked, paid = gave_back(trace, "look"), gave_back(trace, "pay")
    assert sorted(looked) == [
        "tonight > turn 2 > ada > ask > helper > look",
        "tonight > turn 2 > ada > later > clerk > look",
        "tonight > turn 3 > basho > ask > helper > look",
    ]
    assert len(set(looked.values())) == 3  # processes
    assert paid == {"tonight > turn 3 > basho > pay": looked["tonight > turn 3 > basho > ask > helper > look"]}


async def waiting(bus: Bus) -> RunId:
    """The first run of the party that waits for an answer."""
    with anyio.fail_after(DEADLINE_S):
        async with follow_trace(bus, "tonight") as states:
            async for trace in states:
                for run in trace.runs.values():
                    if run.status == "waiting":
                        return run.run_id
    raise AssertionError("nobody asked")


def gave_back(trace: Trace, tool: str) -> dict[str, str]:
    """What each call of a tool gave back, by where the call stands."""
    found: dict[str, str] = {}
    for node in (node for root in trace.roots for node in root.walk() if node.name == tool and node.kind == "tool"):
        names = [node.name]
        above = node.parent
        while above is not None:
            names.insert(0, above.name)
            above = above.parent
        found[" > ".join(names)] = next(event.content for event in node.events if event.type == "tool_returned")
    return found


async def test_a_party_that_is_killed_and_gone_on_with_is_one_tree_in_the_end(
    person: "Person", receiver: OtlpReceiver
) -> None:
    """kill -9 takes what was not sent yet; who goes on sends it all, under the same ids."""
    person.writes("guests.py", GUESTS)
    person.writes("table.toml", PARTY)
    sit = ("sit", "tonight", "--as", "ada", "--agent", "guests:ada")
    async with person.starts(*RUN, env=receiver.environ) as host, person.starts("server", "--data", ".convive"):
        await host.err.until("comes from elsewhere", times=2)
        async with person.starts(*sit):
            await host.out.until("so be it")
            await host.kill()
    async with person.starts(*RUN[:1], *RUN[2:], env=receiver.environ) as host:
        await host.err.until("going on")
        async with person.starts(*sit), person.starts("sit", "tonight", "--as", "basho", "--agent", "guests:basho"):
            done = await host.ends()
    assert done.code == 0, done.err
    spans = {span.span_id: span for span in receiver.spans}
    assert [span.name for span in spans.values() if not span.parent_id] == ["invoke_workflow tonight"]
    assert all(not span.parent_id or span.parent_id in spans for span in spans.values())
    twice = [span for span in receiver.spans if spans[span.span_id] != span]
    assert not twice


async def test_a_collector_that_hangs_costs_a_party_one_line(person: "Person", receiver: OtlpReceiver) -> None:
    receiver.hang()
    done = await person.does(
        "run", "dinner-party", "--model", "scripted/party", "--turns", "2", "--conversation", "tonight",
        env=receiver.environ,
    )  # fmt: skip
    assert done.code == 0
    told = [line for line in done.err.splitlines() if "export" in line]
    assert len(told) == 1
    assert "convive trace tonight --export otlp" in told[0]
    assert len(await person.said("tonight")) == 4


async def test_a_party_that_is_interrupted_leaves_at_once_and_sends_what_was_over(
    person: "Person", receiver: OtlpReceiver
) -> None:
    person.writes("guests.py", GUESTS)
    person.writes("table.toml", PARTY)
    async with person.starts(*RUN, env=receiver.environ) as host:
        await host.err.until("comes from elsewhere", times=2)
        async with person.starts("sit", "tonight", "--as", "ada", "--agent", "guests:ada"):
            await host.out.until("so be it")
            host.send(signal.SIGINT)
            assert (await host.ends()).code == 130
    assert "turn 2 ada" in [span.name for span in receiver.spans]


async def test_a_worker_exports_the_runs_that_it_carries_out(person: "Person", receiver: OtlpReceiver) -> None:
    person.writes("guests.py", GUESTS)
    async with person.starts("worker", "guests", env=receiver.environ) as worker:
        await worker.err.until("Working on the queue")
        async with open_bus(data=person.folder / ".convive") as bus:
            run = await queued("ada", "go").send(bus)
            with anyio.fail_after(30):
                assert (await run.result()).text == "so be it"
        await receiver.until(lambda there: len(there.spans) == 8)
        worker.send(signal.SIGINT)
        assert (await worker.ends()).code == 130
    spans = {span.span_id: span for span in receiver.spans}
    (root,) = (span for span in spans.values() if not span.parent_id)
    assert (root.trace_id, root.name) == (run.run_id, "invoke_agent ada")
    assert all(span.parent_id in spans for span in spans.values() if span is not root)
    assert len(receiver.spans) == 8
    assert "convive.append.duration" in {point.name for point in receiver.points}
