"""Who may do what over HTTP: tokens, tickets, and what else a request has to pass."""

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.agents.entities import spawn
from convive.agents.http import BadRight, BadToken, NotAllowed, Tokens
from convive.agents.http._app import WAYS
from convive.agents.http._tokens import TICKET_S, Right
from convive.bus import memory_bus
from tests.agents.http_kit import KEY, TOKENS, Site, refusal, site, token
from tests.agents.seats import opened

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
    with pytest.raises(BadToken, match="expired"):  # an end that is no number is none that is still to come
        TOKENS.check(TOKENS.issue(["read:*"], until_s=float("nan")), now_s=0.0)


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


async def test_a_stream_has_one_name_and_the_right_to_another_does_not_open_it(there: Site) -> None:
    """`orders` is beside the name space `orders`: `orders/orders` would be the same stream."""
    await (await there.bus.stream("orders")).append({})
    by = token("write:stream:orders/*")
    for method, what in (("GET", "records"), ("POST", "records"), ("GET", "events")):
        assert refusal(await there.ask(method, f"/streams/orders/{what}", {"json": 1}, by=by)) == (403, "NotAllowed")
        aliased = await there.ask(method, f"/streams/orders/orders/{what}", {"json": 1}, by=by)
        assert refusal(aliased) == (404, "Refused")
    assert (await there.get("/streams"))["streams"] == [{"stream": "orders", "records": 1}]


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
        async with there.client.stream(method, f"{there.url}{path}", params={"ticket": ticket}) as answered:
            return answered.status_code

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
