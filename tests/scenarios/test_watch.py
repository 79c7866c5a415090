"""Watching: a part of a conversation, by number, turn or time, and at the pace in which it happened."""

import io
from collections.abc import AsyncGenerator
from itertools import pairwise

import pytest

from convive.bus import (
    HOST,
    Bus,
    Chair,
    Conversation,
    ConviveError,
    Draft,
    Granted,
    Record,
    RunContext,
    SeatName,
    memory_bus,
)
from convive.scenarios.cli._display import PlainDisplay
from convive.scenarios.cli._watch import BadPlace, Span, place, replay, watch

pytestmark = pytest.mark.anyio

ADA, RUN = SeatName("ada"), RunContext.root()
START_S = 1_000.0


@pytest.fixture
async def bus() -> AsyncGenerator[Bus]:
    async with memory_bus() as made:
        yield made


@pytest.fixture
async def evening(bus: Bus) -> Conversation:
    """Three turns of ada's: link 0, then the grant and the words of each, and the end."""
    conversation = await bus.conversation("figs")
    await conversation.open(RUN, "Figs?", [Chair(seat=HOST), Chair(seat=ADA)])
    for turn in (1, 2, 3):
        run = RUN.child()
        await conversation.grant(await conversation.floor(), ADA, run, 0)
        floor = await conversation.floor()
        assert floor.open_grant is not None
        await conversation.say(floor, floor.open_grant, f"word {turn}", run)
    await conversation.close(await conversation.floor(), RUN)
    return conversation


async def lines(conversation: Conversation, span: Span) -> list[str]:
    out = io.StringIO()
    await replay(conversation, PlainDisplay(out), span)
    return out.getvalue().splitlines()


async def times(conversation: Conversation) -> dict[int, str]:
    """The time of each record, as an option takes it."""
    found: list[Record] = []
    async with conversation.read() as records:
        async for record in records:
            found.append(record)  # noqa: PERF401 - there is no asynchronous extend
    return {record.seq: f"{record.time_s:.6f}" for record in found}


@pytest.mark.parametrize("text", ["1", "345", "turn:3", "2026-11-20", "2026-11-20T19:30", "2026-11-20T19:30:00+01:00"])
def test_a_place_is_a_number_a_turn_or_a_time(text: str) -> None:
    assert place(text) == text


@pytest.mark.parametrize("text", ["", "x", "turn:", "turn:x", "-1", "1.5", "9" * 30, "yesterday", "²", "0001-01-01"])
def test_a_place_that_is_none_is_refused_with_examples(text: str) -> None:
    with pytest.raises(BadPlace, match=r"is no place in a conversation: give a sequence number \(345\)"):
        place(text)


async def test_a_span_by_turns_includes_both(evening: Conversation) -> None:
    assert await lines(evening, Span("turn:2", "turn:2")) == ["Ada: word 2"]
    assert await lines(evening, Span("turn:2", None)) == ["Ada: word 2", "Ada: word 3", "* the end"]
    assert await lines(evening, Span(None, "turn:1")) == ["* Figs? At the table: Ada.", "Ada: word 1"]


async def test_a_span_by_numbers_includes_both(evening: Conversation) -> None:
    said = list(await times(evening))
    assert await lines(evening, Span(str(said[2]), str(said[4]))) == ["Ada: word 1", "Ada: word 2"]


async def test_a_span_that_nothing_falls_into_is_told_of(evening: Conversation) -> None:
    for span in (Span("turn:9", None), Span("2999-01-01", None), Span("turn:3", "turn:2")):
        with pytest.raises(BadPlace, match=f"is at or behind {span.first}"):
            await lines(evening, span)


async def test_everything_happened_after_1971(evening: Conversation) -> None:
    assert len(await lines(evening, Span("1971-01-01T00:00+00:00", None))) == 5


async def test_a_forged_grant_does_not_end_a_span(bus: Bus) -> None:
    """The turn is that of the floor, not what somebody wrote onto the bus."""
    conversation = await bus.conversation("forged")
    await conversation.open(RUN, "Figs?", [Chair(seat=ADA)])
    forged = Granted(link=9, turn=99, seat=ADA, run_id=RUN.run_id, deadline_s=0)
    await conversation.log.append(Draft(conversation.subjects.link(HOST), forged.body()))
    await conversation.close(await conversation.floor(), RUN)
    shown = await lines(conversation, Span(None, "turn:3"))
    assert [line[:21] for line in shown] == ["* Figs? At the table:", "* unreadable record a", "* the end"]


async def test_watching_ends_with_the_conversation_and_tells_how_far_it_came(evening: Conversation) -> None:
    out, seen = io.StringIO(), list[int]()
    await watch(evening, PlainDisplay(out), Span(), seen.append)
    assert out.getvalue().splitlines() == await lines(evening, Span())
    assert seen == sorted(seen)


async def test_watching_what_is_over_from_behind_its_end_shows_nothing(evening: Conversation) -> None:
    out = io.StringIO()
    await watch(evening, PlainDisplay(out), Span("turn:99"))
    assert out.getvalue() == ""


@pytest.mark.parametrize("speed", [1.0, 10.0])
async def test_a_replay_at_a_speed_pauses_as_long_as_it_took_divided_by_that(
    evening: Conversation, speed: float
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    await replay(evening, PlainDisplay(io.StringIO()), Span(), speed, pause)
    at = [float(time) for time in (await times(evening)).values()]
    assert pauses == pytest.approx([(b - a) / speed for a, b in pairwise(at)], abs=1e-3)


def test_a_bad_place_is_an_error_that_can_be_told() -> None:
    assert issubclass(BadPlace, ConviveError)
