"""The documentation runs: every Python and TOML block, and every command that it shows."""

import re
import shlex
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
from _pytest.mark import ParameterSet
from typer.main import get_command

from convive.scenarios import Party, app, load_party

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[ParameterSet]:
    """The code blocks of a language in all pages, as parameters named after where they stand."""
    found: list[ParameterSet] = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 2
            found.append(pytest.param(match[1], id=f"{page.name}:{line}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_example_runs(code: str, tmp_path: Path) -> None:
    script = tmp_path / "my_party.py"
    script.write_text(code)
    if "party = Party(" in code:
        load_party(script)
        command = [sys.executable, "-m", "convive.scenarios", "run", "my_party.py", "--model", "scripted/party"]
    else:
        command = [sys.executable, "my_party.py"]
    if "needs_approval" in code and "party = Party(" in code:
        answer_what_waits(command, tmp_path)
        return
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def answer_what_waits(command: list[str], folder: Path) -> None:
    """Run a party, and the command that it names when it waits for an approval."""
    party = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with party:
        timer = threading.Timer(60, party.kill)
        timer.start()
        assert party.stderr is not None
        assert party.stdout is not None
        for line in party.stderr:
            if found := re.search(r"From another shell: convive (.+)", line):
                answer = [sys.executable, "-m", "convive.scenarios", *shlex.split(found[1])]
                done = subprocess.run(answer, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
                assert done.returncode == 0, done.stderr
        assert "I went to the cellar: a 1982." in party.stdout.read()
        timer.cancel()
    assert party.returncode == 0


@pytest.mark.parametrize("text", blocks("toml"))
def test_a_toml_example_is_a_party(text: str, tmp_path: Path) -> None:
    file = tmp_path / "my-party.toml"
    file.write_text(text)
    party = load_party(file)
    assert isinstance(party, Party)
    assert len(party.guests) == len(tomllib.loads(text)["guests"])


@pytest.mark.parametrize("text", blocks("console"))
def test_a_command_that_is_shown_exists(text: str) -> None:
    root = get_command(app)
    for line in re.findall(r"(?<=convive ).*", text):
        arguments = shlex.split(line, comments=True)
        name, command = "", cast("Any", root)
        while hasattr(command, "commands"):
            name = arguments.pop(0)
            command = command.commands[name]
        command.make_context(name, arguments)


def test_every_page_and_heading_that_a_page_links_to_is_there() -> None:
    for page in [*PAGES, *(ROOT / "docs" / "adr").glob("*.md")]:
        for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?", page.read_text()):
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name} links to {target}"
            assert not heading or heading in headings(there), f"{page.name} links to {target}#{heading}"


def headings(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}
