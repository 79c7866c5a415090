"""A conversation as one JSONL file: readable without Convive, and checked whole before any of it is believed.

The first line names the conversation: `{"convive": "conversation", "version": 1, "conversation": "dinner"}`. Then one
line a record, in the order of the log: `seq`, `time_s`, `on` (its subject below the conversation), `headers`, and the
body as `body` when it is JSON that prints the same again (compact, as the bus writes it), else as `text`, else as
`base64`. The last line counts the records and holds the SHA-256 of all lines before it, line ends included.
"""

import base64
import hashlib
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from convive.bus.conversation._conversation import Conversation
from convive.bus.conversation._events import LAST_TIME_S
from convive.bus.log._errors import BadName, ConviveError
from convive.bus.log._ids import ConversationId, conversation_id
from convive.bus.log._log import Draft, Record, check_draft
from convive.bus.log._subjects import is_derived

MAX_LINE = 64 * 1024 * 1024
"""Bytes of a line; no server takes a record that comes near it."""


class BadArchive(ConviveError):
    """A file that is no whole export of a conversation. Nothing of it was imported."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        self.path = path
        self.line = line
        self.why = why
        super().__init__(f"{path}, line {line}: {why}. Nothing was imported.")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Item = TypeVar("Item", bound=_Strict)


class _Head(_Strict):
    convive: str
    version: int
    conversation: str


class _Line(_Strict):
    seq: int = Field(ge=1, le=2**63)
    time_s: float = Field(ge=0, le=LAST_TIME_S, allow_inf_nan=False)
    on: str
    headers: dict[str, str]
    body: JsonValue = None
    text: str | None = None
    base64: str | None = None

    def record(self) -> Record:
        given = self.model_fields_set & {"body", "text", "base64"}
        if len(given) != 1:
            raise ValueError("a record has one of body, text and base64")
        if "body" in given:
            raw = _compact(self.body)
        elif self.text is not None:
            raw = self.text.encode()
        else:
            raw = base64.b64decode(self.base64 or "", validate=True)
        return Record(self.on, self.seq, self.time_s, self.headers, raw)


class _End(_Strict):
    records: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Archive:
    """An exported conversation in a file that was checked from its first line to its last."""

    path: Path
    conversation: ConversationId
    count: int
    last: int
    """The sequence number of the last record, where it was exported."""
    sha256: str

    def records(self) -> Iterator[Record]:
        """The records, in order; `subject` is the part below the conversation. Raises BadArchive when it changed."""
        return _records(self.path)


async def export_lines(conversation: Conversation, until: int | None = None) -> AsyncGenerator[bytes]:
    """The lines of an archive of a conversation, up to a sequence number: bus, memories, inboxes, journals, streams.

    Text while it was being produced is left out, since its final form is in the journals, and so are kept folds. The
    same records give the same bytes. Raises BusUnavailable, and UnknownConversation when there is not one record.
    """
    digest, count = hashlib.sha256(), 0
    head = _Head(convive="conversation", version=1, conversation=conversation.id)
    base = conversation.subjects.base
    async with conversation.log.read(f"{base}.>", until=until) as records:
        async for record in records:
            on = record.subject[len(base) + 1 :]
            if is_derived(on):
                continue
            if not count:
                first = head.model_dump_json().encode() + b"\n"
                digest.update(first)
                yield first
            line = _compact({"seq": record.seq, "time_s": record.time_s, "on": on, **_rest(record)}) + b"\n"
            digest.update(line)
            count += 1
            yield line
    if count:
        yield _End(records=count, sha256=digest.hexdigest()).model_dump_json().encode() + b"\n"


def open_archive(path: Path) -> Archive:
    """Check a file from end to end. Raises BadArchive, with the line, or OSError."""
    head: _Head | None = None
    count = last = 0
    end: _End | None = None
    for number, item in _parsed(path):
        if isinstance(item, _Head):
            head = item
        elif isinstance(item, _End):
            end = item
        else:
            count, last = count + 1, item.seq
            _check(path, number, item)
    if head is None or end is None:
        raise BadArchive(path, 1, "it is empty")
    return Archive(path, ConversationId(head.conversation), count, last, end.sha256)


def _check(path: Path, number: int, record: Record) -> None:
    if is_derived(record.subject):  # a kept fold would be believed
        why = f"a record on {record.subject[:80]!r} follows from the other records, and no export holds one"
        raise BadArchive(path, number, why)
    own = {name: value for name, value in record.headers.items() if not name.lower().startswith("nats-")}
    try:
        check_draft(Draft(record.subject, record.body, own))
    except ConviveError as error:
        raise BadArchive(path, number, str(error)) from None


def _records(path: Path) -> Iterator[Record]:
    for _, item in _parsed(path):
        if isinstance(item, Record):
            yield item


def _parsed(path: Path) -> Iterator[tuple[int, _Head | Record | _End]]:
    """Each line as what it is. Raises BadArchive for whatever is not in its place."""
    digest, count, last, number = hashlib.sha256(), 0, 0, 0
    over = False
    with path.open("rb") as lines:
        while raw := lines.readline(MAX_LINE):
            number += 1
            if over:
                raise BadArchive(path, number, "there is something behind the last line")
            if not raw.endswith(b"\n"):
                raise BadArchive(path, number, "the line is torn, or longer than any record")
            if number == 1:
                yield 1, _head_of(path, raw)
            elif raw.startswith(b'{"records":'):
                end = _valid(path, number, _End, raw)
                if (end.records, end.sha256) != (count, digest.hexdigest()):
                    raise BadArchive(path, number, "the file is not as it was written: its count or digest differs")
                over = True
                yield number, end
            else:
                record = _record_of(path, number, raw)
                if record.seq <= last:
                    raise BadArchive(path, number, f"record {record.seq} stands behind record {last}")
                count, last = count + 1, record.seq
                yield number, record
            digest.update(raw)
    if not over:
        raise BadArchive(path, number + 1, "the last line is missing: the file was cut short")


def _head_of(path: Path, raw: bytes) -> _Head:
    head = _valid(path, 1, _Head, raw)
    if head.convive != "conversation" or head.version != 1:
        raise BadArchive(path, 1, f"it is a {head.convive!r} of version {head.version}; known is 'conversation' of 1")
    try:
        conversation_id(head.conversation)
    except BadName as error:
        raise BadArchive(path, 1, str(error)) from None
    return head


def _record_of(path: Path, number: int, raw: bytes) -> Record:
    line = _valid(path, number, _Line, raw)
    try:
        return line.record()
    except ValueError as error:
        raise BadArchive(path, number, str(error)) from None


def _valid(path: Path, number: int, kind: type[Item], raw: bytes) -> Item:
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BadArchive(path, number, f"not a line of an archive: {where} {first['msg']}".replace("  ", " ")) from None


def _rest(record: Record) -> dict[str, Any]:
    """Headers and body. Python's JSON reader takes more than it prints: only what prints the same again is JSON."""
    headers = dict(record.headers)
    try:
        body = json.loads(record.body)
        if _compact(body) == record.body:
            return {"headers": headers, "body": body}
    except (ValueError, RecursionError):
        pass
    try:
        return {"headers": headers, "text": record.body.decode()}
    except UnicodeDecodeError:
        return {"headers": headers, "base64": base64.b64encode(record.body).decode()}


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
