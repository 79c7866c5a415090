"""What tests of HTTP share: a bus that is served, who asks there with which token, and server-sent events as read."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2

from convive.agents.http import LOOPBACK, Tokens, app
from convive.bus import Bus
from tests.agents.serving import serving

KEY = b"k" * 32
TOKENS = Tokens(KEY)
DEADLINE_S = 20.0


def token(*rights: str, for_s: float = 3_600) -> str:
    return TOKENS.issue(rights, until_s=time.time() + for_s)


ALL = token("write:*")


@dataclass(frozen=True)
class Event:
    """A server-sent event."""

    type: str
    id: int | None
    data: dict[str, Any]


@dataclass(frozen=True)
class Site:
    """A bus that is served at an address, and somebody who asks there."""

    bus: Bus
    url: str
    client: httpx2.AsyncClient

    async def ask(self, method: str, path: str, body: object = None, *, by: str = ALL, **more: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {by}", **more.pop("headers", {})}
        given: dict[str, Any] = {} if body is None else {"json": body}
        with anyio.fail_after(DEADLINE_S):  # what goes on for ever is no answer to this
            return await self.client.request(method, self.url + path, headers=headers, **given, **more)

    async def get(self, path: str, *, by: str = ALL, **more: Any) -> Any:
        """What a path tells."""
        answered = await self.ask("GET", path, by=by, **more)
        assert answered.status_code == 200, answered.text
        return answered.json()

    @asynccontextmanager
    async def events(
        self, path: str, *, by: str = ALL, after: int | None = None
    ) -> AsyncGenerator[AsyncIterator[Event]]:
        """The events of a path, as a browser reads them that connects, again when `after` is given."""
        headers = {"authorization": f"Bearer {by}", **({} if after is None else {"last-event-id": str(after)})}
        with anyio.fail_after(DEADLINE_S):
            async with self.client.stream("GET", self.url + path, headers=headers) as response:
                assert response.status_code == 200, await response.aread()
                assert response.headers["content-type"].startswith("text/event-stream")
                yield read_events(response.aiter_lines())


async def read_events(lines: AsyncIterator[str]) -> AsyncGenerator[Event]:
    """The events in the lines of a body."""
    found: dict[str, str] = {}
    async for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            found[name] = value
        elif found and not line:
            place = found.get("id")
            yield Event(found["event"], None if place is None else int(place), json.loads(found["data"]))
            found = {}


async def until(events: AsyncIterator[Event], type: str) -> list[Event]:
    """The events up to the first of that type, it included."""
    told: list[Event] = []
    async for event in events:
        told.append(event)
        if event.type == type:
            return told
    raise AssertionError(f"{type} never came: {told}")


@asynccontextmanager
async def site(bus: Bus, *, hosts: Collection[str] = LOOPBACK, origins: Collection[str] = ()) -> AsyncGenerator[Site]:
    async with (
        serving(app(bus, TOKENS, hosts=hosts, origins=origins)) as url,
        httpx2.AsyncClient(timeout=DEADLINE_S) as client,
    ):
        yield Site(bus, url, client)


def refusal(answered: httpx2.Response) -> tuple[int, str]:
    """The status and the name of an error, which is told as problem details and without a traceback."""
    assert answered.headers["content-type"] == "application/problem+json", answered.text
    told = answered.json()
    assert told["status"] == answered.status_code
    assert told["detail"]
    assert "Traceback" not in answered.text
    assert ".py" not in answered.text
    return answered.status_code, told["error"]
