"""A conversation that a newer version writes is left to it: no link is appended behind one that cannot be read here."""

import json
import sys

import pytest

from convive.bus import (
    FLOOR,
    HOST,
    Chair,
    Conversation,
    Draft,
    NewerRecord,
    RunContext,
    SeatName,
    World,
    memory_bus,
)
from convive.bus.conversation._events import SCHEMA
from convive.bus.conversation._floor import SAMPLES
from convive.bus.testing import Records

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")
RUN = RunContext.root()
NEWER = json.dumps({"type": "lent", "schema": SCHEMA + 1, "link": 1}).encode()


async def write(conversation: Conversation, body: bytes, times: int = 1) -> None:
    for _ in range(times):
        await conversation.log.append(Draft(conversation.subjects.link(HOST), body))


async def test_a_conversation_that_a_newer_version_opened_is_not_opened_again() -> None:
    async with memory_bus() as bus:
        table = await bus.conversation("table")
        await write(table, NEWER)
        end = await table.log.end()
        with pytest.raises(NewerRecord, match="update convive"):
            await table.open(RUN, "figs", [Chair(seat=ADA)])
        assert await table.log.end() == end


@pytest.mark.parametrize("damaged", [0, SAMPLES, 3 * SAMPLES])
async def test_a_newer_link_is_seen_however_much_damage_came_before_it(damaged: int) -> None:
    async with memory_bus() as bus:
        table = await bus.conversation("table")
        await table.open(RUN, "figs", [Chair(seat=ADA)])
        await write(table, b"junk", damaged)
        await write(table, NEWER, 2)
        await write(table, b"junk", SAMPLES)
        floor = await table.floor()
        assert len(floor.damage) == SAMPLES
        assert floor.damaged == damaged + 2 + SAMPLES
        with pytest.raises(NewerRecord) as refused:
            await table.grant(floor, ADA, RUN.child(), 2e9)
        assert refused.value.seq == damaged + 2


async def test_a_floor_that_was_kept_still_knows_of_the_newer_link() -> None:
    async with memory_bus() as bus:
        table = await bus.conversation("table")
        await table.open(RUN, "figs", [Chair(seat=ADA)])
        await write(table, NEWER)
        await write(table, b"junk", 300)
        assert (await table.fold(FLOOR)).folded == 302
        kept = await table.fold(FLOOR)
        assert kept.folded == 0
        with pytest.raises(NewerRecord, match="update convive"):
            await table.grant(kept.state, ADA, RUN.child(), 2e9)


def test_who_keeps_what_was_wrong_does_not_keep_the_records() -> None:
    """An error holds the frames that it went through, and these the record."""
    records, world = Records(), World(ADA)
    subjects = records.subjects
    for subject in (subjects.memory(ADA), subjects.inbox(ADA), subjects.aside(ADA), subjects.link(ADA)):
        body = b"%b%b" % (subject.encode(), b"x" * 1_000_000)
        alone = sys.getrefcount(body)
        world.apply(records.raw(subject, body))
        for other in range(100):  # what the latest folds were given is remembered for a moment
            world.apply(records.raw(subjects.aside(ADA), b"%d" % other))
        assert sys.getrefcount(body) == alone
    assert len(world.bad) == 2
    assert len(world.floor.damage) == SAMPLES
