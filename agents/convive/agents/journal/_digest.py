"""Digests of what a model is asked: a trip hashes what is new in it, and never the conversation again."""

import hashlib
from collections.abc import Sequence
from operator import is_
from typing import cast

from pydantic_core import to_json

from convive.agents.models._messages import Message
from convive.agents.models._model import Request, ToolSpec
from convive.agents.models._schema import json_of

_BYTES = 4
_FEW = 20
"""So many messages are written as fast as they are looked up."""
_KNOWN = Message.__dict__["_known"]  # the slot itself: the way through the model is slow where nothing is in it


def digest_of(request: Request) -> str:
    """What a model is asked, in 35 characters: BLAKE2b, 4 bytes each, of the JSON of instructions, messages, tools, and
    sampling with the output's schema."""
    return Digests().of(request)


class _Known:
    """The sum over the messages with these ids, in this order. Each of them refers to it, and it to none of them: so
    whichever of them is still there is the one that had that id."""

    __slots__ = ("ids", "sum")

    def __init__(self, messages: Sequence[Message], sum: "hashlib.blake2b") -> None:
        self.ids = tuple(map(id, messages))
        self.sum = sum


class Digests:
    """The digests of the requests of one run, as `digest_of` gives them.

    Messages are told apart by identity: what a request shares with the one before it is not read again, and no more is
    a history that another run began with.
    """

    def __init__(self) -> None:
        self._messages: tuple[Message, ...] = ()
        self._sum = _opened()
        """The sum over these: the messages of the last request but its last one, which may yet be joined with more."""
        self._tools: tuple[ToolSpec, ...] | None = None
        self._tools_digest = ""

    def of(self, request: Request) -> str:
        """The digest of a request."""
        if self._tools is not request.tools:
            specs = [[spec.name, spec.description, spec.input_schema] for spec in request.tools]
            self._tools, self._tools_digest = request.tools, _digest(specs)
        rest = _digest([request.sampling, request.output_schema])
        return f"{_digest(request.system)}.{self._of_messages(request.messages)}.{self._tools_digest}.{rest}"

    def _of_messages(self, messages: tuple[Message, ...]) -> str:
        known = len(self._messages)
        begins = not known or known >= len(messages) or not all(map(is_, self._messages, messages))
        if begins:
            known, self._sum = _known(messages)
        try:
            new, last = _written(messages[known:-1]), _written(messages[-1:])
        except ValueError:  # what has no JSON form makes the whole of them a text
            self._messages = ()
            return _digest(messages)
        if new:
            self._sum.update(new + b",")
        self._messages = messages[:-1]
        if begins and len(messages) > _FEW:
            mark = _Known(self._messages, self._sum.copy())
            for message in self._messages:
                _KNOWN.__set__(message, mark)
        whole = self._sum.copy()
        whole.update(last + b"]")
        return whole.hexdigest()


def _known(messages: tuple[Message, ...]) -> tuple[int, "hashlib.blake2b"]:
    """How many of the messages were summed up before, from the first on, and to what; never the last of them."""
    if len(messages) > _FEW:
        try:
            mark = cast("_Known", _KNOWN.__get__(messages[0]))
            head = messages[: len(mark.ids)]
            same = len(head) < len(messages) and tuple(map(id, head)) == mark.ids
            if same and all(_KNOWN.__get__(message) is mark for message in head):
                return len(head), mark.sum.copy()
        except AttributeError:
            pass
    return 0, _opened()


def _written(messages: tuple[Message, ...]) -> bytes:
    """The messages as JSON, without the brackets around them."""
    return to_json(messages, fallback=str, inf_nan_mode="null")[1:-1] if messages else b""


def _opened() -> "hashlib.blake2b":
    return hashlib.blake2b(b"[", digest_size=_BYTES)


def _digest(part: object) -> str:
    return hashlib.blake2b(json_of(part).encode(), digest_size=_BYTES).hexdigest()
