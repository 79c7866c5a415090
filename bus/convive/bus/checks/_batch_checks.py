"""What every `Log` promises of batches, records that replace others, and removal. See `_log_checks`."""
# ruff: noqa: S101 - a check asserts

from collections.abc import Sequence

import anyio

from convive.bus.checks._log_checks import PATIENCE_S, bodies, drafts, drain, read_all, refused, seqs, take
from convive.bus.log._errors import Conflict, NotAppended
from convive.bus.log._log import BATCH, Draft, Guard, Log


async def a_batch_is_stored_in_one_piece(log: Log, base: str) -> None:
    async def noise() -> None:
        while True:
            await log.append_all(drafts(f"{base}.a", 20))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(noise)
        for size in (1, 2, 3, BATCH):
            places = await log.append_batch(drafts(f"{base}.b", size))
            assert places == list(range(places[0], places[0] + size))
            found = await read_all(log, f"{base}.b", after=places[0] - 1, until=places[-1])
            assert bodies(found) == [str(number).encode() for number in range(size)]
            assert seqs(found) == places
        tasks.cancel_scope.cancel()
    assert await log.append_batch([]) == []


async def a_batch_that_is_no_batch_is_refused(log: Log, base: str) -> None:
    wrong: list[Sequence[Draft]] = [
        drafts(f"{base}.a", BATCH + 1),
        [Draft(f"{base}.a", b"x" * 1_000_000)] * 17,
        [Draft(f"{base}.a", b"1"), Draft(f"{base}.a", b"2", id=f"{base}/2")],
        [Draft(f"{base}.a", b"1"), Draft(f"{base}.a", b"2", at=await log.end() + 2)],
        [Draft(f"{base}.a", b"1"), Draft(f"{base}.b", b"2", guard=Guard(f"{base}.a", 0))],
        [Draft(f"{base}.a", b"1"), Draft(f"{base}.b", b"2", guard=Guard(f"{base}.*", 0))],
        [Draft(f"{base}.a", b"1"), Draft(f"{base}.a", b"2", replaces=True)],
        [Draft(f"{base}.a", b"1"), Draft(f"{base}.a b", b"2")],
        [Draft(f"{base}.a", b"1"), Draft(f"{base}.a", b"x" * 1_048_577)],
    ]
    for batch in wrong:
        async with refused(NotAppended, log, f"{base}.>"):
            await log.append_batch(batch)


async def a_batch_is_stored_only_if_each_of_its_guards_holds(log: Log, base: str) -> None:
    one, two = await log.append(Draft(f"{base}.g.a", b"1")), await log.append(Draft(f"{base}.g.b", b"2"))
    for first, second in ((one + 1_000_000, two), (one, two + 1_000_000), (0, 0)):
        batch = [
            Draft(f"{base}.a", b"3", guard=Guard(f"{base}.g.a", first)),
            Draft(f"{base}.b", b"4", guard=Guard(f"{base}.g.b", second)),
        ]
        async with refused(Conflict, log, f"{base}.>"):
            await log.append_batch(batch)
    batch = [
        Draft(f"{base}.g.a", b"3", guard=Guard(f"{base}.g.a", one)),
        Draft(f"{base}.b", b"4", guard=Guard(f"{base}.g.b", two)),
        Draft(f"{base}.b", b"5"),
    ]
    places = await log.append_batch(batch)
    assert bodies(await read_all(log, f"{base}.b", f"{base}.g.a", after=two)) == [b"3", b"4", b"5"]
    assert places[0] > two


async def a_record_with_a_place_is_stored_there_or_nowhere(log: Log, base: str) -> None:
    def own(place: int, name: str) -> list[Draft]:
        body = f"{place} to {place + 2}".encode()
        return [Draft(f"{base}.a", body, id=f"{base}/{name}", at=place), *drafts(f"{base}.a", 2)]

    end = await log.end()
    batch = own(end + 1, "1")
    assert await log.append_batch(batch) == [end + 1, end + 2, end + 3]
    assert await log.append_batch(batch) == [end + 1, end + 2, end + 3]
    for place in (1, end + 1, end + 3, end + 5, end + 1_000_000):
        async with refused(Conflict, log, f"{base}.>"):
            await log.append_batch(own(place, f"{place} again"))
        async with refused(Conflict, log, f"{base}.>") as caught:
            await log.append(Draft(f"{base}.b", b"", at=place))
        assert isinstance(caught[0], Conflict)
        assert (caught[0].expected, caught[0].actual) == (place - 1, end + 3)
    assert await log.append(Draft(f"{base}.b", b"", at=end + 4)) == end + 4
    assert await log.append_batch(batch) == [end + 1, end + 2, end + 3]


async def of_rivals_for_a_place_exactly_one_gets_it(log: Log, base: str) -> None:
    won: list[int] = []

    async def rival(name: int) -> None:
        for count in range(6):
            place = await log.end() + 1
            body = f"{place} {name}".encode()
            try:
                first = Draft(f"{base}.{name}", body, id=f"{base}/{name}/{count}", at=place)
                won.append((await log.append_batch([first, *drafts(f"{base}.d", 3)]))[0])
            except Conflict:
                continue
            assert won[-1] == place

    async with anyio.create_task_group() as tasks:
        for name in range(5):
            tasks.start_soon(rival, name)
    assert seqs(await read_all(log, f"{base}.*")) == sorted(place + n for place in won for n in range(4))
    assert won


