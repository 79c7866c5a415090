"""The two hash chains: their formula, written down a second time, and what moves them."""

import hashlib
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.bus import (
    HOST,
    Chair,
    Ended,
    Fold,
    Granted,
    Interjected,
    Opened,
    Record,
    Remembered,
    RunContext,
    Said,
    SeatName,
    Verification,
    Verified,
    Whispered,
    memory_bus,
)
from convive.bus.testing import Records, read_all, run_number
from convive.bus.verify._verify_heads import with_places

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")
ROOT = run_number(0)


def party(log: Records) -> list[Record]:
    """A conversation with a record of each part; positions in its bodies are those of the log."""
    wish = log.memory(ADA, Remembered(text="win", run_id=ROOT))
    opened = Opened(
        run_id=ROOT, topic="figs", chairs=(Chair(seat=ADA),), setting={"memories": [7]}, memories=(wish.seq,)
    )
    run = run_number(1)
    first = [wish, log.link(HOST, opened)]
    first.append(log.link(HOST, Granted(link=1, turn=1, seat=ADA, run_id=run, deadline_s=1.5)))
    first.append(log.raw(f"{log.subjects.base}.run.{ROOT}.{run}", b'{"type":"run_started"}', run))
    thought = log.memory(ADA, Remembered(text='a "memories":[3] thought', run_id=run))
    said = Said(
        link=2, turn=1, run_id=run, text='I say "memories":[1] {', data=[{"memories": [2]}], memories=(thought.seq,)
    )
    return [
        *first,
        thought,
        log.link(ADA, said),
        log.whisper(ADA, Whispered(sender=ADA, text="é")),
        log.aside("mara", Interjected(text="x")),
        log.raw(f"{log.subjects.base}.stream.notes", b"\xff"),
        log.link(HOST, Ended(link=3)),
    ]


async def test_a_fold_that_is_kept_is_no_finding_and_moves_no_head() -> None:
    """Whoever asks for a memory may keep it: what happened is the same as before."""
    async with memory_bus() as bus:
        table, run = await bus.conversation("table"), RunContext.root(ROOT)
        notes = await bus.stream("table/notes")
        await table.open(run, "figs", [Chair(seat=ADA)])
        await table.remember(ADA, [Remembered(text=f"{number}") for number in range(300)], run)
        for number in range(300):
            await notes.append(number)

        async def verified() -> Verified:
            checks = Verification(table.subjects.base)
            for record in await read_all(table.log, f"{table.subjects.base}.>"):
                checks.apply(record)
            assert checks.findings.kept == []
            return checks.finish()

        before = await verified()
        await table.memory(ADA)
        await notes.fold(Fold("count", int, int, lambda count, _: count + 1))
        assert len(await table.log.subjects(f"{table.subjects.folds}.>")) == 1
        assert len(await table.log.subjects(f"{notes.subject}.fold.>")) == 1
        assert await verified() == before


def heads(records: list[Record]) -> tuple[str, str]:
    checks = Verification("cv.00.table")
    for record in records:
        checks.apply(record)
    seen = checks.finish()
    return seen.head, seen.content_head


def net(data: bytes | str) -> bytes:
    raw = data if isinstance(data, bytes) else data.encode()
    return str(len(raw)).encode() + b":" + raw + b","


def recomputed(records: list[Record]) -> tuple[str, str]:
    """The formula of docs/adr/0013, for bodies as Convive writes them."""
    head = content = b"\0" * 32
    ordinals: dict[int, int] = {}
    count = 0
    for record in records:
        suffix = record.subject[len("cv.00.table.") :]
        mine = sorted((k, v) for k, v in record.headers.items() if not k.lower().startswith("nats-"))
        flat = b"".join(net(k) + net(v) for k, v in mine)
        fields = net(suffix) + net(str(record.seq)) + net(flat) + net(record.body)
        head = hashlib.sha256(head + fields).digest()
        if suffix.split(".")[0] not in ("bus", "memory", "inbox", "run"):
            continue
        count += 1
        body = record.body
        if suffix.startswith("memory."):
            ordinals[record.seq] = count
        if suffix.startswith("bus.floor."):
            event: dict[str, Any] = json.loads(body)
            if "memories" in event:
                event["memories"] = [ordinals.get(place, 0) for place in event["memories"]]
                body = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        four = [(k, v) for k, v in mine if k in ("Cv-Run", "Cv-Root", "Cv-Parent", "traceparent")]
        flat = b"".join(net(k) + net(v) for k, v in four)
        content = hashlib.sha256(content + net(suffix) + net("") + net(flat) + net(body)).digest()
    return head.hex(), content.hex()


