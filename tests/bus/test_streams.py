"""Plain streams on both logs: append, fence, read, follow, trim, snapshot."""
# ruff: noqa: S106 - the token of a stream is no secret

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from convive.bus import (
    BadName,
    BadRecord,
    BeyondTail,
    Bus,
    Conflict,
    Draft,
    Entry,
    Fenced,
    NotAppended,
    Stream,
    StreamRecord,
    Trimmed,
    mint_run_id,
    stream_name,
)

pytestmark = pytest.mark.anyio


async def every(stream: Stream, **arguments: object) -> list[StreamRecord]:
    with anyio.fail_after(20):
        async with stream.read(**arguments) as records:  # type: ignore[arg-type]  # pyright: ignore
            return [record async for record in records]


def values(records: list[StreamRecord]) -> list[object]:
    return [record.json() for record in records]


@asynccontextmanager
async def nothing_new(stream: Stream) -> AsyncGenerator[None]:
    before = await every(stream)
    yield
    assert await every(stream) == before


async def test_a_stream_is_there_when_something_is_appended_and_can_be_read_before(bus: Bus, stream: Stream) -> None:
    assert await every(stream) == []
    assert await stream.tail() == await stream.trimmed() == 0
    assert await stream.latest_snapshot() is None
    assert stream.name not in await bus.streams()
    place = await stream.append({"order": 1}, {"Kind": "new", "X-Greeting": "Grüße"})
    (record,) = await every(stream)
    assert record.json() == {"order": 1}
    assert (record.stream, record.position, record.body) == (stream.name, place, b'{"order":1}')
    assert record.headers == {"Kind": "new", "X-Greeting": "Grüße"}
    assert (await bus.streams())[stream.name] == 1
    assert await stream.tail() == place


async def test_bodies_are_bytes_or_json(stream: Stream) -> None:
    given = [{"a": [1, None, True]}, "text", 3, None, ["乾杯"], 0.5]
    for body in given:
        await stream.append(body)
    assert values(await every(stream)) == given
    await stream.append(b"\xff raw")
    (record,) = await every(stream, last=1)
    assert record.body == b"\xff raw"
    with pytest.raises(BadRecord, match="not JSON"):
        record.json()


@pytest.mark.parametrize("body", [float("nan"), {1, 2}, object(), {"a": b"bytes"}, "x" * 1_100_000])
async def test_what_cannot_be_a_record_is_refused(stream: Stream, body: object) -> None:
    async with nothing_new(stream):
        with pytest.raises(NotAppended, match="Nothing was appended"):
            await stream.append(body)
        with pytest.raises(NotAppended, match="Nothing was appended"):
            await stream.append_all([1, body])


async def test_several_records_are_appended_together_or_not_at_all(stream: Stream) -> None:
    places = await stream.append_all([1, Entry(2, {"X": "2"}), b"3"])
    assert places == list(range(places[0], places[0] + 3))
    found = await every(stream)
    assert [record.position for record in found] == places
    assert [record.headers for record in found] == [{}, {"X": "2"}, {}]
    assert await stream.append_all([]) == []
    async with nothing_new(stream):
        with pytest.raises(NotAppended, match="1001 records"):
            await stream.append_all(range(1_001))
        with pytest.raises(Conflict):
            await stream.append_all([4, 5], expected=places[0])
    assert len(await stream.append_all(range(1_000), expected=places[-1])) == 1_000


async def test_an_append_may_expect_a_position(stream: Stream) -> None:
    place = await stream.append(1, expected=0)
    async with nothing_new(stream):
        # Also what looks the same: it is somebody else's.
        with pytest.raises(Conflict) as conflict:
            await stream.append(1, expected=0)
        assert (conflict.value.expected, conflict.value.actual) == (0, place)
    assert await stream.append(2, expected=place) > place


async def test_of_rivals_who_expect_the_same_position_one_is_let_in(stream: Stream) -> None:
    won: list[int] = []

    async def rival() -> None:
        for _ in range(10):
            last = await stream.tail()
            try:
                won.append(await stream.append("the same", expected=last))
            except Conflict:
                continue

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(rival)
    assert sorted(won) == [record.position for record in await every(stream)]
    assert len(won) == len(set(won))


