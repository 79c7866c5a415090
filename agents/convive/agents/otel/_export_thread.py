"""Live export: a thread that folds the records it is handed, and sends what is over. Nobody ever waits for it."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection

from convive.agents.otel._measured_log import Appended
from convive.agents.otel._otel_settings import Export
from convive.agents.traces._finished import Finishing
from convive.bus import Record, RunId

INTERVAL_S = 1.0
MOST_RECORDS = 20_000
MOST_BYTES = 64 * 1024 * 1024
"""Of records that wait for the thread: more are not read before it has taken some."""
YIELD_EVERY = 48
"""Records, half a millisecond of work: rarer is a tenth cheaper, and the party's turns feel it."""


class Background:
    """A thread that exports, and dies with the process. All that is asked of it returns at once."""

    def __init__(self, export: Export, own: Collection[RunId] | None = None) -> None:
        self.trouble = ""
        """What went wrong first, in words for a person. The thread goes on trying."""
        self._export = export
        self._own = own
        self._records: deque[tuple[Record, bool]] = deque()
        self._bytes_put = self._bytes_taken = 0  # two, since each thread writes one of them
        self._appends: deque[Appended] = deque(maxlen=MOST_RECORDS)
        self._wake = threading.Event()
        self._finishing = self._abandoned = False
        self._done: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._main, name="convive-export", daemon=True)

    def start(self) -> None:
        """Begin; to be done once."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended, as it does when something in it is broken."""
        return not self._thread.is_alive()

    def put(self, record: Record, *, fresh: bool) -> None:
        """Take one more record. `fresh`: it was written while this exporter was there, so that metrics count it."""
        if not self._abandoned:
            self._bytes_put += len(record.body)
            self._records.append((record, fresh))

    @property
    def is_behind(self) -> bool:
        """Whether so much waits that no more should come before some of it is taken."""
        waits = len(self._records) >= MOST_RECORDS or self._bytes_put - self._bytes_taken >= MOST_BYTES
        return waits and not self._abandoned

    def put_append(self, append: Appended) -> None:
        """Take one more append of this process; the oldest are forgotten when it cannot keep up."""
        self._appends.append(append)

    def finish(self, done: Callable[[], None]) -> None:
        """Send what is over, and end; `done` is called when that is done, from the thread."""
        self._done, self._finishing = done, True
        self._wake.set()

    def abandon(self) -> None:
        """End without sending more."""
        self._abandoned = self._finishing = True
        self._done = None
        self._wake.set()

    def _main(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - a run must not feel its exporter, whatever is wrong with that
            self._abandoned = True
            self.trouble = self.trouble or f"exporting stopped with {type(error).__name__}: {error}"
        if self._done is not None:
            self._done()

    def _work(self) -> None:
        from convive.agents.otel._otel_sending import Sending  # half a second, which is nobody's but this thread's

        finishing = Finishing(self._own, keep_events=self._export.content)
        sending = Sending(self._export)
        try:
            while not self._abandoned:
                self._wake.wait(INTERVAL_S)
                last = self._finishing
                while self._records and not self._abandoned:
                    for _ in range(min(YIELD_EVERY, len(self._records))):
                        record, fresh = self._records.popleft()
                        self._bytes_taken += len(record.body)
                        for node in finishing.apply(record):
                            sending.take(node, fresh=fresh)
                    time.sleep(0)  # whoever waits for the interpreter goes first
                    if sending.is_full:  # a long conversation is more than may wait to be sent
                        trouble = sending.send(last=False)
                        self.trouble = self.trouble or trouble
                while self._appends:
                    sending.take_append(self._appends.popleft())
                if self._abandoned:
                    break
                trouble = sending.send(last=last)
                self.trouble = self.trouble or trouble
                if last:
                    break
        finally:
            sending.close()
