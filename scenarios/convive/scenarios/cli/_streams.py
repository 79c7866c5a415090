"""The commands on plain streams: `append`, `read`, `streams`, `trim`. They work in pipes."""

import base64
import json
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import typer

from convive.bus import BeyondTail, ConviveError, NotAppended, Producer, Stream, StreamRecord, StreamTail, Trimmed
from convive.scenarios.cli._commands import Where, tell
from convive.scenarios.cli._exits import go
from convive.scenarios.cli._options import AsJson, Data, Url
from convive.scenarios.cli._transcript import shown

STDIN = 0
CHUNK_BYTES = 262_144
LINE_BYTES = 1_048_576
"""A longer line is no record of any stream."""

Name = Annotated[str, typer.Argument(metavar="STREAM", help="orders, or dinner/notes: in the order of a conversation.")]
Header = Annotated[list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="For every record.")]


class BadLine(ConviveError):
    """A line of standard input that cannot be a record."""


def append(
    stream: Name,
    header: Header = None,
    lines_are_json: Annotated[bool, typer.Option("--json", help="Every line has to be JSON.")] = False,
    producer: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on where this producer ended: its lines are skipped.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="Only while the stream is fenced with it.")] = None,
    ttl: Annotated[int | None, typer.Option(min=1, metavar="SECONDS", help="How long each record is kept.")] = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Append the lines of standard input to a stream, a record each."""

    async def work() -> None:
        if sys.stdin is None:  # and its number may be another file's by now
            raise BadLine("standard input is closed. Nothing was appended; give the lines of the records on it.")
        headers = dict(_header(text) for text in header or ())
        if sys.stdin.isatty():
            tell("Each line is a record; Ctrl-D ends.")
        async with Where(url, data).open() as bus:
            there = await bus.stream(stream)
            async with there.producer(producer, token=token) as one:
                try:
                    await _append_lines(one, headers, ttl, only_json=lines_are_json)
                    await one.flush()
                finally:
                    tell(f"{_records(one.stored - one.resumed_at)} appended to {there.name}{_skipped(one)}.")

    go(work)


def read(
    stream: Name,
    start: Annotated[
        int | None, typer.Option("--start", "-s", min=0, metavar="POSITION", help="The first position to read.")
    ] = None,
    last: Annotated[int | None, typer.Option("--last", "-n", min=0, help="Begin with the last so many.")] = None,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Begin with the latest snapshot.")] = False,
    count: Annotated[int | None, typer.Option(min=0, help="End after so many.")] = None,
    until: Annotated[int | None, typer.Option(min=0, metavar="POSITION", help="The last position to read.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and read what comes.")] = False,
    clamp: Annotated[bool, typer.Option("--clamp", help="Begin at the nearest position that there is.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Read a stream: the body of each record on a line."""
    begin: dict[str, Any] = {"last": last, "from_snapshot": snapshot, "clamp": clamp}
    if sum((start is not None, last is not None, snapshot)) > 1:
        raise typer.BadParameter("begin with --start, with --last or with --snapshot")
    if follow and (count is not None or until is not None):
        raise typer.BadParameter("--follow does not end: leave out --count and --until")
    begin["after"] = max(0, (start or 0) - 1)
    where = Where(url, data)

    async def work() -> None:
        async with where.open() if follow else where.open_existing(dict(os.environ)) as bus:
            there = await bus.stream(stream)
            with _in_its_words():
                if follow:
                    async with there.follow(**begin) as tail:
                        await _show_live(there, tail, where, as_json=as_json)
                    return
                async with there.read(**begin, count=count, until=until) as records:
                    if records.snapshot is not None:
                        _write_state(records.snapshot.body, records.snapshot.covers, as_json=as_json)
                    async for record in records:
                        _write(record, as_json=as_json)
            if not await there.tail():
                tell(f"{there.name} has no records. `convive streams` lists those that have.")
        sys.stdout.flush()

    go(work)


@contextmanager
def _in_its_words() -> Generator[None]:
    """A place that cannot be read from, as the command line counts: `--start` is the first position, not the last
    one that is known."""
    try:
        yield
    except BeyondTail as error:
        raise ConviveError(
            f"{error.stream} has no position {error.position + 1} yet: its log ends at {error.end}. Nothing was read; "
            f"begin with -s {error.end + 1} at most, or with --clamp at the nearest position."
        ) from None
    except Trimmed as error:
        raise ConviveError(
            f"{error.stream} was trimmed up to {error.trimmed}, so records from {error.position + 1} on may be gone. "
            f"Nothing was read; begin with -s {error.trimmed + 1}, or with --clamp at the nearest position."
        ) from None


