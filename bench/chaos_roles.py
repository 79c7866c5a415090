"""What each process of a chaos run does, until it is killed or its work is over."""

import argparse
import asyncio
import contextlib
import faulthandler
import hashlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import anyio

from chaos_record import Notes, Recorded, log_of, notes_of, value_of
from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    Pass,
    Plan,
    Request,
    RunTaken,
    Say,
    ToolUse,
    Turn,
    host_seats,
    supervise,
    tool,
)
from convive.agents.testing import ScriptedModel
from convive.bus import (
    Bus,
    BusUnavailable,
    Chair,
    Conflict,
    Conversation,
    ConviveError,
    Draft,
    Guard,
    Interjected,
    MaybeAppended,
    ProducerReplaced,
    Remembered,
    RunContext,
    RunId,
    SeatName,
    Stream,
    next_digest,
    open_bus,
)

SEATS = (SeatName("ada"), SeatName("bob"))
PLAIN = "plain"
STREAMS = 3
TURN_S = 3.0
END = "end"
"""The subject below `plain.stream` whose record tells followers that nothing comes behind it."""
LOST = 3
"""The exit code of a process that lost the bus."""
COUNTED = "counted"
"""The stream that producers count up in: `<id> <number>`."""
FOLLOWED = ("cv.00.*.bus.>", "cv.00.*.stream.*")
"""Without what goes with a stream, such as the marks of producers."""


class Thinker:
    """A seat whose agent asks another one by a tool, takes a moment, and remembers."""

    def __init__(self) -> None:
        async def pause() -> None:
            await anyio.sleep(0.01)

        helper = Agent("helper", model=ScriptedModel(lambda request: "So they say.", pause=pause))

        @tool
        async def ask() -> str:
            """Ask somebody."""
            return (await helper.prompt("What do they say?")).text

        call = Answer(parts=(ToolUse(id="1", name="ask", arguments={}),), stop_reason="tool_use")

        def answer(request: Request) -> Answer | str:
            asked = any(part.type == "tool_result" for part in request.messages[-1].parts)
            return f"I heard {len(request.messages)} things." if asked else call

        self._seat = AgentSeat(Agent("thinker", model=ScriptedModel(answer, pause=pause), tools=[ask]))

    async def take_turn(self, turn: Turn) -> Say | Pass:
        said = await self._seat.take_turn(turn)
        turn.remember(f"turn {turn.grant.turn}")
        turn.remember("so they say")
        return said


async def lead(bus: Bus, notes: Notes, given: argparse.Namespace) -> None:
    """Open the party if nobody has, and supervise it to its end."""
    party = await _party(bus, notes, given.party)
    run = RunContext.root(RunId(hashlib.blake2b(given.party.encode(), digest_size=16).hexdigest()))
    try:
        await party.floor()
    except ConviveError:
        wish = Remembered(text="to win", run_id=run.run_id)
        places = [place for seat in SEATS for place in await party.remember(seat, [wish], run)]
        with contextlib.suppress(Conflict):
            await party.open(run, "figs", [Chair(seat=seat) for seat in SEATS], memories=places)
    plan = Plan(given.turns, turn_s=TURN_S, grace_s=0.5, opens=False, toasts=False, standby_s=given.standby)
    await supervise(party, plan, run)


async def sit(bus: Bus, notes: Notes, given: argparse.Namespace) -> None:
    """Sit in a seat to the end of the party."""
    party = await _party(bus, notes, given.party)
    # Well before the turn is revoked, so that doubles do take turns over, also from those that were only stopped.
    await host_seats(party, {SeatName(given.seat): Thinker()}, TURN_S / 4)


async def heckle(bus: Bus, notes: Notes, given: argparse.Namespace) -> None:
    """Interject until the party is over."""
    party = await _party(bus, notes, given.party)
    run, number = RunContext.root(), 0
    while True:
        await anyio.sleep(0.4)
        with contextlib.suppress(ConviveError):
            if (await party.floor()).closed is not None:
                return
            number += 1
            await party.aside(SeatName("mara"), Interjected(text=f"{run.run_id} {number}"), run)


