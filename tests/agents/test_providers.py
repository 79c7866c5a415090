"""Providers that other packages bring: found by their entry points, in real distributions on a path of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convive.agents.models._model import Model
from convive.agents.models._models import Models, default_models, split_model
from convive.agents.models._providers import installed_provider, installed_providers, own_providers, register_provider
from convive.agents.models._scripted import ScriptedModel

ONE_FILE = """
from contextlib import asynccontextmanager
from convive.agents import Answer, Text

print("imported")

class Parrot:
    def __init__(self, model):
        self.name = f"acme/{model}"

    @asynccontextmanager
    async def stream(self, request):
        async def items():
            said = request.messages[-1].text
            yield Answer(parts=(Text(text=f"{self.name}: {said}"),), stop_reason="end")
        yield items()

    async def aclose(self):
        print("closed")

def make(model):
    return Parrot(model)

def fail(model):
    raise RuntimeError(f"no licence for {model}")

def refuse(model):
    from convive.agents import UnknownModel
    raise UnknownModel(f"acme has no {model}")

def make_nothing(model):
    return object()

NUMBER = 7
"""


def distribute(site: Path, name: str, entries: str) -> None:
    """What an installer leaves behind for a package that has entry points of our group."""
    info = site / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[convive.models]\n{entries}\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "acme_convive.py").write_text(ONE_FILE)
    return tmp_path


def run(site: Path, code: str) -> str:
    """What a fresh interpreter prints that has the packages of this site installed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ASK = """
import anyio
from convive.agents import Agent, default_models
async def main():
    models = default_models()
    ada = Agent("ada", model="acme/parrot/grey", models=models)
    alone = Agent("alone", model="acme/parrot/grey")
    print("made")
    print((await ada.prompt("Hello")).text, "|", (await alone.prompt("Hello again")).text)
    await models.aclose()
anyio.run(main)
"""


def test_a_package_adds_a_provider_with_one_file_and_one_entry_point(site: Path) -> None:
    """G4, G5: found by name, also without a registry, and imported when its first model is asked for"""
    distribute(site, "acme-convive", "acme = acme_convive:make")
    assert run(site, ASK).splitlines() == [
        "made",
        "imported",
        "acme/parrot/grey: Hello | acme/parrot/grey: Hello again",
        "closed",
    ]


REFUSED = """
from convive.agents import UnknownModel, default_models
try:
    default_models().resolve({name!r})
except UnknownModel as error:
    print(type(error).__name__, error, sep=": ")
"""


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("acme_convive_gone:make", "cannot be imported: ModuleNotFoundError: No module named 'acme_convive_gone'"),
        ("acme_convive:gone", "cannot be imported: AttributeError: module 'acme_convive' has no attribute 'gone'"),
        ("acme_convive:NUMBER", "is no function, but int"),
        ("acme_convive:fail", "could not make acme/x: RuntimeError: no licence for x"),
        ("acme_convive:make_nothing", "made object, which is no model: it needs `name` and `stream`"),
    ],
)
def test_a_broken_provider_is_reported_when_it_is_asked_for_with_what_to_do(site: Path, entry: str, why: str) -> None:
    """G4: and never before"""
    distribute(site, "acme-convive", f"acme = {entry}")
    said = run(site, REFUSED.format(name="acme/x")).splitlines()[-1]
    assert said == (
        f"BrokenProvider: the provider 'acme' comes from {entry} of acme-convive 1.2, and that {why}. "
        "Update or uninstall that package, or choose another model."
    )
    assert run(site, "from convive.agents import default_models; default_models().resolve('scripted/party')") == ""


def test_what_a_provider_says_of_its_own_models_is_passed_on(site: Path) -> None:
    """G4"""
    distribute(site, "acme-convive", "acme = acme_convive:refuse")
    assert run(site, REFUSED.format(name="acme/x")).splitlines()[-1] == "UnknownModel: acme has no x"


def test_a_name_that_is_none_is_answered_with_the_installed_providers_too(site: Path) -> None:
    """G5: the suggestion knows them"""
    distribute(site, "acme-convive", "acme = acme_convive:make\nno/slash = acme_convive:make")
    for name, hint in (("acne/x", ' Did you mean "acme/x"?'), ("x", "")):
        said = run(site, REFUSED.format(name=name))
        assert said.endswith(f".{hint} The providers are: anthropic, local, scripted, acme.\n")
        assert "imported" not in said


