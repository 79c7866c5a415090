"""Holding a party: open or resume the conversation, lead it, seat the guests, and show it."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import anyio

from convive.agents import STANDBY_S, Model, Models, Participant, host_seats, join_trace, standby, supervise
from convive.bus import (
    HOST,
    Bus,
    Chair,
    Conversation,
    Remembered,
    RunContext,
    SeatName,
    UnknownConversation,
)
from convive.scenarios.cli._attend import agents_in, attend
from convive.scenarios.cli._commands import tell
from convive.scenarios.cli._display import Display
from convive.scenarios.cli._watch import Span, watch
from convive.scenarios.party._guests import HOST as HOST_PERSONA
from convive.scenarios.party._party import Party, PartyError
from convive.scenarios.party._party_file import party_of
from convive.scenarios.party._scene import Persona
from convive.scenarios.party._table_guest import INTENTION, TableGuest


@dataclass(frozen=True, slots=True)
class Evening:
    """A conversation that stands on the bus, and the party that it is."""

    conversation: Conversation
    party: Party
    run: RunContext
    resumed: bool
    over: bool = False

    def with_participants(self, asked: Party) -> "Evening":
        """The same evening with the participants that a Python file brings for its seats."""
        own = {guest.seat: guest.participant for guest in asked.guests}
        guests = tuple(guest.model_copy(update={"participant": own.get(guest.seat)}) for guest in self.party.guests)
        return replace(self, party=self.party.model_copy(update={"guests": guests}))


def new_name(scenario: str) -> str:
    """A conversation id that is free, for all practical purposes: the scenario and 25 random bits."""
    return f"{scenario}-{''.join(secrets.choice('abcdefghjkmnpqrstuvwxyz23456789') for _ in range(5))}"


def new_seed() -> int:
    """A seed for a party that brings none."""
    return secrets.randbelow(1_000_000)


async def find(bus: Bus, name: str) -> Evening | None:
    """The party of that name that was opened before, or None. Raises BadName or PartyError."""
    try:
        conversation = await bus.existing(name)
        floor = await conversation.floor()
    except UnknownConversation:
        return None
    opened = floor.opened
    assert opened is not None  # noqa: S101 - `floor` raises otherwise
    party = party_of(opened.setting, f"conversation {name}")
    if party is None:
        raise PartyError(
            f"the conversation {name} was not opened by `convive run`: who leads it is not known here. Take a seat in "
            f"it (convive sit {name} --as NAME --agent module:attribute), or watch it (convive follow {name})."
        )
    run = conversation.run_of(floor) or RunContext.root(opened.run_id)
    return Evening(conversation, party, run, True, floor.closed is not None)


async def open_party(bus: Bus, name: str, party: Party) -> Evening:
    """Open a new conversation for a party. Raises BadName, or Conflict when somebody was first.

    Intentions are written into private memories first, and count with the first link: no guest ever sits there without
    one, or with that of a party which came to nothing. It is part of the trace that `TRACEPARENT` names, if one does.
    """
    conversation = await bus.conversation(name)
    run = join_trace()
    places: list[int] = []
    for guest in party.guests:
        if guest.intention:
            memory = Remembered(text=guest.intention, kind=INTENTION, run_id=run.run_id)
            places += await conversation.remember(SeatName(guest.seat), [memory], run)
    host = Chair(seat=HOST, name=party.host, about=HOST_PERSONA.about)
    guests = [Chair(seat=SeatName(guest.seat), name=guest.name, about=guest.about) for guest in party.guests]
    await conversation.open(run, party.topic, [host, *guests], party.public(), memories=places)
    return Evening(conversation, party, run, resumed=False)


def participants(party: Party, models: Models, default_model: str) -> dict[SeatName, Participant]:
    """Who sits in this process: the host, and every guest that is not remote. Raises UnknownModel."""
    host = Persona(party.host, HOST_PERSONA.about, HOST_PERSONA.intention, HOST_PERSONA.samples, HOST_PERSONA.openers)
    fallback = party.model or default_model
    seats: dict[SeatName, Participant] = {HOST: _at_table(host, party, models.resolve(fallback))}
    for guest in party.guests:
        if guest.remote:
            continue
        if guest.coded and guest.participant is None:
            raise PartyError(
                f"{guest.name} is code from a Python file: give that file as well (convive run my_party.py "
                "--conversation NAME, convive redrive NAME my_party.py), or seat them with `convive sit` and --remote."
            )
        seats[SeatName(guest.seat)] = guest.participant or _at_table(
            guest.persona(), party, models.resolve(guest.model or fallback)
        )
    return seats


def guest_at(evening: Evening, seat: SeatName, models: Models, default_model: str) -> Participant | None:
    """The guest of that seat as the party describes it, or None when nobody of that name was invited."""
    party = evening.party
    guest = next((guest for guest in party.guests if guest.seat == seat), None)
    if guest is None:
        return None
    return _at_table(guest.persona(), party, models.resolve(guest.model or party.model or default_model))


def _at_table(persona: Persona, party: Party, model: Model) -> TableGuest:
    return TableGuest(persona, party.topic, model, party.seed or 0)


async def hold(
    evening: Evening,
    seats: Mapping[SeatName, Participant],
    display: Display,
    standby_s: float = 0.0,
    options: str = "",
) -> None:
    """Lead a party to its end while showing it from its beginning, and have somebody answer what its guests wait for.

    With `standby_s`, only when whoever leads is that late, and a turn that another process has begun is taken over when
    that one has been silent as long. `options` are what another command has to be told to come to the same bus.

    Raises ConviveError (also inside an ExceptionGroup) when a model or the bus fails for good; the log stays whole and
    `find` goes on from there.
    """
    plan = standby(evening.party.plan(), standby_s)

    def told(leads: bool, turn: int) -> None:
        with display.paused():
            where = f"at turn {turn}" if turn else "before the first turn"
            tell(f"took over {where}" if leads else f"another process leads since turn {turn}; this one stands by")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, evening.conversation, seats, standby_s or STANDBY_S)
        tasks.start_soon(supervise, evening.conversation, plan, evening.run, time.time, told)
        async with anyio.create_task_group() as beside:
            beside.start_soon(attend, evening.conversation, display, agents_in(seats), options)
            await watch(evening.conversation, display, Span())
            beside.cancel_scope.cancel()
