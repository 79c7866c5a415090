"""Errors as problem details: https://www.rfc-editor.org/rfc/rfc9457"""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from pydantic import JsonValue
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from convive.agents.entities import EntityOver, Forgotten, NoEntity, UnknownEntity
from convive.agents.http._tokens import BadToken, NotAllowed
from convive.agents.journal._refusals import BadAnswers, ResumeRefused, UnknownRun
from convive.bus import (
    BadRecord,
    BusUnavailable,
    Closed,
    Conflict,
    ConviveError,
    Fenced,
    MaybeAppended,
    NotAppended,
    Trimmed,
    UnknownConversation,
    WrongStream,
)

_STATUS: tuple[tuple[type[ConviveError], int], ...] = (
    (BadToken, 401),
    (NotAllowed, 403),
    (UnknownConversation, 404),
    (UnknownRun, 404),
    (UnknownEntity, 404),
    (NoEntity, 404),
    (BadAnswers, 400),
    (ResumeRefused, 409),
    (Closed, 409),
    (EntityOver, 409),
    (Conflict, 409),
    (Fenced, 409),
    (Forgotten, 410),
    (Trimmed, 410),
    (NotAppended, 422),
    (BadRecord, 500),
    (WrongStream, 500),
    (BusUnavailable, 503),
    (MaybeAppended, 504),
)
"""By what the caller now knows; the first that fits. Any other error of ours is one of what was asked: 400."""


HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "cache-control": "no-store",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
)
"""Of every response that does not say otherwise."""


class Refused(ConviveError):
    """A request that is not taken, and with which status."""

    def __init__(self, status: int, why: str) -> None:
        self.status = status
        super().__init__(why)


def status_of(error: ConviveError) -> int:
    """The status of a response that tells of an error."""
    if isinstance(error, Refused):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 400)


def problem_json(error: ConviveError) -> dict[str, JsonValue]:
    """An error as problem details: the words are those of the command line, `error` is its name in Python."""
    return _problem(status_of(error), type(error).__name__, str(error))


def problem(error: ConviveError) -> Response:
    """The response that tells of an error."""
    status = status_of(error)
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return _response(problem_json(error), status, headers)


def on_error(_: Request, error: Exception) -> Response:
    """For Starlette: an error of ours, one of its own, or one that nobody has foreseen."""
    if isinstance(error, ConviveError):
        return problem(error)
    if isinstance(error, HTTPException):
        why = {
            404: "there is nothing at this path. docs/web.md lists what there is.",
            405: "this path does not take this method. docs/web.md lists what there is.",
        }.get(error.status_code, error.detail)
        body = _problem(error.status_code, HTTPStatus(error.status_code).phrase.title().replace(" ", ""), why)
        return _response(body, error.status_code, dict(error.headers or {}))
    words = "something went wrong that nobody has foreseen. The server's log has more (convive serve --debug)."
    # Starlette answers this outside of all middleware.
    return _response(_problem(500, "InternalServerError", words), 500, dict(HEADERS))


def _problem(status: int, name: str, detail: str) -> dict[str, JsonValue]:
    return {"title": HTTPStatus(status).phrase, "status": status, "error": name, "detail": detail}


def _response(body: dict[str, JsonValue], status: int, headers: dict[str, str]) -> Response:
    return JSONResponse(body, status, headers, media_type="application/problem+json")
