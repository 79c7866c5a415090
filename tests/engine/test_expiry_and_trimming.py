"""How records go: per-record expiry, rollup, purge, and what guards, ids and sequence numbers make of it."""

from typing import TYPE_CHECKING

import anyio
import pytest

if TYPE_CHECKING:
    from tests.engine.conftest import Engine, Stream

pytestmark = pytest.mark.anyio

NO_MESSAGE = 10037
REFUSED = 10071


async def gone(stream: "Stream", subject: str) -> None:
    """Wait until the server has no record on a subject any more."""
    with anyio.fail_after(15):
        while (await stream.get(last_by_subj=stream.subject(subject))).get("err_code") != NO_MESSAGE:  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def test_an_expired_record_is_gone_for_readers_guards_and_counts_and_its_place_stays_taken(
    engine: "Engine",
) -> None:
    """Live text expires (_log.py `Draft.ttl_s`; _log_checks.py holds our logs to the same)."""
    async with engine.stream() as stream:
        await stream.append("kept")
        place = await stream.append("live", b"", {"Nats-TTL": "1"})
        assert await stream.refusal("live", b"", stream.guard(0)) == REFUSED
        await gone(stream, "live")
        assert await stream.refusal("live", b"", stream.guard(place)) == REFUSED
        assert await stream.append("live", b"", stream.guard(0)) == place + 1
        assert (await stream.get(seq=place))["err_code"] == NO_MESSAGE
        assert await stream.subjects() == {"kept": 1, "live": 1}


async def test_the_id_of_an_expired_record_is_still_known(engine: "Engine") -> None:
    """So a resend never revives a record that has expired (_jetstream_publisher.py `_resend`)."""
    async with engine.stream() as stream:
        headers = {"Nats-TTL": "1", "Nats-Msg-Id": "x"}
        place = await stream.append("live", b"", headers)
        await gone(stream, "live")
        again = await stream.ask("live", b"", headers)
        assert (again["seq"], again["duplicate"]) == (place, True)
        assert await stream.subjects() == {}


@pytest.mark.parametrize(("ttl", "code"), [("0.5", 10165), ("soon", 10165), ("-5", 10165)])
async def test_less_than_a_second_and_nonsense_are_refused(engine: "Engine", ttl: str, code: int) -> None:
    """`Draft.ttl_s` is a whole number of seconds from 1 on (_log.py `check_draft`)."""
    async with engine.stream() as stream:
        assert await stream.refusal("live", b"", {"Nats-TTL": ttl}) == code


async def test_without_the_streams_leave_no_record_expires(engine: "Engine") -> None:
    """Hence a stream without `allow_msg_ttl` is a WrongStream (_jetstream.py `_PROMISED`)."""
    async with engine.stream(allow_msg_ttl=False) as stream:
        assert await stream.refusal("live", b"", {"Nats-TTL": "1"}) == 10166


async def test_a_rollup_leaves_itself_alone_on_its_subject_and_others_as_they_are(engine: "Engine") -> None:
    """Streams are made with `allow_rollup_hdrs`, for snapshots (_jetstream.py `_PROMISED`)."""
    async with engine.stream() as stream:
        for number in range(5):
            await stream.append("snapshot", str(number).encode())
            await stream.append("data", str(number).encode())
        place = await stream.append("snapshot", b"all", {**stream.guard(9), "Nats-Rollup": "sub"})
        assert place == 11
        assert await stream.subjects() == {"snapshot": 1, "data": 5}
        assert (await stream.get(last_by_subj=stream.subject("snapshot")))["seq"] == place
        assert await stream.refusal("snapshot", b"", {**stream.guard(9), "Nats-Rollup": "sub"}) == REFUSED
        assert await stream.append("snapshot", b"", stream.guard(place)) == 12


async def test_single_records_cannot_be_deleted_but_a_subject_can_be_trimmed(engine: "Engine") -> None:
    """`deny_delete` keeps history from being rewritten, not from being trimmed (_jetstream.py `_PROMISED`).

    A purge takes what is before a place, or all but the last n; guards go on behind what is left.
    """
    async with engine.stream() as stream:
        places = [await stream.append("data") for _ in range(6)]
        await stream.append("other")
        assert (await stream.api("STREAM.MSG.DELETE", {"seq": 1}))["error"]["err_code"] == 10057
        data = stream.subject("data")
        assert (await stream.api("STREAM.PURGE", {"filter": data, "seq": places[3]}))["purged"] == 3
        assert await stream.subjects() == {"data": 3, "other": 1}
        assert (await stream.get(seq=1, next_by_subj=data))["seq"] == places[3]
        assert (await stream.api("STREAM.PURGE", {"filter": data, "keep": 1}))["purged"] == 2
        assert await stream.subjects() == {"data": 1, "other": 1}
        assert await stream.append("data", b"", stream.guard(places[5])) == 8


async def test_places_are_not_used_again_when_everything_is_purged(engine: "Engine") -> None:
    """Readers resume behind a sequence number (_jetstream_consumer.py `_start_policy`)."""
    async with engine.stream() as stream:
        for _ in range(3):
            await stream.append("data")
        await stream.api("STREAM.PURGE")
        state = await stream.state()
        assert (state["messages"], state["last_seq"]) == (0, 3)
        assert await stream.append("data") == 4
