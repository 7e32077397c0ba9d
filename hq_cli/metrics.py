"""The metrics of a queue, served to Prometheus while a command runs."""

from hq_cli.errors import CommandError
from hq_core import HybridQueue

__all__ = ["serve_metrics"]


def serve_metrics(queue: HybridQueue, host: str, port: int) -> str:
    """Serve the metrics of `queue` at `host` and `port` until the process ends; returns the URL."""
    try:
        from hq_metrics.prometheus import QueueCollector, serve  # an extra, and slow to import
    except ModuleNotFoundError as exc:
        raise CommandError(f"cannot serve --metrics: {exc}") from exc
    shown = f"[{host}]" if ":" in host else host
    try:
        port = serve(QueueCollector(queue), host, port)
    except OSError as exc:
        raise CommandError(f"cannot serve --metrics at {shown}:{port}: {exc.strerror}") from exc
    return f"http://{shown}:{port}/metrics"
