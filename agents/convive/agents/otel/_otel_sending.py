"""Nodes that are over on their way to the collectors. Blocks: for threads."""

import time
from collections import deque

from convive.agents.otel._measured_log import Appended
from convive.agents.otel._otel import SpanMaker, resource
from convive.agents.otel._otel_send import BATCH, Collector, MetricsCollector, batch_of
from convive.agents.otel._otel_settings import Export, shown_url
from convive.agents.traces._node import Node

METRICS_S = 60.0
MOST_SPANS = 20_000
_PAUSES_S = (1.0, 2.0, 5.0, 15.0, 30.0)
_NO_METRICS = (404, 405, 415, 501)
"""What a backend answers that has no place for metrics at all: nothing to warn of."""


class Sending:
    """Nodes on their way to the collectors: in batches, with pauses while there is trouble, and none kept for ever."""

    def __init__(self, export: Export) -> None:
        source = resource()
        self._export = export
        self._maker = SpanMaker(source, export.content)
        self._spans = None if export.traces is None else Collector(export.traces, export.timeout_s)
        self._metrics = None if export.metrics is None else MetricsCollector(export.metrics, export.timeout_s, source)
        self._taken: list[tuple[Node, bool]] = []
        self._counted = False
        self._ready: deque[bytes] = deque(maxlen=MOST_SPANS)
        self._failures = 0
        self._next_s = 0.0
        self._next_metrics_s = time.monotonic() + METRICS_S

    def take(self, node: Node, *, fresh: bool) -> None:
        """One more node that is over."""
        self._taken.append((node, fresh))
        if len(self._taken) >= BATCH:
            self._work_off()

    def take_append(self, append: Appended) -> None:
        """One more append of this process."""
        if self._metrics is not None:
            self._metrics.meters.count_append(append)
            self._counted = True

    @property
    def is_full(self) -> bool:
        """Whether a batch is to be sent before more is taken."""
        return len(self._ready) >= BATCH and time.monotonic() >= self._next_s

    def send(self, *, last: bool) -> str:
        """Send what there is, if it is time or the last time; what went wrong, in words."""
        now_s, trouble = time.monotonic(), ""
        self._work_off()
        if self._ready and (last or now_s >= self._next_s):
            trouble = self._send_spans()
        if self._counted and (last or now_s >= self._next_metrics_s):
            trouble = trouble or self._send_metrics()
            self._next_metrics_s = time.monotonic() + METRICS_S
        return trouble

    def _work_off(self) -> None:
        """Count and encode what was taken: the same thing many times in a row takes half the time."""
        if self._metrics is not None:
            for node, fresh in self._taken:
                if fresh:
                    self._metrics.meters.count(node)
                    self._counted = True
        if self._spans is not None:
            for node, _ in self._taken:
                self._ready.extend(self._maker.spans(node))
        self._taken.clear()

    def _send_spans(self) -> str:
        assert self._spans is not None  # noqa: S101 - nodes are taken for it only
        while self._ready:
            spans = batch_of(self._ready)
            outcome = self._spans.send(self._maker.request(spans))
            if not outcome.why:
                self._failures = 0
                continue
            if not outcome.lasting:
                self._ready.extendleft(reversed(spans))
            self._next_s = time.monotonic() + _PAUSES_S[min(self._failures, len(_PAUSES_S) - 1)]
            self._failures += 1
            return f"traces do not arrive at {shown_url(self._export.traces or '')}: {outcome.why}"
        return ""

    def _send_metrics(self) -> str:
        assert self._metrics is not None  # noqa: S101 - nothing is counted otherwise
        outcome = self._metrics.flush()
        self._counted = False
        if outcome.status in _NO_METRICS:
            self._metrics.close()
            self._metrics = None
        elif outcome.why:
            self._counted = True  # it is still to be sent
            return f"metrics do not arrive at {shown_url(self._export.metrics or '')}: {outcome.why}"
        return ""

    def close(self) -> None:
        """Let go of the connections."""
        for each in (self._spans, self._metrics):
            if each is not None:
                each.close()
