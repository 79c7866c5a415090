"""Compare-and-set: `Nats-Expected-Last-Subject-Sequence`, also over several subjects and over other ones."""

import base64
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import pytest

if TYPE_CHECKING:
    from nats.aio.client import Client

    from tests.engine.conftest import Engine, Stream

pytestmark = pytest.mark.anyio

REFUSED = 10071
"""Final: another record came first."""

NOT_YET = 10164
"""Three nodes only: another write that this guard looks at is still on its way through the replicas."""


async def test_a_guard_over_a_wildcard_lets_one_rival_have_each_place(engine: "Engine") -> None:
    """The floor is a linked list that the server keeps (_conversation.py `_append_link`, ADR 2)."""
    links = 40
    won: list[int] = []
    codes: set[int] = set()
    async with engine.stream() as stream, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(engine.another(number)) for number in range(6)]

        async def rival(own: "Stream", name: str) -> None:
            last = 0
            while len(won) < links:
                answer = await own.ask(f"floor.{name}", b"", own.guard(last, "floor", "*"))
                if "error" not in answer:
                    last = answer["seq"]
                    won.append(last)
                    continue
                codes.add(answer["error"]["err_code"])
                if answer["error"]["err_code"] == REFUSED:
                    last = int(answer["error"]["description"].rpartition(" ")[2])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number, client in enumerate(clients):
                    tasks.start_soon(rival, stream.on(client), f"rival-{number}")
        state = await stream.state()
    # Every guard named the place of the link before it, so the places that were won are all there are.
    assert sorted(won) == list(range(1, len(won) + 1))
    assert state["messages"] == state["last_seq"] == len(won)
    assert codes <= ({REFUSED, NOT_YET} if engine.replicated else {REFUSED})


async def test_a_refusal_ends_in_the_place_of_the_newest_record_that_the_guard_looks_at(engine: "Engine") -> None:
    """`Conflict.actual` (_jetstream_publisher.py `_LAST_SEQUENCE`)."""
    async with engine.stream() as stream:
        for subject in ("floor.a", "floor.b", "aside.a"):
            await stream.append(subject)
        for tokens, actual in ((("floor", "*"), 2), (("aside", "a"), 3), (("nothing", ">"), 0)):
            error = (await stream.ask("floor.c", b"", stream.guard(9, *tokens)))["error"]
            assert error["err_code"] == REFUSED
            assert error["description"] == f"wrong last sequence: {actual}"


@pytest.mark.parametrize("filter_tokens", [("fence",), ("fence", ">")], ids=["one subject", "a wildcard"])
async def test_a_guard_may_look_at_other_subjects_than_the_records_own(
    engine: "Engine", filter_tokens: tuple[str, ...]
) -> None:
    """Fencing: a writer whose token was replaced is refused (_log.py `Guard`, _log_checks.py)."""
    async with engine.stream() as stream:
        fence = "fence" if len(filter_tokens) == 1 else "fence.token"
        first = await stream.append(fence, b"first writer")
        for number in range(3):  # its own records do not move the guard
            await stream.append("data", str(number).encode(), stream.guard(first, *filter_tokens))
        second = await stream.append(fence, b"second writer")
        assert await stream.refusal("data", b"late", stream.guard(first, *filter_tokens)) == REFUSED
        await stream.append("data", b"3", stream.guard(second, *filter_tokens))
        assert (await stream.subjects())["data"] == 4


@pytest.mark.parametrize("guarded", [True, False], ids=["a guarded fence", "a plain fence"])
async def test_no_record_slips_in_behind_a_fence_that_moves_while_writers_are_busy(
    engine: "Engine", guarded: bool
) -> None:
    """The same in a race: between a fence and the next one only records of the first one's holder are stored.

    Holds for a guard that names the fence's own subject, however the fence is moved.
    """
    moves, each, stored, late = 25, 8, 0, 0
    async with engine.stream() as stream, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(engine.another(number)) for number in range(7)]
        tokens = [await stream.append("fence")]

        async def write(own: "Stream") -> None:
            nonlocal stored, late
            while len(tokens) <= moves:
                code = _code(await own.ask("data", str(token := tokens[-1]).encode(), own.guard(token, "fence")))
                stored += code == 0
                late += code != 0

        async def move(own: "Stream") -> None:
            while len(tokens) <= moves:
                if stored < each * len(tokens):  # the writers are to be busy with one token before it is replaced
                    await anyio.lowlevel.checkpoint()
                    continue
                answer = await own.ask("fence", b"", own.guard(tokens[-1], "fence") if guarded else {})
                if _code(answer) == 0:
                    tokens.append(answer["seq"])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for client in clients[1:]:
                    tasks.start_soon(write, stream.on(client))
                tasks.start_soon(move, stream.on(clients[0]))
        state = await stream.state()
        records = [await stream.get(seq=seq) for seq in range(1, state["last_seq"] + 1)]
    fence = 0
    for record in records:
        if record["subject"].endswith(".fence"):
            fence = record["seq"]
        else:
            assert int(_body(record)) == fence, f"record {record['seq']} was let in by a fence that had moved"
    assert stored == len(records) - len(tokens)
    assert late > 0  # there was a race to be won


