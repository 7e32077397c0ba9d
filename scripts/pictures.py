"""The pictures in docs/images that show the command at work: ``make pictures``.

One function draws one picture. The charts beside them show what was measured, and are drawn by
`benchmarks.charts`.
"""

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from hq_cli import main
from hq_cli.top import endpoint, screen
from hq_cli.top.model import History, View
from hq_core import BytesTier, HybridQueue, InlinePump, Unlimited
from hq_metrics.prometheus import QueueCollector, scraped

__all__ = ["PICTURES", "depth", "top"]

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"


def depth(path: Path, *, seconds: float = 10) -> None:
    """What ``hq demo`` draws: depth and pressure while a consumer stalls, and after."""
    if main.main(["demo", "--seconds", f"{seconds:g}", "--svg", str(path)]):
        raise RuntimeError("hq demo proved something wrong: no picture of that")


STREAMS: Final = {"camera-1": (40, 40), "camera-2": (40, 14), "door": (6, 6), "telemetry": (90, 70)}
"""How many items a second each gets, and how many are taken while the consumers are slow."""


def top(path: Path) -> None:
    """What ``hq top`` shows of four queues after a minute, near the end of which their consumers
    were slow. The queues are real, the seconds are not."""
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryDirectory())
        queues = {
            name: stack.enter_context(
                HybridQueue(
                    name,
                    None,
                    spool,
                    memory=BytesTier(240_000),
                    limiter=Unlimited(),
                    pump=InlinePump(),
                    max_overflow_bytes=200_000,
                )
            )
            for name in STREAMS
        }
        registry = CollectorRegistry()
        registry.register(QueueCollector(*queues.values()))
        history = History()
        for second in range(55):
            for name, queue in queues.items():
                coming, slowly = STREAMS[name]
                queue.enqueue_many([bytes(1200)] * coming)
                queue.dequeue_many(slowly if 44 < second < 54 else coming * 5 // 4)
            numbers = scraped(generate_latest(registry).decode()) or []
            rows = history.add(endpoint.readings(numbers), second)
    view = View("http://127.0.0.1:9100/metrics", "endpoint", 0.0, rows)
    console = Console(file=io.StringIO(), record=True, width=90, height=7, force_terminal=True)
    console.print(screen.picture(view, console.width, console.height))
    drawn = console.export_svg(title="hq top", unique_id="top")
    # Nothing is loaded from elsewhere; a reader's own monospaced font will do.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    path.write_text(drawn, encoding="utf-8")


PICTURES: Final[dict[str, Callable[[Path], None]]] = {"depth.svg": depth, "top.svg": top}
"""Who draws which file."""


if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name](IMAGES / name)
