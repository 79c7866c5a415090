"""What a request over HTTP has to pass, whoever sends it: its host, its page, its body, its path."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncGenerator
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.routing import Mount

from convive.agents.http import BadAddress, app
from convive.agents.http._guard import LOOPBACK, name_of, why_not
from convive.bus import Bus, memory_bus, open_bus
from tests.agents.http_kit import ALL, TOKENS, Site, refusal, site
from tests.agents.seats import opened
from tests.agents.serving import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def there() -> AsyncGenerator[Site]:
    async with memory_bus() as bus, site(bus) as made:
        yield made


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1:80", "127.0.0.1"),
        ("LOCALHOST", "localhost"),
        ("[::1]:8484", "::1"),
        ("localhost.", "localhost."),
        ("localhost@evil.example", ""),
        ("evil.example/localhost", ""),
        ("[::1", ""),
        ("", ""),
        ("localhost:x:y", "localhost"),
    ],
)
def test_the_name_in_a_host_is_what_a_browser_would_have_asked_for(host: str, name: str) -> None:
    assert name_of(host) == name


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8484"}, None),
        ({"host": "localhost:8484", "origin": "http://localhost:8484"}, None),
        ({"host": "localhost:8484", "origin": "https://known.example"}, None),
        ({"host": "evil.example:8484"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({}, 421),
        ({"host": "localhost:8484", "origin": "http://localhost:3000"}, 403),
        ({"host": "localhost:8484", "origin": "http://evil.example"}, 403),
        ({"host": "localhost:8484", "origin": "null"}, 403),
        ({"host": "localhost:8484", "origin": "https://known.example.evil.example"}, 403),
        ({"host": "localhost:8484", "origin": "file://localhost:8484"}, 403),
    ],
)
def test_another_name_or_another_page_is_refused(headers: dict[str, str], status: int | None) -> None:
    refused = why_not(Headers(headers), LOOPBACK, ["https://known.example"])
    assert (refused and refused.status) == status


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("shop.example:80", "https://shop.example"),
        ("https://shop.example", "https://shop.example"),
        ("", "https://shop.example"),
        ("shop.example", "https://shop.example/"),
        ("shop.example", "shop.example"),
        ("shop.example", "*"),
        ("shop.example", "https://Shop.example"),
    ],
)
async def test_an_address_that_would_never_be_met_is_refused_at_once(there: Site, host: str, origin: str) -> None:
    app(there.bus, TOKENS, hosts=["shop.example", "::1"], origins=["https://shop.example:8443"])
    with pytest.raises(BadAddress, match=r"is no (name of a host|origin)"):
        app(there.bus, TOKENS, hosts=[host], origins=[origin])


async def test_pages_elsewhere_may_ask_where_that_was_asked_for(there: Site) -> None:
    known = {"origin": "https://known.example"}
    preflight = {**known, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    off = await there.client.options(there.url + "/conversations", headers=preflight)
    assert refusal(off)[0] == 403
    assert not [name for name in off.headers if name.startswith("access-control")]
    async with site(there.bus, origins=["https://known.example"], hosts=[*LOOPBACK, "talk.example"]) as open_to:
        on = await open_to.client.options(open_to.url + "/conversations", headers=preflight)
        assert on.status_code == 200
        answered = await open_to.ask("GET", "/conversations", headers={**known, "host": "talk.example"})
        assert answered.headers["access-control-allow-origin"] == "https://known.example"
        assert "access-control-allow-credentials" not in answered.headers
        other = await open_to.ask("GET", "/conversations", headers={"origin": "https://evil.example"})
        assert refusal(other)[0] == 403


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b'{"json": NaN}', "application/json", 400),
        (b'{"text": "\\ud800"}', "application/json", 400),
        (b'{"text": "\xff"}', "application/json", 400),
        (b'{"json": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json", 400),
        (b'{"json": 1, "text": "x"}', "application/json", 400),
        (b'{"base64": "%%%"}', "application/json", 400),
        (b'{"text": "x", "headers": {"a": "b\\r\\nNats-Msg-Id: c"}}', "application/json", 422),
        (b'{"text": "x", "headers": {"Nats-Msg-Id": "c"}}', "application/json", 422),
        (b'{"text": "x", "expected": -1}', "application/json", 400),
        (b'{"text": "x", "__proto__": {}}', "application/json", 400),
        (b'{"text": "' + b"x" * 1_100_000 + b'"}', "application/json", 422),
        (b'{"text": "x"}', "text/plain", 415),
        (b"text=x", "application/x-www-form-urlencoded", 415),
    ],
)
async def test_a_body_that_does_not_fit_changes_nothing(nats_site: Site, body: bytes, kind: str, status: int) -> None:
    answered = await nats_site.client.post(
        f"{nats_site.url}/streams/hostile/records",
        content=body,
        headers={"authorization": f"Bearer {ALL}", "content-type": kind},
    )
    assert refusal(answered)[0] == status
    assert len(answered.content) < 2_000
    assert await (await nats_site.bus.stream("hostile")).tail() == 0


@pytest.fixture
async def nats_site(nats_url: str) -> AsyncGenerator[Site]:
    async with open_bus(nats_url) as bus, site(bus) as made:
        yield made


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_not_read_to_its_end(there: Site, declared: bool) -> None:
    """Declared as such, or in chunks without an end."""
    there_at = urlsplit(there.url)
    length = "Content-Length: 99999999999" if declared else "Transfer-Encoding: chunked"
    head = (
        f"POST /streams/x/records HTTP/1.1\r\nHost: {there_at.netloc}\r\nAuthorization: Bearer {ALL}\r\n"
        f"Content-Type: application/json\r\n{length}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(there_at.hostname, there_at.port)
    with anyio.fail_after(20):
        writer.write(head.encode())
        answer = b""
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        for _ in range(0 if declared else 40):
            writer.write(chunk)
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "path",
    [
        "/conversations/../../etc/passwd",
        "/conversations/%2e%2e/%2e%2e/etc/passwd",
        "/conversations/a%2fb",
        "/conversations/a%00b",
        "/conversations/cv.00.x",
        "/conversations/*/events",
        "/conversations/%3E/events",
        "/conversations/A/events",
        "/runs/*/events",
        "/runs/zz",
        "/entities/shop/*",
        "/entities/shop/a.b",
        "/entities/sh--op/a/events",
        "/streams/*/records",
        "/streams/a.b/events",
        "//conversations",
        "/conversations/",
        "/page.html",
        "/%2e%2e/pyproject.toml",
    ],
)
async def test_what_is_no_path_or_no_name_is_a_refusal_in_words(there: Site, path: str) -> None:
    answered = await there.ask("GET", path)
    assert refusal(answered)[0] in (400, 404)


async def test_a_method_that_a_path_does_not_take_is_refused(there: Site) -> None:
    assert refusal(await there.ask("DELETE", "/conversations")) == (405, "MethodNotAllowed")
    assert (await there.ask("HEAD", "/conversations")).content == b""


async def test_it_can_be_mounted_in_an_application_of_ones_own(there: Site) -> None:
    conversation = await opened(there.bus)
    outer = Starlette(routes=[Mount("/convive", app(there.bus, TOKENS))])
    async with serving(outer) as url:
        below = Site(there.bus, f"{url}/convive", there.client)
        path = f"/conversations/{conversation.id}"
        assert (await below.get(path))["topic"] == "figs"
        ticket = (await below.ask("POST", "/tickets", {"path": path})).json()["ticket"]
        assert (await there.client.get(f"{below.url}{path}", params={"ticket": ticket})).status_code == 200
        assert "<title>Convive</title>" in (await there.client.get(f"{below.url}/")).text


@pytest.mark.parametrize(
    ("root", "path"), [("/convive", "/convive/streams"), ("/convive", "/streams"), ("/str", "/streams")]
)
async def test_a_ticket_counts_whether_the_server_tells_where_it_is_mounted_or_not(
    there: Site, root: str, path: str
) -> None:
    ticket = (await there.ask("POST", "/tickets", {"path": "/streams"})).json()["ticket"]
    transport = httpx2.ASGITransport(app(there.bus, TOKENS), root_path=root)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get(path, params={"ticket": ticket})).status_code == 200


async def test_nothing_that_is_answered_is_kept_sniffed_or_framed(there: Site) -> None:
    for answered in (await there.ask("GET", "/conversations"), await there.client.get(f"{there.url}/nothing")):
        assert answered.headers["cache-control"] == "no-store"
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert answered.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answered.headers or answered.headers["server"] == "uvicorn"


async def test_what_nobody_has_foreseen_is_told_without_its_inside(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(*_: object) -> Any:
        raise ZeroDivisionError("the inside")

    bus = Bus(broken, broken, broken, broken, prefix="cv", partitions=1, where="nowhere")
    async with site(bus) as made:
        answered = await made.ask("GET", "/conversations")
    assert refusal(answered) == (500, "InternalServerError")
    assert "inside" not in answered.text
    assert answered.headers["cache-control"] == "no-store"
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert "ZeroDivisionError" in capsys.readouterr().err  # for whoever runs it


async def test_the_page_holds_nothing_that_its_own_policy_refuses(there: Site) -> None:
    page = await there.client.get(f"{there.url}/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        assert b64encode(sha256(inner.encode()).digest()).decode() in policy
    assert not re.findall(
        r"""\son\w+=|style=|src=|https?://(?!html\.spec)|innerHTML|eval\(|document\.write""", page.text
    )
    assert re.findall(r'href="([^"]*)"', page.text) == ["data:,"]
    assert "cv1." not in page.text
