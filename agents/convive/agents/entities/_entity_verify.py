"""Whether an entity is whole: its commits, the journals of its wakes, its letters, and those that it sent."""

from collections.abc import Mapping
from dataclasses import dataclass

import anyio

from convive.agents.entities._entity_client import AT_ONCE, look
from convive.agents.entities._entity_commit import OF_THE_HOST
from convive.agents.entities._entity_exchange import Exchange, Number, counted, exchange_of, same, shown
from convive.agents.entities._entity_post import place_of_entity
from convive.agents.entities._entity_reading import Forgotten, first_state
from convive.agents.entities._entity_records import EntityName, carrier_of
from convive.agents.entities._entity_state import EntityState, NotDue, Waiting, commits_of, mailbox_of
from convive.agents.journal._journal import Place
from convive.agents.journal._verify_journals import JournalVerification, RunFate
from convive.bus import Bus, Finding, FindingKind, Record, RunId, Verification, Verified, WorkQueue

CONTENT = ("run", "stream.mailbox", "stream.entity")
"""What the content head of an entity is of: all but what follows from it, and where it was trimmed."""


@dataclass(frozen=True, slots=True)
class EntityVerdict:
    """What `verify_entity` has to say."""

    state: EntityState
    bus: Verified
    runs: Mapping[RunFate, int]
    """How many runs came to what."""
    letters: int
    """Letters in the mailbox."""
    again: int
    """How many of them came another time, and did not count."""
    sent: int
    """Letters to other entities."""
    under_way: int
    """Those of the last wake that are not delivered yet."""
    elsewhere: int
    """Those from entities that are not on this bus, as where an entity was imported alone: nobody can say."""
    counts: Mapping[FindingKind, int]
    """How many findings there are of each kind; none: the entity is whole."""
    findings: tuple[Finding, ...]
    """Of each kind the first hundred, in the order of the log."""

    @property
    def whole(self) -> bool:
        """Whether nothing was found."""
        return not self.counts


async def verify_entity(bus: Bus, name: str, until: int | None = None) -> EntityVerdict:
    """Check an entity in one pass over its records, then its letters against the records of those whom it exchanged
    any with (one pass over each), then whether there is a job for whatever waits. With `until`, the first part alone,
    as it was at that place.

    A letter that was delivered twice counts once, and is no damage. Hosts may be at work: what looks as if nobody had
    it is looked at once more. Says that records agree with one another, not that nobody wrote all of them anew.
    Raises BadEntity, UnknownEntity, Forgotten and errors of the bus.
    """
    await look(bus, name, until=until)
    to = EntityName.of(name)
    place = await place_of_entity(bus, to)
    while True:
        began = await first_state(place.log, place.base, to)
        if until is not None and until < began.seq:
            raise Forgotten(f"what {to} was at {until} is forgotten: it was trimmed up to {began.seq}.")
        check = _Check(place, to, began)
        async with place.log.read(f"{place.base}.>", until=until) as records:
            async for record in records:
                check.apply(record)
        if (await first_state(place.log, place.base, to)).seq == began.seq:
            break  # else it was trimmed meanwhile
    runs = check.finish()
    if until is None:
        await check.compare(bus)
        await check.look_for_jobs(bus)
    return check.verdict(runs)


