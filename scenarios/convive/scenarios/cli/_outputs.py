"""Standard output and error, made fit for what the commands write: closed ones, and encodings that lack letters."""

import codecs
import io
import json
import os
import sys

SUBSTITUTES, ESCAPES = "convive.substitutes", "convive.escapes"
"""The names of the error handlers: how Python knows them."""

_ASCII = {
    "✓": "v",
    "✗": "X",
    "…": "~",
    "├": "|",
    "│": "|",
    "└": "`",
    "━": "=",
    "▍": "_",
    "Σ": "S",
    "≥": ">",
    "·": "-",
}
"""What stands for the signs that the commands draw, each in one column."""


def prepare(*, for_json: bool) -> None:
    """Have standard output and error take everything: what nobody reads, and letters that their encoding lacks."""
    if sys.stdout is None:  # closed by whoever started us: they want nothing of it
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - as above
    codecs.register_error(SUBSTITUTES, substituted)
    codecs.register_error(ESCAPES, escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPES if for_json else SUBSTITUTES)


def substituted(error: UnicodeError) -> tuple[str, int]:
    """Letters that an encoding lacks, for a person: as signs, or as their numbers. See `codecs.register_error`."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - nothing is read through these streams
    letter = error.object[error.start]
    return _ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode(), error.start + 1


def escaped(error: UnicodeError) -> tuple[str, int]:
    """The same within JSON, where they are the same letters again for whoever reads it."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - as above
    return json.dumps(error.object[error.start])[1:-1], error.start + 1
