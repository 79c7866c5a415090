"""A conversation: the writes that the floor protocol allows, and the reads that everything is folded from."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from convive.bus.conversation._events import (
    AsideEvent,
    Chair,
    Ended,
    FloorEvent,
    Granted,
    Opened,
    Passed,
    Remembered,
    Revoked,
    Said,
    Whispered,
)
from convive.bus.conversation._floor import Floor, OpenGrant, fold_floor
from convive.bus.conversation._memory import Memory
from convive.bus.conversation._seat_memory import memory_fold
from convive.bus.conversation._world import World
from convive.bus.log._errors import BadName, Closed, Conflict, UnknownConversation
from convive.bus.log._folds import Fold, Folded, State, fold_records
from convive.bus.log._ids import HOST, ConversationId, RunId, SeatName, seat_name
from convive.bus.log._log import Draft, Guard, Log, Record, Tail
from convive.bus.log._runs import RunContext
from convive.bus.log._subjects import Subjects


class Conversation:
    """One conversation on one log. Cheap to make: nothing is read or written before a method is called.

    The writing methods take the `Floor` that the writer has folded. They raise Conflict when the server
    holds a newer link: nothing was appended then; fold on and decide again. They may raise MaybeAppended, and
    calling them again with the same arguments is safe; NewerRecord, behind a link that a newer version wrote.
    """

    def __init__(self, log: Log, conversation: ConversationId, subjects: Subjects) -> None:
        self.id = conversation
        self.log = log
        self.subjects = subjects

    # The floor

    async def open(
        self,
        run: RunContext,
        topic: str,
        chairs: Sequence[Chair] = (),
        setting: object = None,
        *,
        memories: Sequence[int] | None = None,
    ) -> int:
        """The first link. `memories` are the places that `remember` returned under `run`; None: all of them.

        Raises Conflict when a conversation of that name exists, and BadName for chairs at no seats, or at one together.
        """
        seats = [seat_name(chair.seat) for chair in chairs]
        if len(set(seats)) < len(seats):
            raise BadName(f"two chairs are at one seat; the seats are: {', '.join(seats)}.")
        opened = Opened.model_validate(
            {
                "run_id": run.run_id,
                "topic": topic,
                "chairs": tuple(chairs),
                "setting": setting,
                "memories": _places(memories),
            }
        )
        try:
            return await self._append_link(HOST, opened, 0, run)
        except Conflict:
            floor = await self._folded(None)
            if floor.opened is not None:
                raise
            if floor.newer is not None:  # it may have been opened
                raise floor.newer from None
            # Nothing but records that are not ours stands there.
            return await self._append_link(HOST, opened, floor.seq, run)

    async def grant(
        self, floor: Floor, seat: SeatName, turn_run: RunContext, deadline_s: float, cue: str | None = None
    ) -> int:
        """Give the floor to a seat for the next turn; `turn_run` is the run of that turn."""
        granted = Granted(
            link=floor.links,
            turn=floor.turn + 1,
            seat=seat,
            run_id=turn_run.run_id,
            deadline_s=deadline_s,
            cue=cue,
        )
        return await self._link(floor, HOST, granted, turn_run)

    async def say(
        self,
        floor: Floor,
        held: OpenGrant,
        text: str,
        run: RunContext,
        *,
        data: object = None,
        memories: Sequence[int] | None = None,
    ) -> int:
        """Use the floor: commits the turn, and with it what the seat remembered in it.

        `memories` are the places that `remember` returned for this turn; None: whatever carries its run id.
        """
        said = Said.model_validate(
            {
                "link": floor.links,
                "turn": held.grant.turn,
                "run_id": held.grant.run_id,
                "text": text,
                "data": data,
                "memories": _places(memories),
            }
        )
        return await self._answer(floor, held, said, run)

    async def pass_on(
        self,
        floor: Floor,
        held: OpenGrant,
        run: RunContext,
        reason: str = "",
        *,
        memories: Sequence[int] | None = None,
    ) -> int:
        """Give the floor back without a word. `memories` as in `say`."""
        passed = Passed(
            link=floor.links,
            turn=held.grant.turn,
            run_id=held.grant.run_id,
            reason=reason,
            memories=_places(memories),
        )
        return await self._answer(floor, held, passed, run)

    async def revoke(self, floor: Floor, held: OpenGrant, run: RunContext, reason: str) -> int:
        """Take the floor back. When the seat spoke first, the server refuses this with Conflict."""
        revoked = Revoked(link=floor.links, turn=held.grant.turn, run_id=held.grant.run_id, reason=reason)
        return await self._link(floor, HOST, revoked, run)

    async def close(self, floor: Floor, run: RunContext, reason: str = "") -> int:
        """The last link."""
        return await self._link(floor, HOST, Ended(link=floor.links, reason=reason), run)

    async def _answer(self, floor: Floor, held: OpenGrant, event: Said | Passed, run: RunContext) -> int:
        if floor.open_grant != held:
            raise Conflict(self.subjects.link(held.grant.seat), held.seq, floor.seq)
        return await self._link(floor, held.grant.seat, event, run)

    async def _link(self, floor: Floor, author: SeatName, event: FloorEvent, run: RunContext) -> int:
        if floor.closed is not None:
            raise Closed(self.id)
        if floor.newer is not None:  # what this link would follow is not known here
            raise floor.newer
        return await self._append_link(author, event, floor.seq, run)

    async def _append_link(self, author: SeatName, event: FloorEvent, after: int, run: RunContext) -> int:
        # No id: the guard lets the server store a link once, and the link itself tells our own from a rival's.
        guard = Guard(self.subjects.floor, after)
        return await self.log.append(Draft(self.subjects.link(author), event.body(), run.headers(), guard=guard))

    # Beside the floor

    async def aside(self, author: SeatName, event: AsideEvent, run: RunContext) -> int:
        """Append without the floor: joined, left, interjected, noted."""
        return await self.log.append(Draft(self.subjects.aside(author), event.body(), run.headers()))

    async def whisper(self, to: SeatName, event: Whispered, run: RunContext) -> int:
        """A private message to one seat."""
        return await self.log.append(Draft(self.subjects.inbox(to), event.body(), run.headers()))

    async def remember(self, seat: SeatName, memories: Sequence[Remembered], run: RunContext) -> list[int]:
        """Append to a seat's private memory, pipelined.

        Memories with a `run_id` count once that turn is committed. The same memory of the same run is stored once.
        """
        drafts = [
            Draft(
                self.subjects.memory(seat),
                body,
                run.headers(),
                id=_digest(seat.encode(), run.run_id.encode(), body),
            )
            for body in (memory.body() for memory in memories)
        ]
        return await self.log.append_all(drafts)

    # Reading

    def world_subjects(self, *seats: SeatName) -> tuple[str, ...]:
        """The bus, and the memory and inbox of these seats: what a process that hosts them subscribes to."""
        each = dict.fromkeys(seats)  # a server refuses subjects that overlap
        private = [subject for seat in each for subject in (self.subjects.memory(seat), self.subjects.inbox(seat))]
        return (self.subjects.bus, *private)

    def read(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        since_s: float | None = None,
        seats: Sequence[SeatName] = (),
    ) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """The records that are there now, in order; then it ends."""
        return self.log.read(*self.world_subjects(*seats), after=after, until=until, since_s=since_s)

    def follow(
        self, *, after: int = 0, since_s: float | None = None, seats: Sequence[SeatName] = ()
    ) -> AbstractAsyncContextManager[Tail]:
        """The records, and then those that come."""
        return self.log.follow(*self.world_subjects(*seats), after=after, since_s=since_s)

    async def floor(self, until: int | None = None, *, strict: bool = False) -> Floor:
        """The floor now, or as it was at a sequence number. Raises UnknownConversation.

        Records that are not ours or break the protocol are counted in the floor's `damage`; `strict` raises BadRecord
        for the first of them.
        """
        floor = await self._folded(until)
        if strict and floor.damage:
            raise floor.damage[0]
        if floor.opened is None:
            raise UnknownConversation(self.id)
        return floor

    async def _folded(self, until: int | None) -> Floor:
        floor = Floor()
        async with self.read(until=until) as records:
            async for record in records:
                floor = fold_floor(floor, record)
        return floor

    async def fold(
        self, fold: Fold[State], *subjects: str, until: int | None = None, keep: bool = True
    ) -> Folded[State]:
        """A state of your own from records of this conversation (by default those of the bus), as it is now or was at a
        sequence number. It is kept beside them, so that the next fold begins there: see `Fold`, and `fold_records`."""
        chosen = subjects or (self.subjects.bus,)
        return await fold_records(self.log, chosen, fold, self.subjects.folds, until=until, keep=keep)

    async def memory(self, seat: SeatName, until: int | None = None) -> list[Memory]:
        """What a seat remembers now, or did at a sequence number, begun from what was kept. Empty where nobody sits."""
        subjects = (self.subjects.floor, self.subjects.memory(seat))
        return (await self.fold(memory_fold(seat), *subjects, until=until)).state.memory.held

    async def world(self, *seats: SeatName, until: int | None = None, strict: bool = False) -> World:
        """What these seats know now, or knew at a sequence number. Raises UnknownConversation.

        Bad records are told of in the world's `bad` and its floor's `damage`; `strict` raises BadRecord for the first.
        """
        world = World(*seats)
        async with self.read(until=until, seats=seats) as records:
            async for record in records:
                world.apply(record)
                if strict and (bad := (*world.floor.damage, *world.bad)):
                    raise bad[0]
        if world.floor.opened is None:
            raise UnknownConversation(self.id)
        return world

    def journal(self, run: RunContext) -> str:
        """The subject of a run's journal."""
        return self.subjects.journal(run.root_run_id, run.run_id)

    def run_of(self, floor: Floor) -> RunContext | None:
        """The run of the conversation itself: the root of every turn in it."""
        if floor.opened is None:
            return None
        own = RunId(floor.opened.run_id)
        return RunContext(own, own, joined=floor.joined)


def _places(memories: Sequence[int] | None) -> tuple[int, ...] | None:
    """The places that a link names, each once: the same thing remembered twice in a turn is one memory."""
    return None if memories is None else tuple(dict.fromkeys(memories))


def _digest(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=12).hexdigest()
