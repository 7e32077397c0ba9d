"""``hq demo``: the queue rides out a consumer that stalls; the proof in words and as a picture."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hq_cli.arguments import seconds
from hq_cli.console import Console
from hq_cli.errors import CommandError
from hq_cli.plot import Point, picture
from hq_cli.scenario import STREAM_ID, Outcome, Scenario, play
from hq_cli.sizes import format_size
from hq_core import QueueStats

__all__ = ["Check", "configure", "prove", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq demo``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Send a 6 Mb/s video stream through a queue whose consumer stalls for a while: what does "
        "not fit into memory goes to disk and comes back in order. Needs no input and no network."
    )
    parser.epilog = "Exit status: 0 if everything was proved, else 1."
    add = parser.add_argument
    add("--seconds", type=seconds, default=10.0, metavar="SEC", help="how long it takes (10)")
    add(
        "--svg",
        type=Path,
        default=Path("hq-demo.svg"),
        metavar="FILE",
        help="where the picture goes (hq-demo.svg)",
    )


def run(args: argparse.Namespace) -> int:
    """Run ``hq demo``; returns the exit status."""
    if args.seconds < 1:
        raise CommandError("--seconds must be at least 1: there is little to see in less")
    try:
        with args.svg.open("a"):
            pass  # better now than in ten seconds
    except OSError as exc:
        raise CommandError(f"cannot write --svg {args.svg}: {exc.strerror}") from exc
    scenario = Scenario(args.seconds)
    print(_introduction(scenario), flush=True)
    with tempfile.TemporaryDirectory(prefix="hq-demo-") as name:
        outcome = _watched(scenario, Path(name))
        left = sorted(path.name for path in Path(name).iterdir())
    checks = prove(scenario, outcome, left)
    print("\n".join(["", *(_line(check) for check in checks), ""]))
    args.svg.write_text(_picture(scenario, outcome), encoding="utf-8")
    print(f"picture   {args.svg}", flush=True)
    return 0 if all(check.holds for check in checks) else 1


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about an outcome."""

    subject: str
    """A word."""
    finding: str
    """What was found."""
    holds: bool
    """Whether that is as it should be."""


def prove(scenario: Scenario, outcome: Outcome, left: Sequence[str]) -> list[Check]:
    """Whether `outcome` is what a queue promises; `left` are the files found after closing."""
    sent, received = outcome.sent, outcome.received
    stats = [sample for _, sample in outcome.samples]
    most = max(s.memory_items for s in stats)
    peak_memory = format_size(max(s.memory_bytes for s in stats))
    peak_disk = format_size(max(s.disk_bytes for s in stats))
    spilled = stats[-1].spilled
    return [
        Check(
            "items",
            f"{sent.items} sent, {received.items} received",
            sent.items == received.items == scenario.packets,
        ),
        Check(
            "order",
            f"{received.inversions} inversions, last number {received.last}",
            received.inversions == 0 and received.last == scenario.packets - 1,
        ),
        Check(
            "checksum",
            f"SHA-256 {sent.checksum[:16]}.. sent, {received.checksum[:16]}.. received",
            sent.checksum == received.checksum,
        ),
        Check(
            "memory",
            f"{most} packets at most, of {scenario.memory_items} allowed ({peak_memory})",
            most <= scenario.memory_items,
        ),
        Check("disk", f"{spilled} packets went through it, {peak_disk} at most", spilled > 0),
        Check("files", f"left behind: {', '.join(left) or 'none'}", not left),
    ]


def _watched(scenario: Scenario, directory: Path) -> Outcome:
    console = Console(sys.stderr)

    def watch(now: float, stats: QueueStats) -> None:
        if console.is_terminal():
            console.show(_live(scenario, now, stats)[: console.width()])

    with console.relaying(logging.getLogger("hq_core")):
        try:
            return play(scenario, directory, watch)
        finally:
            console.clear()


def _introduction(scenario: Scenario) -> str:
    start, end = scenario.stall
    return (
        f"A 6 Mb/s video stream, {scenario.packets} packets in {scenario.seconds:g} s, through the "
        f"queue {STREAM_ID!r}\nwith room for {scenario.memory_items} packets in memory. "
        f"Its consumer stalls from {start:.1f} s to {end:.1f} s."
    )


def _live(scenario: Scenario, now: float, stats: QueueStats) -> str:
    start, end = scenario.stall
    phase = "flowing" if stats.depth <= 1 else "catching up"
    return (
        f"{now:5.1f} s  {'consumer stalled' if start <= now < end else phase:16}  "
        f"{stats.memory_items:3} packets in memory, {stats.depth - stats.memory_items:3} on disk  "
        f"pressure {stats.pressure:.2f}"
    )


def _line(check: Check) -> str:
    return f"{check.subject:10}{check.finding:66}{'ok' if check.holds else 'WRONG'}"


def _picture(scenario: Scenario, outcome: Outcome) -> str:
    points = [
        Point(now, s.memory_items, s.depth - s.memory_items, s.pressure)
        for now, s in outcome.samples
    ]
    title = "A 6 Mb/s video stream while its consumer stalls: memory first, then disk"
    return picture(points, scenario.stall, seconds=scenario.seconds, title=title)
