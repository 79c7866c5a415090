"""What every `Log` promises, as checks that run on any of them. `convive.bus.testing` hands them out.

A check takes a log and a subject of its own (`base`, whose subtree nobody else writes to) and raises
AssertionError, or TimeoutError where a broken promise shows as a wait without end.
"""
# ruff: noqa: S101 - a check asserts

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from convive.bus.log._errors import Conflict, NotAppended
from convive.bus.log._log import LONGEST_TTL_S, TTL, Draft, Guard, Log, Record, Tail

Check = Callable[[Log, str], Awaitable[None]]

PATIENCE_S = 20.0
"""Nothing here takes nearly as long, unless it hangs."""


def drafts(subject: str, count: int, first: int = 0) -> list[Draft]:
    """Records with the bodies `<first>`, `<first + 1>`, ..."""
    return [Draft(subject, str(number).encode()) for number in range(first, first + count)]


async def read_all(
    log: Log, *subjects: str, after: int = 0, until: int | None = None, since_s: float | None = None
) -> list[Record]:
    """What `read` gives, as a list."""
    with anyio.fail_after(PATIENCE_S):
        async with log.read(*subjects, after=after, until=until, since_s=since_s) as records:
            return [record async for record in records]


async def take(tail: Tail, count: int) -> list[Record]:
    """The next `count` records of a tail."""
    with anyio.fail_after(PATIENCE_S):
        found: list[Record] = []
        while len(found) < count:
            record = await tail.next()
            assert record is not None, "next() without a timeout gives a record"
            found.append(record)
        return found


async def drain(tail: Tail) -> list[Record]:
    """Everything up to where the tail says that it has caught up."""
    found: list[Record] = []
    with anyio.fail_after(PATIENCE_S):
        while (record := await tail.catch_up()) is not None:
            found.append(record)
    assert tail.caught_up
    return found


def seqs(records: Sequence[Record]) -> list[int]:
    return [record.seq for record in records]


def bodies(records: Sequence[Record]) -> list[bytes]:
    return [record.body for record in records]


@asynccontextmanager
async def refused(error: type[NotAppended], log: Log, *subjects: str) -> AsyncGenerator[list[NotAppended]]:
    """Expect exactly this error and nothing new on the subjects. Gives a list that the error ends up in."""
    before = [await log.last(subject) for subject in subjects]
    caught: list[NotAppended] = []
    try:
        yield caught
    except NotAppended as found:
        caught.append(found)
    assert [type(found) for found in caught] == [error], f"{caught} and not one {error.__name__}"
    assert [await log.last(subject) for subject in subjects] == before, "a refused record was stored"


# append


async def an_append_returns_the_place_of_its_record(log: Log, base: str) -> None:
    places = [await log.append(draft) for draft in drafts(f"{base}.a", 3)]
    found = await read_all(log, f"{base}.>")
    assert seqs(found) == places == sorted(set(places))
    assert bodies(found) == [b"0", b"1", b"2"]
    assert {record.subject for record in found} == {f"{base}.a"}


async def a_guard_at_zero_lets_only_the_first_record_in(log: Log, base: str) -> None:
    guard = Guard(f"{base}.a", 0)
    first = await log.append(Draft(f"{base}.a", b"first", guard=guard))
    async with refused(Conflict, log, f"{base}.a") as caught:
        await log.append(Draft(f"{base}.a", b"second", guard=guard))
    (conflict,) = caught
    assert isinstance(conflict, Conflict)
    assert (conflict.expected, conflict.actual) == (0, first)


async def a_guard_behind_a_record_that_never_was_lets_nothing_in(log: Log, base: str) -> None:
    for last in (1, 1_000_000):
        async with refused(Conflict, log, f"{base}.>"):
            await log.append(Draft(f"{base}.a", b"", guard=Guard(f"{base}.a", last)))


async def a_guard_follows_the_last_record_of_its_subject(log: Log, base: str) -> None:
    first = await log.append(Draft(f"{base}.a", b"1"))
    await log.append(Draft(f"{base}.b", b"unrelated"))
    second = await log.append(Draft(f"{base}.a", b"2", guard=Guard(f"{base}.a", first)))
    async with refused(Conflict, log, f"{base}.a") as caught:
        await log.append(Draft(f"{base}.a", b"3", guard=Guard(f"{base}.a", first)))
    assert isinstance(caught[0], Conflict)
    assert (caught[0].expected, caught[0].actual) == (first, second)


