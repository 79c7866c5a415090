"""Our own sums are those that the SDK's instruments come to."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.resources import Resource

from convive.agents.otel import _otel_names as names
from convive.agents.otel._measured_log import Appended
from convive.agents.otel._otel_metrics import MOST_SERIES, OVERFLOW, Instrument, Meters
from convive.agents.otel._otel_sending import Sending
from convive.agents.otel._otel_settings import Export
from convive.agents.testing import OtlpReceiver

CUMULATIVE = AggregationTemporality.CUMULATIVE
values = st.lists(st.tuples(st.floats(0, 200) | st.sampled_from(names.DURATION_BUCKETS), st.sampled_from("abc")))


def points(metric: Metric) -> list[tuple[object, ...]]:
    """What is told of each series, but for when."""
    found: list[tuple[object, ...]] = []
    for point in metric.data.data_points:
        told = sorted((point.attributes or {}).items())
        if isinstance(point, HistogramDataPoint):
            buckets, bounds = list(point.bucket_counts), list(point.explicit_bounds)
            found.append((told, point.count, point.sum, point.min, point.max, buckets, bounds))
        else:
            assert isinstance(point, NumberDataPoint)
            found.append((told, point.value))
    return sorted(found, key=repr)


def only(data: MetricsData) -> list[Metric]:
    return [metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]


@given(values)
def test_a_histogram_is_that_of_the_sdk(counted: Sequence[tuple[float, str]]) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("theirs")
    theirs = meter.create_histogram(
        "took", "s", "How long", explicit_bucket_boundaries_advisory=list(names.DURATION_BUCKETS)
    )
    ours = Instrument("took", "s", "How long", names.DURATION_BUCKETS)
    for value, name in counted:
        theirs.record(value, {"name": name})
        ours.record(value, (("name", name),))
    told = reader.get_metrics_data()
    mine = ours.metric(CUMULATIVE, 1, 2)
    if told is None:
        assert not counted
        assert not points(mine)
        return
    (other,) = only(told)
    assert points(mine) == points(other)
    assert (mine.name, mine.unit, mine.description) == (other.name, other.unit, other.description)
    assert isinstance(mine.data, Histogram)
    assert mine.data.aggregation_temporality == CUMULATIVE


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, -math.inf, 10**400])
def test_what_no_sum_can_take_counts_as_nothing(value: float) -> None:
    histogram = Instrument("took", "s", "", (1.0,))
    histogram.record(value, ())
    assert not histogram.series


def test_series_do_not_grow_for_ever() -> None:
    histogram = Instrument("took", "s", "", (1.0,))
    for number in range(MOST_SERIES + 100):
        histogram.record(1, (("tool", f"made up {number}"),))
    assert len(histogram.series) == MOST_SERIES
    assert sum(histogram.series[OVERFLOW].buckets) == 101
    histogram.record(1, (("tool", "made up 7"),))
    assert sum(histogram.series[("tool", "made up 7"),].buckets) == 2


class Kept(OTLPMetricExporter):
    """Keeps what it is to send, in the bytes of the wire."""

    def __init__(self) -> None:
        super().__init__(endpoint="http://127.0.0.1:9")
        self.sent: list[tuple[list[Metric], bytes]] = []

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = None, **kwargs: object
    ) -> MetricExportResult:
        self.sent.append((only(metrics_data), encode_metrics(metrics_data).SerializeToString()))
        return MetricExportResult.SUCCESS


@pytest.mark.parametrize(("preference", "second"), [("", 3), ("cumulative", 3), ("delta", 1), (" LowMemory", 1)])
def test_sums_are_since_the_beginning_or_since_the_last_time(preference: str, second: int) -> None:
    exporter, clock = Kept(), iter((10, 20, 30))
    environ = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference}
    meters = Meters(exporter, Resource({"service.name": "convive"}), environ=environ, now_ns=lambda: next(clock))
    meters.count_append(Appended("cv.00.a.bus.floor.\ud800", 0.5, "Conflict"))
    meters.count_append(Appended("cv.00.a.bus.floor.\ud800", 0.5, "Conflict"))
    meters.flush()
    meters.count_append(Appended("cv.00.a.bus.floor.\ud800", 0.5, "Conflict"))
    meters.flush()
    (first, _), (last, body) = exporter.sent
    began = 10 if second == 3 else 20
    for metrics, count, times in ((first, 2, (10, 20)), (last, second, (began, 30))):
        took, refused = metrics
        assert isinstance(took.data, Histogram)
        assert isinstance(refused.data, Sum)
        assert [point.count for point in took.data.data_points] == [count]
        assert [point.value for point in refused.data.data_points] == [count]
        assert [(point.start_time_unix_nano, point.time_unix_nano) for point in took.data.data_points] == [times]
    assert b"convive.floor.conflicts" in body  # also with a seat that no text can hold


def test_what_is_shown_alike_is_one_series() -> None:
    """A backend takes two points with the same attributes for one that changes its mind."""
    histogram = Instrument("took", "s", "", (1.0,))
    for end in ("a", "b", "a"):
        histogram.record(1, (("tool", "x" * 1_000_000 + end),))
    histogram.record(1, (("tool", "\ud800"),))
    histogram.record(1, (("tool", "?"),))
    assert sorted(str(point[0])[:20] for point in points(histogram.metric(CUMULATIVE, 1, 2))) == [
        "[('tool', '?')]",
        "[('tool', 'xxxxxxxxx",
    ]
    assert max(len(value) for told in histogram.series for _, value in told) < 1_000


def test_sums_that_did_not_arrive_are_sent_at_the_end(receiver: OtlpReceiver) -> None:
    """Also when nothing was counted since: a collector that restarts must not cost what was counted before."""
    sending = Sending(Export(None, f"{receiver.url}/v1/metrics", content=False))
    sending.take_append(Appended("cv.00.a.bus.floor.ada", 0.5, "Conflict"))
    receiver.answers.append(400)
    assert "400" in sending.send(last=True)
    assert not receiver.points
    assert not sending.send(last=True)
    assert {point.name for point in receiver.points} == {"convive.append.duration", "convive.floor.conflicts"}
    asked = receiver.asked
    assert not sending.send(last=True)
    assert receiver.asked == asked
    sending.close()


def test_a_backend_without_metrics_is_asked_once(receiver: OtlpReceiver) -> None:
    sending = Sending(Export(None, f"{receiver.url}/v1/metrics", content=False))
    receiver.answers.append(404)
    for _ in range(3):
        sending.take_append(Appended("cv.00.a.bus.floor.ada", 0.5, ""))
        assert not sending.send(last=True)
    assert receiver.asked == 1
    sending.close()
