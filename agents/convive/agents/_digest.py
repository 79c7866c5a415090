"""Digests of what a model is asked: a trip hashes what is new in it, and never the conversation again."""

import hashlib
from operator import is_

from convive.agents._messages import Message, json_of_message
from convive.agents._model import Request, ToolSpec
from convive.agents._schema import json_of

_BYTES = 4


def digest_of(request: Request) -> str:
    """What a model is asked, in 35 characters: BLAKE2b, 4 bytes each, of the JSON of instructions, messages, tools, and
    sampling with the output's schema."""
    return Digests().of(request)


class Digests:
    """The digests of the requests of one run, as `digest_of` gives them.

    Messages are told apart by identity: what a request shares with the one before it is not read again.
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
        if known >= len(messages) or not all(map(is_, self._messages, messages)):
            self._messages, self._sum, known = (), _opened(), 0
        if not messages:
            return _digest(messages)
        try:
            written = [json_of_message(message) for message in messages[known:]]
        except ValueError:  # what has no JSON form makes the whole of them a text
            return _digest(messages)
        self._sum.update(b"".join(each + b"," for each in written[:-1]))
        self._messages = messages[:-1]
        whole = self._sum.copy()
        whole.update(written[-1] + b"]")
        return whole.hexdigest()


def _opened() -> "hashlib.blake2b":
    return hashlib.blake2b(b"[", digest_size=_BYTES)


def _digest(part: object) -> str:
    return hashlib.blake2b(json_of(part).encode(), digest_size=_BYTES).hexdigest()
