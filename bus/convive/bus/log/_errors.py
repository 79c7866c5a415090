"""What went wrong, and what the caller now knows (architecture.md, section 8).

Every message says what happened, what is known to be safe and what to do next.
"""

from typing import Self

_SHOWN = 300
"""Characters of what somebody else wrote."""


class ConviveError(Exception):
    """The base of every error that Convive raises on purpose; its text is fit to be shown to a person."""


class BadName(ConviveError):
    """A conversation, seat, stream or run name that cannot be part of a subject. Nothing was appended."""


class NotAppended(ConviveError):
    """The record is certainly not in the log."""


class Conflict(NotAppended):
    """The server refused a guarded append: another record came first. The record is certainly not in the log.

    `expected` is the sequence number that the writer had folded up to, `actual` the one that the server
    holds now (0: none, -1: the server did not say).
    """

    def __init__(self, subject: str, expected: int, actual: int) -> None:
        self.subject = subject
        self.expected = expected
        self.actual = actual
        # Behind the end there is nothing that could have come first.
        why = "There is none at that place" if 0 <= actual < expected else "Somebody else was first"
        super().__init__(
            f"{subject}: expected the last record at sequence {expected}, the server has {actual}. "
            f"{why}; nothing was appended. Read on and decide again."
        )


class MaybeAppended(ConviveError):
    """The acknowledgement never came: the record may be in the log or not.

    Appending the same draft again is safe where the server knows a second copy, by an id that the writer gave or by a
    guard that the record itself moves: then it is stored at most once. Else the message says to look first.
    """

    def __init__(self, subject: str, waited_s: float, *, why: str = "", cure: str = "") -> None:
        self.subject = subject
        self.waited_s = waited_s
        super().__init__(
            f"{subject}: {why or f'no acknowledgement within {waited_s:g} s'}. The record may or may not be stored. "
            f"{cure or 'Append the same record again: it is stored at most once.'}"
        )


class Fenced(NotAppended):
    """Somebody else holds the stream: it is fenced with another token. The record is certainly not in the log.

    `holder` is the token that counts now, "" when there is none.
    """

    def __init__(self, stream: str, token: str, holder: str) -> None:
        self.stream = stream
        self.token = token
        self.holder = holder
        state = f"held by {holder[:80]!r}" if holder else "not fenced"
        super().__init__(
            f"stream {stream}: written to with the token {token[:80]!r}, but it is {state}. Nothing was appended. "
            "Stop writing, or take the stream over with `fence`."
        )


class ProducerReplaced(NotAppended):
    """Another producer has begun under the same id. What this one had not yet heard of as stored is not in the log."""

    def __init__(self, stream: str, producer: str, stored: int) -> None:
        self.stream = stream
        self.producer = producer
        self.stored = stored
        super().__init__(
            f"stream {stream}: another producer goes on as {producer!r}, from its record {stored} on. What this one "
            "has no position for was not appended and will not be. Use an id of your own, or end the other one first."
        )


class BeyondTail(ConviveError):
    """A position of a stream or a conversation that its log has not reached. Nothing was read or changed."""

    def __init__(self, stream: str, position: int, end: int) -> None:
        self.stream = stream
        self.position = position
        self.end = end
        super().__init__(
            f"{stream}: position {position} is beyond the end of its log, which is at {end}. Nothing was read or "
            "changed. Give a position that was handed out; a reader may ask for the nearest one instead (clamp)."
        )


class Trimmed(ConviveError):
    """Records behind the position have been trimmed: whoever goes on from there would miss them."""

    def __init__(self, stream: str, position: int, trimmed: int) -> None:
        self.stream = stream
        self.position = position
        self.trimmed = trimmed
        super().__init__(
            f"stream {stream}: it was trimmed up to {trimmed}, so records behind {position} may be gone. Nothing was "
            "read. Begin with the latest snapshot, with the first record left (0), or at the nearest position (clamp)."
        )


class BusUnavailable(ConviveError):
    """No usable bus: no server, a server without JetStream, one too old, or one that cannot be started."""


class WrongStream(ConviveError):
    """A stream of our name exists with settings that would break a promise of the bus."""


class BadRecord(ConviveError):
    """A record that is not ours or that breaks the floor protocol. It is reported, never skipped in silence.

    `why` is short and on one line, whatever the record says.
    """

    def __init__(self, subject: str, seq: int, why: str) -> None:
        self.subject = subject
        self.seq = seq
        self.why = _shown(why)
        super().__init__(f"record {seq} on {_shown(subject)}: {self.why}")

    def kept(self) -> Self:
        """This error without the frames that it went through, which hold the record, of whatever size."""
        self.__traceback__ = self.__context__ = None
        return self


class NewerRecord(BadRecord):
    """A record that a newer version wrote: in order, but not to be read here. Nothing was changed."""

    def __init__(self, subject: str, seq: int, schema: int, reads: int) -> None:
        super().__init__(
            subject,
            seq,
            f"a newer version wrote it (schema {schema}, this one reads {reads}). Nothing was changed; update convive.",
        )


class UnknownConversation(ConviveError):
    """No conversation of that name is on this bus."""

    def __init__(self, conversation: str) -> None:
        self.conversation = conversation
        super().__init__(f"there is no conversation {conversation!r} on this bus. `convive ls` shows those that are.")


class Closed(ConviveError):
    """The conversation is closed: its floor takes no further links."""

    def __init__(self, conversation: str) -> None:
        self.conversation = conversation
        super().__init__(f"conversation {conversation!r} is closed. `convive replay {conversation}` shows it.")


def _shown(text: str) -> str:
    """What may be somebody else's words, as a person may be shown them."""
    short = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return "".join(char if char.isprintable() else "?" for char in short)
