"""A history: what concurrent processes asked of a log and what they were told, one JSON object a line.

    {"op": "append", "process": "w1", "log": "floor", "value": "a", "expected": 0, "call": 0.25, "return": 0.31,
     "result": "appended", "position": 7}
    {"op": "read", "process": "r1", "log": "floor", "call": 0.4, "return": 0.45, "result": "read", "position": 7,
     "digest": "ca97..."}

`call` and `return` are seconds on one clock that never goes back. Operations on one `log` (a subject, or a guard's
filter) are ordered against each other; positions grow on each.

An append is `appended` at its `position`; a `conflict`, since its guard expected another tail (`position` is the tail
it was told, if any); `refused`, certainly not stored; or `unknown`: stored at any time after its call, or never
(`position`, if it was found in the log later). `expected` is the guard, 0 for an empty log; absent: none.
A read saw the tail `position` and the `digest` of all values up to it (see `next_digest`), or it is `unknown` and says
nothing.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from convive.bus.log._errors import ConviveError

MAX_LINES = 1_000_000
MAX_LINE_BYTES = 16_384


class BadHistory(ConviveError):
    """A history that cannot be checked, and where."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        self.line = line
        super().__init__(f"{path}{f', line {line}' if line else ''}: {why}")


class _Operation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)
    process: str = ""
    log: str = ""
    call_s: float = Field(validation_alias="call", serialization_alias="call")
    return_s: float | None = Field(default=None, validation_alias="return", serialization_alias="return")
    position: int | None = Field(default=None, ge=0)

    def line(self) -> str:
        """The operation as one line of a history, without its end."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    def _check(self, *, known: bool) -> None:
        if self.return_s is not None and self.return_s < self.call_s:
            raise ValueError("it returned before it was called")
        if known and self.return_s is None:
            raise ValueError("it has a result and no return")


class AppendOp(_Operation):
    """An append, and what its caller was told."""

    op: Literal["append"] = "append"
    value: str
    expected: int | None = Field(default=None, ge=0)
    result: Literal["appended", "conflict", "refused", "unknown"]

    @model_validator(mode="after")
    def _makes_sense(self) -> "AppendOp":
        self._check(known=self.result != "unknown")
        if self.result == "appended" and not self.position:
            raise ValueError("it was appended at no position")
        if self.result == "conflict" and self.expected is None:
            raise ValueError("a conflict without a guard")
        return self


class ReadOp(_Operation):
    """A read of a log's whole contents, and what its caller saw."""

    op: Literal["read"] = "read"
    digest: str = ""
    result: Literal["read", "unknown"]

    @model_validator(mode="after")
    def _makes_sense(self) -> "ReadOp":
        self._check(known=self.result != "unknown")
        if self.result == "read" and self.position is None:
            raise ValueError("it read up to no position")
        return self


Operation = AppendOp | ReadOp
_OPERATION: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="op")])


def next_digest(digest: str, value: str) -> str:
    """The digest of a log after one more value: the hexadecimal SHA-256 of the one before, then the value (UTF-8).

    That of an empty log is the empty text.
    """
    return hashlib.sha256((digest + value).encode(errors="surrogatepass")).hexdigest()


def read_history(path: Path) -> Iterator[Operation]:
    """The operations of a file, one a line. Raises BadHistory with the number of a line that is none."""
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                yield _operation(path, number, line)
    except OSError as error:
        raise BadHistory(path, number, f"cannot be read: {error.strerror}") from None


def _operation(path: Path, number: int, line: bytes) -> Operation:
    if number > MAX_LINES:
        raise BadHistory(path, number, f"a history has at most {MAX_LINES:,} lines; check it in parts")
    if len(line) > MAX_LINE_BYTES:
        raise BadHistory(path, number, f"longer than {MAX_LINE_BYTES:,} bytes")
    try:
        return _OPERATION.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"] if step not in ("append", "read"))
        why = first["msg"].removeprefix("Value error, ")
        raise BadHistory(path, number, f"not an operation: {place + ': ' if place else ''}{why}") from None