def list_streams(as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """List the streams on the bus and how many records each holds."""

    async def work() -> None:
        async with Where(url, data).open_existing(dict(os.environ)) as bus:
            found = await bus.streams()
        width = max([6, *map(len, found)])
        if not as_json and not found:
            tell("No streams yet. Make one: echo hello | convive append greetings")
        for name, records in found.items():
            line = json.dumps({"stream": name, "records": records}) if as_json else f"{name:{width}}  {records:10,}"
            print(line)  # noqa: T201 - standard output is this command's result

    go(work)


def trim(
    stream: Name,
    position: Annotated[int, typer.Argument(min=0, help="The last position to forget.")],
    url: Url = None,
    data: Data = None,
) -> None:
    """Forget the records of a stream up to a position, this one included, for good."""

    async def work() -> None:
        async with Where(url, data).open_existing(dict(os.environ)) as bus:
            there = await bus.stream(stream)
            try:
                tell(f"{_records(await there.trim(position))} of {there.name} forgotten.")
            except BeyondTail as error:
                raise ConviveError(
                    f"{there.name} has no position {position} yet: its log ends at {error.end}. Nothing was forgotten."
                ) from None

    go(work)


async def _append_lines(producer: Producer, headers: dict[str, str], ttl_s: int | None, *, only_json: bool) -> None:
    number = 0
    async for line in _lines():
        number += 1
        if number <= producer.resumed_at:
            continue
        try:
            if only_json:
                json.loads(line)
            await producer.submit(line, headers, ttl_s=ttl_s)
        except (ValueError, RecursionError):
            problem = "it is not JSON. Nothing was appended of it; mend it and append the rest from there on."
        except NotAppended as error:
            if producer.failed:
                raise
            problem = str(error)
        else:
            continue
        await producer.flush()  # what came before it is fine
        raise BadLine(f"line {number} of standard input: {problem}")


async def _lines() -> AsyncGenerator[bytes]:
    """The lines of standard input as they come, without their ends."""
    rest = b""
    while True:
        chunk = await _chunk()
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > LINE_BYTES:
            break
    if rest:
        yield rest


async def _chunk() -> bytes:
    try:
        await anyio.wait_readable(STDIN)
    except PermissionError:  # a regular file, which cannot be waited for and need not be
        await anyio.lowlevel.checkpoint()
    try:
        return os.read(STDIN, CHUNK_BYTES)
    except OSError as error:
        raise BadLine(f"standard input cannot be read: {error.strerror}.") from None


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConviveError(f"--header {text[:80]!r}: expected NAME=VALUE. Nothing was appended.")
    return name.strip(), value.strip()


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count:,} records"


def _skipped(producer: Producer) -> str:
    return f", behind the {producer.resumed_at:,} that were there" if producer.resumed_at else ""


async def _show_live(stream: Stream, tail: StreamTail, where: Where, *, as_json: bool) -> None:
    if tail.snapshot is not None:
        _write_state(tail.snapshot.body, tail.snapshot.covers, as_json=as_json)
    told = False
    try:
        while True:
            if tail.caught_up:
                sys.stdout.flush()
                if not told:
                    tell(f"Up to date with {stream.name} at {tail.position}. Ctrl-C leaves.")
                    told = True
            record = await tail.next()
            if record is not None:
                _write(record, as_json=as_json)
    except anyio.get_cancelled_exc_class():
        tell(f"Left at {tail.position}. Go on: convive read {stream.name} -s {tail.position + 1} -f{where.options}")
        raise


def _write(record: StreamRecord, *, as_json: bool) -> None:
    if as_json:
        row = {"position": record.position, "time_s": round(record.time_s, 3), "headers": dict(record.headers)}
        print(json.dumps({**row, **_body(record.body)}, ensure_ascii=False))  # noqa: T201 - the command's result
    else:
        _write_raw(record.body)


def _write_state(body: bytes, covers: int, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"covers": covers, **_body(body)}, ensure_ascii=False))  # noqa: T201 - the command's result
    else:
        _write_raw(body)


def _write_raw(body: bytes) -> None:
    """A terminal gets no control characters; a pipe gets the bytes."""
    if sys.stdout.isatty():
        print(shown(body.decode(errors="replace")))  # noqa: T201 - the command's result
    else:
        sys.stdout.buffer.write(body + b"\n")


def _body(body: bytes) -> dict[str, object]:
    """A body as JSON can hold it: what it holds itself, or as text, or, if it is neither, in base 64."""
    try:
        return {"body": json.loads(body)}
    except (ValueError, RecursionError):
        pass
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
