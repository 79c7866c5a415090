"""How far a run may go."""

from dataclasses import dataclass
from typing import Literal, get_args

from convive.agents.models._schema import check_number

OnLimit = Literal["return", "raise"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one run; they are looked at before every trip to the model.

    `trips`: how many answers a run may ask for. `tokens` and `tool_calls`: over all trips so far, None for
    no bound; a trip that has begun is finished, so the last one may go beyond. `seconds`: of execution; a request
    to the model is aborted then, tools that run are waited for. `cost`: in the currency of the agent's price table; a
    run with a model for which no price is known is not started (UnknownPrice), and of an answer whose cost turns out to
    be known in part, that part counts. Runs below are bound by what is left, and what they use counts here, so one
    currency has to do for all of them. `reasks`: how many
    answers in a row `refine` may find unusable and have asked again. `on_limit`: at a bound, "return" the latest
    text with a warning, or "raise", which fails the run.
    """

    trips: int = 10
    tokens: int | None = None
    tool_calls: int | None = None
    seconds: float | None = None
    cost: float | None = None
    reasks: int = 2
    on_limit: OnLimit = "return"

    def __post_init__(self) -> None:
        check_number("reasks", self.reasks, whole=True)
        for name in ("tokens", "tool_calls", "seconds", "cost"):
            bound = getattr(self, name)
            if bound is not None:
                check_number(name, bound)
        check_number("trips", self.trips, whole=True)
        if self.trips < 1:
            raise ValueError(f"a run takes at least one trip to the model; trips={self.trips}")
        if self.on_limit not in get_args(OnLimit):
            raise ValueError(f'on_limit={self.on_limit!r} is neither "return" nor "raise".')
