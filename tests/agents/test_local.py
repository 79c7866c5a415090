"""The local model, with the real engine and the real file."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from convive.agents.models._errors import BadModelRequest, UnknownModel
from convive.agents.models._local import DEFAULT_NAME, LocalModel, default_gguf, local_available
from convive.agents.models._messages import assistant, user
from convive.agents.models._model import Answer, Request, Sampling, TextDelta
from convive.agents.models._models import default_models

pytestmark = pytest.mark.anyio


@pytest.fixture
async def model() -> AsyncIterator[LocalModel]:
    made = LocalModel()
    yield made
    await made.aclose()


def _request(text: str, *, seed: int = 1, max_tokens: int = 12, start: str = "") -> Request:
    ending = (assistant(start),) if start else ()
    sampling = Sampling(max_tokens=max_tokens, temperature=0.8, seed=seed)
    return Request("You are a sailor.", (user(text), *ending), (), sampling)


async def _answer(model: LocalModel, request: Request) -> tuple[str, Answer]:
    text, answer = "", None
    async with model.stream(request) as items:
        async for item in items:
            assert answer is None
            if isinstance(item, Answer):
                answer = item
            elif isinstance(item, TextDelta):
                text += item.text
    assert answer is not None
    return text, answer


async def test_the_default_model_answers_and_its_deltas_are_the_answer(model: LocalModel) -> None:
    text, answer = await _answer(model, _request("What is the sea?"))
    assert text == answer.text != ""
    assert answer.usage.output_tokens == 12
    assert answer.stop_reason == "length"
    assert model.name == f"local/{DEFAULT_NAME}"
    assert model.small


async def test_the_seed_decides_what_is_said(model: LocalModel) -> None:
    said = [(await _answer(model, _request("What is the sea?", seed=seed)))[0] for seed in (7, 7, 8)]
    assert said[0] == said[1] != said[2]


async def test_an_answer_that_was_begun_is_continued_and_not_repeated(model: LocalModel) -> None:
    text, _ = await _answer(model, _request("What is the sea?", start="The sea is my"))
    assert text
    assert "The sea is my" not in text


async def test_nothing_of_the_engine_reaches_the_terminal(model: LocalModel, capfd: pytest.CaptureFixture[str]) -> None:
    await _answer(model, _request("What is the sea?"))
    await model.aclose()
    assert capfd.readouterr() == ("", "")


async def test_a_stream_that_is_left_early_frees_its_slot(model: LocalModel) -> None:
    for _ in range(10):
        async with model.stream(_request("Tell me everything.", max_tokens=3000)) as items:
            async for _item in items:
                break
    with anyio.fail_after(60):
        await _answer(model, _request("What is the sea?"))


async def test_a_cancelled_stream_ends_at_once_and_the_model_still_answers(model: LocalModel) -> None:
    await _answer(model, _request("What is the sea?"))
    seen = 0
    with anyio.CancelScope() as scope:
        async with model.stream(_request("Tell me everything.", max_tokens=3000)) as items:
            async for _ in items:
                seen += 1
                if seen == 3:
                    scope.cancel()
    assert scope.cancelled_caught
    with anyio.fail_after(60):
        text, _ = await _answer(model, _request("What is the sea?"))
    assert text


async def test_requests_at_the_same_time_are_all_answered(model: LocalModel) -> None:
    said: list[str] = []

    async def ask(seed: int) -> None:
        said.append((await _answer(model, _request("What is the sea?", seed=seed)))[0])

    async with anyio.create_task_group() as tasks:
        for seed in range(6):
            tasks.start_soon(ask, seed)
    assert len(said) == 6
    assert all(said)


async def test_a_request_beyond_the_context_is_refused_with_the_reason(model: LocalModel) -> None:
    with pytest.raises(BadModelRequest, match="context"):
        await _answer(model, _request("word " * 9000))


async def test_the_engine_leaves_the_handlers_of_signals_alone(model: LocalModel) -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  the signal may come a statement later
        await _answer(model, _request("What is the sea?"))
        signal.raise_signal(signal.SIGINT)
        await anyio.lowlevel.checkpoint()


async def test_a_closed_model_says_so(model: LocalModel) -> None:
    await model.aclose()
    await model.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await _answer(model, _request("What is the sea?"))


async def test_a_file_of_ones_own_answers_under_its_path(tmp_path: Path) -> None:
    shipped = default_gguf()
    assert shipped is not None
    file = tmp_path / "mine.gguf"
    file.symlink_to(shipped)
    models = default_models()
    try:
        model = models.resolve(f"local/{file}")
        async with model.stream(_request("What is the sea?")) as items:
            *_, answer = [item async for item in items]
    finally:
        await models.aclose()
    assert isinstance(answer, Answer)
    assert answer.text
    assert answer.model == model.name == f"local/{file}"


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"no\.gguf.*local/PATH"):
        LocalModel(tmp_path / "no.gguf")


def test_a_file_that_is_not_gguf_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "notes.gguf"
    file.write_text("GG, but no more")
    with pytest.raises(UnknownModel, match="not a GGUF file"):
        LocalModel(str(file))


async def test_a_gguf_file_that_cannot_be_loaded_is_an_unknown_model(tmp_path: Path) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00")
    model = LocalModel(file)
    with pytest.raises(UnknownModel, match="cannot load"):
        await _answer(model, _request("What is the sea?"))
    await model.aclose()


def test_the_default_file_is_found_without_importing_its_package() -> None:
    assert local_available()
    assert default_gguf() is not None
