"""Records in the four forms that JetStream hands them out in."""

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from nats.aio.msg import Msg

from convive.bus.jetstream._jetstream_headers import parsed
from convive.bus.log._log import Record

_NO_HEADERS: Mapping[str, str] = {}


class Delivered(NamedTuple):
    """A record from a consumer: `place` counts from 1 in that consumer, `pending` is what it still has to send."""

    record: Record
    place: int
    pending: int


def delivered(message: Msg) -> Delivered | None:
    """Read a message of a push consumer; None for a heartbeat or a flow-control request.

    The reply subject carries the metadata (NATS ADR-15): `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream
    seq>.<consumer seq>.<nanoseconds>.<pending>`, with the domain and account before the stream in its newer form.
    """
    fields = message.reply.split(".")
    if len(fields) < 9 or fields[1] != "ACK":
        return None
    first = 5 if len(fields) == 9 else 7
    headers: Mapping[str, str] = _NO_HEADERS if message.headers is None else message.headers
    record = Record(message.subject, int(fields[first]), int(fields[first + 2]) / 1e9, headers, message.data)
    return Delivered(record, int(fields[first + 1]), int(fields[first + 3]))


def stored(answer: dict[str, Any]) -> Record:
    """Read the answer to `STREAM.MSG.GET`."""
    message = answer["message"]
    return Record(
        str(message["subject"]),
        int(message["seq"]),
        _seconds(str(message["time"])),
        parsed(base64.b64decode(message.get("hdrs", "")).partition(b"\r\n")[2]),
        base64.b64decode(message.get("data", "")),
    )


def paged(message: Msg) -> Record | None:
    """Read an answer to a direct get; None for what is no record but says that there are no more (NATS ADR-31)."""
    headers: Mapping[str, str] = message.headers or _NO_HEADERS
    if "Nats-Sequence" not in headers:
        return None
    time_s = _seconds(headers["Nats-Time-Stamp"])
    return Record(headers["Nats-Subject"], int(headers["Nats-Sequence"]), time_s, headers, message.data)


def _seconds(text: str) -> float:
    """RFC 3339 with up to nine digits, as seconds since 1970: the same float that a consumer's nanoseconds give."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    since_1970 = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return (since_1970 * 10**9 + int(fraction.ljust(9, "0"))) / 1e9
