"""What a guest knows when its turn comes, independent of the bus."""

from dataclasses import dataclass
from typing import Literal

Cue = Literal["open", "toast"] | None
"""What the host is asked to do with a turn; None at every other turn."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing said, by display name."""

    speaker: str
    text: str


@dataclass(frozen=True, slots=True)
class Persona:
    """Who somebody is. `about` reads on from "You are Ada, ..."; `intention` reads on from "You want to ...".

    `samples` are lines in this voice and `openers` ways in which it begins to speak. Only small models need them;
    without them the nouns in `about` have to do.
    """

    name: str
    about: str
    intention: str = ""
    samples: tuple[str, ...] = ()
    openers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """One turn as its speaker sees it. `others` are display names; `memories` are its own, oldest first."""

    persona: Persona
    topic: str
    lines: tuple[Line, ...] = ()
    others: tuple[str, ...] = ()
    memories: tuple[str, ...] = ()
    cue: Cue = None
    host: str = "Host"

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody who sits at the table or spoke, the speaker too."""
        return tuple(
            dict.fromkeys((self.persona.name, *self.others, self.host, *(line.speaker for line in self.lines)))
        )

    @property
    def last(self) -> Line | None:
        """The newest line that somebody else said."""
        return next((line for line in reversed(self.lines) if line.speaker != self.persona.name), None)

    @property
    def own(self) -> tuple[Line, ...]:
        """What this speaker said so far."""
        return tuple(line for line in self.lines if line.speaker == self.persona.name)

    @property
    def heard(self) -> tuple[Line, ...]:
        """What guests and visitors said since the speaker's own last line, oldest first."""
        newest = max((i for i, line in enumerate(self.lines) if line.speaker == self.persona.name), default=-1)
        return tuple(line for line in self.lines[newest + 1 :] if line.speaker != self.host)
