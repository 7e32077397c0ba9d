"""The charts in docs/images, from the JSON of a run."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, PercentFormatter

from benchmarks.cells import Cell
from benchmarks.messages import SIZES
from benchmarks.results import Results
from benchmarks.scale import BACKLOGS

__all__ = ["draw"]

_OURS = "#0b6fb8"
_THEIRS = "#b4bcc4"
_LIMIT = "#c0392b"
_TEXT = "#24292f"
_FAINT = "#57606a"
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # of nearly the same width
    "svg.fonttype": "none",
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
_SIZE = "1316"
_SOURCE_INCHES = 0.3
_RAW = ("raw file", "raw file + lock")

_THROUGHPUT = {
    "throughput-memory.svg": (
        "Through memory, 1,316-byte messages",
        (
            ("pair", "enqueue + dequeue, one thread"),
            ("pair batch", "the same in batches of 64"),
            ("two threads", "one producer, one consumer"),
            ("thread to loop", "from a thread to a coroutine"),
            ("loop to thread", "from a coroutine to a thread"),
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


_Chart = Callable[[Results], Any]


def draw(results: Results, directory: Path) -> None:
    """Write every chart."""
    directory.mkdir(exist_ok=True)
    charts: dict[str, _Chart] = {
        **{name: partial(_throughput, chart=chart) for name, chart in _THROUGHPUT.items()},
        "sizes.svg": _sizes,
        "pipe.svg": _pipe,
        "backlog.svg": _backlog,
        "threads.svg": _threads,
        "latency.svg": _latency,
    }
    with plt.rc_context(_STYLE):
        for name, chart in charts.items():
            figure = chart(results)
            below = _SOURCE_INCHES / figure.get_figheight()
            figure.get_layout_engine().set(rect=(0, below, 0.99, 1 - below))
            figure.text(0.01, below / 4, results.source(), fontsize=8, color=_FAINT)
            figure.savefig(directory / name, metadata={"Date": None})
            plt.close(figure)


def _panels(title: str, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure with a title at the left, and its panels."""
    figure, panels = plt.subplots(rows, columns, layout="constrained", squeeze=False, **options)
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return figure, [panel for row in panels for panel in row]


def _throughput(results: Results, chart: tuple[str, tuple[tuple[str, str], ...]]) -> Any:
    """A panel for each workload: a bar for each queue, the bare file as a line."""
    title, workloads = chart
    rows = [len(_bars(results, workload)) + 1 for workload, _ in workloads]
    figure, panels = _panels(
        f"{title}: messages per second (log scale)",
        len(rows),
        figsize=(9, 1.2 + sum(0.32 * count + 0.5 for count in rows)),
        height_ratios=rows,
        sharex=True,
    )
    for panel, (workload, subtitle) in zip(panels, workloads, strict=True):
        _bar_panel(panel, results, workload, subtitle)
    return figure


def _bars(results: Results, workload: str) -> list[tuple[str, float]]:
    """Queues and their rates, the fastest first."""
    bars = [
        (peer, results.get(workload, peer, _SIZE, "items_per_second") or 0)
        for peer in results.peers(workload, _SIZE)
        if peer not in _RAW
    ]
    return sorted(bars, key=lambda bar: -bar[1])


def _bar_panel(panel: Any, results: Results, workload: str, subtitle: str) -> None:
    bars = _bars(results, workload)
    for row, (peer, rate) in enumerate(bars):
        fault = results.faults.get(Cell(workload, peer, _SIZE))
        ours = peer.startswith("hybrid-queue")
        panel.barh(
            row,
            rate or 1,
            color="white" if fault else _OURS if ours else _THEIRS,
            edgecolor=_LIMIT if fault else "none",
            hatch="///" if fault else None,
            height=0.72,
        )
        label = _short(rate) + (f"   {fault}" if fault else "")
        _at_end(panel, rate or 1, row, label, _LIMIT if fault else _TEXT)
    panel.set_yticks(range(len(bars)), [peer for peer, _ in bars])
    _embolden(panel, "hybrid-queue")
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    panel.minorticks_off()
    panel.tick_params(axis="y", length=0)
    panel.set_title(subtitle, loc="left", fontsize=11)
    for raw in _RAW:
        if limit := results.get(workload, raw, _SIZE, "items_per_second"):
            panel.axvline(limit, color=_LIMIT, linewidth=1.5, linestyle="--", zorder=0)
            slowest = len(bars) - 1  # where there is room to the left
            _at_end(panel, limit, slowest, f"a bare file: {_short(limit)}", _LIMIT, left=True)


