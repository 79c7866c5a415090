"""Seats that are taken twice, restarted, cut off from their server: each turn is said once."""

import anyio
import pytest

from convive.agents import Agent, AgentSeat, Pass, Place, Say, Turn, host_seats
from convive.agents.testing import ScriptedModel
from convive.bus import Conversation, Left, Remembered, RunContext, open_bus
from convive.bus.testing import server
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


async def test_a_restarted_seat_takes_the_turn_that_was_open_with_the_same_run(table: Conversation) -> None:
    open_grant = await grant(table)
    with anyio.fail_after(5), pytest.raises(BaseExceptionGroup):
        await host_seats(table, {ADA: Acting(fail)})
    ada = Acting(speak)
    async with seated(table, ada=ada):
        await turn_over(table, open_grant.seq)
    (turn,) = ada.turns
    assert turn.run == RunContext(open_grant.grant.run_id, RUN.run_id, RUN.run_id)
    assert await texts(table) == ["ada in turn 1"]


async def test_a_restarted_turn_knows_what_was_known_at_its_grant_and_nothing_later(table: Conversation) -> None:
    await tell(table, "early")
    open_grant = await grant(table)
    await tell(table, "late")
    await table.aside(BOB, Left(), RUN)
    ada = Acting(speak)
    async with seated(table, ada=ada):
        await turn_over(table, open_grant.seq)
    (turn,) = ada.turns
    assert knowledge(turn) == (["early"], ["early"], ["early"])
    assert len(turn.floor.seats) == 2


async def test_of_a_seat_that_two_sit_in_one_speaks_and_is_remembered(table: Conversation) -> None:
    both = anyio.Event()
    waiting: list[str] = []

    def guest(name: str) -> Acting:
        async def act(turn: Turn) -> Say:
            waiting.append(name)
            if len(waiting) == 2:
                both.set()
            await both.wait()
            turn.remember(f"I am {name}")
            return Say(name)

        return Acting(act)

    async with seated(table, ada=guest("one")), seated(table, ada=guest("the other")):
        await anyio.wait_all_tasks_blocked()  # both sit there when the grant comes
        await turn_over(table, (await grant(table)).seq)
        await anyio.wait_all_tasks_blocked()
    (said,) = await texts(table)
    assert await memories(table) == [f"I am {said}"]


async def test_of_an_attempt_that_died_nothing_is_remembered(table: Conversation) -> None:
    open_grant = await grant(table)
    run = RunContext(open_grant.grant.run_id, RUN.run_id, RUN.run_id)
    # A first attempt wrote its memory down and was killed before it spoke.
    await table.remember(ADA, [Remembered(text="of the first attempt", run_id=run.run_id)], run)

    async def again(turn: Turn) -> Say:
        turn.remember("of the second attempt")
        return Say("said")

    async with seated(table, ada=Acting(again)):
        await turn_over(table, open_grant.seq)
    assert await memories(table) == ["of the second attempt"]


async def test_a_cancelled_process_leaves_its_grant_open_and_its_seat_can_be_taken_again(table: Conversation) -> None:
    ada = Acting(never)
    async with seated(table, ada=ada):
        open_grant = await grant(table)
        await ada.began.wait()
    assert await held(table) == open_grant
    async with seated(table, ada=Acting(speak)):
        await turn_over(table, open_grant.seq)
    assert await texts(table) == ["ada in turn 1"]


async def test_a_server_killed_in_the_middle_of_a_turn_does_not_end_it() -> None:
    async with server() as own, open_bus(own.url) as real:
        conversation = await opened(real)
        back = anyio.Event()

        async def wait(turn: Turn) -> Say:
            turn.remember("it went dark")
            await back.wait()
            return Say("where were we?")

        ada = Acting(wait)
        async with seated(conversation, ada=ada):
            open_grant = await grant(conversation)
            await ada.began.wait()
            own.kill()
            back.set()  # it speaks into the dark, and is heard when the server is back
            await own.start()
            await turn_over(conversation, open_grant.seq)
        assert await texts(conversation) == ["where were we?"]
        assert await memories(conversation) == ["it went dark"]


async def test_a_doubled_seat_in_two_processes_on_a_real_server_says_each_turn_once() -> None:
    async with server() as own, open_bus(own.url) as here, open_bus(own.url) as there:
        conversation = await opened(here)
        double = await there.conversation(conversation.id)

        def guest(name: str) -> Acting:
            async def act(turn: Turn) -> Say:
                turn.remember(f"{name} {turn.grant.turn}")
                return Say(f"{name} {turn.grant.turn}")

            return Acting(act)

        async with seated(conversation, ada=guest("one")), seated(double, ada=guest("other")):
            for _ in range(20):
                await turn_over(conversation, (await grant(conversation)).seq)
        world = await conversation.world(ADA)
        said = [utterance.text for utterance in world.heard]
        assert [text.split()[1] for text in said] == [str(turn) for turn in range(1, 21)]
        assert [memory.event.text for memory in world.private[ADA].memory.held] == said
        assert world.floor.damage == ()


async def test_two_processes_in_one_seat_ask_the_model_once_and_neither_fails(table: Conversation) -> None:
    model = ScriptedModel(["hello"])  # a second request would be an error
    async with (
        seated(table, ada=AgentSeat(Agent("ada", model=model))),
        seated(table, ada=AgentSeat(Agent("ada", model=model))),
    ):
        await anyio.wait_all_tasks_blocked()  # both sit there when the grant comes
        open_grant = await grant(table)
        floor = await turn_over(table, open_grant.seq)
        assert (floor.said_turns, len(model.requests)) == (1, 1)
        await table.close(floor, RUN)


async def test_a_double_takes_over_when_the_process_that_had_the_turn_is_gone(table: Conversation) -> None:
    began = anyio.Event()

    async def stuck(turn: Turn) -> Say | Pass:
        began.set()
        await Agent("ada", model=ScriptedModel(["lost"], pause=anyio.sleep_forever)).execute(
            "speak",
            run=turn.run,
            place=Place(turn.conversation.log, turn.conversation.subjects.base),
            on_cancel="leave",
        )
        raise AssertionError

    async def speak_by_model(turn: Turn) -> Say | Pass:
        result = await Agent("ada", model=ScriptedModel(["found"])).execute(
            "speak",
            run=turn.run,
            place=Place(turn.conversation.log, turn.conversation.subjects.base),
            fresh=not turn.resumed,
            on_cancel="leave",
        )
        return Say(result.text)

    async with seated(table, ada=Acting(stuck)) as first:
        await anyio.wait_all_tasks_blocked()
        async with seated(table, 0.2, ada=Acting(speak_by_model)):
            await anyio.wait_all_tasks_blocked()
            open_grant = await grant(table)
            await began.wait()
            first.cancel()
            floor = await turn_over(table, open_grant.seq)
            assert floor.heard is not None
            assert floor.heard.text == "found"
            await table.close(floor, RUN)


async def test_a_mistake_in_the_applications_own_code_ends_the_seat_and_a_restart_tries_the_turn_again(
    table: Conversation,
) -> None:
    def broken(context: object) -> str:
        raise LookupError(context)

    agent = Agent("ada", model=ScriptedModel(["at last"]), instructions=broken)
    open_grant = await grant(table)
    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        await host_seats(table, {ADA: AgentSeat(agent)})
    async with seated(table, ada=AgentSeat(Agent("ada", model=ScriptedModel(["at last"])))):
        floor = await turn_over(table, open_grant.seq)
        assert floor.heard is not None
        assert floor.heard.text == "at last"
        await table.close(floor, RUN)
