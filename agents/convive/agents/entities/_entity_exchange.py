"""What one entity sent another and what came of that one there: the letters between two, from the records of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from convive.agents.entities._entity_commit import outgoing_of
from convive.agents.entities._entity_post import place_of_entity
from convive.agents.entities._entity_reading import first_state
from convive.agents.entities._entity_records import EntityName, Letter, letter_of
from convive.agents.entities._entity_state import EntityState, apply, commits_of, mailbox_of
from convive.bus import ORIGIN, BadRecord, Bus, Record

Number = tuple[int, int]
"""That of a letter: the wake that sent it, and its place there."""


@dataclass(frozen=True, slots=True)
class Told:
    """A letter that is sent by a commit, or came: the place of that record, whether it is a copy, what it says."""

    seq: int
    copied: bool
    letter: Letter


Letters = dict[str, dict[Number, Told]]
"""Letters by who is on the other side, and number."""


@dataclass
class Exchange:
    """What an entity sent and what came to it, to and from one other or all, and the state that comes of it."""

    state: EntityState
    began: EntityState
    """The state with which its records begin."""
    sent: Letters = field(default_factory=Letters)
    came: Letters = field(default_factory=Letters)
    """The first of each sender and number."""
    again: int = 0
    """Letters that came another time."""
    others: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Letters of a number that came before with other words: the place, and which."""
    copied: bool = False
    """Whether it was imported."""

    def take(self, record: Record, only: str = "") -> list[BadRecord]:
        """Take the next letter or commit; `only`: note letters to and from that entity alone. Returns what is bad."""
        bad: list[BadRecord] = []
        wakes = self.state.wakes
        self.copied = self.copied or ORIGIN in record.headers
        if record.subject.endswith(".mailbox"):
            self._came(record, only)
        apply(self.state, record, bad=bad.append)
        last = self.state.last
        if self.state.wakes > wakes and last is not None:
            for place, outgoing in enumerate(outgoing_of(self.state, last)):
                if outgoing.at_s is None and only in ("", outgoing.to):
                    number = last.wake, place
                    letter = outgoing.letter.model_copy(update={"number": number})
                    self.sent.setdefault(outgoing.to, {})[number] = _told(record, letter)
        return bad

    def _came(self, record: Record, only: str) -> None:
        try:
            letter = letter_of(record)
        except BadRecord:
            return  # as whoever applies it finds out
        if letter.number is None or not letter.sender or only not in ("", letter.sender):
            return
        first = self.came.setdefault(letter.sender, {}).setdefault(letter.number, _told(record, letter))
        if first.seq == record.seq:
            return
        self.again += 1
        if not same(first.letter, letter):
            self.others.append((record.seq, shown(letter.sender, letter.number)))


def _told(record: Record, letter: Letter) -> Told:
    return Told(record.seq, ORIGIN in record.headers, letter)


def same(one: Letter, other: Letter) -> bool:
    """Whether two letters say the same: each time that one is delivered may begin a trace of its own."""
    return one.model_copy(update={"trace": None}) == other.model_copy(update={"trace": None})


def shown(sender: str, number: Number) -> str:
    """A letter by its name."""
    return f"letter {number[1] + 1} of wake {number[0]} of {sender}"


async def exchange_of(bus: Bus, name: EntityName, only: str) -> Exchange:
    """Read what an entity exchanged with another one: its letters and commits, once. Raises errors of the bus."""
    place = await place_of_entity(bus, name)
    while True:
        began = await first_state(place.log, place.base, name)
        found = Exchange(began.model_copy(deep=True), began)
        async with place.log.read(mailbox_of(place.base), commits_of(place.base), after=began.seq) as records:
            async for record in records:
                found.take(record, only)
        if (await first_state(place.log, place.base, name)).seq == began.seq:
            return found  # else it was trimmed meanwhile


def counted(seen: Mapping[str, Number], sender: str, number: Number) -> bool:
    """Whether a letter is at or below the last one of its sender that was counted."""
    return number <= seen.get(sender, (0, 0))
