"""What a request asks for, checked before anything is done."""

from collections.abc import Mapping
from typing import TypeVar

import anyio
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from convive.agents.http._problems import Refused
from convive.bus import Log

MOST_BODY = 2_097_152
"""Bytes: a record holds 1 MiB, and JSON may need more to say the same."""
BODY_S = 30.0
"""How long a body may take to come."""

LAST = "Last-Event-ID"

Some = TypeVar("Some", bound="Body")


class Body(BaseModel):
    """What a body has to say: these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


async def body_of(request: Request, kind: type[Some]) -> Some:
    """The body of a request. Raises Refused."""
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != "application/json":
        raise Refused(415, "the body has to be JSON, and say so (Content-Type: application/json). Nothing was changed.")
    given = await _read(request)
    try:
        from_json(given, allow_inf_nan=False)  # which JSON does not have, and pydantic takes all the same
        return kind.model_validate_json(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])[:200]
        why = f"{place}: {first['msg']}" if place else first["msg"]
        raise Refused(400, f"the body does not fit: {why}. Nothing was changed.") from None
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}. Nothing was changed.") from None


async def _read(request: Request) -> bytes:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:18]) > MOST_BODY:
        raise _too_large()
    parts, size = list[bytes](), 0
    try:
        with anyio.fail_after(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > MOST_BODY:
                    raise _too_large()
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the body did not come within {BODY_S:g} s. Nothing was changed.") from None
    except ClientDisconnect:
        raise Refused(400, "the body broke off. Nothing was changed.") from None
    return b"".join(parts)


def _too_large() -> Refused:
    return Refused(413, f"the body has more than {MOST_BODY} bytes. Nothing was changed.")


def number_of(query: Mapping[str, str], name: str, otherwise: int, most: int = 10**15) -> int:
    """A whole number among the parameters of a request. Raises Refused."""
    text = query.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and int(text) <= most):
        raise Refused(400, f"{name}={text[:80]!r} is no whole number up to {most}.")
    return int(text)


async def after_of(request: Request, log: Log) -> int:
    """The place behind which a reader goes on: what a browser says when it connects again, or `after`.

    Raises Refused, also for a place that this log has not reached: another one handed it out."""
    last = request.headers.get(LAST)
    after = number_of(request.query_params, "after", 0) if last is None else number_of({LAST: last}, LAST, 0)
    if after and after > (end := await log.end()):
        raise Refused(
            400, f"place {after} is beyond the end of the log, which is at {end}. Give one that was handed out, or 0."
        )
    return after
