"""`fake_models()`: a whole program under test, without a key and without the network."""

import doctest
from collections.abc import Iterator
from contextlib import suppress

import anyio
import pytest

from convive.agents.models import _fake
from convive.agents.models._errors import ModelOverloaded, UnknownModel
from convive.agents.models._fake import FakeModels, fake_models
from convive.agents.models._messages import Text, ToolUse
from convive.agents.models._model import Answer, Request
from convive.agents.models._models import Models, default_models
from convive.agents.models._scripted import ScriptedModel, UnexpectedRequest
from convive.agents.runs._agent import Agent, agent, prompt
from convive.agents.runs._events import TextDelta
from convive.agents.tools._tools import tool

pytestmark = pytest.mark.anyio


def test_the_documented_example_runs() -> None:
    """3.4"""
    assert doctest.testmod(_fake) == doctest.TestResults(failed=0, attempted=5)


async def test_every_model_that_a_program_names_answers_from_the_script() -> None:
    """3.4, G4"""
    with fake_models(["One.", "Two.", "Three."]) as fake:
        first = await Agent("a", model="anthropic/claude-opus-5").prompt("first")
        second = await Agent("b", model="local/no-such-file.gguf").prompt("second")
        assert (fake.left, default_models()) == (1, fake)
        third = await Agent("c", model="acme/unknown", models=fake).prompt("third")
    assert [result.text for result in (first, second, third)] == ["One.", "Two.", "Three."]
    assert [(asked.model, asked.text) for asked in fake.asked] == [
        ("anthropic/claude-opus-5", "first"),
        ("local/no-such-file.gguf", "second"),
        ("acme/unknown", "third"),
    ]
    assert [trip.answer and trip.answer.model for trip in first.report.trips] == ["anthropic/claude-opus-5"]
    assert fake.left == 0


async def test_an_agent_without_a_model_and_the_module_level_prompt_are_faked_too() -> None:
    """G6, G7, 3.4: `agent("...")` with the default model"""
    with fake_models(lambda request: f"{request.system}|{request.messages[-1].text}") as fake:
        assert (await agent("You summarize.").prompt("text")).text == "You summarize.|text"
        assert (await prompt("Hello")).text == "You are a helpful assistant.|Hello"
    assert len({asked.model for asked in fake.asked}) == 1


async def test_a_model_can_have_a_script_of_its_own() -> None:
    """3.4: which keeps agents apart that run at the same time"""

    def last(request: Request) -> str:
        return request.messages[-1].text.upper()

    with fake_models(["shared"], {"anthropic/a": ["a1", "a2"], "local/b": last}) as fake:
        said = [
            (await Agent("x", model=model).prompt("hi")).text for model in ("local/b", "anthropic/a", "anthropic/c")
        ]
        assert said == ["HI", "a1", "shared"]
        fake.respond("a3", model="anthropic/a")
        fake.respond("more")
        said = [(await Agent("x", model=model).prompt("hi")).text for model in ("anthropic/a", "scripted/d")]
        assert said == ["a2", "more"]
        assert fake.left == 1
        assert fake.asked[0].request.messages[-1].text == "hi"


async def test_a_script_holds_texts_answers_functions_and_exceptions() -> None:
    """3.4"""
    cut = Answer(parts=(Text(text="cut"),), stop_reason="length")
    with fake_models([ModelOverloaded("busy"), cut, lambda request: "said"]):
        ada = Agent("ada", model="anthropic/a")
        results = [await ada.execute("x") for _ in range(3)]
    assert [result.status for result in results] == ["failed", "completed", "completed"]
    assert [result.text for result in results] == ["", "cut", "said"]


async def test_an_unexpected_prompt_fails_and_says_what_was_asked() -> None:
    """3.4: strict by default"""

    async def ask_twice() -> None:
        with fake_models(["Once."]):
            await Agent("ada", model="anthropic/a").prompt("Once?")
            await Agent("ada", model="anthropic/a").prompt("Again?")

    with pytest.raises(UnexpectedRequest, match=r"anthropic/a was asked .* this was request 2: 'Again\?'"):
        await ask_twice()


async def test_an_unexpected_prompt_fails_when_it_is_streamed_as_well() -> None:
    """3.4: stray prompts, also when streaming; what was read of the stream changes nothing"""

    async def block(*, read: bool) -> None:
        with fake_models(["Once."]):
            for text in ("Once?", "Again?"):
                with suppress(UnexpectedRequest):
                    async with Agent("ada", model="anthropic/a").stream(text) as run:
                        if read:
                            assert [event.type async for event in run]
                        await run.result()

    for read in (False, True):
        with pytest.raises(UnexpectedRequest, match=r"this was request 2: 'Again\?'"):
            await block(read=read)


async def test_a_step_fails_in_its_place_of_a_sequence_and_the_next_run_goes_on_behind_it() -> None:
    """3.4: fail on step"""
    call = Answer(parts=(ToolUse(id="1", name="look", arguments={}),), stop_reason="tool_use")

    @tool
    def look() -> str:
        return "seen"

    with fake_models([call, ModelOverloaded("busy"), call, "done"]) as fake:
        ada = Agent("ada", model="anthropic/a", tools=[look])
        failed, done = await ada.execute("x"), await ada.execute("x")
    assert (failed.status, len(failed.report.trips), done.text, fake.left) == ("failed", 2, "done", 0)


