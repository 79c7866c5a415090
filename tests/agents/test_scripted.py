"""The scripted model: strict in tests, and small talk when there is no other."""

import gc
import weakref

import anyio
import pytest

from convive.agents.models._errors import ModelOverloaded, UnknownModel
from convive.agents.models._messages import Message, Text, Thinking, ToolUse, assistant, user
from convive.agents.models._model import Answer, Delta, Model, Request, TextDelta, ThinkingDelta, Usage
from convive.agents.models._scripted import ScriptedModel, UnexpectedRequest, party_line, scripted_model

pytestmark = pytest.mark.anyio

HELLO = Request(system="You are Ada.", messages=(user("Good evening."),))
Item = Delta | Answer


async def ask(model: Model, request: Request = HELLO) -> tuple[list[Item], Answer]:
    async with model.stream(request) as stream:
        *deltas, answer = [item async for item in stream]
    assert isinstance(answer, Answer)
    return deltas, answer


async def test_answers_come_in_order_and_requests_are_kept() -> None:
    whole = Answer(parts=(Text(text="Two."),), stop_reason="length", usage=Usage(output_tokens=2), model="m")
    model = ScriptedModel(["One.", whole, lambda request: request.messages[-1].text.upper()])
    texts = [(await ask(model))[1] for _ in range(3)]
    assert [answer.text for answer in texts] == ["One.", "Two.", "GOOD EVENING."]
    assert texts[0] == Answer(parts=(Text(text="One."),), stop_reason="end", model="scripted/test")
    assert texts[1] == whole
    assert model.requests == [HELLO] * 3


@pytest.mark.parametrize("text", ["", " ", "One", "One two,  three.\n\nFour ", "  leading", "tab\there\n"])
async def test_the_deltas_add_up_to_the_text(text: str) -> None:
    deltas, answer = await ask(ScriptedModel([text]))
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == answer.text == text
    assert len(deltas) >= len(text.split())


@pytest.mark.parametrize("pieces", [("Hel", "lo", " wor", "ld"), ("\u200d", "", "x"), ("whole",), ()])
async def test_a_text_is_streamed_in_the_pieces_that_it_is_given_in(pieces: tuple[str, ...]) -> None:
    """3.4: scripted chunk boundaries"""
    for model in (ScriptedModel([pieces]), ScriptedModel(lambda request: pieces)):
        deltas, answer = await ask(model)
        assert deltas == [TextDelta(piece) for piece in pieces]
        assert answer.text == "".join(pieces)


async def test_thinking_and_calls_stream_like_those_of_a_real_model() -> None:
    parts = (Thinking(thinking="Let me see."), ToolUse(id="t", name="f", arguments={}))
    deltas, answer = await ask(ScriptedModel([Answer(parts=parts, stop_reason="tool_use")]))
    assert "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta)) == "Let me see."
    assert answer.parts == parts


async def test_one_request_too_many_fails_and_says_what_was_asked() -> None:
    model = ScriptedModel(["One."])
    await ask(model)
    with pytest.raises(UnexpectedRequest, match=r"has 1 answers and was asked for number 2: 'Good evening\.'"):
        await ask(model)


async def test_requests_at_the_same_time_get_an_answer_each() -> None:
    model = ScriptedModel(["One.", "Two.", "Three."])
    said: list[str] = []

    async def note() -> None:
        said.append((await ask(model))[1].text)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(note)
    assert sorted(said) == ["One.", "Three.", "Two."]


@pytest.mark.parametrize("keep", [0, 1, 2])
async def test_a_model_keeps_no_more_requests_than_it_may_and_counts_on(keep: int) -> None:
    model = ScriptedModel(["One.", "Two.", "Three."], keep=keep)
    requests = [Request("", (user(str(number)),)) for number in range(3)]
    assert [(await ask(model, request))[1].text for request in requests] == ["One.", "Two.", "Three."]
    assert model.requests == requests[3 - keep :]
    with pytest.raises(UnexpectedRequest, match="number 4"):
        await ask(model)


async def test_the_shipped_script_holds_no_request_when_it_has_answered() -> None:
    model, request = scripted_model("party"), Request("You are Ada.", (user("Good evening."),))
    gone = weakref.ref(request.messages[0])
    await ask(model, request)
    del request
    gc.collect()
    assert gone() is None


async def test_a_scripted_exception_is_raised_and_the_script_goes_on() -> None:
    model = ScriptedModel([ModelOverloaded("busy"), "Now."])
    with pytest.raises(ModelOverloaded, match="busy"):
        await ask(model)
    assert (await ask(model))[1].text == "Now."


async def test_a_pause_before_each_delta_lets_a_test_stop_in_mid_answer() -> None:
    said: list[str] = []

    async def pause() -> None:
        if len(said) == 2:
            await anyio.sleep_forever()

    async def read(model: Model) -> None:
        async with model.stream(HELLO) as stream:
            async for item in stream:
                assert isinstance(item, TextDelta)
                said.append(item.text)
                if len(said) == 2:
                    reached.set()

    reached = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, ScriptedModel(["One two three four."], pause=pause))
        await reached.wait()
        tasks.cancel_scope.cancel()
    assert said == ["One", " two"]


TOPIC = "What would you carry out of a burning library?"


def turn(name: str, *lines: tuple[str, str], cue: str = "(It is your turn.)", topic: str = TOPIC) -> Request:
    heard = "\n".join(f"{speaker}: {text}" for speaker, text in lines) or "(You sit down at the table.)"
    system = f"You are {name}, a guest.\nThe question of the evening: {topic}\nHow you sound: brief / kind"
    return Request(system, (Message(role="user", parts=(Text(text=heard), Text(text=cue))),))


async def test_the_party_script_opens_with_the_topic_and_closes_with_a_toast() -> None:
    assert TOPIC in party_line(turn("Ada"))
    toast = party_line(turn("Ada", ("Plato", "The cat."), cue="(Close the evening with a toast.)"))
    assert "library" in toast
    assert toast.endswith("!")


async def test_the_party_script_takes_up_the_last_speaker_and_the_topic() -> None:
    for said in ("The cat.", "My shadow.", "Nothing at all, not even a candle.", "All of it."):
        line = party_line(turn("Ada", ("Ada", "Well?"), ("Marcus Aurelius", said), ("Ada", "I see.")))
        assert "Marcus Aurelius" in line
        assert "library" in line
        assert "Ada" not in line


async def test_the_party_script_is_the_same_for_the_same_request_and_varied_in_a_party() -> None:
    async def party() -> list[str]:
        model = scripted_model("party")
        lines: list[tuple[str, str]] = []
        for number in range(8):
            name = ("Ada", "Plato", "hypatia")[number % 3]
            lines.append((name, (await ask(model, turn(name, *lines)))[1].text))
        return [text for _, text in lines]

    said = await party()
    assert said == await party()
    assert len({text[-20:] for text in said}) == 8


async def test_the_party_script_copes_with_requests_that_are_no_party() -> None:
    for request in (HELLO, Request("", ()), Request("", (user("{name}: {0}"), assistant("x"), user("a: b {c}")))):
        assert party_line(request)


async def test_only_shipped_scripts_have_names() -> None:
    assert scripted_model("party").name == "scripted/party"
    with pytest.raises(UnknownModel, match='"scripted/party"'):
        scripted_model("opera")