async def the_same_batch_twice_is_stored_once(log: Log, base: str) -> None:
    guard = Guard(f"{base}.a", 0)
    for batch in (
        [Draft(f"{base}.a", b"1", guard=guard), *drafts(f"{base}.b", 3)],
        [Draft(f"{base}.c", b"1", id=f"{base}/batch"), *drafts(f"{base}.b", 3)],
    ):
        places = await log.append_batch(batch)
        assert await log.append_batch(batch) == places
        await log.append(Draft(f"{base}.a", b"somebody else's"))
        assert await log.append_batch(batch) == places
    assert len(await read_all(log, f"{base}.b")) == 6


async def a_batch_that_begins_as_another_record_does_is_not_taken_for_it(log: Log, base: str) -> None:
    guard = Guard(f"{base}.a", 0)
    await log.append_batch([Draft(f"{base}.a", b"1", guard=guard), Draft(f"{base}.b", b"theirs")])
    async with refused(Conflict, log, f"{base}.>"):
        await log.append_batch([Draft(f"{base}.a", b"1", guard=guard), Draft(f"{base}.b", b"ours")])
    async with refused(Conflict, log, f"{base}.>"):
        await log.append_batch([Draft(f"{base}.a", b"1", guard=guard), *drafts(f"{base}.b", 5)])


async def of_rival_batches_exactly_one_gets_each_link(log: Log, base: str) -> None:
    won: list[int] = []

    async def rival(name: int) -> None:
        for _ in range(4):
            last = await log.last(f"{base}.f")
            guard = Guard(f"{base}.f", last.seq if last else 0)
            link = Draft(f"{base}.f", f"{name}".encode(), guard=guard)
            try:
                won.append((await log.append_batch([link, *drafts(f"{base}.d", 3)]))[0])
            except Conflict:
                continue

    async with anyio.create_task_group() as tasks:
        for name in range(5):
            tasks.start_soon(rival, name)
    assert seqs(await read_all(log, f"{base}.f")) == sorted(won)
    assert len(await read_all(log, f"{base}.d")) == 3 * len(won)


async def a_record_that_replaces_stands_alone_on_its_subject(log: Log, base: str) -> None:
    await log.append_all([*drafts(f"{base}.a", 3), *drafts(f"{base}.b", 2)])
    place = await log.append(Draft(f"{base}.a", b"only", replaces=True))
    assert seqs(await read_all(log, f"{base}.a")) == [place]
    assert await log.subjects(f"{base}.>") == {f"{base}.a": 1, f"{base}.b": 2}
    batch = [Draft(f"{base}.a", b"new", guard=Guard(f"{base}.a", place), replaces=True), *drafts(f"{base}.b", 2)]
    places = await log.append_batch(batch)
    assert bodies(await read_all(log, f"{base}.a")) == [b"new"]
    assert await log.append_batch(batch) == places
    last = await log.last(f"{base}.a")
    assert last is not None
    assert last.seq == places[0]


async def what_is_removed_is_not_there_for_readers_and_guards(log: Log, base: str) -> None:
    places = await log.append_all(drafts(f"{base}.a", 10))
    other = await log.append(Draft(f"{base}.b", b"stays"))
    assert await log.purge(f"{base}.a", 0) == 0
    assert await log.purge(f"{base}.a", places[3]) == 4
    assert await log.purge(f"{base}.a", places[3]) == 0
    assert seqs(await read_all(log, f"{base}.a")) == places[4:]
    async with log.follow(f"{base}.>") as tail:
        assert seqs(await drain(tail)) == [*places[4:], other]
        assert await log.purge(f"{base}.a", other) == 6
        assert await log.last(f"{base}.a") is None
        assert await log.subjects(f"{base}.>") == {f"{base}.b": 1}
        place = await log.append(Draft(f"{base}.a", b"first again", guard=Guard(f"{base}.a", 0)))
        assert place > other
        assert seqs(await take(tail, 1)) == [place]
    assert await log.purge(f"{base}.*", place) == 2
    assert await read_all(log, f"{base}.>") == []


async def the_end_of_the_log_never_goes_back(log: Log, base: str) -> None:
    place = await log.append(Draft(f"{base}.a", b"1"))
    assert await log.end() >= place
    end = await log.end()
    await log.purge(f"{base}.>", end)
    assert await log.end() >= end
    assert await log.append(Draft(f"{base}.a", b"2")) > end


async def a_reader_that_is_overtaken_by_a_removal_ends_all_the_same(log: Log, base: str) -> None:
    places = await log.append_all([Draft(f"{base}.a", b"x" * 2_000) for _ in range(20_000)])
    found: list[int] = []
    with anyio.fail_after(PATIENCE_S):
        async with log.read(f"{base}.a") as records:
            async for record in records:
                found.append(record.seq)
                if len(found) == 1:
                    await log.purge(f"{base}.a", places[-2])
    assert found[0] == places[0]
    assert found[-1] == places[-1]
    assert found == sorted(set(found))


async def a_draft_is_checked_without_being_appended(log: Log, base: str) -> None:
    log.check(Draft(f"{base}.a", b"fine", {"X": "fine"}))
    for draft in (Draft(f"{base}.a", b"x" * 1_048_577), Draft(f"{base}.*", b""), Draft(f"{base}.a", b"", {"X Y": ""})):
        async with refused(NotAppended, log, f"{base}.>"):
            log.check(draft)