async def a_guard_with_a_wildcard_sees_every_subject_that_matches(log: Log, base: str) -> None:
    guarded = f"{base}.f.*"
    first = await log.append(Draft(f"{base}.f.a", b"1", guard=Guard(guarded, 0)))
    second = await log.append(Draft(f"{base}.f.b", b"2", guard=Guard(guarded, first)))
    await log.append(Draft(f"{base}.g.c", b"unrelated"))
    async with refused(Conflict, log, guarded) as caught:
        await log.append(Draft(f"{base}.f.a", b"3", guard=Guard(guarded, first)))
    assert isinstance(caught[0], Conflict)
    assert (caught[0].expected, caught[0].actual) == (first, second)


async def a_guard_may_watch_another_subject_than_the_record_goes_to(log: Log, base: str) -> None:
    fence = await log.append(Draft(f"{base}.fence", b"1"))
    for body in (b"1", b"2"):
        await log.append(Draft(f"{base}.a", body, guard=Guard(f"{base}.fence", fence)))
    await log.append(Draft(f"{base}.fence", b"2"))
    async with refused(Conflict, log, f"{base}.a"):
        await log.append(Draft(f"{base}.a", b"3", guard=Guard(f"{base}.fence", fence)))


async def the_same_draft_twice_is_one_record(log: Log, base: str) -> None:
    draft = Draft(f"{base}.a", b"once", id=f"{base}/once")
    place = await log.append(draft)
    await log.append(Draft(f"{base}.a", b"between"))
    assert await log.append(draft) == place
    assert await log.append_all([draft, draft]) == [place, place]
    assert bodies(await read_all(log, f"{base}.a")) == [b"once", b"between"]


async def the_same_guarded_draft_twice_is_one_record(log: Log, base: str) -> None:
    first = await log.append(Draft(f"{base}.f.a", b"1", id=f"{base}/1", guard=Guard(f"{base}.f.*", 0)))
    draft = Draft(f"{base}.f.b", b"2", id=f"{base}/2", guard=Guard(f"{base}.f.*", first))
    place = await log.append(draft)
    assert await log.append(draft) == place
    await log.append(Draft(f"{base}.f.a", b"3", guard=Guard(f"{base}.f.*", place)))
    assert await log.append(draft) == place
    assert len(await read_all(log, f"{base}.>")) == 3


async def a_fenced_draft_is_found_again_when_the_fence_has_moved(log: Log, base: str) -> None:
    fence = await log.append(Draft(f"{base}.fence", b"1"))
    await log.append(Draft(f"{base}.a", b"somebody else's"))
    draft = Draft(f"{base}.a", b"mine", id=f"{base}/mine", guard=Guard(f"{base}.fence", fence))
    place = await log.append(draft)
    await log.append(Draft(f"{base}.a", b"somebody else's"))
    await log.append(Draft(f"{base}.fence", b"2"))
    assert await log.append(draft) == place


async def of_many_rivals_exactly_one_gets_each_link(log: Log, base: str) -> None:
    guarded = f"{base}.f.*"
    won: list[int] = []

    async def rival(name: int, links: int) -> None:
        for _ in range(links):
            last = await log.last(guarded)
            guard = Guard(guarded, last.seq if last else 0)
            try:
                won.append(await log.append(Draft(f"{base}.f.{name}", b"link", guard=guard)))
            except Conflict:
                continue

    async with anyio.create_task_group() as tasks:
        for name in range(6):
            tasks.start_soon(rival, name, 10)
    assert seqs(await read_all(log, guarded)) == sorted(won)
    assert won


async def five_thousand_pipelined_records_keep_their_order(log: Log, base: str) -> None:
    places = await log.append_all(drafts(f"{base}.a", 5_000))
    assert places == sorted(set(places))
    assert len(places) == 5_000
    found = await read_all(log, f"{base}.a")
    assert seqs(found) == places
    assert bodies(found) == [str(number).encode() for number in range(5_000)]


async def no_drafts_are_no_records(log: Log, base: str) -> None:
    assert await log.append_all([]) == []
    assert await read_all(log, f"{base}.>") == []


async def a_refusal_among_pipelined_records_is_raised(log: Log, base: str) -> None:
    first = await log.append(Draft(f"{base}.a", b"1"))
    late = Draft(f"{base}.b", b"2", guard=Guard(f"{base}.a", first + 1_000_000))
    try:
        await log.append_all([Draft(f"{base}.c", b"3"), late])
    except Conflict:
        pass
    else:
        raise AssertionError("no Conflict")
    assert await read_all(log, f"{base}.b") == []


