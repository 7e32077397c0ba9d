"""``hq bench``: what a backend costs on this machine."""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hq_cli import subject
from hq_cli.arguments import seconds
from hq_cli.errors import CommandError
from hq_core.registry import load

if TYPE_CHECKING:
    from hq_core.testing.bench import Figure, Measurement

__all__ = ["configure", "render", "run"]

_DIRECTORY: Final = "/var/tmp"
_HEADINGS: Final = ("bytes", "phase", "items/s", "MB/s", "CPU us", "raw/s", "of raw")


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq bench``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Measure a backend: append records one by one, append them 64 at a time, read them back. "
        "Beside it, in turns, the same with bare pwritev and pread on a file. Every record is "
        "compared with what was appended."
    )
    parser.epilog = "Compare the ratios ('of raw'); the other figures are the machine's as well."
    subject.add_arguments(parser)
    add = parser.add_argument
    add("--json", action="store_true", help="print the figures as a JSON object")
    add("--seconds", type=seconds, default=10.0, metavar="S", help="about how long (10)")
    add("--dir", type=Path, help="where the files go (TMPDIR, else /var/tmp)")


def run(args: argparse.Namespace) -> int:
    """Run ``hq bench``; returns the exit status."""
    try:
        from hq_core.testing.bench import measure  # not needed to print --help
    except ModuleNotFoundError as exc:
        raise subject.testing_is_missing(exc) from exc
    directory = args.dir or os.environ.get("TMPDIR") or _DIRECTORY
    options = subject.options(args)
    try:
        found = measure(load(args.name), options=options, directory=directory, seconds=args.seconds)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    print(json.dumps(dataclasses.asdict(found), indent=2) if args.json else render(found))
    return 0


def render(found: "Measurement") -> str:
    """`found` as aligned columns."""
    rows = [_HEADINGS, *(_row(figure) for figure in found.figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    title = f"{found.backend}: medians of {found.repeats} rounds, cores: {found.cores}"
    return "\n".join([title, *(_aligned(row, widths) for row in rows)])


def _row(figure: "Figure") -> tuple[str, ...]:
    return (
        f"{figure.size:,}",
        figure.phase,
        f"{figure.items_per_second:,.0f}",
        f"{figure.mb_per_second:,.0f}",
        f"{figure.cpu_us:,.1f}",
        f"{figure.raw_items_per_second:,.0f}",
        f"{figure.ratio:.3f}",
    )


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    cells[1] = row[1].ljust(widths[1])
    return "  ".join(cells)
