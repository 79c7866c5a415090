"""docs/guarantees.md: every promise names tests, and every test that it names exists, once."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
TESTS = Counter(
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
)
NAMED = re.compile(r"`(test_\w+)`")


def promises() -> list[str]:
    """The items and the rows of tables, each with the lines that continue it, up to what is not promised."""
    promised, _, _ = PAGE.partition("## What is not promised")
    items = re.findall(r"^- .*(?:\n  .*)*", promised, re.MULTILINE)
    rows = re.findall(r"^\| (?!killed ).*", promised, re.MULTILINE)
    return [*items, *rows]


def test_every_promise_names_a_test() -> None:
    assert len(promises()) > 25
    assert [promise for promise in promises() if not NAMED.search(promise)] == []


def test_every_test_that_is_named_exists_once() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 40
    assert {name: TESTS[name] for name in named if TESTS[name] != 1} == {}