def _at_end(
    panel: Any, value: float, row: int, label: str, colour: str, *, left: bool = False
) -> None:
    """Write `label` beside the end of a bar."""
    panel.annotate(
        label,
        (value, row),
        xytext=(-5 if left else 5, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=9,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )


def _sizes(results: Results) -> Any:
    """How near the bare file it comes."""
    figure, (panel,) = _panels("hybrid-queue as a share of a bare file's rate", figsize=(9, 4.2))
    places = range(len(SIZES))
    for workload, label, colour in (
        ("append", "in, one call per message", _OURS),
        ("append batch", "in, batches of 64", "#6f42c1"),
        ("drain", "out, one call per message", "#2da44e"),
    ):
        shares = [
            (results.get(workload, "hybrid-queue", size, "items_per_second") or math.nan)
            / (results.get(workload, "raw file", size, "items_per_second") or math.nan)
            for size in SIZES
        ]
        panel.plot(places, shares, "o-", color=colour, linewidth=2, label=label)
    figure.legend(frameon=False, loc="outside right upper", fontsize=9)
    panel.axhline(1, color=_LIMIT, linewidth=1.5, linestyle="--", zorder=0)
    panel.text(0, 1.01, "a bare file", color=_LIMIT, fontsize=9, va="bottom", ha="left")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.set_xticks(places, ["128 B", "1,316 B", "64 KiB", "1 MiB", "video packets"])
    return figure


def _pipe(results: Results) -> Any:
    """Two bars for each way."""
    figure, (panel,) = _panels(
        "Between two programs, blocks of 64 KiB: MB per second", figsize=(9, 2.8)
    )
    rows = [
        (f"{peer}, through {where}", results.get(f"pipe {where}", peer, "65536", "mb_per_second"))
        for where in ("memory", "disk")
        for peer in ("hq pipe", "mbuffer")
    ]
    for place, (name, rate) in enumerate(rows):
        colour = _OURS if name.startswith("hq") else _THEIRS
        panel.barh(place, rate or 0, color=colour, height=0.72)
        _at_end(panel, rate or 0, place, f"{rate or 0:,.0f}", _TEXT)
    panel.set_yticks(range(len(rows)), [name for name, _ in rows])
    _embolden(panel, "hq pipe")
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()
    return figure


def _backlog(results: Results) -> Any:
    """Cost of a message and memory of the process, over the backlog."""
    figure, (cost, memory) = _panels(
        "While the backlog grows to 10 GB", columns=2, figsize=(9, 3.8)
    )
    total = str(BACKLOGS[-1])

    def series(name: str, divisor: float = 1) -> list[float]:
        found = [results.get("backlog", "hybrid-queue", total, f"{name}/{b}") for b in BACKLOGS]
        return [math.nan if value is None else value / divisor for value in found]

    for way, label, colour in (("drain", "out", "#2da44e"), ("append", "in", _OURS)):
        wall, cpu = series(f"{way}_us"), series(f"{way}_cpu_us")
        cost.plot(BACKLOGS, wall, "o-", color=colour, linewidth=2, label=label)
        cost.plot(BACKLOGS, cpu, ":", color=colour, linewidth=2, label=f"{label}, CPU time")
    cost.set_title("µs for a message of 1,316 bytes", loc="left", fontsize=11)
    cost.legend(frameon=False, loc="upper right", fontsize=9)
    memory.plot(BACKLOGS, series("footprint_bytes", 1024 * 1024), "o-", color=_OURS, linewidth=2)
    memory.axhline(64, color=_LIMIT, linewidth=1.5, linestyle="--", zorder=0)
    memory.text(BACKLOGS[0], 63, "limit", color=_LIMIT, fontsize=9, va="top")
    memory.set_title("MiB of memory above an empty queue", loc="left", fontsize=11)
    for panel in (cost, memory):
        panel.set_xscale("log")
        panel.minorticks_off()
        panel.set_xticks(BACKLOGS, ["1 MB", "10 MB", "100 MB", "1 GB", "10 GB"])
        panel.set_xlabel("backlog")
        panel.set_ylim(bottom=0)
    return figure


def _threads(results: Results) -> Any:
    """Rate over the number of threads."""
    figure, (panel,) = _panels("Many threads on one queue: messages per second", figsize=(9, 3.4))
    counts = [2**power for power in range(7)]
    rates = [
        results.get("threads", "hybrid-queue", str(count), "items_per_second") or math.nan
        for count in counts
    ]
    panel.plot(counts, rates, "o-", color=_OURS, linewidth=2)
    panel.set_xscale("log", base=2)
    panel.minorticks_off()
    panel.set_xticks(counts, [str(count) for count in counts])
    panel.set_xlabel("producers, and as many consumers")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    return figure


def _latency(results: Results) -> Any:
    """A range for each queue, from the median to the longest call."""
    workloads = {
        "latency stall": "the consumer stalls 100 ms a second",
        "latency burn": "another thread burns CPU",
    }
    figure, panels = _panels(
        "How long a producer waits (log scale)",
        columns=2,
        figsize=(9, 4.4),
        sharey=True,
    )
    marks = {
        "p50_us": ("|", "50 %"),
        "p99_us": ("o", "99 %"),
        "p999_us": ("s", "99.9 %"),
        "max_us": (">", "100 %"),
    }
    peers = sorted(
        results.peers("latency stall", _SIZE),
        key=lambda peer: results.get("latency stall", peer, _SIZE, "p999_us") or math.inf,
    )
    for panel, (workload, subtitle) in zip(panels, workloads.items(), strict=True):
        for row, peer in enumerate(peers):
            waits = [results.get(workload, peer, _SIZE, mark) or math.nan for mark in marks]
            colour = _OURS if peer.startswith("hybrid-queue") else "#8c959f"
            panel.plot((waits[0], waits[-1]), (row, row), color=colour, linewidth=3, alpha=0.5)
            for wait, (mark, _) in zip(waits, marks.values(), strict=True):
                panel.plot(wait, row, mark, color=colour, markersize=7, markeredgewidth=2)
        panel.set_title(subtitle, loc="left", fontsize=11)
        panel.set_xscale("log")
        panel.minorticks_off()
        panel.set_xlim(0.03, 1.5e6)
        ticks = {0.1: "0.1 µs", 1: "1 µs", 10: "10 µs", 100: "100 µs", 1e3: "1 ms", 1e4: "10 ms"}
        ticks |= {1e5: "100 ms", 1e6: "1 s"}
        panel.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
        panel.grid(axis="x", color="#d0d7de", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(peers)), peers)
    panels[0].invert_yaxis()
    _embolden(panels[0], "hybrid-queue")
    handles = [
        plt.Line2D([], [], color=_FAINT, marker=mark, linestyle="", markeredgewidth=2, label=share)
        for mark, share in marks.values()
    ]
    panels[0].legend(
        handles=handles,
        title="share of the calls\nthat take no longer",
        loc="upper right",
        fontsize=9,
        title_fontsize=9,
        edgecolor="none",
    )
    return figure


def _embolden(panel: Any, ours: str) -> None:
    """Make what is ours stand out at the left."""
    for label in panel.get_yticklabels():
        if label.get_text().startswith(ours):
            label.set_fontweight("bold")


def _short(value: float) -> str:
    """12,300,000 as 12.3 M."""
    for unit, divisor in (("M", 1e6), ("k", 1e3)):
        if value >= divisor:
            return f"{value / divisor:.3g} {unit}"
    return f"{value:.3g}"