def test_the_heads_are_what_the_formula_says() -> None:
    records = party(Records())
    assert heads(records) == recomputed(records)
    assert heads([]) == ("0" * 64, "0" * 64)


def test_the_heads_stay_what_they_were_in_earlier_versions() -> None:
    """A golden conversation: if this changes, nobody can compare with what was written down before."""
    assert heads(party(Records())) == (
        "30e5cf932ce6080694b085d9a1df8f9f9b66bd424fbf27fa7435ab8666cce5d9",
        "dbd0fa42ce73a478ef4b0cbcebd93a6da1cb1034f430b9eb14204d0d7c5bb313",
    )


def test_a_copy_at_other_places_and_times_has_the_same_content_head_and_another_head() -> None:
    log = Records(start_s=99.0)
    log.seq = 1_000
    one, other = heads(party(Records())), heads(party(log))
    assert one[1] == other[1]
    assert one[0] != other[0]


def test_headers_of_the_server_do_not_count_and_those_of_others_count_for_the_log_only() -> None:
    records = party(Records())
    one = heads(records)
    served = [replace(each, headers={**each.headers, "Nats-Msg-Id": "7", "nats-ttl": "1s"}) for each in records]
    assert heads(served) == one
    marked = [replace(each, headers={**each.headers, "Origin": "elsewhere"}) for each in records]
    assert heads(marked)[0] != one[0]
    assert heads(marked)[1] == one[1]


@pytest.mark.parametrize("place", range(10))
def test_a_record_that_is_changed_moved_or_gone_changes_the_heads(place: int) -> None:
    records = party(Records())
    part = records[place].subject.split(".")[3]
    whole = heads(records)
    changed = [
        *records[:place],
        replace(records[place], body=records[place].body.replace(b"t", b"T").replace(b"\xff", b"f")),
        *records[place + 1 :],
    ]
    gone = records[:place] + records[place + 1 :]
    renamed = [*records]
    renamed[place] = replace(records[place], subject=records[place].subject + "x")
    for other in (changed, gone, renamed):
        assert heads(other)[0] != whole[0]
        assert (heads(other)[1] != whole[1]) == (part != "stream")
    if place:
        moved = [*records]
        moved[place - 1], moved[place] = moved[place], moved[place - 1]
        assert heads(moved)[0] != whole[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\{}[]é', max_size=8) | st.just('"memories":[1]{'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["memories", "a", "\\", '"']), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["data", "text", "x"]), JSON), st.lists(st.integers(1, 9)), st.integers(0, 2))
def test_only_the_numbers_of_the_top_level_array_are_replaced(
    others: dict[str, Any], places: list[int], indent: int
) -> None:
    event = {**others, "memories": places, "z": others}
    body = json.dumps(event, indent=indent or None).encode()
    known = {place: place + 100 for place in range(1, 5)}
    found = json.loads(with_places(body, known))
    assert found == {**event, "memories": [known.get(place, 0) for place in places]}
    assert with_places(with_places(body, dict(zip(range(1, 10), range(11, 20), strict=True))), {}) == with_places(
        body, {}
    )


def test_a_name_that_is_written_with_escapes_is_the_same_name() -> None:
    assert with_places(rb'{"\u006demories" : [ 4 ,5]}', {4: 1, 5: 22}) == rb'{"\u006demories" : [ 1 ,22]}'


@given(st.binary())
def test_what_is_no_json_keeps_its_bytes_or_at_least_ends(body: bytes) -> None:
    assert b"memories" in body or with_places(body, {}) == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b'\\"' * 500_000,
        b'{"memories":[' * 70_000,
        b'{"memories":[],' * 60_000,
        b'{"memories":[' + b"9" * 1_000_000 + b"]}",
        b"[" * 1_000_000,
        b'"' * 999_999,
    ],
    ids=["escapes", "nested", "again and again", "a long number", "brackets", "quotes"],
)
def test_a_hostile_body_takes_no_time(body: bytes) -> None:
    began = time.process_time()
    with_places(body, {})
    assert time.process_time() - began < 3
