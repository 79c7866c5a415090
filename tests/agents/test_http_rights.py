"""Who may do what over HTTP: tokens, tickets, and what else a request has to pass."""

import asyncio
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.routing import Mount

from convive.agents.entities import spawn
from convive.agents.http import BadRight, BadToken, NotAllowed, Tokens, app
from convive.agents.http._app import WAYS
from convive.agents.http._guard import LOOPBACK, name_of, why_not
from convive.agents.http._tokens import TICKET_S, Right
from convive.bus import memory_bus, open_bus
from tests.agents.http_kit import ALL, KEY, TOKENS, Site, refusal, site, token
from tests.agents.seats import opened
from tests.agents.serving import serving

pytestmark = pytest.mark.anyio

RUN = "a" * 32


@pytest.fixture
async def there() -> AsyncGenerator[Site]:
    async with memory_bus() as bus, site(bus) as made:
        yield made


# Tokens, by themselves


def test_a_token_says_what_it_may_until_when_and_nothing_else() -> None:
    made = TOKENS.issue(["read:conversation:dinner", "write:entity:shop/*"], until_s=100.0)
    held = TOKENS.check(made, now_s=99.0)
    assert held.may("read", "conversation", "dinner")
    assert held.may("read", "entity", "shop/main")
    assert held.may("write", "entity", "shop/main")
    assert not held.may("write", "conversation", "dinner")
    assert not held.may("read", "conversation", "dinner-2")
    assert not held.may("read", "runs", "dinner")
    assert not held.may("read", "entity", "shops/main")
    with pytest.raises(NotAllowed, match=r"may not write conversation dinner.*read:conversation:dinner"):
        held.check("write", "conversation", "dinner")
    with pytest.raises(BadToken, match="expired"):
        TOKENS.check(made, now_s=100.0)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_token_of_which_one_letter_is_another_is_none(place: int, letter: int) -> None:
    made = TOKENS.issue(["read:stream:x"], until_s=10.0)
    place %= len(made)
    changed = made[:place] + chr(letter) + made[place + 1 :]
    if changed == made:
        return
    with pytest.raises(BadToken):
        TOKENS.check(changed, now_s=0.0)


@given(st.text())
def test_any_other_text_is_no_token(text: str) -> None:
    with pytest.raises(BadToken):
        TOKENS.check(text, now_s=0.0)


def test_claims_that_somebody_else_signed_or_nobody_are_none() -> None:
    others = Tokens(b"x" * 32).issue(["write:*"], until_s=10.0)
    _, claims, signature = TOKENS.issue(["read:stream:x"], until_s=10.0).split(".")
    wanted = json.loads(urlsafe_b64decode(claims + "=="))
    wanted["may"] = ["write:*"]
    better = urlsafe_b64encode(json.dumps(wanted).encode()).rstrip(b"=").decode()
    for forged in (others, f"cv1.{better}.{signature}", f"cv1.{better}.", better, f"cv1..{signature}"):
        with pytest.raises(BadToken, match="was not issued here, or was changed"):
            TOKENS.check(forged, now_s=0.0)


@pytest.mark.parametrize(
    "text", ["", "read", "read:", "read:dinner", "own:*", "read:*:x", "read:stream:", "read:stream:a*b", "read:table:x"]
)
def test_what_is_no_right_is_refused_when_a_token_is_made(text: str) -> None:
    with pytest.raises(BadRight, match="is no right"):
        TOKENS.issue([text], until_s=10.0)


def test_a_key_that_can_be_guessed_is_refused_and_none_is_shown() -> None:
    with pytest.raises(ValueError, match="32 bytes at least"):
        Tokens(b"secret")
    assert KEY.decode() not in repr(TOKENS)
    assert str(Right.of("read:*")) == "read:*"


# What may be done with which token


HOLDERS = {
    "nobody": None,
    "all": ["write:*"],
    "reader": ["read:*"],
    "table": ["read:conversation:dinner"],
    "visitor": ["write:conversation:dinner"],
    "elsewhere": ["write:conversation:lunch", "write:runs:lunch", "write:entity:shop/other", "write:stream:others"],
    "answers": ["write:runs:dinner"],
    "shop": ["read:entity:shop/*"],
    "customer": ["write:entity:shop/main"],
    "log": ["read:stream:orders"],
    "producer": ["write:stream:orders*"],
}

MAY = {
    ("read", "conversation"): {"all", "reader", "table", "visitor"},
    ("write", "conversation"): {"all", "visitor"},
    ("read", "runs"): {"all", "reader", "answers"},
    ("read", "entity"): {"all", "reader", "shop", "customer"},
    ("write", "entity"): {"all", "customer"},
    ("read", "stream"): {"all", "reader", "log", "producer"},
    ("write", "stream"): {"all", "producer"},
}


