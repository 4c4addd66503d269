"""Prometheus metrics of one server, with buckets fit for milliseconds. The definitions stand in the help
texts.

In: timings of finished requests, HTTP statuses; the engine's own counters are read when /metrics is asked,
so that they cost the engine nothing and count every request, also those that did not come over HTTP. Out:
the text of /metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from narrows.engine.client import EngineClient, EngineStats

CONTENT_TYPE = CONTENT_TYPE_LATEST
MS = 1e-3
FIRST_TOKEN_BUCKETS_S = tuple(
    ms * MS for ms in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 60000)
)
PER_TOKEN_BUCKETS_S = tuple(
    ms * MS for ms in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 200, 500, 1000)
)
QUEUE_BUCKETS_S = tuple(ms * MS for ms in (0.1, 0.5, 1, 5, 10, 50, 100, 500, 1000, 5000, 10000, 60000))
LABELS = ("model_name",)


class Metrics:
    """Owns a registry, so that two servers in one process do not share numbers."""

    def __init__(self, model_name: str, engine: EngineClient) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(model_name, engine))
        self._model_name = model_name
        self._first_token = self._histogram(
            "time_to_first_token_seconds",
            "From submission to the first token, queue included.",
            FIRST_TOKEN_BUCKETS_S,
        )
        self._per_token = self._histogram(
            "time_per_output_token_seconds",
            "(last token - first token) / (output tokens - 1).",
            PER_TOKEN_BUCKETS_S,
        )
        self._queue = self._histogram(
            "queue_time_seconds", "From submission to the first step.", QUEUE_BUCKETS_S
        )
        self._responses = Counter(
            "narrows_http_responses", "HTTP responses.", ("route", "status"), registry=self._registry
        )

    def observe_timing(self, *, queue_s: float, first_token_s: float, per_token_s: float | None) -> None:
        """Durations of one generation that gave a token; `per_token_s` is None where it gave only one."""
        self._queue.observe(queue_s)
        self._first_token.observe(first_token_s)
        if per_token_s is not None:
            self._per_token.observe(per_token_s)

    def observe_response(self, *, route: str, status: int) -> None:
        self._responses.labels(route, str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(f"narrows_{name}", help_text, LABELS, buckets=buckets, registry=self._registry)
        return family.labels(self._model_name)


class EngineCollector(Collector):
    """EngineStats as metric families. Of the steps' sizes, sum / count is the mean."""

    def __init__(self, model_name: str, engine: EngineClient) -> None:
        self._labels = [model_name]
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield from self._gauges(stats)
        yield from self._counters(stats)
        yield self._batch_sizes(stats)
        tokens = SummaryMetricFamily("narrows_step_tokens", "Tokens run in an engine step.", labels=LABELS)
        tokens.add_metric(self._labels, count_value=stats.steps_total, sum_value=stats.step_tokens_total)
        yield tokens

    def _batch_sizes(self, stats: EngineStats) -> Metric:
        """Buckets of powers of two up to the most requests that a step may have."""
        counts = list(accumulate(stats.steps_by_batch_total))
        buckets = [(str(float(2**exponent)), count) for exponent, count in enumerate(counts)]
        sizes = HistogramMetricFamily("narrows_step_batch_size", "Requests in an engine step.", labels=LABELS)
        sizes.add_metric(self._labels, [*buckets, ("+Inf", counts[-1])], sum_value=stats.sequences_total)
        return sizes

    def _gauges(self, stats: EngineStats) -> Iterator[Metric]:
        info = self._engine.info
        for name, help_text, value in (
            ("requests_running", "Requests in the engine's steps.", stats.num_running),
            ("requests_waiting", "Requests in the engine's queue.", stats.num_waiting),
            ("kv_blocks", "KV blocks of the engine.", stats.num_blocks),
            ("kv_blocks_used", "KV blocks that hold a request's tokens.", stats.num_used_blocks),
            ("kv_use_ratio", "Used KV blocks / KV blocks.", stats.num_used_blocks / max(1, stats.num_blocks)),
            ("engine_healthy", "1 while the engine can run requests.", int(stats.is_healthy)),
            ("weight_bytes_per_step", "Weights that one step reads.", info.weight_bytes_per_step),
            ("kv_bytes_per_token", "Keys and values of one token.", info.kv_bytes_per_token),
        ):
            gauge = GaugeMetricFamily(f"narrows_{name}", help_text, labels=LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge

    def _counters(self, stats: EngineStats) -> Iterator[Metric]:
        for name, help_text, value in (
            ("prompt_tokens", "Prompt tokens of admitted requests.", stats.prompt_tokens_total),
            ("generation_tokens", "Tokens drawn.", stats.output_tokens_total),
            ("drafted_tokens", "Guesses verified beside a drawn token.", stats.drafted_tokens_total),
            ("accepted_tokens", "Guesses that were right.", stats.accepted_tokens_total),
            ("preemptions", "Times a request's KV blocks were taken away.", stats.preempted_total),
            ("run_seconds", "Time inside the runner.", stats.run_s_total),
            ("busy_seconds", "Time inside engine steps, the runner included.", stats.busy_s_total),
        ):
            counter = CounterMetricFamily(f"narrows_{name}", help_text, labels=LABELS)
            counter.add_metric(self._labels, value)
            yield counter
        ends = CounterMetricFamily(
            "narrows_requests_finished", "Generations by how they ended.", labels=(*LABELS, "finish_reason")
        )
        for reason, value in (
            ("stop", stats.finished_stop_total),
            ("length", stats.finished_length_total),
            ("abort", stats.finished_abort_total),
            ("error", stats.failed_total),
            ("refused", stats.refused_total),
        ):
            ends.add_metric([*self._labels, reason], value)
        yield ends
