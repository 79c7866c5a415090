"""Seats: a turn is taken once, with what was known at its grant, and said and remembered together or not at all."""

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    BadModelRequest,
    ModelError,
    ModelOverloaded,
    Pass,
    Say,
    Turn,
    UnknownModel,
    host_seats,
)
from convive.agents.testing import ScriptedModel
from convive.bus import HOST, Bus, Chair, Conversation, Draft, Floor, Passed, Remembered, RunContext
from tests.agents.seats import (
    ADA,
    BOB,
    RUN,
    Acting,
    fail,
    grant,
    held,
    knowledge,
    memories,
    never,
    opened,
    seated,
    speak,
    tell,
    texts,
    turn_over,
)

pytestmark = pytest.mark.anyio


async def end(conversation: Conversation) -> None:
    await conversation.close(await conversation.floor(), RUN)


async def test_a_seat_speaks_when_it_has_the_floor_and_only_then(table: Conversation) -> None:
    ada = Acting(speak)
    async with seated(table, ada=ada):
        floor = await turn_over(table, (await grant(table)).seq)
        assert floor.said_turns == 1
        bobs = await grant(table, BOB)
        await anyio.wait_all_tasks_blocked()
        assert await held(table) == bobs
    assert await texts(table) == ["ada in turn 1"]
    assert len(ada.turns) == 1


async def test_seats_of_one_process_take_their_turns_one_after_the_other(table: Conversation) -> None:
    async with seated(table, ada=Acting(speak), bob=Acting(speak)):
        for seat in (ADA, BOB, BOB, ADA):
            await turn_over(table, (await grant(table, seat)).seq)
    assert await texts(table) == ["ada in turn 1", "bob in turn 2", "bob in turn 3", "ada in turn 4"]


async def test_hosting_ends_with_the_conversation_and_returns_its_floor(table: Conversation) -> None:
    floors: list[Floor] = []

    async def host() -> None:
        floors.append(await host_seats(table, {ADA: Acting(speak)}))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host)
            await turn_over(table, (await grant(table)).seq)
            await end(table)
    assert floors == [await table.floor()]


async def test_hosting_what_is_closed_returns_at_once_and_grants_of_the_past_are_not_taken_again(
    table: Conversation,
) -> None:
    ada = Acting(speak)
    async with seated(table, ada=ada):
        await turn_over(table, (await grant(table)).seq)
    await end(table)
    again = Acting(speak)
    with anyio.fail_after(5):
        assert (await host_seats(table, {ADA: again})).closed is not None
    assert again.turns == []


async def test_a_seat_may_pass(table: Conversation) -> None:
    async def shy(_: Turn) -> Pass:
        return Pass("shy")

    async with seated(table, ada=Acting(shy)):
        floor = await turn_over(table, (await grant(table)).seq)
    assert floor.last_outcome is not None
    assert floor.last_outcome == Passed(link=2, turn=1, run_id=floor.last_outcome.run_id, reason="shy", memories=())


async def test_a_turn_is_cancelled_when_its_grant_is_revoked_and_the_seat_goes_on(table: Conversation) -> None:
    acts = iter([never, speak])
    ada = Acting(lambda turn: next(acts)(turn))
    async with seated(table, ada=ada):
        open_grant = await grant(table)
        with anyio.fail_after(5):
            await ada.began.wait()
            await table.revoke(await table.floor(), open_grant, RUN, "too slow")
            await ada.ended.wait()
        await turn_over(table, (await grant(table)).seq)
    assert await texts(table) == ["ada in turn 2"]


async def test_what_a_participant_raises_comes_out_and_the_floor_stays_with_it(table: Conversation) -> None:
    open_grant = await grant(table)
    with anyio.fail_after(5), pytest.raises(BaseExceptionGroup) as raised:
        await host_seats(table, {ADA: Acting(fail)})
    assert raised.group_contains(LookupError, match="lost in turn 1")
    assert await held(table) == open_grant


async def test_a_passing_trouble_of_the_model_passes_the_turn(table: Conversation) -> None:
    async def busy(_: Turn) -> Say:
        raise ModelOverloaded("come back later")

    async with seated(table, ada=Acting(busy)):
        floor = await turn_over(table, (await grant(table)).seq)
    assert isinstance(floor.last_outcome, Passed)
    assert floor.last_outcome.reason == "come back later"


async def test_a_lasting_trouble_of_the_model_ends_the_seat(table: Conversation) -> None:
    async def misconfigured(_: Turn) -> Say:
        raise UnknownModel("no such model")

    open_grant = await grant(table)
    with anyio.fail_after(5), pytest.raises(BaseExceptionGroup) as raised:
        await host_seats(table, {ADA: Acting(misconfigured)})
    assert raised.group_contains(ModelError, match="no such model")
    assert await held(table) == open_grant


async def test_said_and_remembered_are_committed_together(table: Conversation) -> None:
    async def think(turn: Turn) -> Say:
        turn.remember(f"thought {turn.grant.turn}", "thought")
        assert [memory.text for memory in turn.to_remember] == [f"thought {turn.grant.turn}"]
        return Say(f"I remember {[memory.text for memory in turn.memories]}")

    async with seated(table, ada=Acting(think)):
        for _ in range(3):
            await turn_over(table, (await grant(table)).seq)
    assert await memories(table) == ["thought 1", "thought 2", "thought 3"]
    assert (await texts(table))[2] == "I remember ['thought 1', 'thought 2']"


