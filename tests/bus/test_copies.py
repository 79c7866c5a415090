"""Copies: files of which nothing that was touched is believed, and forks that go on by themselves."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convive.bus import (
    BadArchive,
    BadName,
    Bus,
    Chair,
    Conversation,
    Draft,
    Fold,
    Log,
    MaybeAppended,
    MemoryLog,
    NameTaken,
    Opened,
    Remembered,
    RunContext,
    SeatName,
    UnknownConversation,
    WorkQueue,
    World,
    address_of,
    difference,
    export_lines,
    fork,
    happened_s,
    import_archive,
    memory_bus,
    open_archive,
    open_bus,
    run_of,
)
from convive.bus.copies._archive import _compact, _Line, _rest  # pyright: ignore[reportPrivateUsage]
from convive.bus.testing import Records

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")


async def held(bus: Bus, name: str, *, turns: int = 4, close: bool = True) -> Conversation:
    """A conversation in which each turn remembers something, and the second is passed."""
    conversation = await bus.conversation(name)
    run = RunContext.root()
    places = await conversation.remember(ADA, [Remembered(text="a plan", run_id=run.run_id)], run)
    await conversation.open(run, "figs", [Chair(seat=ADA), Chair(seat=BOB)], {"n": 1.5}, memories=places)
    for turn in range(1, turns + 1):
        seat, own = (ADA, BOB)[turn % 2], run.child()
        await conversation.grant(await conversation.floor(), seat, own, 2e9)
        kept = await conversation.remember(seat, [Remembered(text=f"of {turn}", run_id=own.run_id)], own)
        floor = await conversation.floor()
        assert floor.open_grant is not None
        await conversation.log.append(
            Draft(conversation.journal(own), b'{"run":"%s"}' % own.run_id.encode(), own.headers())
        )
        if turn == 2:
            await conversation.pass_on(floor, floor.open_grant, own, "nothing", memories=kept)
        else:
            await conversation.say(floor, floor.open_grant, f"words {turn} é", own, memories=kept)
    if close:
        await conversation.close(await conversation.floor(), run, "late")
    return conversation


async def exported(conversation: Conversation, to: Path) -> Path:
    async with aclosing(export_lines(conversation)) as lines:
        await anyio.Path(to).write_bytes(b"".join([line async for line in lines]))
    return to


def told(world: World) -> list[object]:
    """What two copies of a conversation have in common: all but places in the log."""
    floor = world.floor
    memories = {seat: [one.event for one in private.memory.held] for seat, private in world.private.items()}
    return [world.heard, memories, floor.turn, floor.links, floor.closed, floor.seats, floor.damaged]


async def test_a_conversation_comes_back_as_it_was(nats_url: str, tmp_path: Path) -> None:
    async with memory_bus() as here, open_bus(nats_url) as there:
        original = await held(here, "archive-back")
        archive = open_archive(await exported(original, tmp_path / "a.jsonl"))
        copy = await import_archive(there, archive)
        assert told(await copy.world(ADA, BOB)) == told(await original.world(ADA, BOB))
        opened, was = (await copy.floor()).opened, (await original.floor()).opened
        assert opened is not None
        assert was is not None
        # Its memories stand at other places: in this log are records of others.
        assert opened.model_copy(update={"memories": was.memories}) == was
        assert (await original.world(ADA)).private[ADA].memory.held
        async with original.log.read("cv.>") as ours, copy.log.read(f"{copy.subjects.base}.>") as theirs:
            before = [(address_of(one.subject), one.headers.get("Cv-Run")) async for one in ours]
            after = [(address_of(one.subject), one.headers.get("Cv-Run")) async for one in theirs]
        assert before == after


async def test_the_same_records_are_the_same_file(tmp_path: Path) -> None:
    async with memory_bus() as bus:
        original = await held(bus, "twice")
        one, two = await exported(original, tmp_path / "1"), await exported(original, tmp_path / "2")
        assert one.read_bytes() == two.read_bytes()
        assert one.read_text().splitlines()[0] == '{"convive":"conversation","version":1,"conversation":"twice"}'


async def test_a_copy_says_when_what_it_tells_of_happened(tmp_path: Path) -> None:
    async with memory_bus() as bus, memory_bus() as other, memory_bus() as third:
        original = await held(bus, "times")
        copy = await import_archive(other, open_archive(await exported(original, tmp_path / "1")))
        again = await import_archive(third, open_archive(await exported(copy, tmp_path / "2")))
        async with original.log.read("cv.>") as first, again.log.read("cv.>") as last:
            assert [one.time_s async for one in first] == [happened_s(one) async for one in last]


async def test_nothing_is_exported_of_nothing() -> None:
    async with memory_bus() as bus:
        conversation = await bus.conversation("nothing")
        async with aclosing(export_lines(conversation)) as lines:
            assert [line async for line in lines] == []


def _without_the_end(text: bytes) -> bytes:
    return b"".join(text.splitlines(keepends=True)[:-1])


def _swapped(text: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    return b"".join([lines[0], lines[2], lines[1], *lines[3:]])


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda text: b"", "line 1: the last line is missing"),
    "no archive": (lambda text: b'{"hello":1}\n', "line 1: not a line of an archive"),
    "of another kind": (lambda text: text.replace(b'"version":1', b'"version":2'), "line 1: .* version 2"),
    "torn": (lambda text: text[:-10], "the line is torn"),
    "cut short": (_without_the_end, "the last line is missing"),
    "touched": (lambda text: text.replace(b"figs", b"nuts"), "count or digest differs"),
    "swapped": (_swapped, "line 3: record 1 stands behind record 2"),
    "added to": (lambda text: text + b"{}\n", "something behind the last line"),
    "no JSON": (lambda text: text.replace(b'"schema"', b'schema"', 1), "line 2: not a line of an archive"),
    "a bad name": (lambda text: text.replace(b'"conversation":"', b'"conversation":"../', 1), "line 1: .* is not a"),
    "a bad subject": (lambda text: text.replace(b'"on":"memory.ada"', b'"on":"memory.>"'), "line 2: .* not a subject"),
    "two bodies": (lambda text: text.replace(b'"on":', b'"text":"x","on":', 1), "line 2: a record has one of body"),
    "foreign line": (lambda text: text.replace(b'"on":', b'"of":', 1), "line 2: not a line of an archive: on"),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_damaged_file_is_refused_with_its_line(kind: str, tmp_path: Path) -> None:
    """Issue 4, bad input: a torn or foreign record in an import file."""
    damage, why = DAMAGE[kind]
    async with memory_bus() as bus:
        file = await exported(await held(bus, "broken"), tmp_path / "a.jsonl")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadArchive, match=why):
        open_archive(file)


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=40).map(str.encode),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        ).map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()),
    )
)
def test_any_body_comes_back_byte_for_byte(body: bytes) -> None:
    record = Records().raw("bus.x", body)
    line = {"seq": 1, "time_s": 1.5, "on": "bus.x", **_rest(record)}
    assert _Line.model_validate_json(_compact(line)).record().body == body


async def test_a_fork_goes_on_by_itself_with_runs_of_its_own(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        original = await held(bus, "fork-a")
        before = await original.world(ADA, BOB)
        cut = next(one.seq for one in before.private[BOB].memory.held if one.text == "of 3")
        copy = await fork(bus, original, "fork-b", cut)
        floor = await copy.floor()
        assert (floor.turn, floor.open_grant, floor.closed, floor.damaged) == (3, None, None, 0)
        assert floor.last_outcome is not None
        assert floor.last_outcome.type == "revoked"
        world = await copy.world(ADA, BOB)
        assert [one.text for one in world.heard] == ["words 1 é"]
        assert [one.text for one in world.private[ADA].memory.held] == ["a plan", "of 2"]
        assert [one.text for one in world.private[BOB].memory.held] == ["of 1"]
        assert floor.opened is not None
        assert before.floor.opened is not None
        origin = floor.opened.origin
        assert origin is not None
        assert (origin.conversation, origin.run_id, origin.seq) == ("fork-a", before.floor.opened.run_id, cut)
        run = RunContext.root(floor.opened.run_id).child()
        await copy.grant(floor, ADA, run, 2e9)
        floor = await copy.floor()
        assert floor.open_grant is not None
        await copy.say(floor, floor.open_grant, "another way", run)
        assert told(await original.world(ADA, BOB)) == told(before)


async def test_no_run_of_a_fork_is_one_of_its_origin(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        original = await held(bus, "ids-a")
        copy = await fork(bus, original, "ids-b")
        runs = await runs_of(original)
        mine = await runs_of(copy)
        assert len(mine) == len(runs) > 1
        assert not mine & runs
        async with copy.log.read(f"{copy.subjects.base}.run.>") as journals:
            async for record in journals:
                run = run_of(record.headers)
                assert run is not None
                assert record.subject == copy.journal(run)
                assert json.loads(record.body) == {"run": run.run_id}
                assert run.root_run_id in mine


async def runs_of(conversation: Conversation) -> set[str]:
    async with conversation.log.read(f"{conversation.subjects.base}.>") as records:
        return {run.run_id async for record in records if (run := run_of(record.headers)) is not None}


async def test_what_a_fork_changes_is_its_opening() -> None:
    def salty(opened: Opened) -> Opened:
        return opened.model_copy(update={"topic": "salt"})

    async with memory_bus() as bus:
        original = await held(bus, "plain")
        copy = await fork(bus, original, "salty", None, salty)
        found = await difference(original, copy)
        assert (found.opened, found.turn, found.memories, found.equal) == (("topic",), 4, (), False)
        assert found.left is not None
        assert found.left.what == "closed"
        assert found.right is None


async def test_where_two_conversations_part() -> None:
    async with memory_bus() as bus:
        one = await held(bus, "one", turns=5)
        other = await fork(bus, one, "other", (await one.floor()).seq - 5)
        run = RunContext.root()
        floor = await other.floor()
        await other.grant(floor, ADA, run, 2e9)
        floor = await other.floor()
        assert floor.open_grant is not None
        await other.remember(ADA, [Remembered(text="mine", run_id=run.run_id)], run)
        await other.say(floor, floor.open_grant, "new", run)
        found = await difference(one, other)
        assert (found.opened, found.same, found.turn) == ((), 4, 4)
        assert found.left is not None
        assert found.right is not None
        assert (found.left.seat, found.left.text, found.right.seat, found.right.text) == (BOB, "words 5 é", ADA, "new")
        assert (found.more, found.memories) == ((1, 0), (ADA, BOB))
        assert (await difference(one, one)).equal


async def test_a_name_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    async with memory_bus() as bus:
        one, other = await held(bus, "one"), await held(bus, "other", turns=2)
        before = told(await other.world(ADA, BOB))
        for name in ("one", "other"):
            with pytest.raises(NameTaken, match="take another name"):
                await fork(bus, one, name)
        archive = open_archive(await exported(one, tmp_path / "a"))
        for wrong in (None, "other"):
            with pytest.raises(NameTaken):
                await import_archive(bus, archive, wrong)
        await fork(bus, one, "third", (await one.floor()).seq - 5)
        with pytest.raises(NameTaken):
            await fork(bus, other, "third")
        assert told(await other.world(ADA, BOB)) == before
        with pytest.raises(BadName):
            await fork(bus, one, "No Slug!")
        with pytest.raises(UnknownConversation):
            await fork(bus, await bus.conversation("nobody"), "fourth")


class Breaking(MemoryLog):
    """A log that takes so many more appends, and then stores what it is given without saying so.

    `crowded`: others write to it whenever a batch is meant for a place of its own.
    """

    def __init__(self, *, crowded: bool = False) -> None:
        super().__init__()
        self.takes = 1_000_000
        self._crowded = crowded

    async def append(self, draft: Draft) -> int:
        seq = await super().append(draft)
        self.takes -= 1
        if self.takes < 0:
            raise MaybeAppended(draft.subject, 0.0)
        return seq

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        if self._crowded and drafts[0].at is not None:
            await super().append(Draft("cv.00.others.stream.noise", b""))
        seqs = await super().append_batch(drafts)
        self.takes -= 1
        if self.takes < 0:
            raise MaybeAppended(drafts[0].subject, 0.0)
        return seqs


def bus_on(log: Log) -> Bus:
    """A bus whose only partition is this log."""

    async def partition(number: int) -> Log:
        return log

    async def existing() -> Mapping[int, Log]:
        return {0: log}

    async def queue(name: str, lease_s: float) -> WorkQueue:
        raise NotImplementedError

    return Bus(partition, partition, existing, queue, prefix="cv", partitions=1, where="memory")


@pytest.mark.parametrize("name", ["archive", "another"])
@pytest.mark.parametrize("crowded", [False, True])
async def test_a_copy_that_was_interrupted_anywhere_is_completed_by_making_it_again(
    name: str, crowded: bool, tmp_path: Path
) -> None:
    async with memory_bus() as bus, memory_bus() as whole:
        origin, notes = await held(bus, "archive", close=False), await bus.stream("archive/notes")
        for _ in range(1 if crowded else 4):
            await notes.append_all([b""] * 800)
        archive = open_archive(await exported(origin, tmp_path / "a"))
        wanted = await import_archive(whole, archive, name)
        takes = 0
        while True:
            log = Breaking(crowded=crowded)
            place = await bus_on(log).conversation(name)
            log.takes = takes
            try:
                await import_archive(bus_on(log), archive, name)
            except MaybeAppended:
                takes += 1
            else:
                break
            log.takes = 1_000_000
            await import_archive(bus_on(log), archive, name)
            assert told(await place.world(ADA, BOB)) == told(await wanted.world(ADA, BOB))
            assert sum((await log.subjects(f"{place.subjects.base}.>")).values()) == archive.count
        assert takes >= 4


async def test_a_stream_is_copied_with_its_snapshot_and_its_trim_and_kept_folds_are_not(tmp_path: Path) -> None:
    async with memory_bus() as bus, memory_bus() as there:
        conversation = await held(bus, "streamed")
        notes = await bus.stream("streamed/notes")
        positions = [await notes.append({"n": number}) for number in range(300)]
        await notes.snapshot({"upto": 99}, covers=positions[99])
        await notes.trim(positions[49])
        await conversation.memory(ADA)
        await notes.fold(Fold("count", int, int, lambda count, record: count + 1))
        copy = await import_archive(there, open_archive(await exported(conversation, tmp_path / "a")))
        theirs = await there.stream("streamed/notes")
        async with theirs.read(from_snapshot=True) as entries:
            assert entries.snapshot is not None
            assert entries.snapshot.body == b'{"upto":99}'
            assert [json.loads(entry.body)["n"] async for entry in entries] == list(range(100, 300))
        async with theirs.read(clamp=True) as entries:
            first = await anext(entries)
        assert json.loads(first.body) == {"n": 50}
        assert await theirs.trimmed() < first.position
        assert not [subject for subject in await copy.log.subjects(">") if ".fold." in subject]
