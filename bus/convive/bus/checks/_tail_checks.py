"""What every `Tail` promises, as checks that run on any `Log`. `convive.bus.testing` hands them out."""
# ruff: noqa: S101 - a check asserts

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio

from convive.bus.checks._log_checks import PATIENCE_S, bodies, drafts, drain, read_all, seqs, take
from convive.bus.log._log import Draft, Log, Record


async def a_tail_catches_up_and_then_stays_live(log: Log, base: str) -> None:
    await log.append_all(drafts(f"{base}.a", 20))
    async with log.follow(f"{base}.a") as tail:
        assert not tail.caught_up
        assert bodies(await take(tail, 20)) == [str(number).encode() for number in range(20)]
        assert tail.caught_up
        await log.append(Draft(f"{base}.b", b"elsewhere"))
        place = await log.append(Draft(f"{base}.a", b"live"))
        (record,) = await take(tail, 1)
        assert (record.seq, record.body) == (place, b"live")


async def a_tail_on_an_empty_subject_is_caught_up_at_once(log: Log, base: str) -> None:
    async with log.follow(f"{base}.a") as tail:
        assert tail.caught_up
        assert await tail.next(0.01) is None
        assert tail.caught_up


async def a_tail_is_iterated_over(log: Log, base: str) -> None:
    await log.append_all(drafts(f"{base}.a", 3))
    found: list[Record] = []
    with anyio.fail_after(PATIENCE_S):
        async with log.follow(f"{base}.a") as tail:
            async for record in tail:
                found.append(record)
                if len(found) == 3:
                    break
    assert bodies(found) == [b"0", b"1", b"2"]


async def a_tail_may_begin_anywhere(log: Log, base: str) -> None:
    places = await log.append_all(drafts(f"{base}.a", 10))
    async with AsyncExitStack() as stack:
        begins = [0, places[0], places[4], places[9], places[9] + 3]
        # The same subjects in one process, opened while others already run: each has its own place all the same.
        tails = [await stack.enter_async_context(log.follow(f"{base}.a", after=after)) for after in begins]
        places += await log.append_all(drafts(f"{base}.a", 20, first=10))
        for after, tail in zip(begins, tails, strict=True):
            expected = [place for place in places if place > after]
            assert seqs(await take(tail, len(expected))) == expected
            assert tail.caught_up


async def a_tail_that_joins_others_later_misses_nothing(log: Log, base: str) -> None:
    places = await log.append_all(drafts(f"{base}.a", 10))
    async with log.follow(f"{base}.a", after=places[7]) as first:
        assert len(await take(first, 2)) == 2
        async with log.follow(f"{base}.a") as second, log.follow(f"{base}.a", after=places[3]) as third:
            assert not second.caught_up
            places += await log.append_all(drafts(f"{base}.a", 5, first=10))
            assert seqs(await take(second, 15)) == places
            assert seqs(await take(third, 11)) == places[4:]
        assert seqs(await take(first, 5)) == places[10:]


async def a_tail_that_joins_far_behind_the_last_record_is_caught_up(log: Log, base: str) -> None:
    places = await log.append_all(drafts(f"{base}.a", 3))
    async with (
        log.follow(f"{base}.a", after=places[2] + 100) as ahead,
        log.follow(f"{base}.a", after=places[2]) as behind,
    ):
        assert ahead.caught_up
        assert await drain(behind) == []
        places = await log.append_all(drafts(f"{base}.a", 3))
        assert seqs(await take(behind, 3)) == places, "what the one ahead did not ask for was kept from the other"
        assert await drain(ahead) == []


async def a_tail_that_catches_up_gets_what_is_there_and_waits_for_no_more(log: Log, base: str) -> None:
    places = await log.append_all(drafts(f"{base}.a", 300))
    async with log.follow(f"{base}.a") as tail, log.follow(f"{base}.a", after=places[99]) as second:
        assert seqs(await drain(tail)) == places
        assert seqs(await drain(second)) == places[100:]
        places = [await log.append(Draft(f"{base}.a", b"live"))]
        async with log.follow(f"{base}.a", after=places[0] - 1) as third:
            assert seqs(await drain(third)) == places, "what was acknowledged before it began"
        assert seqs(await take(tail, 1)) == places
        assert await drain(tail) == []


async def a_tail_catches_up_on_its_own_subjects_although_others_are_far_behind(log: Log, base: str) -> None:
    await log.append_all(drafts(f"{base}.b", 5_000))
    place = await log.append(Draft(f"{base}.a", b"1"))
    await log.append_all(drafts(f"{base}.b", 5_000))
    async with log.follow(f"{base}.a", f"{base}.b") as both, log.follow(f"{base}.a") as fewer:
        assert seqs(await drain(fewer)) == [place]
        assert not both.caught_up
        async with log.follow(f"{base}.a", after=place) as nothing:
            assert await drain(nothing) == []


async def a_tail_catches_up_although_writers_go_on(log: Log, base: str) -> None:
    async def write() -> None:
        while True:
            await log.append_all(drafts(f"{base}.b", 100))
            await anyio.lowlevel.checkpoint()

    async with log.follow(f"{base}.a", f"{base}.b") as both, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(write)
        await take(both, 500)
        for number in range(20):
            place = await log.append(Draft(f"{base}.a", str(number).encode()))
            async with log.follow(f"{base}.a", after=place - 1) as fewer:
                assert seqs(await drain(fewer)) == [place]
        tasks.cancel_scope.cancel()