async def a_posted_record_arrives(log: Log, base: str) -> None:
    async with log.follow(f"{base}.>") as tail:
        await log.post(Draft(f"{base}.a", b"posted", {"X-Kind": "delta"}))
        (record,) = await take(tail, 1)
    assert (record.body, record.headers["X-Kind"]) == (b"posted", "delta")


# what is stored


async def bodies_and_headers_come_back_unchanged(log: Log, base: str) -> None:
    given: list[tuple[bytes, dict[str, str]]] = [
        (b"", {}),
        (b"", {"X-Empty-Body": "yes"}),
        (bytes(range(256)), {"X-Kind": "binary"}),
        ("Grüße, 乾杯 🥂".encode(), {"X-Toast": "Grüße, 乾杯 🥂", "x-lower": "a: b; c=d", "X-Blank": ""}),
        (b"\r\n\r\nNATS/1.0 503\r\n\r\n", {"Cv-Run": "0" * 32, "traceparent": "00-1-2-01"}),
        (b"x" * 200_000, {}),
    ]
    places = [await log.append(Draft(f"{base}.a", body, headers)) for body, headers in given]
    async with log.follow(f"{base}.a") as tail:
        for found in (await read_all(log, f"{base}.a"), await take(tail, len(given))):
            assert seqs(found) == places
            for record, (body, headers) in zip(found, given, strict=True):
                assert record.body == body
                assert {name: record.headers[name] for name in headers} == headers
    for place, (body, headers) in zip(places, given, strict=True):
        (record,) = await read_all(log, f"{base}.a", after=place - 1, until=place)
        assert record.body == body
        assert headers.items() <= dict(record.headers).items()


async def the_last_record_is_the_one_that_reading_gives(log: Log, base: str) -> None:
    headers = {"X-Toast": "Grüße", "X-Colons": "a: b:c", "X-Blank": ""}
    await log.append(Draft(f"{base}.a", b"Prost", headers))
    last = await log.last(f"{base}.a")
    assert [last] == await read_all(log, f"{base}.a")


async def a_body_over_the_limit_is_refused_and_nothing_is_stored(log: Log, base: str) -> None:
    async with refused(NotAppended, log, f"{base}.>"):
        await log.append(Draft(f"{base}.a", b"x" * 1_048_577))
    # Some logs count the headers as well; whatever the limit is, the log must survive the attempt.
    for body in (b"x" * 1_048_576, b"x" * 1_048_500, b"x" * 1_048_000):
        try:
            await log.append(Draft(f"{base}.b", body, {"X-Filler": "y" * 300}))
        except NotAppended:
            continue
        found = await read_all(log, f"{base}.b")
        assert bodies(found[-1:]) == [body]
    await log.append(Draft(f"{base}.a", b"after"))
    assert bodies(await read_all(log, f"{base}.a")) == [b"after"]


async def headers_that_would_not_arrive_as_they_are_are_refused(log: Log, base: str) -> None:
    for headers in (
        {"Nats-Msg-Id": "mine"},
        {"nats-expected-last-sequence": "0"},
        {"X": "a\r\nNats-Rollup: all"},
        {"X": " padded "},
        {"X Y": "a"},
        {"": "a"},
        {"X:": "a"},
        {"X": "\ud800"},
    ):
        async with refused(NotAppended, log, f"{base}.>"):
            await log.append(Draft(f"{base}.a", b"body", headers))


async def a_subject_that_is_none_is_refused(log: Log, base: str) -> None:
    for subject in ("", f"{base}.a b", f"{base}.a\r\n", f"{base}.*", f"{base}.>", f"{base}..a", f"{base}."):
        async with refused(NotAppended, log, f"{base}.>"):
            await log.append(Draft(subject, b"body"))


async def records_that_expire_do_not_hold_up_a_reader(log: Log, base: str) -> None:
    for number in range(3):
        await log.append(Draft(f"{base}.a", b"brief", ttl_s=1))
        await log.append(Draft(f"{base}.a", str(number).encode()))
    lasting = [b"0", b"1", b"2"]
    with anyio.fail_after(PATIENCE_S):
        async with log.follow(f"{base}.a") as tail:
            while True:
                found = [body for body in bodies(await read_all(log, f"{base}.a")) if body != b"brief"]
                assert found == lasting
                if await tail.next(1.5) is None:
                    break
            assert tail.caught_up