@pytest.mark.parametrize("holder", HOLDERS)
async def test_a_token_opens_what_it_is_for_and_nothing_else(there: Site, holder: str) -> None:
    """All ways that there are, by whoever there is; what is allowed may still fail, for there is nothing there."""
    rights = HOLDERS[holder]
    for way in WAYS:
        names = {"type": "shop", "id": "main", "stream": "orders", "collection": "c"}
        if way.kind in ("conversation", "runs"):
            names["id"] = "dinner"
        if way.path.startswith("/runs"):
            names["id"] = RUN
        path = way.path.replace("{key:path}", "k")
        if "{space}" in path:
            continue
        headers = {} if rights is None else {"authorization": f"Bearer {token(*rights)}"}
        url = there.url + path.format(**names)
        async with there.client.stream(way.method, url, headers=headers, json={}) as answered:
            if not answered.headers["content-type"].startswith("text/event-stream"):  # which has no end
                await answered.aread()
        if rights is None:
            assert refusal(answered) == (401, "BadToken"), way
            assert answered.headers["www-authenticate"] == "Bearer"
        elif way.kind is None:  # lists, of what may be seen; and runs, whose place has to be found first
            expected = (200,) if not way.path.startswith("/runs") else (404,)
            assert answered.status_code in expected, way
        elif holder in MAY[way.verb, way.kind]:
            assert answered.status_code not in (401, 403), way
        else:
            assert refusal(answered) == (403, "NotAllowed"), way


async def test_lists_hold_what_may_be_seen_alone(there: Site) -> None:
    mine, other = await opened(there.bus), await opened(there.bus)
    await (await there.bus.stream("orders")).append({})
    await (await there.bus.stream("secrets")).append({})
    rights = (f"read:conversation:{mine.id}", "read:stream:ord*")
    for given_rights in (rights, ("read:conversation:party-*", "read:stream:orders")):
        by = token(*given_rights)
        told = (await there.get("/conversations", by=by))["conversations"]
        seen = {row["conversation"] for row in told}
        assert seen == ({mine.id} if given_rights is rights else {mine.id, other.id})
        streams = (await there.get("/streams", by=by))["streams"]
        assert [row["stream"] for row in streams] == ["orders"]
        assert await there.get("/entities", by=by) == {"entities": []}


async def test_the_names_of_others_are_not_told_in_a_refusal(there: Site) -> None:
    await spawn(there.bus, "shop/mainly-secret")
    refused = await there.ask("GET", "/entities/shop/main", by=token("read:entity:shop/main"))
    assert refusal(refused) == (404, "UnknownEntity")
    assert "secret" not in refused.text
    assert "secret" in (await there.ask("GET", "/entities/shop/main")).text


async def test_a_ticket_opens_one_path_to_read_for_a_moment(there: Site) -> None:
    """For an EventSource, which can send no header: what stands in an address stands in logs as well."""
    conversation = await opened(there.bus)
    path = f"/conversations/{conversation.id}"
    by = token(f"write:conversation:{conversation.id}", "write:stream:x")
    made = await there.ask("POST", "/tickets", {"path": path}, by=by)
    assert (made.status_code, made.json()["expires_s"]) == (201, TICKET_S)
    ticket = made.json()["ticket"]

    async def ask(method: str, path: str, ticket: str) -> int:
        return (await there.client.request(method, f"{there.url}{path}", params={"ticket": ticket})).status_code

    assert await ask("GET", path, ticket) == 200
    assert await ask("GET", f"{path}/events", ticket) == 401
    assert await ask("GET", "/conversations", ticket) == 401
    assert await ask("POST", f"{path}/sayings", ticket) == 401
    assert await ask("GET", path, by) == 401  # a token has no business in an address
    as_token = await there.ask("GET", path, by=ticket)
    assert refusal(as_token) == (401, "BadToken")
    held = TOKENS.check(by, now_s=0.0)
    late = TOKENS.ticket(held, path, now_s=time.time() - TICKET_S)
    assert await ask("GET", path, late) == 401
    narrow = TOKENS.check(TOKENS.ticket(held, path, now_s=time.time()), now_s=time.time(), path=path)
    assert not narrow.may("write", "conversation", conversation.id)
    assert narrow.until_s == held.until_s


# What else a request has to pass


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


async def test_nothing_that_is_answered_is_kept_sniffed_or_framed(there: Site) -> None:
    for answered in (await there.ask("GET", "/conversations"), await there.client.get(f"{there.url}/nothing")):
        assert answered.headers["cache-control"] == "no-store"
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert answered.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answered.headers or answered.headers["server"] == "uvicorn"
