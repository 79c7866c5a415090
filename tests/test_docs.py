"""The documentation runs: every Python and TOML block, and every command that it shows."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

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
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


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
        name, *arguments = shlex.split(line)
        command = root.commands[name]  # type: ignore[attr-defined]  # pyright: ignore
        command.make_context(name, arguments)


def test_every_page_that_a_page_links_to_is_there() -> None:
    for page in [*PAGES, *(ROOT / "docs" / "adr").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
