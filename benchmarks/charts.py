"""The charts in docs/images, from the JSON of a run: ``python -m benchmarks.charts [FILE]``."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

from benchmarks.cells import Cell
from benchmarks.results import Results

__all__ = ["draw"]

_OURS = "#0b6fb8"
_THEIRS = "#b4bcc4"
_LIMIT = "#c0392b"
_TEXT = "#24292f"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": _TEXT,
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "hybrid-queue",  # the same figures make the same file
    "hatch.linewidth": 1.2,
}
_RAW = ("raw file", "raw file + lock")

_THROUGHPUT = {
    "throughput-memory.svg": (
        "Through memory, 1,316-byte messages",
        (
            ("pair", "enqueue + dequeue, one thread"),
            ("pair batch", "the same in batches of 64"),
            ("two threads", "one producer, one consumer"),
        ),
    ),
    "throughput-disk.svg": (
        "Through disk, 1,316-byte messages",
        (
            ("append", "in: one call per message"),
            ("drain", "out: one call per message"),
            ("sustained", "in and out at once: one producer, one consumer"),
        ),
    ),
}


def draw(results: Results, directory: Path) -> None:
    """Write every chart that `results` has figures for."""
    directory.mkdir(exist_ok=True)
    with plt.rc_context(_STYLE):
        for name, (title, workloads) in _THROUGHPUT.items():
            _save(_throughput(results, title, workloads), results, directory / name)


def _save(figure: Any, results: Results, path: Path) -> None:
    figure.text(0.01, 0.005, results.source(), fontsize=8, color="#57606a")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _throughput(results: Results, title: str, workloads: tuple[tuple[str, str], ...]) -> Any:
    """A panel for each workload: a bar for each queue, the raw file as a line."""
    rows = [len(_bars(results, workload)) for workload, _ in workloads]
    height = 1.2 + sum(0.32 * count + 0.75 for count in rows)
    figure, panels = plt.subplots(
        len(rows), 1, figsize=(9, height), height_ratios=rows, sharex=True, layout="constrained"
    )
    figure.get_layout_engine().set(rect=(0, 0.03, 1, 0.97))
    figure.suptitle(
        f"{title}: messages per second (log scale)", fontweight="bold", x=0.01, ha="left"
    )
    for panel, (workload, subtitle) in zip(panels, workloads, strict=True):
        _bar_panel(panel, results, workload, subtitle)
    return figure


def _bars(results: Results, workload: str) -> list[tuple[str, float]]:
    """Queues and their rates, the fastest first."""
    bars = [
        (peer, results.get(workload, peer, "1316", "items_per_second") or 0)
        for peer in results.peers(workload, "1316")
        if peer not in _RAW
    ]
    return sorted(bars, key=lambda bar: -bar[1])


def _bar_panel(panel: Any, results: Results, workload: str, subtitle: str) -> None:
    bars = _bars(results, workload)
    for row, (peer, rate) in enumerate(bars):
        fault = results.faults.get(Cell(workload, peer, "1316"))
        ours = peer.startswith("hybrid-queue")
        panel.barh(
            row,
            rate or 1,
            color="white" if fault else _OURS if ours else _THEIRS,
            edgecolor=_LIMIT if fault else "none",
            hatch="///" if fault else None,
            height=0.72,
        )
        label = f" {_short(rate)}" + (f"   {fault}" if fault else "")
        panel.text(rate or 1, row, label, va="center", fontsize=9, color=_LIMIT if fault else _TEXT)
    panel.set_yticks(range(len(bars)), [peer for peer, _ in bars])
    for tick, (peer, _) in zip(panel.get_yticklabels(), bars, strict=True):
        tick.set_fontweight("bold" if peer.startswith("hybrid-queue") else "normal")
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    panel.minorticks_off()
    panel.tick_params(axis="y", length=0)
    panel.set_title(subtitle, loc="left", fontsize=11)
    for raw in _RAW:
        if limit := results.get(workload, raw, "1316", "items_per_second"):
            panel.axvline(limit, color=_LIMIT, linewidth=1.5)
            panel.text(
                limit,
                -0.75,
                f"bare file: {_short(limit)}",
                color=_LIMIT,
                fontsize=9,
                ha="center",
                va="bottom",
            )


def _short(value: float) -> str:
    """12,300,000 as 12.3 M."""
    for unit, divisor in (("M", 1e6), ("k", 1e3)):
        if value >= divisor:
            return f"{value / divisor:.3g} {unit}"
    return f"{value:.3g}"
