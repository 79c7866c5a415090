"""What the commands that take part in a conversation do: `run` holds a party, `sit` takes one seat of it."""

import importlib
import inspect
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio

from convive.agents import (
    STANDBY_S,
    Agent,
    AgentSeat,
    Choice,
    FunctionSeat,
    Models,
    Participant,
    choose_model,
    default_models,
    exporting,
    host_seats,
    local_available,
)
from convive.bus import (
    HOST,
    Bus,
    Closed,
    Conflict,
    Conversation,
    ConviveError,
    Floor,
    Joined,
    RunContext,
    SeatName,
    seat_name,
    slugify,
)
from convive.scenarios.cli._attend import agents_in, attend
from convive.scenarios.cli._commands import Where, show_replay, tell
from convive.scenarios.cli._display import Display
from convive.scenarios.cli._play import Evening, find, guest_at, hold, new_name, new_seed, open_party, participants
from convive.scenarios.cli._watch import Span
from convive.scenarios.party._party import Guest, Party, PartyError, choose_guests
from convive.scenarios.party._party_file import load_party, on_path, party_from

SCENARIOS = {"dinner-party": Party}


class BadAgent(ConviveError):
    """An agent reference that leads nowhere."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What `run` was asked for on the command line; None: not mentioned."""

    target: str | None = None
    guests: str | None = None
    turns: int | None = None
    topic: str | None = None
    policy: str | None = None
    seed: int | None = None
    remote: tuple[str, ...] = ()
    model: str | None = None
    conversation: str | None = None
    standby_s: float | None = None

    @property
    def fixed(self) -> list[str]:
        """The options that were given and that only a new conversation can take."""
        given = {
            "--guests": self.guests,
            "--turns": self.turns,
            "--topic": self.topic,
            "--policy": self.policy,
            "--seed": self.seed,
            "--remote": self.remote or None,
        }
        return [name for name, value in given.items() if value is not None]


async def run_party(wishes: Wishes, where: Where, display: Display) -> None:
    """Hold a party to its end; a conversation that exists is taken up where it stopped."""
    asked = wished_party(wishes)
    models = default_models()
    try:
        # A model that cannot be is told before anything is opened.
        participants(asked, models, _choice(wishes, asked).name)
        async with where.open() as bus:
            evening = await _evening(bus, wishes, asked, models)
            if evening.over:
                tell(f"{evening.conversation.id} is over.")
                await show_replay(evening.conversation, display, Span(), None)
                return
            choice = _choice(wishes, evening.party)
            seats = participants(evening.party, models, choice.name)
            await models.check()
            _banner(evening, choice, where, wishes.standby_s or 0.0)
            if bus.sync == "lazy":
                tell("The server acknowledges before it writes to disk (--fast): a power cut can cost two minutes.")
            await _hold_exported(evening, seats, display, wishes, where)
    finally:
        with anyio.CancelScope(shield=True):
            await models.aclose()


def wished_party(wishes: Wishes) -> Party:
    """The party that the target and the options describe. Raises PartyError."""
    party = _target(wishes.target or "dinner-party")
    given: dict[str, Any] = {name: getattr(party, name) for name in Party.model_fields}
    if wishes.guests is not None:
        given["guests"] = choose_guests(wishes.guests, party.guests)
    for name in ("turns", "topic", "policy", "seed", "model"):
        if (value := getattr(wishes, name)) is not None:
            given[name] = value
    given["guests"] = _with_remote(given["guests"], wishes.remote)
    return party_from(given, "this party")


def _with_remote(guests: tuple[Guest, ...], remote: tuple[str, ...]) -> tuple[Guest, ...]:
    seats = [guest.seat for guest in guests]
    for name in remote:
        if name not in seats:
            raise PartyError(f"--remote {name}: nobody of that name comes. Guests: {', '.join(seats)}.")
    return tuple(guest.model_copy(update={"remote": True}) if guest.seat in remote else guest for guest in guests)


def _target(target: str) -> Party:
    if target in SCENARIOS:
        return SCENARIOS[target]()
    path = Path(target)
    if path.suffix in (".toml", ".py"):
        return load_party(path)
    raise PartyError(
        f"there is no scenario {target!r}. Known: {', '.join(SCENARIOS)}; or give a file of your own (my-party.toml, "
        "my_party.py). A conversation is gone on with by its name: convive run --conversation NAME"
    )


async def _evening(bus: Bus, wishes: Wishes, asked: Party, models: Models) -> Evening:
    name = wishes.conversation
    if name is None:
        name = new_name(slugify(Path(wishes.target or "dinner-party").stem)[:50] or "party")
    found = await find(bus, name)
    if found is None:
        party = asked if asked.seed is not None else asked.model_copy(update={"seed": new_seed()})
        await models.check()
        try:
            return await open_party(bus, name, party)
        except Conflict:
            found = await find(bus, name)  # somebody opened it in this moment
            if found is None:
                raise
    if wishes.fixed:
        raise PartyError(
            f"the conversation {name} is there already, and {', '.join(wishes.fixed)} cannot change it. Leave that out "
            "to go on with it, or give another --conversation."
        )
    found = found.with_participants(asked) if wishes.target else found
    if wishes.model:
        found = replace(found, party=found.party.model_copy(update={"model": wishes.model}))
    return found


def _choice(wishes: Wishes, party: Party) -> Choice:
    return choose_model(wishes.model or party.model, os.environ, local_available())


