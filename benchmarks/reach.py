"""The tables in docs/performance.md: what was to be reached, and what was measured."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Results

__all__ = ["Figure", "figures", "update"]

_KIB, _MIB = 1024, 1024 * 1024
_PER_SECOND, _MICROSECONDS, _CPU = "items_per_second", "wall_us", "cpu_us"


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was to be reached."""

    what: str
    demand: str
    reached: float | None
    """None: not measured."""
    goal: float
    unit: str = "times"
    """``times`` for ratios, of which more is better; of everything else less is, but of ``k/s``."""
    note: str = ""
    """What the ratio is made of."""

    def verdict(self) -> str:
        """In a word."""
        if self.reached is None:
            return "not measured"
        more_is_better = self.unit in ("times", "k/s")
        met = self.reached >= self.goal if more_is_better else self.reached < self.goal
        return "met" if met else "**missed**"

    def measured(self) -> str:
        """In figures."""
        if self.reached is None:
            return ""
        note = f" ({self.note})" if self.note else ""
        return f"{_short(self.reached)} {self.unit}{note}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def figures(results: Results) -> list[Figure]:
    """Everything that was to be reached, as far as `results` has it."""
    return [
        *_memory(results),
        *_asyncio(results),
        *_file(results),
        *_sustained(results),
        *_other_stores_and_pipes(results),
        *_process(results),
    ]


def _rate(
    results: Results, workload: str, peer: str, over: str, size: str = "1316"
) -> tuple[float | None, str]:
    """How many times as fast `peer` is as `over`."""
    ours = results.get(workload, peer, size, _PER_SECOND)
    theirs = results.get(workload, over, size, _PER_SECOND)
    if not ours or not theirs:
        return None, ""
    our_cpu = results.get(workload, peer, size, _CPU) or math.nan
    their_cpu = results.get(workload, over, size, _CPU) or math.nan
    cpu = f"; CPU time {our_cpu:.3g} µs, {their_cpu:.3g} µs"
    return ours / theirs, f"{_short(ours / 1e3)} k/s, {_short(theirs / 1e3)} k/s{cpu}"


def _memory(results: Results) -> Iterator[Figure]:
    limited = "hybrid-queue, limiter on"
    ratio, note = _rate(results, "pair", limited, "queue.Queue")
    what = "memory, enqueue + dequeue, limiter on, 1 thread"
    yield Figure(what, "2 times `queue.Queue`", ratio, 2, note=note)
    batch = results.get("pair batch", limited, "1316", _MICROSECONDS)
    single = results.get("pair", "queue.SimpleQueue", "1316", _MICROSECONDS)
    ratio = single / batch if single and batch else None
    note = f"{batch * 1e3:.0f} ns, {single * 1e3:.0f} ns" if single and batch else ""
    yield Figure(
        "the same in batches of 64", "1 times `SimpleQueue`'s put + get", ratio, 1, note=note
    )
    ratio, note = _rate(results, "two threads", "hybrid-queue", "queue.Queue")
    what = "two threads through memory, 1,316 B"
    yield Figure(what, "1.5 times `queue.Queue`", ratio, 1.5, note=note)


def _asyncio(results: Results) -> Iterator[Figure]:
    for workload, what in (
        ("thread to loop", "from a thread to a coroutine, 1,316 B"),
        ("loop to thread", "from a coroutine to a thread, 1,316 B"),
    ):
        for peer, goal in (("culsans", 1.2), ("janus", 3)):
            ratio, note = _rate(results, workload, "hybrid-queue", peer)
            yield Figure(what, f"{goal} times {peer}", ratio, goal, note=note)


def _file(results: Results) -> Iterator[Figure]:
    for what, workload, size, goal in (
        ("append to the file, one call per message, 1,316 B", "append", "1316", 0.65),
        ("the same, 64 KiB", "append", "65536", 0.9),
        ("append to the file in batches of 64, 1,316 B", "append batch", "1316", 0.8),
    ):
        ratio, note = _rate(results, workload, "hybrid-queue", "raw file", size)
        yield Figure(what, f"{goal} of a bare `pwritev`", ratio, goal, note=note)
    for memory, peer, goal in (
        ("1,000", "hybrid-queue", 0.7),
        ("1", "hybrid-queue, memory 1", 0.35),
    ):
        ratio, note = _rate(results, "drain", peer, "raw file")
        what = f"drain from the file, memory {memory}, 1,316 B"
        yield Figure(what, f"{goal} of a bare `pread`", ratio, goal, note=note)


def _sustained(results: Results) -> Iterator[Figure]:
    rate = results.get("sustained", "hybrid-queue", "1316", _PER_SECOND)
    what = "1 producer and 1 consumer, all through disk, memory 1,000, 1,316 B"
    demand = "178 k/s: 2 times the 89 k/s of nsqio go-diskqueue"
    yield Figure(what, demand, rate and rate / 1e3, 178, "k/s")
    for peer in ("persist-queue, file", "persist-queue, SQLite"):
        ratio, note = _rate(results, "sustained", "hybrid-queue", peer)
        yield Figure("the same", f"100 times {peer}", ratio, 100, note=note)


