"""A list of models of which the first that can answers."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from convive.agents.models._errors import (
    BadModelRequest,
    ModelAccessDenied,
    ModelAnswerBroken,
    ModelError,
    ModelOverloaded,
    ModelUnreachable,
    UnknownModel,
)
from convive.agents.models._failover import FailoverModel, NoModelAnswered
from convive.agents.models._messages import Text, ToolUse, user
from convive.agents.models._model import Answer, ArgumentsDelta, Delta, Model, Request, TextDelta, ThinkingDelta
from convive.agents.models._models import Models
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent

pytestmark = pytest.mark.anyio

HELLO = Request(system="", messages=(user("Good evening."),))
Item = Delta | Answer


async def ask(model: Model) -> tuple[str, Answer]:
    """The text that was shown, and the answer."""
    async with model.stream(HELLO) as stream:
        *deltas, answer = [item async for item in stream]
    assert isinstance(answer, Answer)
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)), answer


class Breaking:
    """Yields these items and then raises. `closed` counts the streams that were left."""

    def __init__(self, name: str, error: ModelError | None, *items: Item) -> None:
        self.name = name
        self.asked = self.closed = 0
        self._error = error
        self._shown = items

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[Item]]:
        self.asked += 1
        try:
            yield self._items()
        finally:
            self.closed += 1

    async def _items(self) -> AsyncGenerator[Item]:
        for item in self._shown:
            yield item
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    "error", [ModelOverloaded, ModelAnswerBroken, ModelUnreachable, ModelAccessDenied, UnknownModel]
)
async def test_the_next_model_is_asked_when_one_cannot_answer(error: type[ModelError]) -> None:
    """G93: in the order given"""
    first = ScriptedModel([error("sorry")], name="anthropic/a")
    second, third = ScriptedModel(["Hello there."], name="local/b"), ScriptedModel([], name="local/c")
    assert await ask(FailoverModel([first, second, third])) == (
        "Hello there.",
        Answer(parts=(Text(text="Hello there."),), stop_reason="end", model="local/b"),
    )
    assert first.requests == second.requests == [HELLO]
    assert third.requests == []


async def test_an_error_before_the_first_delta_is_as_good_as_one_on_entering() -> None:
    """G93"""
    broken = Breaking("anthropic/a", ModelAnswerBroken("cut"))
    assert (await ask(FailoverModel([broken, ScriptedModel(["Hello."], name="local/b")])))[0] == "Hello."
    assert (broken.asked, broken.closed) == (1, 1)


ARGUMENTS = (ArgumentsDelta(0, "c1", "look", ""), ArgumentsDelta(0, "c1", "look", '{"where":'))


async def test_calls_that_a_model_began_to_write_are_not_yet_an_answer() -> None:
    """G93: not a word was shown, so the next model is asked, and the calls of one only are shown"""
    broken = Breaking("anthropic/a", ModelOverloaded("busy"), *ARGUMENTS)
    rest = ArgumentsDelta(0, "c1", "look", '"here"}')
    answer = Answer(parts=(ToolUse(id="c1", name="look", arguments={"where": "here"}),), stop_reason="tool_use")
    second = Breaking("local/b", None, *ARGUMENTS, rest, answer)
    async with FailoverModel([broken, second]).stream(HELLO) as stream:
        items = [item async for item in stream]
    assert items == [*ARGUMENTS, rest, answer.model_copy(update={"model": "local/b"})]
    assert (broken.closed, second.closed) == (1, 1)
    cut = Breaking("anthropic/a", None, *ARGUMENTS)
    assert (await ask(FailoverModel([cut, ScriptedModel(["Hello."], name="local/b")])))[0] == "Hello."


async def test_a_stream_without_an_answer_counts_as_broken() -> None:
    empty = Breaking("anthropic/a", None)
    assert (await ask(FailoverModel([empty, ScriptedModel(["Hello."], name="local/b")])))[0] == "Hello."
    with pytest.raises(ModelAnswerBroken, match="anthropic/a ended its stream without an answer"):
        await ask(FailoverModel([empty]))


@pytest.mark.parametrize("delta", [TextDelta("Well"), ThinkingDelta("Hm")])
async def test_nobody_takes_over_in_the_middle_of_an_answer(delta: TextDelta | ThinkingDelta) -> None:
    """G93, W54: once a delta was shown, the error is raised"""
    broken, second = Breaking("anthropic/a", ModelAnswerBroken("cut"), delta), ScriptedModel(["x"], name="local/b")
    shown: list[Item] = []

    async def read(model: Model) -> None:
        async with model.stream(HELLO) as stream:
            async for item in stream:
                shown.append(item)  # noqa: PERF401 - the items before the error count

    with pytest.raises(ModelAnswerBroken, match="cut"):
        await read(FailoverModel([broken, second]))
    assert shown == [delta]
    assert second.requests == []
    assert broken.closed == 1


async def test_a_request_that_no_model_would_take_is_not_taken_elsewhere() -> None:
    second = ScriptedModel(["x"], name="local/b")
    with pytest.raises(BadModelRequest, match="too long"):
        await ask(FailoverModel([ScriptedModel([BadModelRequest("too long")], name="a/a"), second]))
    assert second.requests == []


@pytest.mark.parametrize(
    ("errors", "transient", "mendable"),
    [
        ([ModelAccessDenied("no key"), ModelOverloaded("busy")], True, False),
        ([ModelAccessDenied("no key"), ModelUnreachable("no net")], False, True),
        ([ModelOverloaded("busy"), BadModelRequest("too long")], True, False),
    ],
)
async def test_when_all_fail_each_is_named_and_it_is_known_what_may_help(
    errors: list[ModelError], transient: bool, mendable: bool
) -> None:
    """G93"""
    model = FailoverModel([ScriptedModel([error], name=f"p/{place}") for place, error in enumerate(errors)])
    with pytest.raises(NoModelAnswered) as info:
        await ask(model)
    assert info.value.failures == tuple(errors)
    assert (info.value.transient, info.value.mendable) == (transient, mendable)
    assert all(f"({place}) {error}" in str(info.value) for place, error in enumerate(errors, 1))


async def test_one_model_alone_fails_with_its_own_error() -> None:
    busy = ModelOverloaded("busy")
    with pytest.raises(ModelOverloaded) as info:
        await ask(FailoverModel([ScriptedModel([busy], name="a/a")]))
    assert info.value is busy


async def test_models_of_one_name_are_asked_once() -> None:
    """G93: de-duplicated"""
    first, again = ScriptedModel([ModelOverloaded("busy")], name="a/a"), ScriptedModel(["x"], name="a/a")
    model = FailoverModel([first, ScriptedModel(["y"], name="b/b"), again])
    assert model.name == "a/a|b/b"
    assert (await ask(model))[0] == "y"
    assert again.requests == []
    with pytest.raises(ValueError, match="needs a model"):
        FailoverModel([])


@pytest.mark.parametrize("deltas", [0, 1])
async def test_cancelling_never_asks_the_next_model(deltas: int) -> None:
    """G93: neither before the first delta nor behind it"""
    reached = anyio.Event()
    shown: list[Item] = []

    async def pause() -> None:
        if len(shown) == deltas:
            reached.set()
            await anyio.sleep_forever()

    async def read(model: Model) -> None:
        async with model.stream(HELLO) as stream:
            async for item in stream:
                shown.append(item)  # noqa: PERF401 - the items before the cancellation count

    first, second = ScriptedModel(["One two."], name="a/a", pause=pause), ScriptedModel(["x"], name="b/b")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, FailoverModel([first, second]))
        await reached.wait()
        tasks.cancel_scope.cancel()
    assert len(shown) == deltas
    assert len(first.requests) == 1
    assert second.requests == []


async def test_an_error_of_the_reader_is_not_taken_for_the_models() -> None:
    second = ScriptedModel(["x"], name="b/b")
    with pytest.raises(ModelOverloaded, match="mine"):
        async with FailoverModel([ScriptedModel(["One."], name="a/a"), second]).stream(HELLO):
            raise ModelOverloaded("mine")
    assert second.requests == []


@pytest.mark.parametrize(
    ("name", "said", "signed"),
    [
        ("anthropic/a", "a-20260101", "anthropic/a-20260101"),
        ("anthropic/a", "", "anthropic/a"),
        ("local/models/x", "local/models/x", "local/models/x"),
        ("router/x/y", "x/y", "router/x/y"),
    ],
)
async def test_the_answer_says_who_gave_it_with_its_provider(name: str, said: str, signed: str) -> None:
    """G93: also where the provider leaves itself out"""
    parts = (ToolUse(id="1", name="f", arguments={}),)
    model = Breaking(name, None, Answer(parts=parts, stop_reason="tool_use", model=said))
    assert (await ask(FailoverModel([model])))[1].model == signed


async def test_each_failure_is_told_before_the_next_model_is_asked() -> None:
    """G93: attempts can be observed"""
    told: list[tuple[str, str, int]] = []
    second = ScriptedModel([ModelOverloaded("full"), "x"], name="b/b")
    first = ScriptedModel([ModelOverloaded("busy"), ModelOverloaded("busy")], name="a/a")
    model = FailoverModel(
        [first, second], on_failure=lambda model, error: told.append((model.name, str(error), len(second.requests)))
    )
    with pytest.raises(NoModelAnswered):
        await ask(model)
    assert (await ask(model))[0] == "x"  # each request begins with the first again
    assert told == [("a/a", "busy", 0), ("b/b", "full", 1), ("a/a", "busy", 1)]


async def test_a_run_goes_on_with_the_next_model_and_its_report_says_who_answered() -> None:
    """G93"""
    first = ScriptedModel([ModelUnreachable("no net")], name="anthropic/a")
    result = await Agent("ada", model=FailoverModel([first, ScriptedModel(["Hello."], name="local/b")])).prompt("x")
    assert result.text == "Hello."
    assert [trip.answer and trip.answer.model for trip in result.report.trips] == ["local/b"]


async def test_a_run_fails_when_no_model_answers() -> None:
    """G93"""
    models = [ScriptedModel([ModelOverloaded("busy")], name=name) for name in ("a/a", "b/b")]
    result = await Agent("ada", model=FailoverModel(models)).execute("x")
    assert result.error is not None
    assert (result.error.error, result.error.transient) == ("NoModelAnswered", True)


async def test_a_registry_makes_a_list_of_names_into_one_model() -> None:
    """G4, G93"""
    models = Models({"p": lambda name: ScriptedModel([name], name=f"p/{name}")})
    model = models.resolve_all(["p/a", "p/b", "p/a"])
    assert isinstance(model, FailoverModel)
    assert model.name == "p/a|p/b"
    assert model.models[0] is models.resolve("p/a")
    assert models.resolve_all(["p/a", "p/a"]) is models.resolve("p/a")
    with pytest.raises(UnknownModel):
        models.resolve_all(["p/a", "b"])
    with pytest.raises(ValueError, match="needs a model"):
        models.resolve_all([])