def test_a_shipped_provider_wins_over_an_installed_one_of_its_name(site: Path) -> None:
    """G4"""
    distribute(site, "acme-convive", "scripted = acme_convive:make")
    code = "from convive.agents import default_models; print(default_models().resolve('scripted/party').name)"
    assert run(site, code) == "scripted/party\n"


def test_two_packages_that_offer_the_same_provider_are_named(site: Path) -> None:
    """G4: neither is chosen by accident"""
    distribute(site, "acme-convive", "acme = acme_convive:make")
    distribute(site, "other-convive", "acme = other:make")
    said = run(site, REFUSED.format(name="acme/x"))
    assert said.startswith("BrokenProvider: two packages offer the provider 'acme': ")
    assert "acme_convive:make of acme-convive 1.2" in said
    assert "other:make of other-convive 1.2" in said


def test_without_such_packages_there_are_no_further_providers() -> None:
    assert installed_providers() == ()
    assert installed_provider("acme") is None


def test_a_registry_of_ones_own_does_not_look_for_installed_packages(site: Path) -> None:
    distribute(site, "acme-convive", "acme = acme_convive:make")
    code = "from convive.agents import Models\ntry: Models({}).resolve('acme/x')\nexcept Exception as e: print(e)"
    assert "there is no provider 'acme'" in run(site, code)


def test_own_factories_go_before_the_shipped_ones() -> None:
    """G4: for one registry, and nowhere else"""

    def mine(model: str) -> Model:
        return ScriptedModel([], name=f"mine/{model}")

    models = default_models({"scripted": mine, "acme": mine})
    assert models.resolve("scripted/party").name == "mine/party"
    assert models.resolve("acme/a/b").name == "mine/a/b"
    assert default_models().resolve("scripted/party").name == "scripted/party"


def test_a_registry_can_hold_any_provider_and_splits_at_the_first_slash_only() -> None:
    """G5"""
    assert split_model("router/vendor/model:free", ["router"]) == ("router", "vendor/model:free")
    asked: list[str] = []

    def factory(model: str) -> Model:
        asked.append(model)
        return ScriptedModel([])

    Models({"router": factory}).resolve("router/vendor/model:free")
    assert asked == ["vendor/model:free"]


REGISTERED = """
import os
os.environ.update(CONVIVE_MODEL="scripted/party", ANTHROPIC_API_KEY="k")
import anyio, pytest
from acme_convive import Parrot, make
from convive.agents import Agent, UnknownModel, default_models, prompt, register_provider, set_default_model
from convive.agents.testing import ScriptedModel, fake_models

with pytest.raises(UnknownModel, match="no provider 'home'"):
    set_default_model("home/grey")
register_provider("home", make)
register_provider("anthropic", lambda model: ScriptedModel(["mine: " + model], name="anthropic/" + model))
set_default_model("home/grey")

async def main():
    print((await prompt("Hello")).text)
    print((await Agent("ada", model="anthropic/large").prompt("Hello")).text)
    own = default_models({"home": lambda model: ScriptedModel(["one's own"], name="home/" + model)})
    print((await Agent("ada", models=own).prompt("Hello")).text)
    with fake_models(["fake"]):
        print((await prompt("Hello")).text)
    set_default_model(None)
    print((await prompt("Hello")).report.trips[0].answer.model)

anyio.run(main)
"""


def test_a_program_registers_a_provider_and_sets_the_default_once_at_its_start(site: Path) -> None:
    """Before the environment is looked at, and instead of a shipped one."""
    assert run(site, REGISTERED).splitlines() == [
        "imported",
        "acme/grey: Hello",
        "mine: large",
        "one's own",
        "fake",
        "scripted/party",
    ]


@pytest.mark.parametrize("name", ["", "a/b", " a"])
def test_what_is_no_word_is_no_provider(name: str) -> None:
    with pytest.raises(ValueError, match="the word before the slash"):
        register_provider(name, ScriptedModel)
    with pytest.raises(TypeError, match="not str"):
        register_provider("acme", "acme.make")  # type: ignore[arg-type]
    assert set(own_providers()) == {"anthropic", "local", "scripted"}
