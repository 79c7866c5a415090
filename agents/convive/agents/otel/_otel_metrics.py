"""Metrics of nodes that end and of appends, for a collector. Blocks: for threads.

Summed here and not by the SDK's instruments, which take six times as long for each of what is counted; the SDK's
exporter sends the sums.
"""

import math
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from convive.agents.otel import _otel_names as names
from convive.agents.otel._measured_log import Appended
from convive.agents.otel._otel import end_s, error_type, models_of
from convive.agents.otel._otel_encode import clean
from convive.agents.traces._node import Node
from convive.bus import Conflict, address_of

MOST_SERIES = 2_000
"""Of one metric, as the standard advises: what a model makes up, such as names of tools, must not grow for ever."""
OVERFLOW = (("otel.metric.overflow", "true"),)
"""Where the rest is counted."""

_MOST = 2**53
_MOST_TEXT = 255

_PREFERENCE = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"

Told = tuple[tuple[str, str], ...]
"""Attributes in their order."""


@dataclass(slots=True)
class Series:
    """What was counted of one metric with the same attributes."""

    buckets: list[int]
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf


@dataclass(frozen=True, slots=True)
class Instrument:
    """A metric and its series. `bounds`: where its buckets end; without any it is a sum."""

    name: str
    unit: str
    what: str
    bounds: Sequence[float] = ()
    series: dict[Told, Series] = field(default_factory=dict[Told, Series])

    def record(self, value: float, attributes: Told) -> None:
        """Count one value; one that a hostile log has made up, which no sum could take, counts as nothing."""
        if not 0 <= value <= _MOST:
            return
        known = self.series.get(attributes)
        if known is None:
            known = self._series(tuple((name, clean(text, _MOST_TEXT)) for name, text in attributes))
        known.buckets[bisect_left(self.bounds, value)] += 1
        known.total += value
        known.least = min(known.least, value)
        known.most = max(known.most, value)

    def _series(self, attributes: Told) -> Series:
        """That of attributes as they are shown: no two are shown alike, and none is long."""
        if attributes not in self.series and len(self.series) >= MOST_SERIES - 1:
            attributes = OVERFLOW
        return self.series.setdefault(attributes, Series([0] * (len(self.bounds) + 1)))

    def metric(self, temporality: AggregationTemporality, began_ns: int, now_ns: int) -> Metric:
        """What was counted, as the SDK has it."""
        if not self.bounds:
            sums = [
                NumberDataPoint(dict(told), began_ns, now_ns, int(each.total)) for told, each in self.series.items()
            ]
            return Metric(self.name, self.what, self.unit, Sum(sums, temporality, is_monotonic=True))
        points = [
            HistogramDataPoint(
                dict(told),
                began_ns,
                now_ns,
                sum(each.buckets),
                each.total,
                each.buckets,
                self.bounds,
                each.least,
                each.most,
            )
            for told, each in self.series.items()
        ]
        return Metric(self.name, self.what, self.unit, Histogram(points, temporality))


class Meters:
    """Counts nodes and appends, each once, and hands the sums to `exporter` when told to."""

    def __init__(
        self,
        exporter: OTLPMetricExporter,
        resource: Resource,
        *,
        environ: Mapping[str, str] = os.environ,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._exporter = exporter
        # Sums of two processes are two series: unlike a span, a metric names its process.
        self._resource = Resource.create().merge(resource)
        self._delta = environ.get(_PREFERENCE, "").strip().upper() in ("DELTA", "LOWMEMORY")
        self._now_ns = now_ns
        self._began_ns = now_ns()
        self._tokens = Instrument(names.TOKEN_USAGE, "{token}", "Tokens of an answer", names.TOKEN_BUCKETS)
        self._durations = Instrument(
            names.OPERATION_DURATION, "s", "How long an operation took", names.DURATION_BUCKETS
        )
        self._first_chunks = Instrument(
            names.TIME_TO_FIRST_CHUNK,
            "s",
            "How long the first words of a streamed answer took",
            names.DURATION_BUCKETS,
        )
        self._appends = Instrument(
            names.APPEND_DURATION, "s", "How long an append took until it was settled", names.APPEND_BUCKETS
        )
        self._conflicts = Instrument(
            names.FLOOR_CONFLICTS, "{conflict}", "Links that were refused because another one came first"
        )
        self._overhead = Instrument(names.TURN_OVERHEAD, "s", "What a turn took beside its run", names.OVERHEAD_BUCKETS)

    def count(self, node: Node) -> None:
        """One node that is over."""
        if node.kind == "turn":
            self._count_turn(node)
            return
        told: Told = ((names.OPERATION, names.OPERATIONS[node.kind]),)
        if error := error_type(node):
            told += ((names.ERROR_TYPE, error),)
        if node.kind == "trip":
            provider, asked, answered = models_of(node)
            told += ((names.PROVIDER, provider), (names.REQUEST_MODEL, asked), (names.RESPONSE_MODEL, answered))
            usage = node.usage
            if read := usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens:
                self._tokens.record(read, (*told, _INPUT))
            if usage.output_tokens:
                self._tokens.record(usage.output_tokens, (*told, _OUTPUT))
            if node.first_chunk_s is not None:
                self._first_chunks.record(max(0.0, node.first_chunk_s), told)
        elif node.kind == "run":
            told += ((names.AGENT, node.name),)
        elif node.kind == "tool":
            told += ((names.TOOL_NAME, node.name),)
        self._durations.record(max(0.0, end_s(node) - node.started_s), told)

    def count_append(self, append: Appended) -> None:
        """One append of this process, which nothing in the log tells of."""
        address = address_of(append.subject)
        told: Told = ((names.KIND, address.kind),)
        if append.error:
            told += ((names.ERROR_TYPE, append.error),)
        self._appends.record(append.took_s, told)
        if address.kind == "floor" and append.error == Conflict.__name__:
            self._conflicts.record(1, ((names.SEAT, address.name),))

    def _count_turn(self, node: Node) -> None:
        """What the floor, the journal and the wire add to the work that a turn is for."""
        own = next((below for below in node.children if below.run_id == node.run_id), None)
        if own is None or own.ended_s is None or node.ended_s is None:
            return
        took_s = node.ended_s - node.started_s - (own.ended_s - own.started_s)
        self._overhead.record(max(0.0, took_s), ((names.SEAT, node.seat),))

    def flush(self) -> None:
        """Hand over what was counted: since the beginning, or with a preference for deltas since the last time."""
        now_ns = self._now_ns()
        temporality = AggregationTemporality.DELTA if self._delta else AggregationTemporality.CUMULATIVE
        instruments = (
            self._tokens,
            self._durations,
            self._first_chunks,
            self._appends,
            self._conflicts,
            self._overhead,
        )
        counted = [one.metric(temporality, self._began_ns, now_ns) for one in instruments if one.series]
        if not counted:
            return  # deltas are told once, whether they arrive or not
        scope = InstrumentationScope(names.SCOPE, None, names.SCHEMA_URL)
        scoped = ScopeMetrics(scope, counted, names.SCHEMA_URL)
        self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scoped], self._resource.schema_url)]))
        if self._delta:
            self._began_ns = now_ns
            for each in instruments:
                each.series.clear()


_INPUT = (names.TOKEN_TYPE, "input")
_OUTPUT = (names.TOKEN_TYPE, "output")
