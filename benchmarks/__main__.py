"""``python -m benchmarks``: measures all cells, then draws the charts and fills in the table."""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine, runner
from benchmarks.results import Results
from benchmarks.workloads import WORKLOADS

_RESULTS = Path(__file__).parent / "results"
_DOCS = Path(__file__).parent.parent / "docs"
_TEMPORARY = "/var/tmp"


def main() -> None:
    """Run what the command line says."""
    args = _arguments()
    if args.publish:
        _publish(args.publish)
        return
    cells = [
        cell
        for workload in WORKLOADS.values()
        for cell in workload.cells()
        if all(word in str(cell) for word in args.only)
    ]
    if args.list:
        print("\n".join(map(str, cells)))
        return
    repeats = 1 if args.quick else args.repeats
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(args.dir),
        "versions": machine.versions(),
        "seed": args.seed,
        "repeats": repeats,
        "seconds": 0.1 if args.quick else args.seconds,
    }
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{args.name}.json"
    for summaries in runner.run(
        cells,
        repeats=repeats,
        seed=args.seed,
        seconds=found["seconds"],
        directory=args.dir,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    ):
        found["cells"] = summaries
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(path)
    if not args.only and not args.quick:
        _publish(path)


def _publish(path: Path) -> None:
    """Draw the charts and fill in the tables of the documentation."""
    from benchmarks import charts, reach  # not needed to measure a part

    results = Results.read(path)
    charts.draw(results, _DOCS / "images")
    reach.update(results, _DOCS / "performance.md")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--name", default="latest", help="of the file in benchmarks/results (latest)")
    add("--repeats", type=int, default=5, metavar="N", help="runs of each cell (5)")
    add("--seconds", type=float, default=0.5, metavar="S", help="about how long a run takes (0.5)")
    add(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="cells that contain TEXT; several: all",
    )
    add("--quick", action="store_true", help="one short run of each cell: to see that it works")
    add("--seed", type=int, default=1, metavar="N", help="of the order of the cells (1)")
    add("--publish", type=Path, metavar="FILE", help="charts and tables of this file; no measuring")
    add("--list", action="store_true", help="name the cells, measure nothing")
    add("--dir", type=Path, default=Path(_TEMPORARY), help=f"where the files go ({_TEMPORARY})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
