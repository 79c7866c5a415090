"""Guests at a whole table with a model that is not small: what it is asked for, and how often."""

import anyio
import pytest

from convive.agents import Request, Trace, host_seats, read_trace, supervise
from convive.agents.testing import ScriptedModel
from convive.bus import HOST, Said, SeatName, event_of, memory_bus
from convive.scenarios import Guest, Party
from convive.scenarios.cli._play import open_party
from convive.scenarios.party._scene import Persona
from convive.scenarios.party._table_guest import TableGuest

pytestmark = pytest.mark.anyio

ADA, HOST_PERSONA = Persona("Ada", "a mathematician", "sell an engine"), Persona("Host", "who keeps a table")


async def _party(model: ScriptedModel, seed: int = 0, traces: list[Trace] | None = None) -> list[str]:
    """What is said at a party of one guest and one turn; its trace is added to `traces`."""
    party = Party(topic="Salt", turns=1, guests=(Guest(seat="ada", name="Ada", about=ADA.about),))
    personas = {HOST: HOST_PERSONA, SeatName("ada"): ADA}
    said: list[str] = []
    async with memory_bus() as bus:
        evening = await open_party(bus, "soup", party)
        seats = {seat: TableGuest(persona, party.topic, model, seed) for seat, persona in personas.items()}
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(host_seats, evening.conversation, seats)
                tasks.start_soon(supervise, evening.conversation, party.plan(), evening.run)
        async with evening.conversation.read() as records:
            async for record in records:
                event = event_of(record)
                if isinstance(event, Said):
                    said.append(event.text)
        if traces is not None:
            traces.append(await read_trace(bus, "soup"))
    return said


@pytest.mark.parametrize(
    "line",
    [
        "My engine hums.",
        "I'm sorry, Ada, and I apologize.",
        "Salt",
        "Let me ask you this, Ada: would you leave the moon behind? I would carry it.",
        "Host: what would you give for salt?",
    ],
)
async def test_a_large_model_is_asked_once_for_a_speech_and_once_for_a_thought(line: str) -> None:
    """The opening, the guest's speech and thought, and the toast."""
    model = ScriptedModel(lambda _: line, name="anthropic/fake")
    said = await _party(model)
    assert len(model.requests) == 4
    assert len(said) == 3
    assert said[1] == line


async def test_a_large_model_that_said_nothing_is_asked_again() -> None:
    model = ScriptedModel(["Welcome.", "", "Salt is dear.", "A thought.", "Good night."], name="anthropic/fake")
    assert await _party(model) == ["Welcome.", "Salt is dear.", "Good night."]


async def test_every_request_has_a_seed_that_follows_from_that_of_the_party() -> None:
    def seeds(requests: list[Request]) -> list[int]:
        return [request.sampling.seed for request in requests if request.sampling.seed is not None]

    asked: list[list[int]] = []
    for seed in (3, 3, 4):
        model = ScriptedModel(lambda _: "My engine hums.", name="anthropic/fake")
        await _party(model, seed)
        asked.append(seeds(model.requests))
    assert len(asked[0]) == 4
    assert asked[0] == asked[1]
    assert asked[0] != asked[2]


async def test_a_thought_has_a_name_of_its_own_and_stands_beside_the_speech() -> None:
    traces: list[Trace] = []
    await _party(ScriptedModel(lambda _: "Salt is dear.", name="anthropic/fake"), traces=traces)
    turns = traces[0].roots[0].children
    assert [[run.name for run in turn.children] for turn in turns] == [["Host"], ["Ada", "Ada thinks"], ["Host"]]
