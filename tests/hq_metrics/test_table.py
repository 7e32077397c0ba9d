"""The table of metrics: the names agreed on, and the rules that promtool checks them by."""

import re
import shutil
import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hq_metrics.prometheus import QueueCollector
from hq_metrics.table import METRICS, Metric

LABELS = {
    "hq_queue_size": set(),
    "hq_queue_leased": set(),
    "hq_queue_usage_bytes": {"memory", "disk"},
    "hq_queue_limit_bytes": {"memory", "disk"},
    "hq_queue_utilization_ratio": set(),
    "hq_queue_item_enqueued_total": set(),
    "hq_queue_item_dequeued_total": set(),
    "hq_queue_item_dropped_total": {"drop_oldest", "drop_newest", "damage", "close"},
    "hq_queue_spill_io_bytes_total": {"write", "read"},
    "hq_queue_enqueue_blocked_seconds_total": set(),
    "hq_queue_oldest_item_age_seconds": set(),
    "hq_spool_available_bytes": set(),
}

each = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


def test_the_names_and_the_values_of_labels_are_those_agreed_on() -> None:
    table = {m.prometheus_name: set(m.values) - {""} for m in METRICS}
    assert table == LABELS
    assert {m.label for m in METRICS} == {"", "tier", "reason", "direction"}


@each
def test_a_metric_has_a_label_exactly_if_it_is_several_numbers(metric: Metric) -> None:
    assert bool(metric.label) == (len(metric.values) > 1) == ("" not in metric.values)


@each
def test_the_name_is_as_prometheus_wants_it(metric: Metric) -> None:
    name = metric.prometheus_name
    assert re.fullmatch("[a-z]+(_[a-z]+)+", name)
    assert name.endswith("_total") == (metric.kind == "counter")
    assert not re.search("_(count|sum|bucket)$", name)
    units = {"By": "bytes", "s": "seconds", "1": "ratio", "{item}": None}
    assert units[metric.unit] in {*name.removesuffix("_total").split("_")[-1:], None}
    assert not re.search("milli|micro|kilo|mega|minutes|hours|_ms|_kb|counter|gauge", name)


@each
def test_the_name_is_as_opentelemetry_wants_it(metric: Metric) -> None:
    assert re.fullmatch(r"hq(\.[a-z]+(_[a-z]+)*)+", metric.name)
    assert "total" not in metric.name
    assert not re.search("bytes|seconds|ratio", metric.name), "units are told apart from names"


@each
def test_the_help_is_a_sentence(metric: Metric) -> None:
    assert re.fullmatch(r"[A-Z][^\n]*\.", metric.help)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say() -> None:
    registry = CollectorRegistry()
    registry.register(QueueCollector())
    subprocess.run(["promtool", "check", "metrics"], input=generate_latest(registry), check=True)