def _other_stores_and_pipes(results: Results) -> Iterator[Figure]:
    ratio, note = _rate(results, "append batch", "hybrid-queue, LMDB", "py-lmdb")
    what = "append to LMDB in batches of 64, 1,316 B"
    yield Figure(what, "0.8 of the same transactions by py-lmdb", ratio, 0.8, note=note)
    for where, workload, goal in (("memory", "pipe memory", 0.7), ("disk", "pipe disk", 2.0)):
        ours = results.get(workload, "hq pipe", "65536", "mb_per_second")
        theirs = results.get(workload, "mbuffer", "65536", "mb_per_second")
        ratio = ours / theirs if ours and theirs else None
        note = f"{ours:,.0f} MB/s, {theirs:,.0f} MB/s" if ours and theirs else ""
        option = " -t" if where == "disk" else ""
        what = f"`hq pipe`, 64 KiB, through {where}"
        yield Figure(what, f"{goal} times `mbuffer{option}`", ratio, goal, note=note)


def _process(results: Results) -> Iterator[Figure]:
    def ours(workload: str, size: str, metric: str, divisor: float) -> float | None:
        value = results.get(workload, "hybrid-queue", size, metric)
        return None if value is None else value / divisor

    footprint = ours("backlog", "10000000000", "footprint_bytes/10000000000", _MIB)
    what = "memory above an empty queue's, backlog of 10 GB"
    yield Figure(what, "< 64 MiB", footprint, 64, "MiB")
    idle = ours("queues", "1000", "used_idle_cpu_percent", 1)
    yield Figure("1,000 idle queues that have overflowed", "< 0.2 % of a core", idle, 0.2, "%")
    each = ours("queues", "1000", "used_bytes_each", _KIB)
    yield Figure("the same, memory of each", "< 64 KiB", each, 64, "KiB")
    opening = ours("queues", "1000", "open_us", 1000)
    yield Figure("the same, opening each", "< 0.5 ms", opening, 0.5, "ms")
    took = ours("import", "1", "import_ms", 1)
    yield Figure("`import hq_core`, no backend among it", "< 60 ms", took, 60, "ms")


def _reach_table(results: Results) -> str:
    rows = ["| | at least | measured | |", "|---|---|---|---|"]
    rows += [
        f"| {figure.what} | {figure.demand} | {figure.measured()} | {figure.verdict()} |"
        for figure in figures(results)
    ]
    return "\n".join(rows)


def _queues_table(results: Results) -> str:
    rows = [
        "| queues | opening each | memory of each, new | memory of each, used | threads | "
        "descriptors | idle CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    for count in ("1", "100", "1000", "10000"):
        cell = {
            name: results.get("queues", "hybrid-queue", count, name) or 0
            for name in (
                "open_us",
                "fresh_bytes_each",
                "used",
                "used_bytes_each",
                "used_threads",
                "used_descriptors",
                "used_idle_cpu_percent",
            )
        }
        rows.append(
            f"| {int(count):,}, {cell['used']:,.0f} used | {cell['open_us'] / 1e3:.2f} ms | "
            f"{cell['fresh_bytes_each'] / _KIB:.0f} KiB | {cell['used_bytes_each'] / _KIB:.0f} KiB "
            f"| {cell['used_threads']:,.0f} | {cell['used_descriptors']:,.0f} | "
            f"{cell['used_idle_cpu_percent']:.2f} % |"
        )
    return "\n".join(rows)


def _faults_table(results: Results) -> str:
    rows = ["| workload | queue | bytes | |", "|---|---|---|---|"]
    rows += [
        f"| {cell.workload} | {cell.peer} | {cell.size} | {fault} |"
        for cell, fault in results.faults.items()
    ]
    return "\n".join(rows) if results.faults else "None did."


def _source(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.facts["versions"].items())
    return f"{results.source()}. {versions}."


_PARTS: dict[str, Callable[[Results], str]] = {
    "source": _source,
    "reach": _reach_table,
    "queues": _queues_table,
    "faults": _faults_table,
}


def update(results: Results, page: Path) -> None:
    """Put each part in place of what is between its two marker comments in `page`."""
    text = page.read_text("utf-8")
    for name, part in _PARTS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        between = re.compile(f"{begin}.*?{end}", re.DOTALL)
        new = f"{begin}\n{part(results)}\n{end}"
        text, found = between.subn(lambda _, new=new: new, text)  # type: ignore[misc] # a constant
        if found != 1:
            raise ValueError(f"{page} has {found} parts {begin} to {end}; it must have one")
    page.write_text(text, "utf-8")
