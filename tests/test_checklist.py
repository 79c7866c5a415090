"""Each row of the checklist in scope is named by a test's docstring: `grep -rw G29 tests` finds where it is tested.

G and W: the rows of the two documents that the agent runtime was asked to follow, C: the conformance tests,
3.2 to 3.4: the sections on streams, handovers and testing, which have no rows. D, in docstrings, are defects of others
that a test keeps us from.
"""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
ID = re.compile(r"\b(?:[GWC][1-9]\d?|3\.[234])\b(?!-)")
"""Of a range only the last one counts: nobody finds what stands between."""

OUT_OF_SCOPE = {
    "G87": "ready-made tools (search, files, a browser) are for other packages; MCP brings them in",
    "G88": "a store of conversations: the bus is one, and for agents without a bus the history is the caller's",
    "G89": "a journal's messages are whole by construction, see C24; repairing those of others is theirs",
    "G90": "a client's copy of a history is never taken for the truth: what continues a run is its journal",
    "G91": "a memory of users over many conversations; a seat's memory on the bus is another thing",
    "G94": "budgets of users over days; `Limits(cost=...)` bounds a run and what is below it",
    "G97": "bundles of instructions and tools from files",
}
"""Rows of the tables that nobody asked for, each with the reason. One that gets a test moves up."""

IN_SCOPE = {
    *(f"G{n}" for n in range(1, 87)),
    *("G92", "G93", "G95", "G96", "G98", "G99"),
    *(f"W{n}" for n in range(1, 38)),
    *(f"C{n}" for n in range(1, 31)),
    *("3.2", "3.3", "3.4"),
} - OUT_OF_SCOPE.keys()


def named() -> set[str]:
    """Every id in the docstring of a test."""
    found: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.update(ID.findall(ast.get_docstring(node) or ""))
    return found


def test_each_row_in_scope_is_named_by_a_test() -> None:
    assert sorted(IN_SCOPE - named()) == []


def test_a_row_is_either_in_scope_or_out_of_it_with_a_reason() -> None:
    assert sorted(named() & OUT_OF_SCOPE.keys()) == []
    assert {row for row in IN_SCOPE | OUT_OF_SCOPE.keys() if row[0] == "G"} == {f"G{n}" for n in range(1, 100)}


def test_a_name_that_is_no_row_is_noticed() -> None:
    """W38 to W54, of the wider study, may be named as well."""
    assert sorted(named() - IN_SCOPE - {f"W{n}" for n in range(38, 55)}) == []