async def test_nothing_is_remembered_of_a_turn_that_was_revoked_while_it_was_being_committed(
    table: Conversation,
) -> None:
    async def too_late(turn: Turn) -> Say:
        turn.remember("secret")
        # The revocation is stored before this turn's end is sent; the seat cannot know of it yet.
        await table.revoke(turn.floor, await held(table), RUN, "in this very moment")
        return Say("at last")

    ada = Acting(too_late)
    async with seated(table, ada=ada):
        await turn_over(table, (await grant(table)).seq)
        await ada.ended.wait()
        await anyio.wait_all_tasks_blocked()
    assert await texts(table) == []
    assert await memories(table) == []


async def test_a_live_turn_knows_what_was_known_at_its_grant_and_nothing_later(table: Conversation) -> None:
    knows: list[tuple[list[str], list[str], list[str]]] = []
    heard_more = anyio.Event()

    async def listen(turn: Turn) -> Say:
        await heard_more.wait()
        knows.append(knowledge(turn))
        assert turn.heard[-1:] == [turn.heard[-1]]
        assert turn.heard[:99] == list(turn.heard)
        return Say("well")

    ada = Acting(listen)
    await tell(table, "early")
    async with seated(table, ada=ada):
        open_grant = await grant(table)
        await ada.began.wait()
        await tell(table, "late")
        await anyio.wait_all_tasks_blocked()
        heard_more.set()
        await turn_over(table, open_grant.seq)
    assert knows == [(["early"], ["early"], ["early"])]


async def test_a_turn_is_said_although_strange_records_came_between(table: Conversation) -> None:
    async def litter(turn: Turn) -> Say:
        turn.remember("what a mess")
        for body in (b"", b"\xff", b'{"type":"unknown"}'):
            await table.log.append(Draft(table.subjects.link(BOB), body))
        return Say("anyway")

    async with seated(table, ada=Acting(litter)):
        await turn_over(table, (await grant(table)).seq)
    assert await texts(table) == ["anyway"]
    assert await memories(table) == ["what a mess"]
    assert len((await table.floor()).damage) == 3


async def test_ending_the_conversation_ends_hosting_also_while_others_have_the_floor(memory: Bus) -> None:
    conversation = await opened(memory)
    ada = Acting(never)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, conversation, {ADA: ada})
            open_grant = await grant(conversation)
            await ada.began.wait()
            await conversation.revoke(await conversation.floor(), open_grant, RUN, "enough")
            await end(conversation)


async def test_words_that_no_log_takes_pass_the_turn_and_are_not_remembered(table: Conversation) -> None:
    async def shout(turn: Turn) -> Say:
        turn.remember("I shouted")
        return Say("x" * 2_000_000)

    async with seated(table, ada=Acting(shout)):
        open_grant = await grant(table)
        floor = await turn_over(table, open_grant.seq)
        assert isinstance(floor.last_outcome, Passed)
        assert "bytes" in floor.last_outcome.reason
        await table.close(floor, RUN)
    assert (await table.world(ADA)).private[ADA].memory.held == []


async def test_memories_that_no_log_takes_are_left_out_and_the_words_are_said(table: Conversation) -> None:
    async def ramble(turn: Turn) -> Say:
        turn.remember("x" * 2_000_000)
        return Say("Short.")

    async with seated(table, ada=Acting(ramble)):
        open_grant = await grant(table)
        floor = await turn_over(table, open_grant.seq)
        assert floor.heard is not None
        assert floor.heard.text == "Short."
        await table.close(floor, RUN)
    assert (await table.world(ADA)).private[ADA].memory.held == []


async def test_a_request_that_a_provider_can_never_take_passes_the_turn(table: Conversation) -> None:
    model = ScriptedModel([BadModelRequest("the prompt is too long")])
    async with seated(table, ada=AgentSeat(Agent("ada", model=model))):
        open_grant = await grant(table)
        floor = await turn_over(table, open_grant.seq)
        assert isinstance(floor.last_outcome, Passed)
        await table.close(floor, RUN)


async def test_what_guests_know_from_the_beginning_counts_with_the_opening_and_only_then(memory: Bus) -> None:
    conversation = await memory.conversation("evening")
    lost, won = RunContext.root(), RunContext.root()
    for run, text in ((lost, "of a party that came to nothing"), (won, "find the salt")):
        places = await conversation.remember(ADA, [Remembered(text=text, run_id=run.run_id)], run)
    await conversation.open(won, "salt", [Chair(seat=ADA)], memories=places)
    assert [memory.text for memory in (await conversation.world(ADA)).private[ADA].memory.held] == ["find the salt"]


async def test_a_conversation_opens_behind_records_that_are_not_ours(memory: Bus) -> None:
    conversation = await memory.conversation("haunted")
    await conversation.log.append(Draft(conversation.subjects.link(HOST), b"boo"))
    await conversation.open(RUN, "ghosts")
    floor = await conversation.floor()
    assert floor.opened is not None
    assert len(floor.damage) == 1
    assert list(await memory.conversations()) == ["haunted"]
