"""Seats: what follows the bus, and takes the floor when it is granted.

All seats of one process share one subscription and one fold of the bus, since only one of them can have the floor.
"""

import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

import anyio
import anyio.abc
import anyio.lowlevel

from convive.agents.journal._chain import RunTaken
from convive.agents.models._errors import ModelError
from convive.agents.models._schema import check_number
from convive.agents.seats._doubles import LOOKS, STANDBY_S, patience_after, present_after, until_silent
from convive.agents.seats._turn import Known, Participant, Pass, Say, Turn
from convive.bus import (
    Conflict,
    Conversation,
    Floor,
    NotAppended,
    OpenGrant,
    Record,
    SeatName,
    World,
)

_log = logging.getLogger("convive.agents")


async def host_seats(
    conversation: Conversation, participants: Mapping[SeatName, Participant], standby_s: float = STANDBY_S
) -> Floor:
    """Sit in these seats until the conversation is closed, and return its floor.

    Finds a grant that was open when this process started, and takes that turn with its old run id. Where another
    process sits in the same seat, the turn is that one's who was first; this one takes it over when the other has shown
    no sign of life for `standby_s`. A process whose event loop is blocked for so long shows none.

    Raises what a participant raised, alone or in an ExceptionGroup.
    """
    for name, each in participants.items():
        if not hasattr(each, "take_turn"):
            kind = type(each).__name__
            raise TypeError(f"in seat {name!r} sits a participant, such as AgentSeat(agent), and {kind} is none.")
    check_number("standby_s", standby_s)
    if not standby_s:
        raise ValueError("standby_s=0: a process that takes over without waiting takes every turn of its double.")
    hosts = _Hosts(conversation, participants, standby_s)
    async with conversation.follow(seats=sorted(participants)) as tail, anyio.create_task_group() as tasks:
        while True:
            while (record := await tail.catch_up()) is not None:
                hosts.apply(record)
            hosts.attend(tasks)
            if hosts.floor.closed is not None:
                break
            if (record := await tail.next()) is not None:
                hosts.apply(record)
        tasks.cancel_scope.cancel()
    return hosts.floor


@dataclass(frozen=True, slots=True)
class _Held:
    """A grant to one of our seats, and what that seat knew when it was given."""

    open_grant: OpenGrant
    floor: Floor
    known: Known