async def test_answers_come_in_scripted_pieces_and_as_slowly_as_they_are_told_to() -> None:
    """3.4: chunk boundaries and latency; W23"""
    paused: list[int] = []

    async def pause() -> None:
        paused.append(len(heard))

    heard: list[str] = []
    with fake_models([("Hel", "lo"), "two words"], pause=pause):
        for _ in range(2):
            async with Agent("ada", model="anthropic/a").stream("x") as run:
                heard += [event.text async for event in run if isinstance(event, TextDelta)]
    assert heard == ["Hel", "lo", "two", " words"]
    assert len(paused) == 4


async def test_an_unexpected_prompt_fails_the_block_even_where_something_caught_it() -> None:
    """3.4: a tool that runs an agent turns every error into a result"""
    inner = Agent("inner", model="local/inner")

    @tool
    async def ask() -> str:
        return (await inner.prompt("Psst")).text

    call = Answer(parts=(ToolUse(id="1", name="ask", arguments={}),), stop_reason="tool_use")
    outer = Agent("outer", model="anthropic/a", tools=[ask])

    async def block() -> None:
        with fake_models(by_model={"anthropic/a": [call, "done"], "local/inner": []}):
            assert (await outer.prompt("x")).text == "done"

    with pytest.raises(UnexpectedRequest, match="Psst"):
        await block()


async def test_an_unexpected_prompt_can_be_forgiven() -> None:
    """3.4"""
    with fake_models() as fake:
        with pytest.raises(UnexpectedRequest):
            await Agent("ada", model="anthropic/a").prompt("x")
        fake.unexpected.clear()


async def test_an_error_in_the_block_is_not_hidden_by_an_unexpected_prompt() -> None:
    """3.4"""

    async def block() -> None:
        with fake_models():
            with pytest.raises(UnexpectedRequest):
                await Agent("ada", model="anthropic/a").prompt("x")
            raise KeyError

    with pytest.raises(KeyError):
        await block()


async def test_behind_the_block_everything_is_as_before() -> None:
    """3.4"""
    with fake_models() as outer:
        with fake_models() as inner:
            assert default_models() is inner
        assert default_models() is outer
    assert not isinstance(default_models(), FakeModels)


async def test_tasks_that_start_in_the_block_are_faked_and_others_are_not() -> None:
    """3.4"""
    seen: list[bool] = []

    async def look() -> None:
        seen.append(isinstance(default_models(), FakeModels))

    async def wait_and_look() -> None:
        await done.wait()
        await look()

    done = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_and_look)
        with fake_models():
            tasks.start_soon(look)
        done.set()
    assert seen == [True, False]


async def test_an_agent_that_was_given_its_models_keeps_them() -> None:
    """G4: injected for one agent, whatever the others have"""
    mine = Models({"anthropic": lambda name: ScriptedModel([f"mine, {name}"])})
    with fake_models() as fake:
        assert (await Agent("ada", model="anthropic/a", models=mine).prompt("x")).text == "mine, a"
        assert (await Agent("ada", model=ScriptedModel(["own"])).prompt("x")).text == "own"
        assert fake.asked == []


async def test_names_are_as_strict_as_in_earnest() -> None:
    """G5"""
    with fake_models() as fake:
        for name in ("claude-opus-5", "", "anthropic/", "/x"):
            with pytest.raises(UnknownModel):
                fake.resolve(name)
        with pytest.raises(UnknownModel):
            fake.respond("x", model="claude")
        with pytest.raises(UnknownModel, match="no provider 'nobody'"):
            Agent("ada", model="nobody/x")
        assert fake.resolve("openrouter/vendor/model").name == "openrouter/vendor/model"
    with pytest.raises(UnknownModel):
        FakeModels(by_model={"*": ["x"]})
    with pytest.raises(TypeError, match=r"a list of answers: \['Hello'\]"):
        FakeModels("Hello")


async def test_a_program_may_close_the_models_that_it_was_given() -> None:
    """3.4"""
    with fake_models(["One.", "Two."]) as fake:
        for text in ("One.", "Two."):
            models = default_models()
            assert (await Agent("ada", model="anthropic/a", models=models).prompt("x")).text == text
            await models.aclose()
        assert [asked.model for asked in fake.asked] == ["anthropic/a"] * 2


async def test_a_list_of_models_fails_over_among_fakes() -> None:
    """G93, 3.4"""
    with fake_models(by_model={"anthropic/a": [ModelOverloaded("busy")], "local/b": ["Here."]}) as fake:
        result = await Agent("ada", model=fake.resolve_all(["anthropic/a", "local/b"])).prompt("x")
    assert result.text == "Here."
    assert [trip.answer and trip.answer.model for trip in result.report.trips] == ["local/b"]


@pytest.fixture
def fake() -> Iterator[FakeModels]:
    with fake_models(["From a fixture."]) as models:
        yield models


async def test_it_works_as_a_fixture_too(fake: FakeModels) -> None:
    """3.4"""
    assert (await Agent("ada", model="anthropic/a", models=fake).prompt("x")).text == "From a fixture."
    assert len(fake.asked) == 1


async def test_a_fixture_reaches_what_names_its_models_itself(fake: FakeModels) -> None:
    """3.4"""
    assert (await Agent("ada", model="anthropic/a").prompt("x")).text == "From a fixture."


async def test_an_agent_at_module_level_keeps_no_fake_and_ignores_none() -> None:
    """G4: the same frozen agent, outside, under one fake, under another, and outside again."""
    ada = Agent("ada", model="scripted/party")
    real = (await ada.prompt("hello")).text
    for line in ("first", "second"):
        with fake_models([line]):
            assert (await ada.prompt("hello")).text == line
    assert (await ada.prompt("hello")).text == real
