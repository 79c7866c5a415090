"""Headers on the wire (NATS ADR-4): those of what is received are read when somebody looks at them, which few do."""

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
        if self._found is None and name.encode(errors="replace") not in self._lines:  # most ask for one in vain
            raise KeyError(name)
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