async def test_the_same_id_is_the_same_record(bus: Bus, stream: Stream) -> None:
    beside = await bus.stream(f"{stream.name}/beside")
    place = await stream.append(1, id="1")
    await stream.append(2)
    assert await stream.append(1, id="1") == place
    assert values(await every(stream)) == [1, 2]
    # An id is one of its stream.
    await beside.append(1, id="1")
    assert values(await every(beside)) == [1]


async def test_who_lost_the_fence_is_refused_by_the_server(bus: Bus, stream: Stream) -> None:
    other = await bus.stream(stream.name)
    with pytest.raises(Fenced, match="not fenced"):
        await stream.append(0, token="ada")
    await stream.fence("ada", held="")
    await stream.append(1, token="ada")
    await other.append(2)  # a token is a matter of those who use one
    await other.append(3, token="ada")
    with pytest.raises(Fenced):
        await other.fence("bo", held="")
    await other.fence("bo", held="ada")
    async with nothing_new(stream):
        for attempt in (
            stream.append(4, token="ada"),
            stream.append_all([4, 5], token="ada"),
            stream.append(4, token="ada", expected=await stream.tail()),
            stream.append_all([4, 5], token="ada", expected=await stream.tail()),
        ):
            with pytest.raises(Fenced) as fenced:
                await attempt
            assert (fenced.value.stream, fenced.value.token, fenced.value.holder) == (stream.name, "ada", "bo")
    await other.append(4, token="bo")
    await other.fence("ada")
    await stream.append(5, token="ada")
    assert values(await every(stream)) == [1, 2, 3, 4, 5]


async def test_a_token_and_a_position_are_both_checked(bus: Bus, stream: Stream) -> None:
    other = await bus.stream(stream.name)
    await stream.fence("ada")
    place = await stream.append(1, token="ada", expected=0)
    (second, _) = await stream.append_all([2, 3], token="ada", expected=place)
    async with nothing_new(stream):
        for late in (place, second):
            with pytest.raises(Conflict):
                await stream.append(4, token="ada", expected=late)
            with pytest.raises(Conflict):
                await stream.append_all([4, 5], token="ada", expected=late)
        # The fence moves while the position does not, and ours still thinks that it holds it.
        await other.fence("bo")
        tail = await stream.tail()
        with pytest.raises(Fenced):
            await stream.append(4, token="ada", expected=tail)
        await other.fence("ada")
        await other.fence("bo")
        with pytest.raises(Fenced):
            await stream.append_all([4, 5], token="ada", expected=tail)
    await other.append(4, token="bo", expected=await other.tail())
    assert values(await every(stream)) == [1, 2, 3, 4]


@pytest.mark.parametrize("token", ["", " ", "x" * 129])
async def test_a_token_that_is_none_is_refused(stream: Stream, token: str) -> None:
    with pytest.raises(NotAppended, match="Nothing was changed"):
        await stream.fence(token)


async def test_of_rivals_for_the_fence_one_gets_it(bus: Bus, stream: Stream) -> None:
    got: list[str] = []

    async def rival(name: str) -> None:
        try:
            await (await bus.stream(stream.name)).fence(name, held="")
        except Fenced:
            return
        got.append(name)

    async with anyio.create_task_group() as tasks:
        for name in "abcde":
            tasks.start_soon(rival, name)
    assert len(got) == 1
    await stream.append(1, token=got[0])


