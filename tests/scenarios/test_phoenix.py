"""A real party in a real backend: `pytest -m phoenix`, with CONVIVE_PHOENIX naming the command of arize-phoenix."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from convive.bus import open_bus

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

T = TypeVar("T")
pytestmark = [pytest.mark.anyio, pytest.mark.phoenix]

PROJECT = "convive"
START_S = 120.0
AGAIN = """
import anyio
from convive.agents import export_trace
from convive.bus import open_bus

async def main():
    async with open_bus() as bus:
        print((await export_trace(bus, "tonight")).spans)

anyio.run(main)
"""


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def asked(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
        body = answer.read()
    return json.loads(body) if body.startswith(b"{") else None


def eventually(ask: Callable[[], T], holds: Callable[[T], bool], within_s: float) -> T:
    """What another program says, once it says what is waited for."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            if holds(found := ask()):
                return found
        except (OSError, urllib.error.URLError):
            pass
        if time.monotonic() > deadline_s:
            pytest.fail(f"not within {within_s:g} s")
        time.sleep(0.1)


@pytest.fixture
def phoenix(tmp_path: Path) -> Iterator[str]:
    command = os.environ.get("CONVIVE_PHOENIX")
    if not command:
        pytest.fail("CONVIVE_PHOENIX is to name the command of arize-phoenix; docs/tracing.md says how to get it")
    port, grpc = free_ports(2)
    (tmp_path / "phoenix").mkdir()
    environ = {
        **os.environ,
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc),
        "PHOENIX_WORKING_DIR": str(tmp_path / "phoenix"),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
    }
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "phoenix.log").open("wb") as log:
        process = subprocess.Popen([command, "serve"], env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: asked(f"{url}/healthz"), lambda _: True, START_S)
        yield url
    finally:
        process.terminate()
        process.wait(30)


async def test_a_party_is_the_same_tree_in_phoenix(person: "Person", phoenix: str) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{phoenix}/v1/traces",
        "OTEL_RESOURCE_ATTRIBUTES": f"openinference.project.name={PROJECT}",
    }
    party = ("run", "dinner-party", "--model", "scripted/party", "--turns", "4", "--conversation", "tonight")
    done = await person.does(*party, env=environ)
    assert done.code == 0
    assert "export" not in done.err

    def spans() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = asked(f"{phoenix}/v1/projects/{PROJECT}/spans?limit=1000")["data"]
        return found

    def has_root(found: list[dict[str, Any]]) -> bool:
        return any(span["parent_id"] is None for span in found)

    async with open_bus(data=person.folder / ".convive") as bus:
        opened = (await (await bus.existing("tonight")).floor()).opened
        before = await anyio.to_thread.run_sync(eventually, spans, has_root, 30.0)
    assert opened is not None
    sent = await anyio.run_process([sys.executable, "-c", AGAIN], cwd=person.folder, env=person.env(environ))
    assert int(sent.stdout) == len(before)
    assert {span["context"]["trace_id"] for span in before} == {opened.run_id}
    known = {span["context"]["span_id"]: span for span in before}
    (root,) = (span for span in before if span["parent_id"] is None)
    assert (root["name"], root["context"]["span_id"]) == ("invoke_workflow tonight", opened.run_id[16:])
    assert all(span["parent_id"] in known for span in before if span is not root)
    turns = [span["name"] for span in before if span["parent_id"] == root["context"]["span_id"]]
    assert sorted(turns)[0] == "turn 1 host"
    assert len(turns) == 6
    assert {span["span_kind"] for span in before} == {"CHAIN", "AGENT", "LLM"}
    again = await anyio.to_thread.run_sync(eventually, spans, has_root, 30.0)
    assert sorted(span["context"]["span_id"] for span in again) == sorted(known)
