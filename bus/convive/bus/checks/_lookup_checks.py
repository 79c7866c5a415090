"""What every `Log` promises of `latest`, `last`, `subjects` and `present`, as checks; see `_log_checks`."""
# ruff: noqa: S101 - a check asserts

import anyio

from convive.bus.checks._log_checks import PATIENCE_S, drafts
from convive.bus.log._log import Draft, Log


async def latest_gives_the_last_record_of_each_subject_in_the_order_of_the_log(log: Log, base: str) -> None:
    for subject, body in (("r.a", b"1"), ("r.b", b"2"), ("r.a", b"3"), ("s", b"4"), ("r.c", b"5"), ("r.b", b"6")):
        await log.append(Draft(f"{base}.{subject}", body))
    with anyio.fail_after(PATIENCE_S):
        async with log.latest(f"{base}.r.*") as records:
            assert [record.body async for record in records] == [b"3", b"5", b"6"]
        async with log.latest(f"{base}.s", f"{base}.r.a") as records:
            assert [record.body async for record in records] == [b"3", b"4"]
        async with log.latest(f"{base}.nothing.*") as records:
            assert [record async for record in records] == []


async def latest_ends_with_the_newest_although_writers_go_on(log: Log, base: str) -> None:
    await log.append_all([draft for number in range(300) for draft in drafts(f"{base}.r.{number}", 3)])

    async def write() -> None:
        while True:
            await log.append_all(drafts(f"{base}.r.7", 50, first=100))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        with anyio.fail_after(PATIENCE_S):
            async with log.latest(f"{base}.r.*") as records:
                found = {record.subject: record.body async for record in records}
        assert len(found) == 300
        assert {body for subject, body in found.items() if subject != f"{base}.r.7"} == {b"2"}
        tasks.cancel_scope.cancel()


async def last_finds_the_newest_record_also_by_wildcard(log: Log, base: str) -> None:
    assert await log.last(f"{base}.>") is None
    await log.append(Draft(f"{base}.f.a", b"1"))
    await log.append(Draft(f"{base}.f.b", b"2"))
    await log.append(Draft(f"{base}.g", b"3"))
    for subject, body in ((f"{base}.f.a", b"1"), (f"{base}.f.*", b"2"), (f"{base}.>", b"3")):
        found = await log.last(subject)
        assert found is not None
        assert found.body == body
    assert await log.last(f"{base}.h") is None


async def subjects_counts_the_records_of_each(log: Log, base: str) -> None:
    assert await log.subjects(f"{base}.>") == {}
    await log.append_all([*drafts(f"{base}.f.a", 3), *drafts(f"{base}.f.b", 1), *drafts(f"{base}.g", 2)])
    assert await log.subjects(f"{base}.f.*") == {f"{base}.f.a": 3, f"{base}.f.b": 1}
    assert (await log.subjects(f"{base}.>"))[f"{base}.g"] == 2


async def somebody_is_present_as_long_as_a_block_runs_and_nothing_is_stored(log: Log, base: str) -> None:
    here, elsewhere = f"{base}.run.a", f"{base}.run.b"
    assert await log.is_present(here, PATIENCE_S) is False
    async with log.present(here):
        async with log.present(here):
            assert await log.is_present(here, PATIENCE_S) is True
        assert await log.is_present(here, PATIENCE_S) is True
        assert await log.is_present(elsewhere, PATIENCE_S) is False
        assert await log.is_present(base, PATIENCE_S) is False
    assert await log.is_present(here, PATIENCE_S) is False
    with anyio.CancelScope() as scope:
        async with log.present(here):
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert await log.is_present(here, PATIENCE_S) is False
    assert await log.subjects(f"{base}.>") == {}
