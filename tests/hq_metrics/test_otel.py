"""What OpenTelemetry's in-memory reader collects is what `stats()` says."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, InMemoryMetricReader, MetricReader, Sum
from opentelemetry.sdk.metrics.export import Metric as Collected
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hq_core import HybridQueue
from hq_metrics.otel import QueueInstruments
from hq_metrics.table import METRICS
from tests.hq_metrics.queues import Told, busy_queue, split_off, told_by

PROMETHEUS_NAMES = {metric.name: metric.prometheus_name for metric in METRICS}


def collected(reader: InMemoryMetricReader) -> dict[str, Collected]:
    data = reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "hybrid-queue"
    return {metric.name: metric for metric in scope.metrics}


def told(metrics: dict[str, Collected]) -> dict[str, Told]:
    """By stream."""
    found: dict[str, Told] = {}
    for name, metric in metrics.items():
        for point in metric.data.data_points:
            assert point.attributes is not None
            labels = {name: str(value) for name, value in point.attributes.items()}
            assert labels.pop("backend") == "file"
            stream = labels.pop("stream")
            own = next(iter(labels.values()), "")
            assert hasattr(point, "value")
            found.setdefault(stream, {})[PROMETHEUS_NAMES[name], own] = point.value
    return found


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


def provider_for(reader: MetricReader) -> Iterator[MeterProvider]:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    yield from provider_for(reader)


def test_what_is_collected_is_what_stats_says(
    tmp_path: Path, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    with busy_queue(tmp_path) as queue, busy_queue(tmp_path, "other") as other:
        other.dequeue_many(1)
        QueueInstruments(queue, other, meter_provider=provider)
        before = {q.stats().stream_id: q.stats() for q in (queue, other)}
        by_stream = told(collected(reader))
    assert set(by_stream) == set(before)
    for stream, stats in before.items():
        assert split_off(by_stream[stream], tmp_path, stats) == told_by(stats)


def test_instruments_are_of_the_kind_and_unit_in_the_table(
    tmp_path: Path, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    with busy_queue(tmp_path) as queue:
        QueueInstruments(queue, meter_provider=provider)
        metrics = collected(reader)
    assert list(metrics) == [metric.name for metric in METRICS]
    for metric in METRICS:
        found = metrics[metric.name]
        assert (found.unit, found.description) == (metric.unit, metric.help)
        assert isinstance(found.data, Gauge if metric.kind == "gauge" else Sum)
        if isinstance(found.data, Sum):
            assert found.data.is_monotonic == (metric.kind == "counter")


def test_queues_come_and_go(
    tmp_path: Path, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    instruments = QueueInstruments(meter_provider=provider)
    with HybridQueue("a", 1, tmp_path) as a, HybridQueue("b", 1, tmp_path) as b:
        instruments.add(a)
        assert set(told(collected(reader))) == {"a"}
        instruments.add(b)
        instruments.remove(a)
        assert "b" in told(collected(reader))


def test_the_api_is_enough() -> None:
    code = "import sys, hq_metrics.otel; assert 'opentelemetry.sdk' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_opentelemetry_spells_the_names_for_prometheus_as_the_table_does(tmp_path: Path) -> None:
    exporter = PrometheusMetricReader()
    provider = MeterProvider([exporter], shutdown_on_exit=False)
    try:
        with busy_queue(tmp_path) as queue:
            QueueInstruments(queue, meter_provider=provider)
            text = generate_latest(REGISTRY).decode()
    finally:
        provider.shutdown()
    samples = {s.name for f in text_string_to_metric_families(text) for s in f.samples}
    # The collector adds "_ratio" as its specification says; the exporter for Python does not.
    wanted = {name.removesuffix("_ratio") for name in PROMETHEUS_NAMES.values()}
    assert {n.removesuffix("_ratio") for n in samples if n.startswith("hq_")} == wanted
