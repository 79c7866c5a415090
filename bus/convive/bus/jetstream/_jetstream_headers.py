"""Headers on the wire (NATS ADR-4): those of what is received are read when somebody looks at them, which few do."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

PLAIN = b"NATS/1.0\r\n"
"""How headers without a status begin (NATS ADR-4)."""

_FOR_SERVERS = b"\r\nNats-"
"""Where the lines begin that the server was sent, which differ from record to record. Those before are a run's own."""

_LONGEST_KEPT = 512


class Headers(Mapping[str, str]):
    """Header lines as they came. Equal to a dict of what they say."""

    __slots__ = ("_found", "_lines", "_others")

    def __init__(self, lines: bytes) -> None:
        self._lines = lines
        self._others = ""  # of these lines, those that are not read yet though some are
        self._found: Mapping[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        found: str | None = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dict."""
        if self._found is None:
            if name.encode(errors="replace") not in self._lines:  # most ask for one in vain
                return default
            self._begin()
        if name in self._others:
            self._all()
        return default if self._found is None else self._found.get(name, default)

    def _begin(self) -> None:
        """Read what is a run's own, and may have been read before: many who ask look for nothing else."""
        own, mark, others = self._lines.partition(_FOR_SERVERS)
        if len(own) <= _LONGEST_KEPT:
            self._found, self._others = _kept(own), (mark + others).decode("latin-1")  # names of headers are ASCII
        else:
            self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def _all(self) -> Mapping[str, str]:
        if self._found is None or self._others:
            self._found, self._others = parsed(self._lines), ""
        return self._found


@lru_cache(maxsize=256)
def _kept(lines: bytes) -> Mapping[str, str]:
    """What they say, which all records of a run say alike. Not to be changed."""
    return parsed(lines)


def parsed(lines: bytes) -> dict[str, str]:
    """The same as nats-py makes of them, which looks at every character of every name in Python."""
    headers: dict[str, str] = {}
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not name.isascii():
            continue
        key = name.strip().decode()
        if not key or key.split() == [key]:
            headers[key] = value.strip().decode("utf-8", "replace")
    return headers


def written(headers: Mapping[str, str]) -> bytes:
    """Headers as they are sent. Raises ValueError for a line break within one; `check_draft` refuses the rest."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not text.count("\r") == text.count("\n") == len(headers):
        raise ValueError("a header with a line break")
    return b"".join((PLAIN, text.encode(), b"\r\n"))
