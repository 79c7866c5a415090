"""Atomic batches (`Nats-Batch-*`, NATS ADR-50): all of it is stored, in one piece, or nothing.

A turn does not lean on them (architecture.md section 3 says why); whoever appends many records in one piece does, in
_jetstream_publisher.py.
"""

from typing import TYPE_CHECKING, Any

import anyio
import pytest

if TYPE_CHECKING:
    from tests.engine.conftest import Engine, Stream

pytestmark = pytest.mark.anyio

REFUSED = 10071
NOT_IN_A_BATCH = 10164
"""A guard over a subject that the same batch has written to; elsewhere it means: not yet."""
INCOMPLETE = 10176
TOO_LARGE = 10199
DUPLICATE = 10201

Headers = dict[str, str]
PLAIN: Headers = {}


async def batch(stream: "Stream", name: str, *records: tuple[str, Headers], commit: bool = True) -> dict[str, Any]:
    """Send a batch, and commit it with its last record. The answer to that one, or to the first that is refused.

    Without the commit, it is the answer to the first record, which says that the batch has begun.
    """
    answer: dict[str, Any] = {}
    for number, (subject, headers) in enumerate(records, 1):
        marks = {"Nats-Batch-Id": name, "Nats-Batch-Sequence": str(number), **headers}
        if commit and number == len(records):
            answer = await stream.ask(subject, b"", {**marks, "Nats-Batch-Commit": "1"})
        elif number == 1:
            answer = await stream.ask(subject, b"", marks)
            if "error" in answer:
                return answer
        else:
            await stream.client.publish(stream.subject(subject), b"", headers=marks)
    return answer


def code(answer: dict[str, Any]) -> int:
    return int(answer.get("error", PLAIN).get("err_code", 0))


async def test_a_batch_is_stored_in_one_piece_and_acknowledged_with_its_last_place(engine: "Engine") -> None:
    async with engine.stream(allow_atomic=True) as stream:
        await stream.append("a")
        answer = await batch(stream, "b", ("a", PLAIN), ("b", PLAIN), ("c", PLAIN))
        assert (answer["seq"], answer["batch"], answer["count"]) == (4, "b", 3)
        assert [(await stream.get(seq=seq))["subject"][-1] for seq in (2, 3, 4)] == ["a", "b", "c"]


async def test_before_its_commit_nothing_of_a_batch_is_there_and_an_abandoned_one_leaves_nothing(
    engine: "Engine",
) -> None:
    async with engine.stream(allow_atomic=True) as stream:
        assert await batch(stream, "abandoned", ("a", PLAIN), ("a", PLAIN), commit=False) == {}
        assert await stream.append("b") == 1
        assert await stream.subjects() == {"b": 1}


async def test_a_gap_in_a_batch_ends_it(engine: "Engine") -> None:
    async with engine.stream(allow_atomic=True) as stream:
        await batch(stream, "gap", ("a", PLAIN), commit=False)
        marks = {"Nats-Batch-Id": "gap", "Nats-Batch-Sequence": "3", "Nats-Batch-Commit": "1"}
        assert await stream.refusal("a", b"", marks) == INCOMPLETE
        assert await stream.subjects() == {}


async def test_one_guard_that_does_not_fit_refuses_the_whole_batch(engine: "Engine") -> None:
    async with engine.stream(allow_atomic=True) as stream:
        fence = await stream.append("fence")
        records = [("data", stream.guard(fence, "fence")), ("other", stream.guard(7))]
        assert code(await batch(stream, "b", *records)) == REFUSED
        assert await stream.subjects() == {"fence": 1}
        records[1] = ("other", stream.guard(0))
        assert (await batch(stream, "c", *records))["count"] == 2
        assert await stream.refusal("other", b"", stream.guard(0)) == REFUSED


async def test_a_batch_may_be_fenced_once_for_all_of_its_records(engine: "Engine") -> None:
    """A producer that is fenced needs one guard a batch, over a subject that the batch does not write to."""
    async with engine.stream(allow_atomic=True) as stream:
        fence = await stream.append("fence")
        first = ("data", stream.guard(fence, "fence"))
        assert (await batch(stream, "b", first, *[("data", PLAIN)] * 9))["seq"] == 11
        await stream.append("fence")
        assert code(await batch(stream, "c", first, *[("data", PLAIN)] * 9)) == REFUSED
        assert await stream.subjects() == {"fence": 2, "data": 10}


async def test_a_guard_over_what_the_batch_has_written_itself_is_refused_for_good(engine: "Engine") -> None:
    """So a chain of guarded links is no batch; and here 10164 is not worth another try."""
    async with engine.stream(allow_atomic=True) as stream:
        records = [("a", stream.guard(0)), ("a", stream.guard(1))]
        assert code(await batch(stream, "b", *records)) == NOT_IN_A_BATCH
        assert await stream.subjects() == {}


async def test_a_batch_whose_commit_lost_its_answer_is_told_by_an_id_in_it(engine: "Engine") -> None:
    """10201 for the whole batch, with nothing said of the place: look for the id."""
    async with engine.stream(allow_atomic=True) as stream:
        records = [("a", {"Nats-Msg-Id": "1"}), ("a", {"Nats-Msg-Id": "2"})]
        assert (await batch(stream, "b", *records))["count"] == 2
        for name in ("b", "another"):
            answer = await batch(stream, name, *records)
            assert (code(answer), answer["seq"]) == (DUPLICATE, 0)
        mixed = [("a", {"Nats-Msg-Id": "2"}), ("a", {"Nats-Msg-Id": "3"})]
        assert code(await batch(stream, "c", *mixed)) == DUPLICATE
        assert await stream.subjects() == {"a": 2}


async def test_the_same_id_twice_in_one_batch_is_refused(engine: "Engine") -> None:
    async with engine.stream(allow_atomic=True) as stream:
        assert code(await batch(stream, "b", ("a", {"Nats-Msg-Id": "1"}), ("b", {"Nats-Msg-Id": "1"}))) == DUPLICATE
        assert await stream.subjects() == {}


async def test_a_batch_of_a_thousand_is_stored_and_one_more_is_too_large(engine: "Engine") -> None:
    async with engine.stream(allow_atomic=True) as stream:
        assert (await batch(stream, "b", *[("a", PLAIN)] * 1_000))["count"] == 1_000
        assert code(await batch(stream, "c", *[("a", PLAIN)] * 1_001)) == TOO_LARGE
        assert await stream.subjects() == {"a": 1_000}


async def test_without_the_streams_leave_there_are_no_batches(engine: "Engine") -> None:
    """`allow_atomic`: a stream that was made without it takes single records only (_jetstream.py)."""
    async with engine.stream(allow_atomic=False) as stream:
        assert code(await batch(stream, "b", ("a", PLAIN), ("a", PLAIN))) == 10174
        assert await stream.subjects() == {}


async def test_batches_of_rivals_do_not_mix(engine: "Engine") -> None:
    async with engine.stream(allow_atomic=True) as stream:

        async def send(number: int) -> None:
            await batch(stream, f"b{number}", *[(f"{number}.a", PLAIN)] * 20)

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(send, number)
        subjects = [(await stream.get(seq=seq))["subject"].split(".")[1] for seq in range(1, 161)]
        assert [subjects[start : start + 20] for start in range(0, 160, 20)] == [
            [subjects[start]] * 20 for start in range(0, 160, 20)
        ]
