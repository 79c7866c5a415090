"""The headers of what is received: read when somebody looks at them, which few readers of the bus ever do."""

from collections.abc import Iterator, Mapping

PLAIN = b"NATS/1.0\r\n"
"""How headers without a status begin (NATS ADR-4)."""


class Headers(Mapping[str, str]):
    """Header lines as they came. Equal to a dict of what they say."""

    __slots__ = ("_found", "_lines")

    def __init__(self, lines: bytes) -> None:
        self._lines = lines
        self._found: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def _all(self) -> dict[str, str]:
        if self._found is None:
            self._found = parsed(self._lines)
            self._lines = b""
        return self._found


def parsed(lines: bytes) -> dict[str, str]:
    """The same as nats-py makes of them, which looks at every character of every name in Python."""
    headers: dict[str, str] = {}
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.strip()
        if colon and name.isascii() and len(name.split()) < 2:
            headers[name.decode()] = value.strip().decode("utf-8", "replace")
    return headers