def _banner(evening: Evening, choice: Choice, where: Where, standby_s: float) -> None:
    name = evening.conversation.id
    tell(f"{name}{' (going on)' if evening.resumed else ''} · {choice.name} ({choice.why})")
    if standby_s:
        tell(
            f"standing by: this process leads when whoever leads is {standby_s:g} s late, and takes over a guest's "
            f"turn when the process that has it is silent for {standby_s:g} s"
        )
    for guest in evening.party.guests:
        if guest.remote:
            tell(f"{guest.name} comes from elsewhere: convive sit {name} --as {guest.seat}{where.options}")


async def _hold_exported(
    evening: Evening, seats: Mapping[SeatName, Participant], display: Display, wishes: Wishes, where: Where
) -> None:
    """One process exports a trace, the one that leads: a standby may never have to."""
    if wishes.standby_s:
        await _hold(evening, seats, display, wishes, where)
        return
    async with exporting(evening.conversation, warn=tell):
        await _hold(evening, seats, display, wishes, where)


async def _hold(
    evening: Evening, seats: Mapping[SeatName, Participant], display: Display, wishes: Wishes, where: Where
) -> None:
    name = evening.conversation.id
    try:
        await hold(evening, seats, display, wishes.standby_s or 0.0, where.options)
    except BaseException:
        display.close()
        # The participants of a Python file are not on the bus: it is needed again.
        file = f"{shlex.quote(wishes.target)} " if wishes.target and wishes.target.endswith(".py") else ""
        again = f"convive run {file}--conversation {name}{where.options}"
        tell(f"Stopped. All that was said is kept; go on with:\n  {again}")
        raise
    display.close()
    tell(f"All of it is kept. See it again: convive replay {name}{where.options}")


@dataclass(frozen=True, slots=True)
class Sitting:
    """What `sit` was asked for on the command line; without an agent, the guest that was invited sits there."""

    seat: str
    agent: str | None = None
    about: str = ""
    model: str | None = None
    standby_s: float | None = None


async def sit(conversation: Conversation, wish: Sitting, evening: Evening | None, options: str = "") -> None:
    """Take one seat from this process until the conversation is closed. Raises BadAgent, Closed."""
    seat = seat_name(wish.seat)
    if seat == HOST:
        raise BadAgent("'host' is the supervisor's own seat; take another one.")
    models = default_models()
    choice = choose_model(wish.model or (evening.party.model if evening else None), os.environ, local_available())
    try:
        who = _participant(seat, wish.agent, evening, models, choice)
        floor = await conversation.floor()
        if floor.closed is not None:
            raise Closed(conversation.id)
        await _join(conversation, floor, seat, wish.about)
        tell(
            f"{seat} sits in {conversation.id}. Ctrl-C leaves the seat to whoever takes it next; to watch, elsewhere: "
            f"convive follow {conversation.id}{options}"
        )
        async with anyio.create_task_group() as beside:
            beside.start_soon(attend, conversation, None, agents_in({seat: who}), options, seat)
            await host_seats(conversation, {seat: who}, wish.standby_s or STANDBY_S)
            beside.cancel_scope.cancel()
        tell(f"{conversation.id} is over.")
    finally:
        with anyio.CancelScope(shield=True):
            await models.aclose()


def _participant(
    seat: SeatName, agent: str | None, evening: Evening | None, models: Models, choice: Choice
) -> Participant:
    if agent is not None:
        return load_participant(agent)
    guest = guest_at(evening, seat, models, choice.name) if evening else None
    if guest is None:
        raise BadAgent(f"nobody called {seat} was invited; say who sits there with --agent module:attribute.")
    return guest


async def _join(conversation: Conversation, floor: Floor, seat: SeatName, about: str) -> None:
    if any(chair.seat == seat and about in ("", chair.about) for chair in floor.seats):
        return
    run = (conversation.run_of(floor) or RunContext.root()).child()
    await conversation.aside(seat, Joined(about=about), run)


def load_participant(reference: str) -> Participant:
    """Whoever `module:attribute` names: an Agent, a participant, or an async function from a turn to words.

    Imports the module, with the current directory on the path. Raises BadAgent.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise BadAgent(f"{reference!r}: expected module:attribute, for example my_agents:ada")
    return as_participant(looked_up(reference, module_name, attribute), reference)


def looked_up(reference: str, module_name: str, attribute: str) -> object:
    """What a module of the user's has by that name; without a name, the module. Raises BadAgent.

    The current directory is on the path, now and for what the module imports later.
    """
    on_path(Path.cwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise BadAgent(f"{reference}: no module {error.name!r} is here or among the installed packages.") from error
    except (Exception, SystemExit) as error:
        raise BadAgent(f"{reference}: importing it failed with {type(error).__name__}: {error}.") from error
    if not attribute:
        return module
    if not hasattr(module, attribute):
        raise BadAgent(f"{reference}: the module {module_name} has no {attribute!r}.")
    found: object = getattr(module, attribute)
    return found


def as_participant(found: object, reference: str) -> Participant:
    """Anything that can sit in a seat, as a participant. Raises BadAgent."""
    if isinstance(found, Agent):
        return AgentSeat(found)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(found, type):
        return as_participant(found(), reference)
    if isinstance(found, Participant):
        return found
    if inspect.iscoroutinefunction(found):
        return FunctionSeat(found)
    raise BadAgent(
        f"{reference}: expected an Agent, an object with take_turn(turn), or an async function of a turn; found "
        f"{type(found).__name__}."
    )
