"""`convive serve` and `convive token` as a person meets them, and killed under those who read."""

import re
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import anyio
import httpx2
import pytest

from tests.agents.http_kit import Event, read_events
from tests.scenarios.conftest import COUNTED, DEADLINE_S

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person, Running

pytestmark = pytest.mark.anyio

RUN = ("run", "table.py", "--conversation", "soup", "--plain")


class Address:
    """What `convive serve` prints."""

    def __init__(self, line: str) -> None:
        found = re.fullmatch(r"(http://127\.0\.0\.1:(\d+))/#token=(\S+)\n", line)
        assert found, line
        self.url, self.port, self.token = found[1], found[2], found[3]

    def by(self, token: str = "") -> dict[str, str]:
        return {"authorization": f"Bearer {token or self.token}"}


@asynccontextmanager
async def serving(person: "Person", port: str = "0") -> AsyncGenerator[tuple["Running", Address]]:
    async with person.starts("serve", "--port", port) as running:
        yield running, Address(await running.out.until("\n"))


@pytest.fixture
async def client() -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=DEADLINE_S) as made:
        yield made


@asynccontextmanager
async def events(client: httpx2.AsyncClient, url: str, headers: dict[str, str]) -> AsyncGenerator[AsyncIterator[Event]]:
    async with client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield read_events(response.aiter_lines())


async def test_it_prints_an_address_that_opens_and_ends_without_noise(
    person: "Person", client: httpx2.AsyncClient
) -> None:
    """Also while somebody reads; and neither the key nor a token is told or stored anywhere else."""
    assert (await person.does("run", "dinner-party", "--model", "scripted/party", "--conversation", "eve")).code == 0
    async with serving(person) as (running, at):
        page = await client.get(at.url)
        assert (page.status_code, "<title>Convive</title>" in page.text) == (200, True)
        path = f"{at.url}/conversations"
        assert [row["conversation"] for row in (await client.get(path, headers=at.by())).json()["conversations"]] == [
            "eve"
        ]
        assert (await client.get(path)).status_code == 401
        await client.post(f"{at.url}/streams/s/records", headers=at.by(), json={"json": 1})
        async with events(client, f"{at.url}/streams/s/events", at.by()) as told:
            assert (await anext(told)).data["json"] == 1
            running.send(signal.SIGINT)
            ended = await running.ends()
    assert ended.code == 130
    (line,) = ended.err.splitlines()
    assert line.startswith("Serving nats://127.0.0.1:")
    assert at.token not in line
    key = person.folder / ".convive" / "http.key"
    assert (key.stat().st_mode & 0o777, len(key.read_bytes())) == (0o600, 32)
    signed = at.token.rpartition(".")[2].encode()
    assert [file for file in person.folder.rglob("*") if file.is_file() and signed in file.read_bytes()] == []


async def test_a_token_from_another_shell_opens_what_it_names(person: "Person", client: httpx2.AsyncClient) -> None:
    assert (await person.does("run", "dinner-party", "--model", "scripted/party", "--conversation", "eve")).code == 0
    async with serving(person) as (_, at):
        made = await person.does("token", "--read", "--conversation", "eve", "--for", "1h")
        assert (made.code, len(made.lines)) == (0, 1)
        assert "It may read:conversation:eve, until " in made.err
        by = at.by(made.lines[0])
        told = (await client.get(f"{at.url}/conversations/eve", headers=by)).json()
        assert (told["state"], told["events"][-1]["type"]) == ("over", "closed")
        assert (await client.get(f"{at.url}/conversations/eve/trace", headers=by)).status_code == 403
        assert (await client.get(f"{at.url}/conversations/dawn", headers=by)).status_code == 403
        words = {"as": "Mara", "text": "hello"}
        said = await client.post(f"{at.url}/conversations/eve/sayings", headers=by, json=words)
        assert said.status_code == 403
        brief = await person.does("token", "--all", "--for", "1s")
        with anyio.fail_after(DEADLINE_S):
            while (await client.get(f"{at.url}/streams", headers=at.by(brief.lines[0]))).status_code == 200:
                pass
        other = await person.does("token", "--all", env={"CONVIVE_HTTP_KEY": "x" * 32})
        assert (await client.get(f"{at.url}/streams", headers=at.by(other.lines[0]))).status_code == 401


async def test_two_read_a_party_while_the_server_is_killed_under_them(
    table: "Person", door: "Door", client: httpx2.AsyncClient
) -> None:
    """Nothing is missed and nothing comes twice, with the address and the token of before (section 7: reader)."""
    door.shut("bob asked")
    heard: list[list[Event]] = [[], []]
    begun, over = anyio.Event(), (anyio.Event(), anyio.Event())

    async def read(number: int, at: Address) -> None:
        """As a browser does: again, behind the last id, until it is over."""
        mine, last = heard[number], dict[str, str]()
        while not mine or mine[-1].type != "closed":
            try:
                async with events(client, f"{at.url}/conversations/soup/events", {**at.by(), **last}) as told:
                    async for event in told:
                        if event.id is not None:
                            mine.append(event)
                            last["last-event-id"] = str(event.id)
                        if event.type == "said":
                            begun.set()
            except httpx2.TransportError:
                await anyio.lowlevel.checkpoint()
        over[number].set()

    async with table.starts(*RUN, env=door.env), anyio.create_task_group() as tasks:
        await door.knocked("bob asked")
        async with serving(table) as (first, at):
            with anyio.fail_after(DEADLINE_S):
                tasks.start_soon(read, 0, at)
                tasks.start_soon(read, 1, at)
                await begun.wait()
            await first.kill()
        door.open("bob asked")
        await door.knocked("amy asked", 2)  # the party goes on meanwhile
        async with serving(table, at.port):
            with anyio.fail_after(DEADLINE_S):
                for each in over:
                    await each.wait()
    for mine in heard:
        words = [event.data["text"] for event in mine if event.type == "said" and event.data["seat"] != "host"]
        assert words == COUNTED
        assert [event.id for event in mine] == sorted({event.id for event in mine if event.id is not None})
    told = [[event for event in mine if event.type != "text"] for mine in heard]
    assert told[0] == told[1]


async def test_what_cannot_be_is_said_in_a_sentence(person: "Person") -> None:
    assert "nothing has been served from .convive yet" in (await person.does("token", "--all")).complaint
    assert not (person.folder / ".convive").exists()
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = await person.does("serve", "--port", str(taken.getsockname()[1]))
    assert "somebody else listens there" in busy.complaint
    assert "is no origin" in (await person.does("serve", "--port", "0", "--origin", "shop.example")).complaint
    assert "is no time for a token" in (await person.does("token", "--all", "--for", "ever")).complaint
    assert "is no right" in (await person.does("token", "--stream", "a*b")).complaint
    short = await person.does("token", "--all", env={"CONVIVE_HTTP_KEY": "hunter2"})
    assert "CONVIVE_HTTP_KEY: the key of tokens has 32 bytes at least" in short.complaint
    assert "hunter2" not in short.err
    for arguments in ((), ("--all", "--stream", "x")):
        refused = await person.does("token", *arguments)
        assert (refused.code, "name what it is for" in refused.err) == (2, True)