async def a_record_that_has_expired_is_not_there(log: Log, base: str) -> None:
    guarded = f"{base}.f.*"
    first = await log.append(Draft(f"{base}.f.a", b"1", guard=Guard(guarded, 0)))
    await log.append(Draft(f"{base}.f.b", b"brief", guard=Guard(guarded, first), ttl_s=1))
    with anyio.fail_after(PATIENCE_S):
        while len(await read_all(log, guarded)) == 2:
            await anyio.lowlevel.checkpoint()
    assert await log.subjects(guarded) == {f"{base}.f.a": 1}
    assert seqs([record for record in [await log.last(guarded)] if record]) == [first]
    second = await log.append(Draft(f"{base}.f.c", b"2", guard=Guard(guarded, first)))
    async with log.follow(guarded) as tail:
        assert seqs(await drain(tail)) == [first, second]


async def a_record_says_how_long_it_was_to_live(log: Log, base: str) -> None:
    await log.append(Draft(f"{base}.a", b"", ttl_s=600))
    await log.append_batch([Draft(f"{base}.a", b"1"), Draft(f"{base}.a", b"2", ttl_s=500)])
    assert [record.headers.get(TTL) for record in await read_all(log, f"{base}.a")] == ["600", None, "500"]


async def a_time_to_live_that_is_none_is_refused(log: Log, base: str) -> None:
    for ttl_s in (0, -1, -5, 9_000_000_000, 2**63, 10**30):
        async with refused(NotAppended, log, f"{base}.>"):
            await log.append(Draft(f"{base}.a", b"", ttl_s=ttl_s))
    await log.append(Draft(f"{base}.a", b"", ttl_s=LONGEST_TTL_S))
    assert len(await read_all(log, f"{base}.a")) == 1


# read


async def read_takes_what_is_behind_after_up_to_until(log: Log, base: str) -> None:
    places = await log.append_all(drafts(f"{base}.a", 10))
    for after, until in ((0, None), (places[2], None), (places[2], places[6]), (0, places[0]), (places[9], None)):
        expected = [place for place in places if place > after and (until is None or place <= until)]
        assert seqs(await read_all(log, f"{base}.a", after=after, until=until)) == expected
    assert await read_all(log, f"{base}.a", after=places[9] + 1_000_000) == []
    assert await read_all(log, f"{base}.a", after=places[6], until=places[2]) == []
    assert await read_all(log, f"{base}.a", until=0) == []


async def read_may_begin_at_a_time(log: Log, base: str) -> None:
    await log.append_all(drafts(f"{base}.a", 5))
    there = await read_all(log, f"{base}.a")
    for record in there:
        expected = [one for one in there if one.time_s >= record.time_s]
        assert await read_all(log, f"{base}.a", since_s=record.time_s) == expected
        later = [one for one in expected if one.seq > there[2].seq]
        assert await read_all(log, f"{base}.a", since_s=record.time_s, after=there[2].seq) == later
    assert await read_all(log, f"{base}.a", since_s=there[-1].time_s + 3_600) == []
    for since_s in (0.0, -1.0, -math.inf):
        assert await read_all(log, f"{base}.a", since_s=since_s) == there
    for since_s in (1e10, 1e18, math.inf):
        assert await read_all(log, f"{base}.a", since_s=since_s) == []


async def read_of_an_empty_subject_ends(log: Log, base: str) -> None:
    await log.append(Draft(f"{base}.a", b"elsewhere"))
    assert await read_all(log, f"{base}.b") == []
    assert await read_all(log, f"{base}.b", f"{base}.c.*", until=10) == []


async def read_takes_several_subjects_in_the_order_of_the_log(log: Log, base: str) -> None:
    for number in range(9):
        await log.append(Draft(f"{base}.{'abc'[number % 3]}.x", str(number).encode()))
    found = await read_all(log, f"{base}.a.x", f"{base}.c.*")
    assert bodies(found) == [b"0", b"2", b"3", b"5", b"6", b"8"]
    assert seqs(found) == sorted(seqs(found))


async def read_can_be_left_early_and_begun_again(log: Log, base: str) -> None:
    await log.append_all(drafts(f"{base}.a", 300))
    for _ in range(3):
        async with log.read(f"{base}.a") as records:
            async for record in records:
                assert record.body == b"0"
                break
    assert len(await read_all(log, f"{base}.a")) == 300


async def read_ends_although_writers_go_on(log: Log, base: str) -> None:
    await log.append_all(drafts(f"{base}.a", 500))

    async def write() -> None:
        while True:
            await log.append_all(drafts(f"{base}.a", 50))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(write)
        found = await read_all(log, f"{base}.a")
        assert len(found) >= 500
        assert seqs(found) == sorted(set(seqs(found)))
        tasks.cancel_scope.cancel()