async def test_a_read_begins_and_ends_where_it_is_told(bus: Bus, stream: Stream) -> None:
    beside = await bus.stream(f"{stream_name(stream.name)[0]}/beside")
    places: list[int] = []
    for number in range(10):
        places.append(await stream.append(number))
        await beside.append_all(["other"] * (number % 4 * 20))
    found = await every(stream)
    assert [record.position for record in found] == places
    assert values(await every(stream, after=places[3])) == list(range(4, 10))
    assert values(await every(stream, until=places[3])) == list(range(4))
    assert values(await every(stream, after=places[2], count=3)) == [3, 4, 5]
    for last in (0, 1, 2, 7, 10, 11, 1_000):
        assert values(await every(stream, last=last)) == list(range(10))[max(0, 10 - last) :]
    assert values(await every(stream, last=4, count=2)) == [6, 7]
    for max_bytes, expected in ((0, 1), (1, 1), (2, 2), (5, 5), (100, 10)):
        assert len(await every(stream, max_bytes=max_bytes)) == expected
    for record in found:
        assert await every(stream, since_s=record.time_s) == [one for one in found if one.time_s >= record.time_s]
        assert await every(stream, until_s=record.time_s) == [one for one in found if one.time_s < record.time_s]
    assert await every(stream, count=0) == await every(stream, until=0) == []
    assert await every(stream, after=await stream.log.end()) == []


async def test_arguments_that_make_no_sense_are_refused(stream: Stream) -> None:
    for wrong in ({"after": -1}, {"last": -1}, {"after": 1, "last": 1}, {"since_s": 1.0, "from_snapshot": True}):
        with pytest.raises(ValueError, match=r"begin behind|less than"):
            await every(stream, **wrong)
    for wrong in ({"count": -1}, {"max_bytes": -1}):
        with pytest.raises(ValueError, match="less than nothing"):
            await every(stream, **wrong)


async def test_a_position_beyond_the_end_of_the_log_is_an_error_or_is_clamped(stream: Stream) -> None:
    await stream.append(1)
    end = await stream.log.end()
    with pytest.raises(BeyondTail, match="clamp") as beyond:
        await every(stream, after=end + 1)
    assert (beyond.value.position, beyond.value.end) == (end + 1, end)
    with pytest.raises(BeyondTail):
        async with stream.follow(after=end + 1):
            pass
    with pytest.raises(BeyondTail):
        await stream.trim(end + 1)
    with pytest.raises(BeyondTail):
        await stream.snapshot({}, covers=end + 1)
    with pytest.raises(Conflict, match="There is none at that place"):
        await stream.append(2, expected=end + 1)
    assert await every(stream, after=end + 1_000, clamp=True) == []
    with anyio.fail_after(10):
        async with stream.follow(after=end + 1_000, clamp=True) as tail:
            await stream.append(2)
            record = await tail.next()
    assert record is not None
    assert record.json() == 2


async def test_a_follower_says_when_it_has_caught_up_and_where_it_stands(stream: Stream) -> None:
    places = await stream.append_all(range(5))
    with anyio.fail_after(20):
        async with stream.follow(after=places[1]) as tail:
            assert not tail.caught_up
            assert tail.position == places[1]
            found: list[object] = []
            while (record := await tail.catch_up()) is not None:
                found.append(record.json())
                assert tail.position == record.position
            assert found == [2, 3, 4]
            assert tail.caught_up
            assert await tail.next(0.01) is None
            await stream.append(5)
            async for record in tail:
                assert record.json() == 5
                break
        async with stream.follow(last=2) as tail:
            assert [(await anext(tail)).json() for _ in range(2)] == [4, 5]


async def test_a_stream_may_share_the_order_of_a_conversation(bus: Bus) -> None:
    name = f"c-{mint_run_id()}"
    conversation = await bus.conversation(name)
    notes = await bus.stream(f"{name}/notes")
    first = await notes.append("before")
    between = await conversation.log.append(Draft(f"{conversation.subjects.base}.bus.aside.ada", b"{}"))
    second = await notes.append("after")
    assert first < between < second
    assert values(await every(notes, after=between)) == ["after"]
    assert notes.name in await bus.streams()
    assert (await bus.conversations())[conversation.id].opened is None
    own = await bus.stream(name)
    assert own.name == name
    await own.append(1)
    assert (await bus.streams())[name] == 1
    assert name not in {one for one in await bus.conversations() if one != conversation.id}


