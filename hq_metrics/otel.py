"""Queues for OpenTelemetry: observable instruments, of its API alone. Extra ``[otel]``."""

from collections.abc import Callable, Iterable
from importlib.metadata import version

from hq_metrics.table import METRICS, Metric
from hq_metrics.watched import Queue, Watched

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "hq_metrics.otel needs an extra: pip install 'hybrid-queue[otel]'"
    ) from exc

__all__ = ["QueueInstruments"]


class QueueInstruments(Watched):
    """``QueueInstruments(queue)``: the numbers of `queue`, read at each collection.

    The instruments belong to `meter_provider`, by default the global one, and stay as long as it
    does: make one of these for each provider, and `add` and `remove` queues. Each instrument reads
    its queues for itself, so the numbers of one collection are not quite of one moment.
    """

    def __init__(self, *queues: Queue, meter_provider: MeterProvider | None = None) -> None:
        super().__init__(*queues)
        meter = get_meter("hybrid-queue", version("hybrid-queue"), meter_provider)
        create = {
            "counter": meter.create_observable_counter,
            "updowncounter": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for metric in METRICS:
            create[metric.kind](
                metric.name, [self._callback(metric)], unit=metric.unit, description=metric.help
            )

    def _callback(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for labels, stats in self.snapshots():
                for value, read in metric.values.items():
                    number = read(stats)
                    if number is not None:
                        own = {metric.label: value} if metric.label else {}
                        yield Observation(number, {**labels, **own})

        return observe
