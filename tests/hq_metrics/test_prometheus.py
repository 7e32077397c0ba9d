"""A scrape, read by prometheus_client's own parser, says what `stats()` says."""

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from hq_core import HybridQueue
from hq_metrics.prometheus import QueueCollector, serve
from hq_metrics.table import METRICS
from tests.hq_metrics.queues import Told, busy_queue, split_off, told_by


def registered(collector: QueueCollector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)
    return registry


def told(samples: list[Sample], stream: str = "cam") -> Told:
    found = {}
    for name, labels, value, *_ in samples:
        own = {**labels}
        assert own.pop("backend") == "file"
        if own.pop("stream") == stream:
            found[name, *(own.values() or [""])] = value
    return found


def scraped(text: str) -> list[Sample]:
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


def test_a_scrape_says_what_stats_says(tmp_path: Path) -> None:
    with busy_queue(tmp_path) as queue:
        stats = queue.stats()
        text = generate_latest(registered(QueueCollector(queue))).decode()
        assert queue.stats() == stats
    told_before = told_by(stats)
    assert all(number for (_, own), number in told_before.items() if own in {"memory", "disk"})
    assert split_off(told(scraped(text)), tmp_path, stats) == told_before


def test_so_does_a_scrape_in_the_openmetrics_format(tmp_path: Path) -> None:
    with busy_queue(tmp_path) as queue:
        stats = queue.stats()
        registry = registered(QueueCollector(queue))
        text = exposition.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    families = parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    samples = [s for family in families for s in family.samples]
    assert split_off(told(samples), tmp_path, stats) == told_by(stats)


def test_families_have_the_types_and_the_help_of_the_table() -> None:
    text = generate_latest(registered(QueueCollector())).decode()
    for metric in METRICS:
        kind = "counter" if metric.kind == "counter" else "gauge"
        assert f"# HELP {metric.prometheus_name} {metric.help}\n" in text
        assert f"# TYPE {metric.prometheus_name} {kind}\n" in text


def test_several_queues_are_told_apart_whatever_they_are_called(tmp_path: Path) -> None:
    hostile = 'a"b\\c\nd{}=,\r\x00é\u2028'
    with busy_queue(tmp_path) as queue, busy_queue(tmp_path, hostile) as other:
        other.dequeue_many(1)
        before = [queue.stats(), other.stats()]
        text = generate_latest(registered(QueueCollector(queue, other))).decode()
        for stats in before:
            mine = told(scraped(text), stats.stream_id)
            assert split_off(mine, tmp_path, stats) == told_by(stats)


def test_a_lone_surrogate_does_not_end_the_scrape(tmp_path: Path) -> None:
    with HybridQueue("\udce9", 1, tmp_path) as queue:
        assert b'stream="\\\\udce9"' in generate_latest(registered(QueueCollector(queue)))


def test_limits_that_do_not_exist_are_absent(tmp_path: Path) -> None:
    with HybridQueue("cam", 1, tmp_path) as queue:
        samples = told(scraped(generate_latest(registered(QueueCollector(queue))).decode()))
    assert not {own for name, own in samples if name == "hq_queue_limit_bytes"}
    assert ("hq_queue_usage_bytes", "disk") in samples


def test_a_spool_that_is_gone_has_no_space_to_tell(tmp_path: Path) -> None:
    with HybridQueue("cam", 1, tmp_path / "spool") as queue:
        collector = QueueCollector(queue)
    (tmp_path / "spool").rmdir()
    samples = told(scraped(generate_latest(registered(collector)).decode()))
    assert ("hq_spool_available_bytes", "") not in samples
    assert ("hq_queue_size", "") in samples


def test_it_is_served_at_the_port_it_says(tmp_path: Path) -> None:
    with busy_queue(tmp_path) as queue:
        stats = queue.stats()
        port = serve(QueueCollector(queue), "127.0.0.1", 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            text = response.read().decode()
    assert split_off(told(scraped(text)), tmp_path, stats) == told_by(stats)


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [("prometheus", "prometheus_client", "prometheus"), ("otel", "opentelemetry", "otel")],
)
def test_a_missing_extra_is_named(module: str, missing: str, extra: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import hq_metrics.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert f"pip install 'hybrid-queue[{extra}]'" in done.stderr.decode().splitlines()[-1]