async def produce(bus: Bus, notes: Notes, given: argparse.Namespace) -> None:
    """Append to plain streams beside others: one, guarded or not, or many."""
    plain, chance = await _party(bus, notes, PLAIN), Random(given.seed)
    name = f"{given.seed}-{time.monotonic_ns()}"
    number = 0
    while True:
        number += 1
        subject = f"{plain.subjects.base}.stream.s{chance.randrange(STREAMS)}"
        body = f"{name}-{number}".encode()
        with contextlib.suppress(Conflict, MaybeAppended):
            match chance.randrange(3):
                case 0:
                    await plain.log.append(Draft(subject, body))
                case 1:
                    last = await plain.log.last(subject)
                    await plain.log.append(Draft(subject, body, guard=Guard(subject, last.seq if last else 0)))
                case _:
                    await plain.log.append_all([Draft(subject, body + f"/{part}".encode()) for part in range(10)])
        await anyio.sleep(chance.uniform(0, given.pause))


async def submit(bus: Bus, notes: Notes, given: argparse.Namespace) -> None:
    """Count up in a stream as a producer that others replace at any moment, and that replaces them."""
    plain, chance = await _party(bus, notes, PLAIN), Random(given.seed)
    stream = Stream(plain.log, plain.subjects.stream(COUNTED), f"{PLAIN}/{COUNTED}")
    while True:
        with contextlib.suppress(ProducerReplaced, MaybeAppended):
            async with stream.producer(given.name) as producer:
                number = producer.resumed_at
                for _ in range(chance.randrange(1, 60)):
                    for _ in range(chance.randrange(1, 8)):
                        await producer.submit(f"{given.name} {number}".encode())
                        number += 1
                    await anyio.sleep(chance.uniform(0, given.pause))


async def look(bus: Bus, notes: Notes, given: argparse.Namespace) -> None:
    """Read whole logs, and note what was seen."""
    plain, chance = await _party(bus, notes, PLAIN), Random(given.seed)
    while True:
        await anyio.sleep(chance.uniform(0, 4 * given.pause))
        found = [*{log_of(subject) for pattern in FOLLOWED for subject in await plain.log.subjects(pattern)}]
        if not found:
            continue
        wanted = chance.choice(sorted(found))
        call, position, digest = time.monotonic(), 0, ""
        async with plain.log.read(wanted) as records:
            async for record in records:
                position, digest = record.seq, next_digest(digest, value_of(record.subject, record.body))
        notes.write(log=wanted, call=call, **{"return": time.monotonic()}, position=position, digest=digest)


async def follow(bus: Bus, notes: Notes, given: argparse.Namespace) -> None:
    """Follow everything; after a kill, behind the last record that was noted."""
    seen = notes_of(Path(given.notes))
    last = seen[-1]["seq"] if seen else 0
    log = (await bus.conversation(PLAIN)).log
    async with log.follow(*FOLLOWED, after=last) as tail:
        async for record in tail:
            notes.write(seq=record.seq, subject=record.subject, value=value_of(record.subject, record.body))
            if record.subject.endswith(f".stream.{END}"):
                return


async def _party(bus: Bus, notes: Notes, name: str) -> Conversation:
    conversation = await bus.conversation(name)
    return Conversation(Recorded(conversation.log, notes), conversation.id, conversation.subjects)


Role = Callable[[Bus, Notes, argparse.Namespace], Awaitable[None]]
ROLES: dict[str, Role] = {
    "lead": lead,
    "sit": sit,
    "heckle": heckle,
    "produce": produce,
    "submit": submit,
    "look": look,
    "follow": follow,
}


async def _play(given: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, sys.exit, 0)
    loop.add_reader(0, sys.exit, LOST)  # whoever started this is gone
    lost = False
    try:
        async with open_bus(given.url, partitions=1, replicas=given.replicas, patience_s=20) as bus:
            await ROLES[given.role](bus, Notes(Path(given.notes)), given)
    except* (BusUnavailable, MaybeAppended, RunTaken):
        lost = True  # what a process may end with when servers die; the next one goes on
    if lost:
        sys.exit(LOST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--url", required=True)
    parser.add_argument("--notes", required=True)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--party", default="")
    parser.add_argument("--seat", default="")
    parser.add_argument("--name", default="")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--standby", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.1)
    faulthandler.register(signal.SIGUSR1)
    asyncio.run(_play(parser.parse_args()))


if __name__ == "__main__":
    main()
