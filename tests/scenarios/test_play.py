"""Finding a party on the bus."""

import pytest

from convive.bus import Chair, RunContext, SeatName, memory_bus
from convive.scenarios import Party, PartyError
from convive.scenarios.cli._play import find, open_party

pytestmark = pytest.mark.anyio


async def test_a_conversation_that_is_no_party_is_not_taken_over() -> None:
    async with memory_bus() as bus:
        conversation = await bus.conversation("small-talk")
        await conversation.open(RunContext.root(), "the weather", [Chair(seat=SeatName("bob"))])
        with pytest.raises(PartyError, match="was not opened by `convive run`"):
            await find(bus, "small-talk")
        assert await find(bus, "nothing-here") is None


async def test_a_party_is_found_as_it_was_opened_but_for_its_secrets() -> None:
    async with memory_bus() as bus:
        party = Party(topic="Salt", seed=7)
        await open_party(bus, "soup", party)
        evening = await find(bus, "soup")
        assert evening is not None
        assert (evening.party.topic, evening.party.seed, evening.over) == ("Salt", 7, False)
        opened = (await evening.conversation.floor()).opened
        assert opened is not None
        for guest in party.guests:
            assert guest.intention
            assert guest.intention not in opened.body().decode()
            memory = (await evening.conversation.world(SeatName(guest.seat))).private[SeatName(guest.seat)].memory
            assert [one.text for one in memory.held] == [guest.intention]