class _Hosts:
    def __init__(
        self, conversation: Conversation, participants: Mapping[SeatName, Participant], standby_s: float
    ) -> None:
        self._conversation = conversation
        self._participants = participants
        self._standby_s = standby_s
        self._world = World(*participants)
        self._held: _Held | None = None
        self._attended = 0
        self._started = False
        self._scope: anyio.CancelScope | None = None

    @property
    def floor(self) -> Floor:
        return self._world.floor

    def apply(self, record: Record) -> None:
        """Fold one record; when it is a grant to one of our seats, note what that seat knows at this place."""
        world = self._world
        world.apply(record)
        held = world.floor.open_grant
        if held is None or held.seq != record.seq or held.grant.seat not in self._participants:
            return
        self._held = _Held(held, world.floor, Known.now(world, held.grant.seat))

    def attend(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start the turn that was granted to one of our seats; end one that was taken away."""
        now = self._world.floor.open_grant
        if self._scope is not None and (now is None or now.seq != self._attended):
            self._scope.cancel()
            self._scope = None
        held = self._held
        if now is not None and held is not None and held.open_grant == now and now.seq != self._attended:
            self._attended = now.seq
            self._scope = anyio.CancelScope()
            # A grant that stood here before we came may have been begun by a process that is gone.
            tasks.start_soon(self._take, self._turn(held, resumed=not self._started), held, self._scope, tasks)
        self._started = True

    async def _take(self, turn: Turn, held: _Held, scope: anyio.CancelScope, tasks: anyio.abc.TaskGroup) -> None:
        with scope:
            outcome = await self._outcome(turn, tasks)
            if self._scope is scope:
                self._scope = None  # from here on a revocation is the server's to judge
            await self._commit(turn, held.open_grant, outcome)

    async def _outcome(self, turn: Turn, tasks: anyio.abc.TaskGroup) -> Say | Pass:
        patience_s = self._standby_s
        if turn.resumed:
            await self._until_free(turn)
        while True:
            began_s = anyio.current_time()
            try:
                async with self._present(turn, tasks):
                    outcome = await self._participants[turn.seat].take_turn(turn)
            except ModelError as error:
                if error.mendable:
                    raise
                return Pass(str(error))
            except RunTaken:
                # Another process sits in this seat and was first. When it has spoken, this task is cancelled.
                patience_s = patience_after(patience_s, anyio.current_time() - began_s)
                await until_silent(self._conversation, turn.run, patience_s)
                turn.resumed = True
                turn.to_remember.clear()
            except Exception as error:
                error.add_note(f"in the seat {turn.seat}, turn {turn.grant.turn}")
                raise
            else:
                return _checked(outcome, turn)

    @contextlib.asynccontextmanager
    async def _present(self, turn: Turn, tasks: anyio.abc.TaskGroup) -> AsyncGenerator[None]:
        """Be found at a turn that takes its time. One that does not is over before anybody would ask, and costs none of
        the server's; one that is gone on with may be asked for at any moment."""
        if turn.resumed:
            async with self._conversation.log.present(self._journal(turn)):
                yield
            return
        scope = anyio.CancelScope()
        after_s = min(present_after(_time_of(turn)), self._standby_s / LOOKS / 2)

        async def stay() -> None:
            with scope:
                await anyio.sleep(after_s)
                async with self._conversation.log.present(self._journal(turn)):
                    await anyio.sleep_forever()

        # No timer of the loop: AnyIO starts no task from one where the loop is not its own.
        tasks.start_soon(stay)
        try:
            await anyio.lowlevel.checkpoint()  # a guest that leaves the process at once leaves no task that never began
            yield
        finally:
            scope.cancel()

    async def _until_free(self, turn: Turn) -> None:
        """Whoever began this turn may still be at it; when the server knows of nobody, it is free at once."""
        await anyio.sleep(2 * present_after(_time_of(turn)))
        if await self._conversation.log.is_present(self._journal(turn), self._standby_s / LOOKS) is not False:
            await until_silent(self._conversation, turn.run, self._standby_s)

    def _journal(self, turn: Turn) -> str:
        return self._conversation.subjects.journal(turn.run.root_run_id, turn.run.run_id)

    def _turn(self, held: _Held, *, resumed: bool) -> Turn:
        grant, above = held.open_grant.grant, self._conversation.run_of(held.floor)
        assert above is not None  # noqa: S101 - a floor with an open grant was opened
        run = above.child(grant.run_id)
        return Turn(self._conversation, grant.seat, grant, held.floor, run, held.known, resumed)

    async def _commit(self, turn: Turn, held: OpenGrant, outcome: Say | Pass) -> None:
        with contextlib.suppress(Conflict):  # the floor was taken away: neither said nor remembered
            try:
                await self._answer(turn, held, outcome)
            except Conflict:
                raise
            except NotAppended as error:
                # What the log can never take would be tried again by every restart.
                turn.to_remember.clear()
                await self._answer(turn, held, Pass(str(error)))

    async def _remember(self, turn: Turn) -> list[int]:
        try:
            return await self._conversation.remember(turn.seat, turn.to_remember, turn.run)
        except NotAppended as error:
            _log.warning("%s forgets what it noted in turn %d: %s", turn.seat, turn.grant.turn, error)
            return []

    async def _answer(self, turn: Turn, held: OpenGrant, outcome: Say | Pass) -> None:
        memories = await self._remember(turn)
        floor = turn.floor
        while True:
            try:
                match outcome:
                    case Say():
                        await self._conversation.say(floor, held, outcome.text, turn.run, memories=memories)
                    case Pass():
                        await self._conversation.pass_on(floor, held, turn.run, outcome.reason, memories=memories)
            except Conflict:
                floor = await self._conversation.floor()
                if floor.open_grant != held:
                    raise
                # What came first is no valid link, and the floor is still ours.
            else:
                return


def _checked(outcome: object, turn: Turn) -> Say | Pass:
    if isinstance(outcome, Say | Pass):
        return outcome
    raise TypeError(f"{turn.seat} answered turn {turn.grant.turn} with {type(outcome).__name__}, not with Say or Pass")


def _time_of(turn: Turn) -> float:
    """How long a turn may take, in seconds."""
    return max(0.0, turn.grant.deadline_s - turn.floor.at_s)
