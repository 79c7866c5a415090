"""Names and ids. A name becomes one token of a subject, so its alphabet is narrow."""

import hashlib
import re
import secrets
import time
import unicodedata
from typing import NewType

from convive.bus.log._errors import BadName

ConversationId = NewType("ConversationId", str)
SeatName = NewType("SeatName", str)
RunId = NewType("RunId", str)

HOST = SeatName("host")
"""The seat of the supervisor: the author of grants, revocations and the frame of a conversation."""

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_RUN = re.compile(r"[0-9a-f]{32}")


def conversation_id(text: str) -> ConversationId:
    """Check a conversation id: 1 to 63 of `a-z 0-9 -`, not starting with a hyphen.

    Raises BadName, with a suggestion where one can be made.
    """
    return ConversationId(_slug("conversation id", text))


def seat_name(text: str) -> SeatName:
    """Check the name of a seat; the alphabet is that of a conversation id. Raises BadName."""
    return SeatName(_slug("seat name", text))


def run_id(text: str) -> RunId:
    """Check a run id: 32 lower-case hex digits. Raises BadName."""
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadName(f"a run id is a text, not {type(text).__name__}.")
    if not _RUN.fullmatch(text):
        raise BadName(f"{text[:80]!r} is not a run id: a run id is 32 hex digits.")
    return RunId(text)


def is_slug(text: str) -> bool:
    """Whether a text could be a conversation id or the name of a seat."""
    return _SLUG.fullmatch(text) is not None


def slugify(text: str) -> str:
    """The nearest valid name (accents dropped), or an empty string when nothing of the text can be kept."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:63].strip("-")


def compose_run_id(now_ms: int, entropy: bytes) -> RunId:
    """A run id from 48 bits of milliseconds and 80 random bits, as 32 hex digits (the layout of a ULID).

    Ids sort by time, and their low 64 bits are random, as W3C trace-context samplers need.
    """
    if len(entropy) != 10:
        raise ValueError("a run id takes 10 bytes of entropy")
    return RunId(f"{now_ms & 0xFFFF_FFFF_FFFF:012x}{entropy.hex()}")


def mint_run_id() -> RunId:
    """A new run id from the clock and the operating system's randomness."""
    return compose_run_id(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def derive_run_id(parent: RunId, part: str) -> RunId:
    """The id of a child run that must be the same after a restart: the parent's time, a digest for the rest."""
    digest = hashlib.blake2b(f"{parent}/{part}".encode(), digest_size=10).hexdigest()
    return RunId(parent[:12] + digest)


def _slug(what: str, text: str) -> str:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadName(f"a {what} is a text, not {type(text).__name__}.")
    if is_slug(text):
        return text
    hint = slugify(text)
    suggestion = f" Did you mean {hint!r}?" if hint else ""
    raise BadName(
        f"{text[:80]!r} is not a {what}: use 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit.{suggestion}"
    )
