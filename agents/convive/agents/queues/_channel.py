"""Channels: a name under which queued runs can be followed without knowing their ids.

A channel holds one record a run, `run_begun`, which says where the run's journal stands; what happens in the run is
read there. So nothing is stored twice, and each outcome is one journal record, hence told once.
"""

from typing import Literal

from pydantic import ValidationError

from convive.agents.journal._journal import Place
from convive.bus import BadName, Bus, Conversation, Draft, Event, Record, RunContext, is_slug, slugify, unreadable

CHANNEL_LENGTH = 55
_SPACE = "channel-"


class RunBegun(Event):
    """A run of this channel is under way; the record's headers name it. `space` is where its journal stands."""

    type: Literal["run_begun"] = "run_begun"
    space: str
    prefix: str | None = None


def channel_space(channel: str) -> str:
    """The conversation that keeps a channel. Raises BadName for what is no channel.

    A channel is one or more names of `a-z 0-9 -` with dots between them, `user.42.support`; `--` stands for the dot.
    """
    parts = channel.split(".")
    name = "--".join(parts)
    if len(name) <= CHANNEL_LENGTH and all(_is_part(part) for part in parts):
        return _SPACE + name
    hint = ".".join(filter(None, (slugify(part) for part in parts)))
    suggestion = f" Did you mean {hint!r}?" if hint != channel and 0 < len(hint) <= CHANNEL_LENGTH else ""
    raise BadName(
        f"{channel[:80]!r} is not a channel: use up to {CHANNEL_LENGTH} of a-z, 0-9 and single hyphens, with dots "
        f"between the names.{suggestion}"
    )


async def announce(bus: Bus, channel: str, run: RunContext, place: Place, prefix: str | None = None) -> None:
    """Say on a channel that a run is under way. Saying it again changes nothing for those who follow.

    Raises BadName or an error of the bus.
    """
    space = await bus.conversation(channel_space(channel))
    begun = RunBegun(space=place.base.rpartition(".")[2], prefix=prefix)
    await space.log.append(Draft(announcements(space), begun.body(), run.headers(), f"begun-{run.run_id}"))


def announcements(space: Conversation) -> str:
    """The subject of a channel's records."""
    return f"{space.subjects.base}.stream.runs"


def begun_of(record: Record) -> RunBegun:
    """The event in a channel's record. Raises BadRecord."""
    try:
        return RunBegun.model_validate_json(record.body)
    except ValidationError as error:
        raise unreadable(record.subject, record.seq, record.body, error, "a record of a channel") from None


def _is_part(text: str) -> bool:
    return is_slug(text) and "--" not in text and not text.endswith("-")