@pytest.mark.parametrize("name", ["", "Orders", "a/b/c", "/a", "a/", "a b", "x" * 64, "a.b", "*", ">"])
async def test_a_name_that_is_none_is_refused(bus: Bus, name: str) -> None:
    with pytest.raises(BadName, match="is not the name of a stream"):
        await bus.stream(name)


async def test_a_record_may_expire(stream: Stream) -> None:
    await stream.append_all([Entry("brief", ttl_s=1), "lasting"])
    await stream.append("brief", ttl_s=1)
    with anyio.fail_after(20):
        while values(await every(stream)) != ["lasting"]:
            await anyio.lowlevel.checkpoint()


async def test_what_is_trimmed_is_gone_and_readers_before_it_are_told(stream: Stream) -> None:
    places = await stream.append_all(range(10))
    assert await stream.trim(places[3]) == 4
    assert await stream.trim(places[1]) == 0
    assert await stream.trimmed() == places[3]
    assert values(await every(stream)) == list(range(4, 10))
    assert values(await every(stream, after=places[3])) == list(range(4, 10))
    for lost in (places[0], places[2]):
        with pytest.raises(Trimmed) as trimmed:
            await every(stream, after=lost)
        assert (trimmed.value.position, trimmed.value.trimmed) == (lost, places[3])
        with pytest.raises(Trimmed):
            async with stream.follow(after=lost):
                pass
        assert values(await every(stream, after=lost, clamp=True)) == list(range(4, 10))
    assert values(await every(stream, last=100)) == list(range(4, 10))
    assert await stream.trim(places[-1]) == 6
    assert await stream.tail() == 0
    place = await stream.append("anew", expected=0)
    assert place > places[-1]
    assert values(await every(stream, after=places[-1])) == ["anew"]


async def test_a_reader_may_begin_at_the_snapshot(stream: Stream) -> None:
    places = await stream.append_all([1, 2, 3, 4])
    async with stream.read(from_snapshot=True) as records:
        assert records.snapshot is None
        assert values([record async for record in records]) == [1, 2, 3, 4]
    await stream.snapshot({"sum": 3}, {"Made-By": "test"}, covers=places[1])
    await stream.trim(places[1])
    async with stream.read(from_snapshot=True) as records:
        snapshot = records.snapshot
        assert snapshot is not None
        assert (snapshot.json(), snapshot.covers, snapshot.headers) == ({"sum": 3}, places[1], {"Made-By": "test"})
        assert values([record async for record in records]) == [3, 4]
    with anyio.fail_after(20):
        async with stream.follow(from_snapshot=True) as tail:
            assert tail.snapshot == snapshot
            assert [(await anext(tail)).json() for _ in range(2)] == [3, 4]
            await stream.append(5)
            assert (await anext(tail)).json() == 5
    with pytest.raises(NotAppended, match="covers it up to"):
        await stream.snapshot({}, covers=places[0])
    await stream.snapshot({"sum": 10}, covers=places[3])
    assert values(await every(stream, from_snapshot=True)) == [5]
    await stream.trim(await stream.tail())
    with pytest.raises(Trimmed):
        await every(stream, from_snapshot=True)


async def test_a_snapshot_that_does_not_say_what_it_covers_is_no_snapshot(stream: Stream) -> None:
    for headers in ({}, {"Cv-Next": "x"}, {"Cv-Next": "0"}, {"Cv-Next": "99999999999"}, {"Cv-Next": "9" * 5_000}):
        await stream.log.append(Draft(f"{stream.subject}.snapshot", b"{}", headers))
        with pytest.raises(BadRecord, match="Cv-Next"):
            await every(stream, from_snapshot=True)


async def test_a_note_on_a_trim_that_names_no_position_is_none(stream: Stream) -> None:
    place = await stream.append("here")
    await stream.log.append(Draft(f"{stream.subject}.trimmed", b"", {"Cv-Position": "9" * 5_000}))
    assert await stream.trimmed() == 0
    assert values(await every(stream, after=place)) == []
    assert await stream.trim(place) == 1
    assert await stream.trimmed() == place
