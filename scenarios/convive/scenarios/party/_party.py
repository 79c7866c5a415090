"""What a party is: who comes, what it is about, who speaks when. Frozen data, as a file or an option gives it."""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from convive.agents import POLICIES, Participant, Plan, UnknownModel, split_model
from convive.bus import HOST, BadName, ConviveError, seat_name
from convive.scenarios.party._guests import GUESTS, TOPICS
from convive.scenarios.party._guests import HOST as DEFAULT_HOST
from convive.scenarios.party._scene import Persona

MAX_TURNS = 10_000
MAX_GUESTS = 64

_Prose = Annotated[str, Field(max_length=4_000)]
_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]


def _model_name(name: str) -> str:
    if "/" not in name:
        try:
            split_model(name)
        except UnknownModel as error:
            raise ValueError(str(error)) from None
    return name


_ModelName = Annotated[str, AfterValidator(_model_name)]


class PartyError(ConviveError):
    """A party that cannot be held as it is described. Nothing was started."""


class Guest(BaseModel):
    """One guest. A seat that is known (`ada`) brings its own persona; what is given here goes before it.

    `remote` leaves the seat to another process (`convive sit`). `participant` is for parties written in Python:
    whatever takes the turns of this seat instead of a guest with a persona (`coded` says so on the bus).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    seat: str
    name: _Name
    about: Annotated[_Prose, Field(min_length=1)]
    intention: _Prose = ""
    samples: tuple[_Prose, ...] = ()
    openers: tuple[_Prose, ...] = ()
    model: _ModelName | None = None
    remote: bool = False
    coded: bool = False
    participant: Participant | None = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, str):
            return _filled({"seat": given})
        return _filled(cast("dict[str, Any]", given)) if isinstance(given, dict) else given

    @field_validator("seat")
    @classmethod
    def _seat(cls, seat: str) -> str:
        try:
            checked = seat_name(seat)
        except BadName as bad:
            raise ValueError(str(bad)) from None
        if checked == HOST:
            raise ValueError("the seat 'host' is the supervisor's; use another name")
        return checked

    def persona(self, intention: str = "") -> Persona:
        """The persona, with an intention from elsewhere where it is not given here."""
        return Persona(self.name, self.about, self.intention or intention, self.samples, self.openers)


class Party(BaseModel):
    """A dinner party. `turns` counts the guests' turns; the host opens and closes the evening besides.

    `turn_s`: how long a turn may take; `answer_s`: how long a guest may wait for an answer, such as an approval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    topic: Annotated[_Prose, Field(min_length=1)] = TOPICS[0]
    guests: Annotated[tuple[Guest, ...], Field(min_length=1, max_length=MAX_GUESTS)] = Field(
        default_factory=lambda: invite(list(GUESTS)[:4])
    )
    host: _Name = DEFAULT_HOST.name
    policy: Literal["round-robin", "addressed"] = "addressed"
    turns: Annotated[int, Field(ge=1, le=MAX_TURNS)] = 12
    turn_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    answer_s: Annotated[float, Field(ge=0, le=31 * 86_400)] = 3_600.0
    model: _ModelName | None = None
    seed: int | None = None

    @field_validator("guests")
    @classmethod
    def _distinct(cls, guests: tuple[Guest, ...]) -> tuple[Guest, ...]:
        seats = [guest.seat for guest in guests]
        for seat in seats:
            if seats.count(seat) > 1:
                raise ValueError(f"the seat {seat!r} is given twice; every guest needs a seat of their own")
        return guests

    def plan(self) -> Plan:
        """How the supervisor leads it."""
        return Plan(turns=self.turns, policy=POLICIES[self.policy], turn_s=self.turn_s, answer_s=self.answer_s)

    def public(self) -> dict[str, Any]:
        """What stands on the bus for everybody to see, and from which any process can go on: no intentions."""
        return self.model_dump(mode="json", exclude={"guests": {"__all__": {"intention"}}}, exclude_none=True)


def invite(names: Iterable[str]) -> tuple[Guest, ...]:
    """The known guests of these names. Raises PartyError with the names that there are."""
    guests: list[Guest] = []
    for name in names:
        if name not in GUESTS:
            raise PartyError(
                f"there is no guest {name!r}. Known guests: {', '.join(GUESTS)}. "
                "Others come from a file of your own: convive run my-party.toml"
            )
        guests.append(Guest.model_validate({"seat": name}))
    return tuple(guests)


def choose_guests(wish: str, come: Sequence[Guest]) -> tuple[Guest, ...]:
    """The guests that `--guests` asks for: a number, or names separated by commas.

    Names are looked up among those who `come` first, then among the known guests. Raises PartyError.
    """
    if re.fullmatch(r"[0-9]{1,9}", wish):
        known = [*come, *(guest for guest in invite(GUESTS) if guest.seat not in {one.seat for one in come})]
        if not 1 <= int(wish) <= len(known):
            raise PartyError(f"--guests {wish}: between 1 and {len(known)} guests can come. Name others in a file.")
        return tuple(known[: int(wish)])
    names = [name.strip().lower() for name in wish.split(",") if name.strip()]
    if not names:
        raise PartyError("--guests: give a number, or names separated by commas, for example --guests ada,basho")
    own = {guest.seat: guest for guest in come}
    return tuple(own[name] if name in own else invite([name])[0] for name in dict.fromkeys(names))


def _filled(given: dict[str, Any]) -> dict[str, Any]:
    """What is given for a guest, on top of what is known of somebody of that name."""
    seat = str(given.get("seat", ""))
    persona = GUESTS.get(seat)
    if given.get("participant") is not None:
        given = {**given, "coded": True}
    if persona is not None:
        return {
            "name": persona.name,
            "about": persona.about,
            "intention": persona.intention,
            "samples": persona.samples,
            "openers": persona.openers,
            **given,
        }
    known: dict[str, Any] = {"name": seat.replace("-", " ").title() or "Guest"}
    if given.get("participant") is not None or given.get("remote"):
        known["about"] = "a guest"  # who sits there answers for themselves
    return {**known, **given}
