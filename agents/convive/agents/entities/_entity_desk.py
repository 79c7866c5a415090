"""What the jobs of one host share: who is at work on which entity, states that were read, and what was delivered."""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import anyio

from convive.agents.entities._entity_commit import OF_THE_HOST, outgoing_of
from convive.agents.entities._entity_post import deliver
from convive.agents.entities._entity_reading import read_entity, read_on
from convive.agents.entities._entity_records import EntityName, Woken
from convive.agents.entities._entity_state import EntityState, Waiting
from convive.agents.journal._chain import Chain, RunTaken
from convive.agents.journal._journal import Place, RunFailed, RunFinished
from convive.agents.models._schema import json_of
from convive.agents.queues._worker import RETRY_MOST_S
from convive.agents.runs._audience import Observers
from convive.bus import BadRecord, Bus, RunContext

DELIVERED = 10_000
"""Entities of which a host knows that their last letters were delivered; of others it delivers them again."""

STATES = 256
"""Entities whose states a host keeps, so that a job reads what is new and not all that waits."""

Begun = Callable[[Place, RunContext], Awaitable[Observers | None]]
"""Hears of each wake that a host takes up, before its handler runs: where its journal stands, and its run. It may give
observers, which hear of the agents that the handler calls."""

_log = logging.getLogger("convive.agents")


class AtWork:
    """A job that is at work on an entity: it looks for a letter to handle, handles it, looks again, and so on."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.handles = False
        """Whether it has claimed a letter: then it looks again before it ends, or stays that entity's job."""
        self._looked, self._ended = anyio.Event(), anyio.Event()

    def looks(self) -> None:
        if self.handles:
            self.handles, self._looked = False, anyio.Event()

    def claims(self) -> None:
        self.handles = True
        self._looked.set()

    def ends(self) -> None:
        self.handles = False
        self._looked.set()
        self._ended.set()

    async def looked(self) -> None:
        """Wait until it has claimed a letter, or has ended."""
        await self._looked.wait()

    async def ended(self) -> None:
        """Wait until it has ended."""
        await self._ended.wait()


class Desk:
    """Shared by the jobs of one host."""

    def __init__(self, bus: Bus, retry_s: float, begun: Begun | None = None) -> None:
        self.bus = bus
        self.retry_s = retry_s
        self._begun = begun
        self.busy: dict[str, AtWork] = {}
        """Entities that a job of this host is at work on."""
        self._states: OrderedDict[str, EntityState] = OrderedDict()
        self._delivered: OrderedDict[str, int] = OrderedDict()

    async def state_of(self, name: EntityName, place: Place) -> EntityState:
        """An entity as it is now, for the caller alone until it is given to `keep`."""
        state = self._states.pop(str(name), None)
        if state is None:
            return await read_entity(place.log, place.base, name)
        return await read_on(state, place.log, place.base)

    def keep(self, state: EntityState) -> None:
        """Keep a state for the next job."""
        self._states[state.name] = state
        self._states.move_to_end(state.name)
        if len(self._states) > STATES:
            self._states.popitem(last=False)

    async def settle_last(self, name: EntityName, place: Place, state: EntityState, chain: Chain | None) -> None:
        """Deliver what the last commit sends, and end its run, if it is not known that this was done.

        `chain` is the journal of the last wake, if it was carried out here."""
        last, handled = state.last, state.last_handled
        if last is None or handled is None or self._delivered.get(state.name, 0) >= last.wake:
            return
        own = handled.letter.kind not in OF_THE_HOST
        await deliver(self.bus, name, last, outgoing_of(state, last), handled.run if own else handled.sender_run)
        if own:
            await _end(place, handled, last, chain)
        self._delivered[state.name] = last.wake
        self._delivered.move_to_end(state.name)
        if len(self._delivered) > DELIVERED:
            self._delivered.popitem(last=False)

    async def begin(self, place: Place, run: RunContext) -> tuple[Observers, ...]:
        """Tell whoever wants to hear of it that a wake is taken up. Returns who is to hear of its agents."""
        observers = None if self._begun is None else await self._begun(place, run)
        return () if observers is None else (observers,)

    def delay_s(self, attempt: int) -> float:
        """How long until something is tried again."""
        return min(self.retry_s * 2.0 ** min(attempt - 1, 60), RETRY_MOST_S)


async def _end(place: Place, handled: Waiting, last: Woken, chain: Chain | None) -> None:
    text = json_of(last.result) if last.finished else ""
    end = RunFinished(text=text) if last.error is None else RunFailed(error="WakeFailed", message=last.error)
    try:
        while True:
            if chain is None:
                chain = Chain(place, handled.run)
                await chain.read()
            if chain.state.started is None or chain.state.ended is not None:
                return
            try:
                await chain.append(end)
            except RunTaken:
                chain = None  # somebody else ended it, most likely
    except BadRecord as error:  # the commit is what counts
        _log.info("%s: %s", handled.run_id, error)
