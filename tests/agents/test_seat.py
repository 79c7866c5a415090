"""Seats: a turn is taken once, with what was known at its grant, and said and remembered together or not at all."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    BadModelRequest,
    ModelError,
    ModelOverloaded,
    Participant,
    Pass,
    Place,
    Say,
    Turn,
    UnknownModel,
    host_seats,
)
from convive.agents.testing import ScriptedModel
from convive.bus import (
    HOST,
    Bus,
    Chair,
    Conversation,
    Draft,
    Floor,
    Interjected,
    Left,
    OpenGrant,
    Passed,
    Remembered,
    RunContext,
    SeatName,
    Whispered,
    memory_bus,
    mint_run_id,
    open_bus,
)
from convive.bus.testing import server

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")
RUN = RunContext.root()

Act = Callable[[Turn], Awaitable[Say | Pass]]


class Acting:
    """A participant that does what a function says. `began` is set when it has the floor, `ended` when it is done."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self.began = anyio.Event()
        self.ended = anyio.Event()
        self.turns: list[Turn] = []

    async def take_turn(self, turn: Turn) -> Say | Pass:
        self.turns.append(turn)
        self.began.set()
        try:
            return await self._act(turn)
        finally:
            self.ended.set()


async def speak(turn: Turn) -> Say:
    return Say(f"{turn.seat} in turn {turn.grant.turn}")


async def never(turn: Turn) -> Say:
    await anyio.sleep_forever()
    raise AssertionError(turn)


async def fail(turn: Turn) -> Say:
    raise LookupError(f"lost in turn {turn.grant.turn}")


@pytest.fixture
async def bus() -> AsyncGenerator[Bus]:
    async with memory_bus() as made:
        yield made


@pytest.fixture
async def table(bus: Bus) -> Conversation:
    return await opened(bus)


async def opened(bus: Bus) -> Conversation:
    conversation = await bus.conversation(f"party-{mint_run_id()}")
    await conversation.open(RUN, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
    return conversation


async def grant(conversation: Conversation, seat: SeatName = ADA) -> OpenGrant:
    place = await conversation.grant(await conversation.floor(), seat, RUN.child(), 0)
    return await held(conversation, until=place)  # it may be answered already


async def held(conversation: Conversation, until: int | None = None) -> OpenGrant:
    found = (await conversation.floor(until)).open_grant
    assert found is not None
    return found


async def turn_over(conversation: Conversation, after: int) -> Floor:
    """The floor once the grant at `after` is settled."""
    with anyio.fail_after(20):
        async with conversation.follow(after=after) as tail:
            while (floor := await conversation.floor()).open_grant is not None:
                await tail.next(0.5)
            return floor


@asynccontextmanager
async def seated(conversation: Conversation, **participants: Participant) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, conversation, {SeatName(seat): one for seat, one in participants.items()})
        yield
        tasks.cancel_scope.cancel()


async def end(conversation: Conversation) -> None:
    await conversation.close(await conversation.floor(), RUN)


async def texts(conversation: Conversation) -> list[str]:
    return [utterance.text for utterance in (await conversation.world()).heard]


async def memories(conversation: Conversation, seat: SeatName = ADA) -> list[str]:
    return [memory.event.text for memory in (await conversation.world(seat)).private[seat].memory.held]


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


async def tell(conversation: Conversation, text: str) -> None:
    await conversation.aside(BOB, Interjected(text=text), RUN)
    await conversation.whisper(ADA, Whispered(sender=BOB, text=text), RUN)
    await conversation.remember(ADA, [Remembered(text=text)], RUN)


def knowledge(turn: Turn) -> tuple[list[str], list[str], list[str]]:
    return (
        [utterance.text for utterance in turn.heard],
        [whisper.text for whisper in turn.whispers],
        [memory.text for memory in turn.memories],
    )


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


async def test_ending_the_conversation_ends_hosting_also_while_others_have_the_floor(bus: Bus) -> None:
    conversation = await opened(bus)
    ada = Acting(never)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, conversation, {ADA: ada})
            open_grant = await grant(conversation)
            await ada.began.wait()
            await conversation.revoke(await conversation.floor(), open_grant, RUN, "enough")
            await end(conversation)


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

    async with anyio.create_task_group() as first:
        first.start_soon(host_seats, table, {ADA: Acting(stuck)})
        await anyio.wait_all_tasks_blocked()
        async with seated(table, ada=Acting(speak_by_model)):
            await anyio.wait_all_tasks_blocked()
            open_grant = await grant(table)
            await began.wait()
            first.cancel_scope.cancel()
            floor = await turn_over(table, open_grant.seq)
            assert floor.heard is not None
            assert floor.heard.text == "found"
            await table.close(floor, RUN)


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


async def test_a_double_leaves_the_turn_to_the_other_while_that_shows_signs_of_life(table: Conversation) -> None:
    asked = 0

    async def slowly() -> None:
        # Longer than a quarter of the turn's time, with a journal and live text that go on.
        await anyio.sleep(0.05)

    def answer(request: object) -> str:
        nonlocal asked
        asked += 1
        return "word " * 30

    def busy() -> AgentSeat:
        return AgentSeat(Agent("ada", model=ScriptedModel(answer, pause=slowly)))

    async with seated(table, ada=busy()), seated(table, ada=busy()):
        await anyio.wait_all_tasks_blocked()
        floor = await table.floor()
        place = await table.grant(floor, ADA, RUN.child(), floor.at_s + 2.0)
        floor = await turn_over(table, place)
        assert (floor.said_turns, asked) == (1, 1)
        await table.close(floor, RUN)


async def test_a_request_that_a_provider_can_never_take_passes_the_turn(table: Conversation) -> None:
    model = ScriptedModel([BadModelRequest("the prompt is too long")])
    async with seated(table, ada=AgentSeat(Agent("ada", model=model))):
        open_grant = await grant(table)
        floor = await turn_over(table, open_grant.seq)
        assert isinstance(floor.last_outcome, Passed)
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


async def test_what_guests_know_from_the_beginning_counts_with_the_opening_and_only_then(bus: Bus) -> None:
    conversation = await bus.conversation("evening")
    lost, won = RunContext.root(), RunContext.root()
    for run, text in ((lost, "of a party that came to nothing"), (won, "find the salt")):
        places = await conversation.remember(ADA, [Remembered(text=text, run_id=run.run_id)], run)
    await conversation.open(won, "salt", [Chair(seat=ADA)], memories=places)
    assert [memory.text for memory in (await conversation.world(ADA)).private[ADA].memory.held] == ["find the salt"]


async def test_a_conversation_opens_behind_records_that_are_not_ours(bus: Bus) -> None:
    conversation = await bus.conversation("haunted")
    await conversation.log.append(Draft(conversation.subjects.link(HOST), b"boo"))
    await conversation.open(RUN, "ghosts")
    floor = await conversation.floor()
    assert floor.opened is not None
    assert len(floor.damage) == 1
    assert list(await bus.conversations()) == ["haunted"]
