"""Names of models, and what they resolve to."""

import pytest

from convive.agents.models._errors import UnknownModel
from convive.agents.models._models import Choice, Models, choose_model, default_models, split_model
from convive.agents.models._scripted import ScriptedModel

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "provider", "model"),
    [
        ("anthropic/claude-sonnet-4-6", "anthropic", "claude-sonnet-4-6"),
        ("local/models/qwen/q4.gguf", "local", "models/qwen/q4.gguf"),
        ("local//srv/models/q4.gguf", "local", "/srv/models/q4.gguf"),
        ("scripted/party", "scripted", "party"),
    ],
)
def test_a_name_splits_at_its_first_slash(name: str, provider: str, model: str) -> None:
    assert split_model(name) == (provider, model)


@pytest.mark.parametrize(
    ("name", "problem", "suggestion"),
    [
        ("claude-sonnet-4-6", "does not say which provider", "anthropic/claude-sonnet-4-6"),
        ("smollm2-135m", "does not say which provider", "local/smollm2-135m"),
        ("/srv/q4.gguf", "does not say which provider", "local//srv/q4.gguf"),
        ("models/q4.gguf", "does not say which provider", "local/models/q4.gguf"),
        ("party", "does not say which provider", "scripted/party"),
        ("scripted", "does not say which provider", "scripted/party"),
        ("antropic/claude-sonnet-4-6", "no provider 'antropic'", "anthropic/claude-sonnet-4-6"),
        ("Local/smollm2-135m", "no provider 'Local'", "local/smollm2-135m"),
        ("bedrock/claude-opus-5", "no provider 'bedrock'", "anthropic/claude-opus-5"),
        ("local/", "names a provider and no model", "local/smollm2-135m"),
    ],
)
def test_a_name_that_is_none_is_refused_with_a_suggestion(name: str, problem: str, suggestion: str) -> None:
    with pytest.raises(UnknownModel) as info:
        split_model(name)
    assert problem in str(info.value)
    assert f'Did you mean "{suggestion}"?' in str(info.value)
    assert str(info.value).endswith("The providers are: anthropic, local, scripted.")
    split_model(suggestion)


@pytest.mark.parametrize("name", ["", "/", "gpt-5", "openai/gpt-5"])
def test_without_a_good_guess_the_providers_are_named(name: str) -> None:
    with pytest.raises(UnknownModel, match=r"The providers are: anthropic, local, scripted\.$") as info:
        split_model(name)
    assert "Did you mean" not in str(info.value)


def test_a_suggestion_names_only_providers_that_are_there() -> None:
    with pytest.raises(UnknownModel) as info:
        split_model("claude-opus-5", ["scripted"])
    assert str(info.value).endswith("The providers are: scripted.")
    assert "anthropic" not in str(info.value)


def test_the_first_source_that_names_a_model_wins() -> None:
    env = {"CONVIVE_MODEL": "local/q4.gguf", "ANTHROPIC_API_KEY": "k"}
    assert choose_model("scripted/party", env, True) == Choice("scripted/party", "asked for")
    assert choose_model(None, env, True) == Choice("local/q4.gguf", "CONVIVE_MODEL is set")
    key = {"ANTHROPIC_API_KEY": "k", "CONVIVE_MODEL": ""}
    assert choose_model("", key, True) == Choice("anthropic/claude-sonnet-4-6", "ANTHROPIC_API_KEY is set")
    assert choose_model(None, {}, True).name == "local/smollm2-135m"
    assert choose_model(None, {"ANTHROPIC_API_KEY": ""}, False).name == "scripted/party"


class _Closing(ScriptedModel):
    def __init__(self, name: str, closed: list[str], fails: bool = False) -> None:
        super().__init__([], name=name)
        self._closed = closed
        self._fails = fails

    async def aclose(self) -> None:
        self._closed.append(self.name)
        if self._fails:
            raise OSError(self.name)


async def test_a_name_is_made_into_a_model_once() -> None:
    made: list[str] = []

    def factory(model: str) -> ScriptedModel:
        made.append(model)
        return ScriptedModel([])

    models = Models({"scripted": factory})
    assert models.resolve("scripted/a/b") is models.resolve("scripted/a/b")
    assert models.resolve("scripted/c") is not models.resolve("scripted/a/b")
    assert made == ["a/b", "c"]
    with pytest.raises(UnknownModel):
        models.resolve("anthropic/claude-sonnet-4-6")


async def test_closing_closes_every_model_also_when_one_fails() -> None:
    closed: list[str] = []
    models = Models({"scripted": lambda model: _Closing(model, closed, fails=model == "b")})
    for name in ("a", "b", "c"):
        models.resolve(f"scripted/{name}")
    with pytest.raises(OSError, match=r"^b$"):
        await models.aclose()
    assert sorted(closed) == ["a", "b", "c"]
    await models.aclose()
    assert len(closed) == 3


async def test_the_shipped_providers_resolve_without_a_key_or_a_network() -> None:
    models = default_models()
    assert models.resolve("anthropic/claude-sonnet-4-6").name == "anthropic/claude-sonnet-4-6"
    assert models.resolve("scripted/party").name == "scripted/party"
    with pytest.raises(UnknownModel):
        models.resolve("scripted/opera")
    await models.aclose()
