"""A party that is part of the trace of whoever started `convive`: by TRACEPARENT, as a pipeline sets it."""

import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from convive.agents.testing import otlp_receiver
from tests.scenarios.test_tracing_processes import GUESTS, PARTY, RUN, SEND

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def test_a_party_in_three_processes_is_part_of_the_pipeline_that_started_it(person: "Person") -> None:
    """Only the one who opens it is told of the trace. Killed and gone on with, it is still in it."""
    person.writes("guests.py", GUESTS)
    person.writes("table.toml", PARTY)
    ada = ("sit", "tonight", "--as", "ada", "--agent", "guests:ada")
    with otlp_receiver() as receiver:
        environ = {**receiver.environ, "TRACEPARENT": f"00-{TRACE}-{SPAN}-01"}
        async with person.starts(*RUN, env=environ) as host, person.starts("server", "--data", ".convive"):
            await host.err.until("comes from elsewhere", times=2)
            async with person.starts(*ada):
                await host.out.until("so be it")
                await host.kill()
        async with person.starts(*RUN[:1], *RUN[2:], env=receiver.environ) as host:
            await host.err.until("going on")
            async with person.starts(*ada), person.starts("sit", "tonight", "--as", "basho", "--agent", "guests:basho"):
                done = await host.ends()
        assert done.code == 0, done.err
        spans = {span.span_id: span for span in receiver.spans}
        assert {span.trace_id for span in spans.values()} == {TRACE}
        (root,) = (span for span in spans.values() if span.parent_id not in spans)
        assert (root.name, root.parent_id) == ("invoke_workflow tonight", SPAN)
        assert len([span for span in spans.values() if span.name == "execute_tool look"]) >= 4
        before = len(receiver.spans)
        sent = await anyio.run_process(
            [sys.executable, "-c", SEND], cwd=person.folder, env=person.env(receiver.environ)
        )
        assert "spans sent to" in sent.stderr.decode()
        assert {span.span_id: span for span in receiver.spans[before:]} == spans
    (verdict,) = (await person.does("verify", "tonight", "--json")).rows
    assert verdict["findings"] == []
