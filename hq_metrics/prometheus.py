"""Queues for Prometheus: a collector that reads them when it is scraped. Extra ``[prometheus]``."""

from collections.abc import Iterable

from hq_metrics.table import METRICS, Metric
from hq_metrics.watched import Watched

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "hq_metrics.prometheus needs an extra: pip install 'hybrid-queue[prometheus]'"
    ) from exc

__all__ = ["QueueCollector", "serve"]

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


def _family(metric: Metric) -> _Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    labels = ["stream", "backend", *([metric.label] if metric.label else [])]
    return kind(metric.prometheus_name, metric.help, labels=labels)