async def test_pipelined_guards_over_one_subject_are_refused_on_three_nodes_and_stored_on_one(
    engine: "Engine",
) -> None:
    """Hence a guarded append waits for its answer, and 10164 is tried again (_jetstream_publisher.py `_NOT_YET`).

    What comes without a guard, or with one over other subjects, is pipelined freely.
    """
    count = 100
    async with engine.stream() as stream:
        fence = await stream.append("fence")
        same = await _pipelined(stream, [("data", stream.guard(fence, "fence"))] * count)
        other = await _pipelined(stream, [(f"own.{number}", stream.guard(0)) for number in range(count)])
        plain = await _pipelined(stream, [("data", {})] * count)
    assert [*map(_code, other), *map(_code, plain)] == [0] * 2 * count
    if engine.replicated:
        assert set(map(_code, same)) == {0, NOT_YET}
    else:
        assert set(map(_code, same)) == {0}


async def test_on_three_nodes_a_wildcard_guard_misses_a_write_in_flight_that_has_not_the_same_guard(
    engine: "Engine",
) -> None:
    """Hence every link of a floor has a guard with the same filter text (architecture.md section 4, ADR 2).

    Should this fail on three nodes, a newer server looks more closely, and the rule may be dropped.
    """
    missed = 0
    async with engine.stream() as stream:
        for number in range(20):
            before = await stream.append(f"{number}.floor.a")
            # One after the other on one connection: the second reaches the leader before the first is stored.
            answers = await _pipelined(
                stream,
                [(f"{number}.floor.a", {}), (f"{number}.floor.b", stream.guard(before, str(number), "floor", "*"))],
            )
            assert _code(answers[0]) == 0
            missed += _code(answers[1]) == 0
    assert (missed > 0) == engine.replicated


async def test_the_same_record_again_is_refused_by_its_guard_on_one_node_and_known_on_three(engine: "Engine") -> None:
    """Hence behind a refusal the publisher looks for its own record (_jetstream_publisher.py `own_record`)."""
    async with engine.stream() as stream:
        headers = {**stream.guard(0, "floor", "*"), "Nats-Msg-Id": "the same"}
        place = await stream.append("floor.a", b"once", headers)
        again = await stream.ask("floor.a", b"once", headers)
        without_id = await stream.refusal("floor.a", b"once", stream.guard(0, "floor", "*"))
        if engine.replicated:
            assert (again["seq"], again["duplicate"]) == (place, True)
        else:
            assert _code(again) == REFUSED
        assert without_id == REFUSED
        found = await stream.get(seq=1, next_by_subj=stream.subject("floor.a"))
        assert (found["seq"], _body(found)) == (place, b"once")


async def test_an_id_counts_for_the_whole_stream_and_without_regard_to_body_and_subject(engine: "Engine") -> None:
    """Hence ids of ours name what they belong to (_conversation.py `_digest`, _jetstream_queue.py `send`)."""
    async with engine.stream() as stream:
        place = await stream.append("a", b"1", {"Nats-Msg-Id": "x"})
        again = await stream.ask("b", b"2", {"Nats-Msg-Id": "x"})
        assert (again["seq"], again["duplicate"]) == (place, True)
        assert await stream.subjects() == {"a": 1}


async def test_a_guard_at_zero_fits_again_when_the_records_it_looks_at_are_gone(engine: "Engine") -> None:
    """Hence nothing that a guard watches is ever trimmed or lets expire (_log.py `Draft.ttl_s`)."""
    async with engine.stream() as stream:
        await stream.append("floor.a")
        await stream.append("other")
        assert await stream.refusal("floor.b", b"", stream.guard(0, "floor", "*")) == REFUSED
        assert (await stream.api("STREAM.PURGE", {"filter": stream.subject("floor.*")}))["purged"] == 1
        assert await stream.append("floor.b", b"", stream.guard(0, "floor", "*")) == 3


async def test_the_leader_tells_every_client_at_once_of_what_was_acknowledged(engine: "Engine") -> None:
    """Decisions read with `STREAM.MSG.GET`, which the leader answers (_jetstream.py `last`, `own_record`)."""
    async with engine.stream() as stream, AsyncExitStack() as stack:
        own = [stream.on(await stack.enter_async_context(engine.another(number))) for number in range(3)]
        for number in range(60):
            place = await own[number % 3].append("a")
            assert (await own[(number + 1) % 3].get(last_by_subj=stream.subject("a")))["seq"] == place


async def _pipelined(stream: "Stream", records: list[tuple[str, dict[str, str]]]) -> list[dict[str, Any]]:
    """Publish without waiting; the answers in the same order."""
    client: Client = stream.client
    inbox = client.new_inbox()
    answers: dict[str, dict[str, Any]] = {}
    subscription = await client.subscribe(f"{inbox}.*")
    for number, (subject, headers) in enumerate(records):
        await client.publish(stream.subject(subject), b"", reply=f"{inbox}.{number}", headers=headers or None)
    with anyio.fail_after(10):
        while len(answers) < len(records):
            message = await subscription.next_msg(10)
            answers[message.subject] = json.loads(message.data)
    await subscription.unsubscribe()
    return [answers[f"{inbox}.{number}"] for number in range(len(records))]


def _code(answer: dict[str, Any]) -> int:
    """The `err_code` of an answer, 0 when the record was stored."""
    return int(answer.get("error", {}).get("err_code", 0))


def _body(record: dict[str, Any]) -> bytes:
    return base64.b64decode(record.get("data", ""))
