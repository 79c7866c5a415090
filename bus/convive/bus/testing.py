"""For tests of code that uses the bus, and of other logs: the conformance suite, records by hand, a real server.

With pytest and anyio, on a log of your own:

    @pytest.mark.anyio
    @pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)
    async def test_my_log_keeps_the_contract(check: Check) -> None:
        async with my_log() as log:
            await check(log, "cv.00.some-conversation")
"""

import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio

from convive.bus.checks import _batch_checks, _log_checks, _lookup_checks, _queue_checks, _tail_checks
from convive.bus.checks._log_checks import Check, drafts, read_all, take
from convive.bus.checks._queue_checks import CHECK_LEASE_S, QueueCheck, take_job
from convive.bus.conversation._events import AsideEvent, FloorEvent, Remembered, Whispered
from convive.bus.log._ids import ConversationId, RunId, SeatName, compose_run_id
from convive.bus.log._log import Record
from convive.bus.log._runs import RunContext
from convive.bus.log._subjects import Subjects
from convive.bus.server import _server_child
from convive.bus.server._data_dir import CONFIG, write
from convive.bus.server._server_config import server_config
from convive.bus.server._server_process import HOST, answers, is_free, server_binary

__all__ = [
    "CHECK_LEASE_S",
    "LOG_CHECKS",
    "QUEUE_CHECKS",
    "Check",
    "QueueCheck",
    "Records",
    "Server",
    "drafts",
    "read_all",
    "run_number",
    "server",
    "take",
    "take_job",
]

LOG_CHECKS: Final[tuple[Check, ...]] = (
    _log_checks.an_append_returns_the_place_of_its_record,
    _log_checks.a_guard_at_zero_lets_only_the_first_record_in,
    _log_checks.a_guard_behind_a_record_that_never_was_lets_nothing_in,
    _log_checks.a_guard_follows_the_last_record_of_its_subject,
    _log_checks.a_guard_with_a_wildcard_sees_every_subject_that_matches,
    _log_checks.a_guard_may_watch_another_subject_than_the_record_goes_to,
    _log_checks.the_same_draft_twice_is_one_record,
    _log_checks.the_same_guarded_draft_twice_is_one_record,
    _log_checks.a_fenced_draft_is_found_again_when_the_fence_has_moved,
    _log_checks.of_many_rivals_exactly_one_gets_each_link,
    _log_checks.five_thousand_pipelined_records_keep_their_order,
    _log_checks.no_drafts_are_no_records,
    _log_checks.a_refusal_among_pipelined_records_is_raised,
    _log_checks.a_posted_record_arrives,
    _log_checks.bodies_and_headers_come_back_unchanged,
    _log_checks.the_last_record_is_the_one_that_reading_gives,
    _log_checks.a_body_over_the_limit_is_refused_and_nothing_is_stored,
    _log_checks.headers_that_would_not_arrive_as_they_are_are_refused,
    _log_checks.a_subject_that_is_none_is_refused,
    _log_checks.records_that_expire_do_not_hold_up_a_reader,
    _log_checks.a_record_that_has_expired_is_not_there,
    _log_checks.a_record_says_how_long_it_was_to_live,
    _log_checks.a_time_to_live_that_is_none_is_refused,
    _log_checks.read_takes_what_is_behind_after_up_to_until,
    _log_checks.read_may_begin_at_a_time,
    _log_checks.read_of_an_empty_subject_ends,
    _log_checks.read_takes_several_subjects_in_the_order_of_the_log,
    _log_checks.read_can_be_left_early_and_begun_again,
    _log_checks.read_ends_although_writers_go_on,
    _lookup_checks.latest_gives_the_last_record_of_each_subject_in_the_order_of_the_log,
    _lookup_checks.latest_ends_with_the_newest_although_writers_go_on,
    _lookup_checks.last_finds_the_newest_record_also_by_wildcard,
    _lookup_checks.subjects_counts_the_records_of_each,
    _lookup_checks.somebody_is_present_as_long_as_a_block_runs_and_nothing_is_stored,
    _batch_checks.a_batch_is_stored_in_one_piece,
    _batch_checks.a_batch_that_is_no_batch_is_refused,
    _batch_checks.a_batch_is_stored_only_if_each_of_its_guards_holds,
    _batch_checks.a_record_with_a_place_is_stored_there_or_nowhere,
    _batch_checks.of_rivals_for_a_place_exactly_one_gets_it,
    _batch_checks.the_same_batch_twice_is_stored_once,
    _batch_checks.a_batch_that_begins_as_another_record_does_is_not_taken_for_it,
    _batch_checks.of_rival_batches_exactly_one_gets_each_link,
    _batch_checks.a_record_that_replaces_stands_alone_on_its_subject,
    _batch_checks.what_is_removed_is_not_there_for_readers_and_guards,
    _batch_checks.the_end_of_the_log_never_goes_back,
    _batch_checks.a_reader_that_is_overtaken_by_a_removal_ends_all_the_same,
    _batch_checks.a_draft_is_checked_without_being_appended,
    _tail_checks.a_tail_catches_up_and_then_stays_live,
    _tail_checks.a_tail_on_an_empty_subject_is_caught_up_at_once,
    _tail_checks.a_tail_is_iterated_over,
    _tail_checks.a_tail_may_begin_anywhere,
    _tail_checks.a_tail_that_joins_others_later_misses_nothing,
    _tail_checks.a_tail_that_joins_far_behind_the_last_record_is_caught_up,
    _tail_checks.a_tail_that_catches_up_gets_what_is_there_and_waits_for_no_more,
    _tail_checks.a_tail_catches_up_on_its_own_subjects_although_others_are_far_behind,
    _tail_checks.a_tail_catches_up_although_writers_go_on,
    _tail_checks.a_cancelled_catch_up_loses_nothing,
    _tail_checks.a_tail_may_begin_at_a_time,
    _tail_checks.tails_see_all_of_several_writers_in_order,
    _tail_checks.next_gives_none_when_nothing_comes_in_time,
    _tail_checks.next_gives_up_in_time_although_others_are_written_to,
    _tail_checks.a_cancelled_next_loses_nothing,
    _tail_checks.a_next_cancelled_while_it_catches_up_loses_nothing,
    _tail_checks.a_slow_tail_loses_nothing,
    _tail_checks.leaving_one_tail_leaves_the_others_alone,
)
"""Every promise of `Log` and `Tail`: call each with a log and a subject of its own below what the log takes."""

