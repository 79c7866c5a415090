"""The digest of a request, which a redrive compares: its value stands in journals, and a trip hashes what is new."""

import hashlib
import pickle
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.agents import (
    Agent,
    Answer,
    Limits,
    Message,
    Place,
    Request,
    Sampling,
    Text,
    ToolResult,
    ToolSpec,
    ToolUse,
    tool,
    user,
)
from convive.agents.journal import _digest
from convive.agents.journal._digest import Digests, digest_of
from convive.agents.journal._journal import ModelAnswered, journal_event_of
from convive.agents.models._schema import json_of
from convive.agents.testing import ScriptedModel
from convive.bus import MemoryLog

TEXTS = st.text(st.characters(), max_size=20) | st.just("x" * 1_200)
DATA: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PARTS = st.one_of(
    st.builds(Text, text=TEXTS),
    st.builds(ToolUse, id=TEXTS, name=TEXTS, arguments=DATA),
    st.builds(ToolResult, tool_use_id=TEXTS, content=TEXTS),
)
MESSAGES = st.builds(Message, role=st.sampled_from(("user", "assistant")), parts=st.lists(PARTS, max_size=3).map(tuple))


def plain(request: Request) -> str:
    """The digest as ADR 17 defines it, of the whole request at once."""
    specs = [[spec.name, spec.description, spec.input_schema] for spec in request.tools]
    parts = (request.system, request.messages, specs, [request.sampling, request.output_schema])
    return ".".join(hashlib.blake2b(json_of(part).encode(), digest_size=4).hexdigest() for part in parts)


@given(st.lists(st.lists(MESSAGES, max_size=12), max_size=4), st.booleans())
def test_the_digest_is_that_of_the_whole_however_it_grew(steps: list[list[Message]], rewritten: bool) -> None:
    digests, messages = Digests(), tuple[Message, ...]()
    for step in steps:
        messages = (*messages, *step)
        if rewritten:  # as a hook may
            messages = messages[1:]
        request = Request("Count.", messages, (ToolSpec("t", "", {}),), Sampling(seed=1), {"type": "object"})
        assert digests.of(request) == plain(request) == digest_of(request)


def test_the_digest_in_journals_written_before_is_still_that_of_the_same_request() -> None:
    """ADR 17: a redrive compares it."""
    use = ToolUse(id="1", name="t", arguments={"n": [1, 2.5, None, "é"]})
    heard = ToolResult(tool_use_id="1", content="x" * 2000, is_error=True)
    messages = (user("a"), Message(role="assistant", parts=(use,)), Message(role="user", parts=(heard,)))
    request = Request("Count.", messages, tools=(ToolSpec("t", "does", {"type": "object"}),))
    assert digest_of(request) == "00cbe257.714d094e.caae4541.bd6a6bd0"


def test_another_message_made_of_one_has_a_digest_of_its_own() -> None:
    one = user("one")
    before = digest_of(Request("", (one,)))
    assert digest_of(Request("", (pickle.loads(pickle.dumps(one)), one))) == plain(Request("", (one, one)))  # noqa: S301
    other = one.model_copy(update={"parts": (Text(text="two"),)})
    assert digest_of(Request("", (other,))) == plain(Request("", (user("two"),))) != before


@contextmanager
def written() -> Generator[list[int]]:
    """How many messages are written as JSON for digests in the block, time by time."""
    counts: list[int] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is _digest._written.__code__:
            counts.append(len(frame.f_locals["messages"]))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield counts
    finally:
        sys.setprofile(before)


@pytest.mark.anyio
async def test_a_run_writes_no_message_twice_for_its_digests() -> None:
    """Nothing quadratic in the length of a conversation."""
    trips = 40

    def answer(request: Request) -> Answer | str:
        done = sum(message.role == "assistant" for message in request.messages)
        use = ToolUse(id=f"c{done}", name="look", arguments={})
        return Answer(parts=(use,), stop_reason="tool_use") if done < trips else "done"

    @tool
    async def look() -> str:
        """Look."""
        return "x" * 2_000

    log, model = MemoryLog(), ScriptedModel(answer)
    agent = Agent("eye", model=model, tools=[look], limits=Limits(trips=trips + 1))
    with written() as counts:
        await agent.prompt("x", place=Place(log, "cv.00.x"))
    assert trips < sum(counts) <= 3 * trips + 2
    async with log.read("cv.00.x.run.>") as records:
        events = [journal_event_of(record) async for record in records]
    asked = [event.asked for event in events if isinstance(event, ModelAnswered)]
    assert asked == [plain(request) for request in model.requests]


@pytest.mark.anyio
async def test_a_history_that_another_run_began_with_is_not_written_again() -> None:
    model = ScriptedModel(lambda request: f"{len(request.messages)}")
    agent, history = Agent("chat", model=model), tuple[Message, ...]()
    with written() as counts:
        for number in range(60):
            history = (await agent.prompt(f"word {number}", history=history)).messages
    assert len(history) == 120
    assert sum(counts[-20:]) <= 40  # of ten prompts: what the one before added, and the new one
    assert max(counts) <= 22


def test_a_history_is_known_by_its_very_messages_in_their_order() -> None:
    history = tuple(user(f"word {number}") for number in range(50))
    digest_of(Request("", history))
    equal, fewer = tuple(each.model_copy() for each in history), history[:30]
    swapped = (history[1], history[0], *history[2:])
    other = (*history[:10], user("other"), *history[11:])
    twice = (*history, *history)
    for messages in (history, equal, fewer, swapped, other, twice, history[1:], (*history, user("new"))):
        assert digest_of(Request("", messages)) == plain(Request("", messages))
        assert digest_of(Request("", history)) == plain(Request("", history))
