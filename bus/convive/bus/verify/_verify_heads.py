"""Two hash chains over the records of a conversation: one line that two people can compare (docs/adr/0013).

    h(0) = 32 zero bytes
    h(n) = SHA-256( h(n-1) + f(subject) + f(position) + f(headers) + f(body) )

`f(x)` is a netstring: the length of `x` in bytes as decimal digits, `:`, `x`, `,`. `subject` is what stands behind
`cv.<partition>.<conversation>.`; `headers` is `f(name) + f(value)` for each header in question, in the order of the
bytes of their names; `body` is the body as it is. Records come in the order of the log. A head is h(n) as 64
hexadecimal digits.

**head**: every record but live text and kept folds; `position` is the sequence number in decimal digits; the headers
are all but those of the server (`Nats-...`, in any case). It holds for one log: whatever was changed, moved, added or
taken away.

**content head**: the records of bus, memories, inboxes and journals (of an entity: journals, `stream.mailbox` and
`stream.entity`); `position` is empty; the headers are `Cv-Run`,
`Cv-Root`, `Cv-Parent` and `traceparent`. In the body of a record on `bus.floor.*` the integers of the top-level array
`memories` (`-?[0-9]+`), which are sequence numbers of memories, are replaced by ordinals, every other byte stays: the
ordinal of the n-th record of this chain is n, that of a place where no memory came before is 0. So a copy that was
exported and imported, with other sequence numbers and other times, has the same content head.

Neither covers times. Text is UTF-8.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from convive.bus.log._log import RESERVED_HEADERS
from convive.bus.log._runs import PARENT, ROOT, RUN, TRACEPARENT

_OURS: Final = frozenset((RUN, ROOT, PARENT, TRACEPARENT))
CONTENT: Final = ("bus", "memory", "inbox", "run")
# A string that is not closed goes to the end, so that every byte is looked at once.
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*\[")
_INTEGER = re.compile(rb"-?\d+")


class Heads:
    """Both chains. Take records in the order of the log."""

    def __init__(self, content: Collection[str] = CONTENT) -> None:
        self._parts = content
        self._head = self._content = bytes(32)
        self._count = 0
        self._ordinals: dict[int, int] = {}

    @property
    def head(self) -> str:
        """The head over this log's own positions."""
        return self._head.hex()

    @property
    def content(self) -> str:
        """The head that a copy shares."""
        return self._content.hex()

    def take(self, suffix: str, seq: int, headers: Mapping[str, str], body: bytes) -> None:
        """Take the next record; `suffix` is its subject below the conversation."""
        all_of = ((name, value) for name, value in headers.items() if not name.lower().startswith(RESERVED_HEADERS))
        self._head = _next(self._head, suffix, str(seq), all_of, body)
        part, _, rest = suffix.partition(".")
        if part not in self._parts and suffix not in self._parts:
            return
        self._count += 1
        if part == "memory":
            self._ordinals[seq] = self._count
        elif rest.startswith("floor."):
            body = with_places(body, self._ordinals)
        ours = ((name, value) for name, value in headers.items() if name in _OURS)
        self._content = _next(self._content, suffix, "", ours, body)


def _next(before: bytes, suffix: str, position: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    named = sorted((name.encode(errors="replace"), value.encode(errors="replace")) for name, value in headers)
    flat = b"".join(_field(name) + _field(value) for name, value in named)
    fields = _field(suffix.encode(errors="replace")) + _field(position.encode()) + _field(flat) + _field(body)
    return hashlib.sha256(before + fields).digest()


def _field(data: bytes) -> bytes:
    return b"%d:%s," % (len(data), data)


def with_places(body: bytes, places: Mapping[int, int]) -> bytes:
    """A link's body with the numbers of its top-level array `memories` replaced by what `places` has for them, else 0.

    Everything else keeps its bytes, also in a body that is no JSON.
    """
    parts: list[bytes] = []
    done = depth = 0
    for token in _STRUCTURE.finditer(body):
        found = token[0]
        if found in b"{[":
            depth += 1
        elif found in b"}]":
            depth -= 1
        elif depth == 1 and token.start() >= done and _names_memories(found):
            opening = _COLON.match(body, token.end())
            end = -1 if opening is None else body.find(b"]", opening.end())
            if opening is not None and end >= 0:
                numbers = _INTEGER.sub(lambda number: _place(number[0], places), body[opening.end() : end])
                parts += [body[done : opening.end()], numbers]
                done = end
    return b"".join((*parts, body[done:]))


def _names_memories(token: bytes) -> bool:
    if token == b'"memories"':
        return True
    if b"\\" not in token or len(token) > 64:
        return False
    try:
        return bool(json.loads(token) == "memories")
    except ValueError:
        return False


def _place(number: bytes, places: Mapping[int, int]) -> bytes:
    # No position has more digits; Python takes quadratic time to read long numbers.
    return b"%d" % (places.get(int(number), 0) if len(number) <= 20 else 0)
