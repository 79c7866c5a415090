"""Parties from a user's own file: TOML for data, Python for one's own participants."""

import difflib
import runpy
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from convive.bus import ConviveError
from convive.scenarios.party._guests import GUESTS
from convive.scenarios.party._party import Guest, Party, PartyError

MAX_FILE_BYTES = 1_000_000

_EXPECTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "model_type": "a guest: a name in quotes, or a table with `seat` and `about`",
    "string_too_short": "some text",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_long": "at most {max_length} characters",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than_equal": "{le:g} or less",
}


def load_party(path: Path) -> Party:
    """A party from a `.toml` or a `.py` file.

    A Python file defines `party`: a Party, or a function without arguments that returns one. It is run as code,
    like any script. Raises PartyError, which names the file, the key and what was expected.
    """
    if not path.is_file():
        raise PartyError(f"{path}: there is no such file.")
    if path.suffix == ".toml":
        return party_from(_toml(path), str(path))
    if path.suffix == ".py":
        return _python(path)
    raise PartyError(f"{path}: a party is a .toml file or a .py file that defines `party`.")


def party_from(data: Mapping[str, Any], where: str) -> Party:
    """A party from plain data; `where` names its origin in errors. Raises PartyError."""
    try:
        return Party.model_validate(dict(data))
    except ValidationError as error:
        raise PartyError("\n".join(f"{where}: {line}" for line in _lines(error))) from None


def party_of(setting: object, where: str) -> Party | None:
    """The party that a conversation was opened for; None when that was none of `convive run`. Raises PartyError."""
    if not isinstance(setting, Mapping) or "guests" not in setting:
        return None
    return party_from(cast("Mapping[str, Any]", setting), where)


def _toml(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise PartyError(f"{path}: larger than {MAX_FILE_BYTES} bytes; that is no guest list.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise PartyError(f"{path}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PartyError(f"{path}: cannot be read: {error}") from None
    guests: object = data.get("guests")
    for number, guest in enumerate(cast("list[object]", guests) if isinstance(guests, list) else [], start=1):
        if isinstance(guest, dict) and "coded" in guest:
            raise PartyError(f"{path}: `guests[{number}].coded`: only a party in Python brings its own participants")
    return data


def on_path(folder: Path) -> None:
    """Let a user's own module import its neighbours, now and later."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _python(path: Path) -> Party:
    on_path(path.resolve().parent)
    try:
        found = runpy.run_path(str(path), run_name="convive_party").get("party")
        party = found() if callable(found) else found
    except ValidationError as error:
        raise PartyError("\n".join(f"{path}: {line}" for line in _lines(error))) from error
    except ConviveError as error:
        raise PartyError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        raise PartyError(f"{path}: it failed with {type(error).__name__}: {error}. --debug shows where.") from error
    if not isinstance(party, Party):
        raise PartyError(
            f"{path}: expected a name `party` that is a convive.scenarios.Party, or a function that returns one; "
            f"found {type(party).__name__ if found is not None else 'no such name'}."
        )
    return party


def _lines(error: ValidationError) -> list[str]:
    problems = error.errors(include_url=False)
    # A list of which an item is bad counts as empty.
    bad = {problem["loc"][:1] for problem in problems if len(problem["loc"]) > 1}
    return [_line(problem) for problem in problems if problem["type"] != "too_short" or problem["loc"] not in bad]


def _line(problem: Any) -> str:
    key = _key(problem["loc"])
    kind, found = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return f"unknown key `{key}`{_nearest(problem['loc'])}"
    if kind == "missing":
        return f"`{key}` is missing: {_missing(key)}"
    if kind == "literal_error":
        return f"`{key}`: expected one of {problem['ctx']['expected']}, found {found!r}"
    if kind == "is_instance_of":
        return f"`{key}`: only a party in Python can bring its own participants"
    if kind == "value_error":
        return f"`{key}`: {problem['ctx']['error']}"
    expected = _EXPECTED.get(kind)
    if expected is None:
        return f"`{key}`: {problem['msg'][:1].lower()}{problem['msg'][1:]}, found {_short(found)}"
    return f"`{key}`: expected {expected.format(**problem.get('ctx', {}))}, found {_short(found)}"


def _key(place: Sequence[int | str]) -> str:
    text = ""
    for step in place:
        text += f"[{step + 1}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _short(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 60 else text[:57] + "..."


def _missing(key: str) -> str:
    if key.endswith(".about"):
        return f"say in a few words who this guest is (known without that: {', '.join(GUESTS)})"
    return "it must be given"


def _nearest(place: Sequence[int | str]) -> str:
    model: type[BaseModel] = Guest if len(place) > 1 else Party
    keys = [name for name in model.model_fields if name not in ("participant", "coded")]
    near = difflib.get_close_matches(str(place[-1]), keys, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known keys: {', '.join(keys)}"
