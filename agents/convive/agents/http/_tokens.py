"""Tokens: who may do what, for how long, signed by whoever issued them. Nothing is stored.

A token is `cv1.CLAIMS.SIGNATURE`: the claims are JSON in base64url, the signature is HMAC-SHA-256 over `cv1.CLAIMS`, in
base64url (RFC 4648, without padding).
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from convive.bus import ConviveError

Verb = Literal["read", "write"]
"""Who may write may read as well."""

Kind = Literal["conversation", "runs", "entity", "stream"]
"""`conversation`: what is said at a table. `runs`: what is done and thought for that, and answers to it; by the name of
the conversation, the entity or the name space beside which the runs are kept."""

KEY_BYTES = 32
TICKET_S = 30.0
"""How long a ticket opens what it is for."""

_VERSION = "cv1"
_LONGEST = 4_096


class BadToken(ConviveError):
    """No token, or none that counts here and now. Nothing was read or changed."""


class NotAllowed(ConviveError):
    """The token is good, and not for this. Nothing was read or changed."""


class BadRight(ConviveError):
    """What is no right. No token was made."""


@dataclass(frozen=True, slots=True)
class Right:
    """A verb, a kind, and a name or its beginning: `read:conversation:dinner`, `write:entity:shop/*`, `read:*`."""

    verb: Verb
    kind: Kind | Literal["*"]
    name: str

    @classmethod
    def of(cls, text: str) -> "Right":
        """Raises BadRight."""
        verb, _, rest = text.partition(":")
        kind, _, name = rest.partition(":")
        if verb in get_args(Verb) and kind == "*" and not name:
            return cls(cast("Verb", verb), "*", "*")
        if verb in get_args(Verb) and kind in get_args(Kind) and 0 < len(name) <= 200 and "*" not in name[:-1]:
            return cls(cast("Verb", verb), cast("Kind", kind), name)
        raise BadRight(
            f"{text[:80]!r} is no right. Give VERB:KIND:NAME, such as read:conversation:dinner or write:entity:shop/*, "
            f"or VERB:* for everything; verbs: {', '.join(get_args(Verb))}; kinds: {', '.join(get_args(Kind))}. "
            "No token was made."
        )

    def covers(self, verb: Verb, kind: Kind, name: str) -> bool:
        """Whether that may be done by it."""
        if verb == "write" and self.verb == "read":
            return False
        if self.kind not in ("*", kind):
            return False
        return name.startswith(self.name[:-1]) if self.name.endswith("*") else name == self.name

    def __str__(self) -> str:
        return f"{self.verb}:*" if self.kind == "*" else f"{self.verb}:{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class Pass:
    """What a token that counts says: its rights, until when (seconds since 1970) and, of a ticket, for which path."""

    rights: tuple[Right, ...]
    until_s: float
    path: str | None = None

    def may(self, verb: Verb, kind: Kind, name: str) -> bool:
        """Whether whoever brings it may do that."""
        return any(right.covers(verb, kind, name) for right in self.rights)

    def names(self, kind: Kind) -> list[str] | None:
        """The names of that kind that may be read; None when only a look at all of them can tell."""
        rights = [right for right in self.rights if right.kind in ("*", kind)]
        return None if any(right.name.endswith("*") for right in rights) else [right.name for right in rights]

    def check(self, verb: Verb, kind: Kind, name: str) -> None:
        """Raises NotAllowed."""
        if not self.may(verb, kind, name):
            raise NotAllowed(
                f"this token may not {verb} {'the runs of' if kind == 'runs' else kind} {name[:200]}. It is good for: "
                f"{', '.join(str(right) for right in self.rights) or 'nothing'}. Ask whoever issued it for another one."
            )


class Tokens:
    """Issues tokens and checks them, with one key: whoever has the key can do both. Keep it as you keep a password."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the key of tokens is bytes, not {type(key).__name__}.")
        if len(key) < KEY_BYTES:
            raise ValueError(f"the key of tokens has {KEY_BYTES} bytes at least: secrets.token_bytes({KEY_BYTES}).")
        self._key = key

    def __repr__(self) -> str:
        return "Tokens(...)"

    def issue(self, rights: Iterable[str], *, until_s: float) -> str:
        """A token that counts until that time, in seconds since 1970. Raises BadRight."""
        return self._issue(tuple(Right.of(right) for right in rights), until_s, None, until_s)

    def ticket(self, held: Pass, path: str, *, now_s: float) -> str:
        """A token that opens one path within `TICKET_S`, to read there what `held` may read, as long as that counts.

        It may stand in an address, where a token may not: addresses get into logs."""
        reading = tuple(Right("read", right.kind, right.name) for right in held.rights)
        return self._issue(reading, held.until_s, path, min(now_s + TICKET_S, held.until_s))

    def check(self, text: str, *, now_s: float, path: str | None = None) -> Pass:
        """What a token says; with a `path`, what a ticket for it says. Raises BadToken."""
        signed, _, signature = text[: _LONGEST + 1].rpartition(".")
        # Both are ASCII or nothing is: compare_digest refuses other texts.
        given, right = signature.encode(errors="replace"), self._sign(signed)
        if not hmac.compare_digest(given, right) or len(text) > _LONGEST or not signed.startswith(f"{_VERSION}."):
            raise BadToken("this token was not issued here, or was changed. `convive token` issues another one.")
        claims = from_json(_bytes(signed.removeprefix(f"{_VERSION}.")))
        if claims["opens"] != path:
            raise BadToken("a ticket opens the path that it is for, as ?ticket=; anything else takes a token.")
        if not now_s < claims["open_until"]:  # also when that is no number
            raise BadToken("this token has expired. `convive token` issues another one.")
        return Pass(tuple(Right.of(right) for right in claims["may"]), claims["until"], claims["opens"])

    def _issue(self, rights: tuple[Right, ...], until_s: float, path: str | None, open_until_s: float) -> str:
        claims: dict[str, JsonValue] = {
            "may": [str(right) for right in rights],
            "until": until_s,
            "opens": path,
            "open_until": open_until_s,
        }
        signed = f"{_VERSION}.{_text(to_json(claims))}"
        token = f"{signed}.{self._sign(signed).decode()}"
        if len(token) > _LONGEST:
            raise BadRight(f"a token has {_LONGEST} characters at most: name fewer rights. No token was made.")
        return token

    def _sign(self, signed: str) -> bytes:
        return _text(hmac.digest(self._key, signed.encode(errors="replace"), "sha256")).encode()


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
