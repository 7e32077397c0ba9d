"""Queues for Prometheus: a collector that reads them when it is scraped. Extra ``[prometheus]``."""

from collections.abc import Iterable

from hq_metrics.table import METRICS, Metric
from hq_metrics.watched import Watched

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.parser import text_string_to_metric_families
    from prometheus_client.registry import Collector
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "hq_metrics.prometheus needs an extra: pip install 'hybrid-queue[prometheus]'"
    ) from exc

__all__ = ["Number", "QueueCollector", "scraped", "serve"]

Number = tuple[str, str, dict[str, str], float]
"""One number of a page: `Metric.name`, the value of the metric's own label, the labels that all
metrics have, and the number."""

_Family = CounterMetricFamily | GaugeMetricFamily


class QueueCollector(Watched, Collector):
    """``REGISTRY.register(QueueCollector(queue))``: the numbers of `queue`, read at each scrape.

    One collector tells of all queues: `add` and `remove` them. All numbers of a queue in one
    scrape are of one moment.
    """

    def describe(self) -> Iterable[_Family]:
        """The metrics, without numbers."""
        return [_family(metric) for metric in METRICS]

    def collect(self) -> Iterable[_Family]:
        """The metrics, with the numbers of now."""
        snapshots = list(self.snapshots())
        for metric in METRICS:
            family = _family(metric)
            for labels, stats in snapshots:
                for value, read in metric.values.items():
                    number = read(stats)
                    if number is not None:
                        own = [value] if metric.label else []
                        family.add_metric([*labels.values(), *own], number)
            yield family


def serve(collector: QueueCollector, host: str, port: int) -> int:
    """Serve `collector`, and nothing else, at ``http://host:port/metrics`` in a daemon thread.

    Returns the port, which is another one if `port` is 0. `OSError` if the address cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    server, _ = start_http_server(port, host, registry)
    return server.server_port


def scraped(page: str) -> list[Number] | None:
    """What a page served by `serve`, or by anybody, has to say about queues.

    None if it does not have these metrics at all. `ValueError` if it is no metrics page.
    """
    known = {metric.prometheus_name: metric for metric in METRICS}
    families = list(text_string_to_metric_families(page))
    if not any(name in known for f in families for name in (f.name, f"{f.name}_total")):
        return None
    numbers: list[Number] = []
    for sample in (sample for family in families for sample in family.samples):
        if metric := known.get(sample.name):
            labels = dict(sample.labels)
            value = labels.pop(metric.label, "") if metric.label else ""
            numbers.append((metric.name, value, labels, sample.value))
    return numbers


def _family(metric: Metric) -> _Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    labels = ["stream", "backend", *([metric.label] if metric.label else [])]
    return kind(metric.prometheus_name, metric.help, labels=labels)