async def _in_spite_of_cancellation(
    take_one: Callable[[], Awaitable[Record | None]], count: int, most_s: float
) -> list[Record]:
    """So many records, of which each is asked for again and again with a little more time, up to `most_s`."""
    found: list[Record] = []
    with anyio.fail_after(PATIENCE_S):
        turn = 0
        while len(found) < count:
            turn += 1
            with anyio.move_on_after(most_s * (turn % 11) / 11):
                record = await take_one()
                assert record is not None
                found.append(record)
    return found


async def a_cancelled_catch_up_loses_nothing(log: Log, base: str) -> None:
    places = await log.append_all(drafts(f"{base}.a", 300))
    async with log.follow(f"{base}.a", after=places[-1]), log.follow(f"{base}.a") as tail:
        found = await _in_spite_of_cancellation(tail.catch_up, len(places), 0.0055)
    assert seqs(found) == places


async def a_tail_may_begin_at_a_time(log: Log, base: str) -> None:
    await log.append_all(drafts(f"{base}.a", 6))
    there = await read_all(log, f"{base}.a")
    expected = [record for record in there if record.time_s >= there[3].time_s]
    async with log.follow(f"{base}.a", since_s=there[3].time_s) as tail:
        assert await take(tail, len(expected)) == expected
        await log.append(Draft(f"{base}.a", b"live"))
        assert bodies(await take(tail, 1)) == [b"live"]
        async with log.follow(f"{base}.a", since_s=there[3].time_s) as second:
            assert seqs(await take(second, len(expected)))[0] == expected[0].seq


async def tails_see_all_of_several_writers_in_order(log: Log, base: str) -> None:
    writers, each = 4, 60
    found: dict[int, list[Record]] = {}

    async def write(name: int) -> None:
        for number in range(each):
            await log.append(Draft(f"{base}.w.{name}", str(number).encode()))

    async def listen(name: int) -> None:
        async with log.follow(f"{base}.w.*") as tail:
            found[name] = await take(tail, writers * each)

    async with anyio.create_task_group() as tasks:
        for name in range(writers):
            tasks.start_soon(write, name)
            # Listeners come in while the writers write: what one has missed, it reads.
            tasks.start_soon(listen, name)
        for name in range(writers, 8):
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(listen, name)
    expected = seqs(await read_all(log, f"{base}.w.*"))
    assert len(expected) == writers * each
    assert all(seqs(records) == expected for records in found.values())


async def next_gives_none_when_nothing_comes_in_time(log: Log, base: str) -> None:
    async with log.follow(f"{base}.a") as tail:
        assert await tail.next(0) is None
        assert await tail.next(0.02) is None
        await log.append(Draft(f"{base}.a", b"1"))
        record = await tail.next(PATIENCE_S)
        assert record is not None
        assert record.body == b"1"


async def next_gives_up_in_time_although_others_are_written_to(log: Log, base: str) -> None:
    async def chatter() -> None:
        while True:
            await log.append(Draft(f"{base}.b", b"elsewhere"))
            await anyio.sleep(0.005)  # the load of this check, not a wait for something

    async with log.follow(f"{base}.a") as tail, anyio.create_task_group() as tasks:
        tasks.start_soon(chatter)
        with anyio.fail_after(PATIENCE_S):
            assert await tail.next(0.1) is None
        tasks.cancel_scope.cancel()


async def a_cancelled_next_loses_nothing(log: Log, base: str) -> None:
    count = 200

    async def write() -> None:
        for draft in drafts(f"{base}.a", count):
            await log.append(draft)
            await anyio.lowlevel.checkpoint()

    async with log.follow(f"{base}.a") as tail, anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        found = await _in_spite_of_cancellation(tail.next, count, 0.0007)
        assert bodies(found) == [str(number).encode() for number in range(count)]


async def a_next_cancelled_while_it_catches_up_loses_nothing(log: Log, base: str) -> None:
    places = await log.append_all(drafts(f"{base}.a", 300))
    async with log.follow(f"{base}.a", after=places[-1]), log.follow(f"{base}.a") as tail:
        found = await _in_spite_of_cancellation(tail.next, len(places), 0.0055)
    assert seqs(found) == places


async def a_slow_tail_loses_nothing(log: Log, base: str) -> None:
    count = 9_000
    async with log.follow(f"{base}.a") as slow, log.follow(f"{base}.a") as quick:
        places = await log.append_all(drafts(f"{base}.a", count))
        assert seqs(await take(quick, count)) == places
        assert not slow.caught_up
        assert seqs(await take(slow, count)) == places
        assert slow.caught_up
        assert await slow.next(0) is None
        places = await log.append_all(drafts(f"{base}.a", 3))
        assert seqs(await take(slow, 3)) == places


async def leaving_one_tail_leaves_the_others_alone(log: Log, base: str) -> None:
    async with log.follow(f"{base}.a") as first:
        async with log.follow(f"{base}.a"):
            await log.append(Draft(f"{base}.a", b"1"))
        await log.append(Draft(f"{base}.a", b"2"))
        assert bodies(await take(first, 2)) == [b"1", b"2"]
    async with log.follow(f"{base}.a") as again:
        assert bodies(await take(again, 2)) == [b"1", b"2"]
