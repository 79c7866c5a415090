"""How far a run may go."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one run; they are looked at before every trip to the model.

    `trips`: how many answers a run may ask for. `tokens` and `tool_calls`: over all trips so far, None for
    no bound; a trip that has begun is finished, so the last one may go beyond. `reasks`: how many answers
    in a row `refine` may find unusable and have asked again. `on_limit`: at a bound, "return" the latest
    text with a warning, or "raise", which fails the run.
    """

    trips: int = 10
    tokens: int | None = None
    tool_calls: int | None = None
    reasks: int = 2
    on_limit: Literal["return", "raise"] = "return"

    def __post_init__(self) -> None:
        if self.trips < 1:
            raise ValueError(f"a run takes at least one trip to the model; trips={self.trips}")
        for name, bound in (("tokens", self.tokens), ("tool_calls", self.tool_calls), ("reasks", self.reasks)):
            if bound is not None and bound < 0:
                raise ValueError(f"{name}={bound} is below zero; None means no bound")
