"""Metrics of nodes that end and of appends, for a collector. Blocks: for threads."""

import math

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from convive.agents.otel import _otel_names as names
from convive.agents.otel._measured_log import Appended
from convive.agents.otel._otel import end_s, error_type, models_of
from convive.agents.traces._node import Node
from convive.bus import Conflict, address_of


class Meters:
    """Counts nodes and appends, each once, and hands the sums to `exporter` when told to."""

    def __init__(self, exporter: OTLPMetricExporter, resource: Resource) -> None:
        self._reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)  # only when told to
        # Sums of two processes are two series: unlike a span, a metric names its process.
        own = Resource.create().merge(resource)
        self._provider = MeterProvider([self._reader], own, shutdown_on_exit=False)
        meter = self._provider.get_meter(names.SCOPE, schema_url=names.SCHEMA_URL)
        self._tokens = meter.create_histogram(
            names.TOKEN_USAGE,
            "{token}",
            "Tokens of an answer",
            explicit_bucket_boundaries_advisory=names.TOKEN_BUCKETS,
        )
        self._durations = meter.create_histogram(
            names.OPERATION_DURATION,
            "s",
            "How long an operation took",
            explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS,
        )
        self._first_chunks = meter.create_histogram(
            names.TIME_TO_FIRST_CHUNK,
            "s",
            "How long the first words of a streamed answer took",
            explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS,
        )
        self._appends = meter.create_histogram(
            names.APPEND_DURATION,
            "s",
            "How long an append took until it was settled",
            explicit_bucket_boundaries_advisory=names.APPEND_BUCKETS,
        )
        self._conflicts = meter.create_counter(
            names.FLOOR_CONFLICTS, "{conflict}", "Links that were refused because another one came first"
        )
        self._overhead = meter.create_histogram(
            names.TURN_OVERHEAD,
            "s",
            "What a turn took beside its run",
            explicit_bucket_boundaries_advisory=names.OVERHEAD_BUCKETS,
        )

    def count(self, node: Node) -> None:
        """One node that is over."""
        if node.kind == "turn":
            self._count_turn(node)
            return
        attributes = {names.OPERATION: names.OPERATIONS[node.kind]}
        if (error := error_type(node)) != "":
            attributes[names.ERROR_TYPE] = error
        if node.kind == "trip":
            provider, asked, answered = models_of(node)
            attributes |= {names.PROVIDER: provider, names.REQUEST_MODEL: asked, names.RESPONSE_MODEL: answered}
            usage = node.usage
            read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
            for kind, tokens in (("input", read), ("output", usage.output_tokens)):
                if tokens:
                    self._tokens.record(tokens, {**attributes, names.TOKEN_TYPE: kind})
            if node.first_chunk_s is not None:
                self._first_chunks.record(max(0.0, node.first_chunk_s), attributes)
        elif node.kind == "run":
            attributes[names.AGENT] = node.name
        elif node.kind == "tool":
            attributes[names.TOOL_NAME] = node.name
        self._durations.record(max(0.0, end_s(node) - node.started_s), attributes)

    def count_append(self, append: Appended) -> None:
        """One append of this process, which nothing in the log tells of."""
        address = address_of(append.subject)
        attributes: dict[str, str] = {names.KIND: address.kind}
        if append.error:
            attributes[names.ERROR_TYPE] = append.error
        self._appends.record(append.took_s, attributes)
        if address.kind == "floor" and append.error == Conflict.__name__:
            self._conflicts.add(1, {names.SEAT: address.name})

    def _count_turn(self, node: Node) -> None:
        """What the floor, the journal and the wire add to the work that a turn is for."""
        own = next((below for below in node.children if below.run_id == node.run_id), None)
        if own is None or own.ended_s is None or node.ended_s is None:
            return
        took_s = node.ended_s - node.started_s - (own.ended_s - own.started_s)
        self._overhead.record(max(0.0, took_s), {names.SEAT: node.seat})

    def flush(self) -> None:
        """Hand over what was counted."""
        self._reader.collect()