QUEUE_CHECKS: Final[tuple[QueueCheck, ...]] = (
    _queue_checks.a_job_comes_as_it_was_sent,
    _queue_checks.a_taker_that_waits_gets_a_job_that_is_sent_later,
    _queue_checks.jobs_come_in_the_order_of_sending_each_to_one_taker,
    _queue_checks.the_same_id_twice_is_one_job,
    _queue_checks.a_job_with_a_delay_comes_after_it,
    _queue_checks.a_lease_that_runs_out_is_given_to_another,
    _queue_checks.a_late_end_leaves_a_job_to_who_has_it_now,
    _queue_checks.a_lease_that_is_extended_is_kept,
    _queue_checks.a_job_that_is_retried_comes_again_after_its_delay,
    _queue_checks.a_job_that_is_released_comes_again_as_if_it_had_not,
    _queue_checks.a_job_that_is_buried_is_kept_with_the_reason_and_not_delivered,
    _queue_checks.a_job_of_any_size_is_refused_at_once_or_can_be_delayed_released_and_buried,
    _queue_checks.a_job_that_is_parked_comes_again_when_it_is_woken,
    _queue_checks.the_jobs_that_are_there_can_be_listed,
    _queue_checks.a_cancelled_take_loses_nothing,
    _queue_checks.what_is_no_job_is_refused,
)
"""Every promise of `WorkQueue`: call each with a queue of its own that was made with the lease `CHECK_LEASE_S`."""


def run_number(number: int) -> RunId:
    """A valid run id for a test: the same for the same number, another for another."""
    return compose_run_id(number, number.to_bytes(10, "big"))


class Records:
    """Makes the records of one conversation, as a log would hold them: numbered from 1, a second apart.

    Checks nothing, so that broken conversations can be written down as well.
    """

    def __init__(self, conversation: str = "table", start_s: float = 1_000.0) -> None:
        self.subjects = Subjects.of("cv", 0, ConversationId(conversation))
        self._start_s = start_s
        self.seq = 0
        """The sequence number of the record made last."""

    def link(self, author: str, event: FloorEvent) -> Record:
        """A record of the floor chain."""
        return self.raw(self.subjects.link(SeatName(author)), event.body(), event.model_dump().get("run_id"))

    def aside(self, author: str, event: AsideEvent) -> Record:
        """A record beside the floor."""
        return self.raw(self.subjects.aside(SeatName(author)), event.body())

    def memory(self, seat: str, event: Remembered) -> Record:
        """A record of a seat's private memory."""
        return self.raw(self.subjects.memory(SeatName(seat)), event.body(), event.run_id)

    def whisper(self, seat: str, event: Whispered) -> Record:
        """A record in a seat's inbox."""
        return self.raw(self.subjects.inbox(SeatName(seat)), event.body())

    def raw(self, subject: str, body: bytes, run: str | None = None) -> Record:
        """Any record at all."""
        self.seq += 1
        headers = {} if run is None else RunContext.root(RunId(run)).headers()
        return Record(subject, self.seq, self._start_s + self.seq, headers, body)


class Server:
    """A real nats-server on a data directory, which can be killed and started again on the same port."""

    def __init__(self, data: Path, port: int, *, fast: bool) -> None:
        self._data = data
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        write(data, CONFIG, server_config(data, port, fast=fast))

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self._port}"

    async def start(self) -> None:
        """Start it, and wait until it answers. Raises TimeoutError when it does not within 30 s."""
        self.launch()
        with anyio.fail_after(30):
            while not await answers(self._data, self._port):  # noqa: ASYNC110 - another process sets no event
                await anyio.sleep(0.005)

    def launch(self) -> None:
        """Start it without waiting. It dies with the thread that calls this."""
        command = [sys.executable, "-I", "-S", _server_child.__file__, str(os.getpid()), str(server_binary())]
        self._process = subprocess.Popen(  # noqa: S603 - our own program with our own arguments
            [*command, "--config", str(self._data / CONFIG)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """kill -9, and wait until it is gone. Nothing happens when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@asynccontextmanager
async def server(*, fast: bool = True) -> AsyncGenerator[Server]:
    """A server of one's own on a temporary directory, to be killed at will. `fast`: it syncs only now and then."""
    with TemporaryDirectory(prefix="convive-") as directory:
        own = Server(Path(directory), _free_port(), fast=fast)
        try:
            await own.start()
            yield own
        finally:
            own.kill()


def _free_port() -> int:
    # Below the ports of outgoing connections, and off those of embedded servers.
    first = 19_000 + os.getpid() * 7 % 900
    return next(port for port in range(first, first + 100) if is_free(port))