class _Check:
    """One pass, and what is asked about it afterwards."""

    def __init__(self, place: Place, name: EntityName, began: EntityState) -> None:
        self._place = place
        self._name = name
        self._own = Exchange(began.model_copy(deep=True), began)
        self._checks = Verification(place.base, CONTENT)
        self._journals = JournalVerification(self._checks, str(name))
        self._letters = 0
        self._known: set[RunId] = set()
        """The runs of letters that counted."""
        self._commits: dict[RunId, tuple[int, int, bool]] = {}
        """The run of each commit: its place, its wake, and whether that has a journal."""
        self._wakes = began.wakes
        self._under_way: set[str] = set()
        """Who has not got all letters of the last wake."""
        self._missing = self._elsewhere = 0
        self._wakes_of: dict[str, int] = {}
        """How many wakes each of the others has had."""

    def apply(self, record: Record) -> None:
        """Take the next record of the name space."""
        context = self._checks.apply(record)
        if context is not None:
            self._journals.apply(record, context)
        elif record.subject in (mailbox_of(self._place.base), commits_of(self._place.base)):
            self._letters += record.subject.endswith(".mailbox")
            for bad in self._own.take(record):
                self._checks.found("wake" if isinstance(bad, NotDue) else "foreign", record, bad.why)
            self._note(record)

    def _note(self, record: Record) -> None:
        state = self._own.state
        if state.waiting:
            self._known |= {state.waiting[0].run_id, state.waiting[-1].run_id}
        last, handled = state.last, state.last_handled
        if state.wakes > self._wakes and last is not None and handled is not None:
            self._wakes = state.wakes
            self._commits[handled.run_id] = record.seq, last.wake, handled.letter.kind not in OF_THE_HOST

    def finish(self) -> Mapping[RunFate, int]:
        """What the pass comes to."""
        runs = self._journals.finish()
        for seq, which in self._own.others:
            self._add("letter", seq, mailbox_of(""), f"{which} came before with other words")
        last = self._own.state.last
        for run, (seq, wake, has_journal) in self._commits.items():
            fate = self._journals.fate_of(run)
            if has_journal and fate in (None, "open", "waiting") and last is not None and wake < last.wake:
                what = "no journal" if fate is None else "a journal without an end"
                self._add("wake", seq, commits_of(""), f"wake {wake} is followed by another, and its run has {what}")
        if not self._own.began.seq:
            for run, (seq, _) in self._journals.wakes.items():
                if run not in self._known and run not in self._commits:
                    self._add("orphan", seq, f"run.*.{run}", "the run of a wake, and no letter is there for it")
        return runs

    def _add(self, kind: FindingKind, seq: int, subject: str, why: str) -> None:
        self._checks.findings.add(kind, seq, subject.removeprefix("."), why)

    async def compare(self, bus: Bus) -> None:
        """Hold the letters against what the other side of each has of them."""
        limit = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as tasks:

            async def read(name: str) -> None:
                async with limit:
                    self._compare(name, await self._exchange(bus, name))

            for name in sorted(self._own.sent.keys() | self._own.came.keys()):
                tasks.start_soon(read, name)

    async def _exchange(self, bus: Bus, name: str) -> Exchange:
        me = str(self._name)
        return self._own if name == me else await exchange_of(bus, EntityName.of(name), me)

    def _compare(self, name: str, other: Exchange) -> None:
        me = str(self._name)
        self._wakes_of[name] = other.state.wakes
        there = other.sent.get(me, {})
        for number in self._not_there(name, other):
            sent = self._own.sent[name][number]
            if number[0] == self._wakes:
                self._missing += 1
                self._under_way.add(name)
            elif sent.copied and not other.copied:
                self._elsewhere += 1
            else:
                self._add("letter", sent.seq, commits_of(""), f"{shown(me, number)}, to {name}, was never delivered")
        for number, came in self._own.came.get(name, {}).items():
            if number[0] <= other.began.wakes or (number in there and same(there[number].letter, came.letter)):
                continue
            if not other.state.is_created or (came.copied and not other.copied):
                self._elsewhere += 1
            else:
                self._add("letter", came.seq, mailbox_of(""), f"{shown(name, number)} is not what that one sent")

    def _not_there(self, name: str, other: Exchange) -> list[Number]:
        """The letters to an entity that it neither has nor had."""
        me = str(self._name)
        came = other.came.get(me, {})
        sent = self._own.sent.get(name, {})
        return [number for number in sent if number not in came and not counted(other.began.seen, me, number)]

    async def look_for_jobs(self, bus: Bus) -> None:
        """See whether somebody has what is to be done. What nobody has is looked at again: it may have been done."""
        suspected = await self._lost(bus, self._own.state)
        if not suspected:
            return
        for name in sorted(self._under_way):
            if not any(number[0] == self._wakes for number in self._not_there(name, await self._exchange(bus, name))):
                self._under_way.discard(name)
        now = await look(bus, str(self._name))
        if now.wakes == self._wakes:
            for what in suspected.keys() & (await self._lost(bus, now)).keys():
                self._add("lost", suspected[what], "stream", what)

    async def _lost(self, bus: Bus, state: EntityState) -> dict[str, int]:
        """What has no job, and the place from which it is."""
        jobs, lost = await bus.work_queue(self._name.queue), dict[str, int]()
        unsent = bool(self._under_way)
        for id, timer in state.timers.items():
            if await jobs.waiting(timer.job) is not None:
                continue
            if timer.letter.number is not None and timer.letter.number[0] == state.wakes:
                unsent = True  # as the letters of that wake
            else:
                lost[f"the time {id!r} that is set has no job and will not come: convive entity revive"] = state.seq
        to_do = next(iter(state.waiting), state.last_handled if unsent else None)
        if to_do is None or state.is_paused or self._journals.fate_of(to_do.run_id) == "waiting":
            return lost  # who resumes it, or answers, sends a job
        if await self._somebody_has(jobs, state, to_do):
            return lost
        waits = f"the letter at {to_do.seq} waits"  # another one, when it is looked at again, is another matter
        what = waits if state.waiting else "letters of the last wake are not delivered"
        lost[f"{what}, and no job is there for that: convive entity revive"] = to_do.seq
        return lost

    async def _somebody_has(self, jobs: WorkQueue, state: EntityState, to_do: Waiting) -> bool:
        """Whether any job is for this entity: that of a letter, of a wake, of a time, or of who resumed it. Or whether
        its letters are still being sent: whoever sends them again sends their jobs."""
        for one in state.waiting:
            number = (0, 0) if one.letter.number is None else one.letter.number
            if one.letter.sender and number[0] >= self._wakes_of.get(one.letter.sender, 0):
                return True
        began = next((carrier_of(started.source) for _, started in reversed(self._journals.wakes.values())), "")
        for job in filter(None, (to_do.run_id, began)):
            if await jobs.waiting(job) is not None:
                return True
        own = f'"entity":"{self._name}"'.encode()
        return any(own in job.body for job in await jobs.jobs())

    def verdict(self, runs: Mapping[RunFate, int]) -> EntityVerdict:
        """All of it."""
        found = self._checks.findings
        return EntityVerdict(
            state=self._own.state,
            bus=self._checks.finish(),
            runs=runs,
            letters=self._letters,
            again=self._own.again,
            sent=sum(map(len, self._own.sent.values())),
            under_way=self._missing,
            elsewhere=self._elsewhere,
            counts=dict(found.counts),
            findings=tuple(sorted(found.kept, key=lambda finding: finding.seq)),
        )
