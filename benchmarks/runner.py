"""Runs the cells, each time in a fresh process, in rounds that are shuffled anew."""

import dataclasses
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.cells import Cell, Outcome
from benchmarks.workloads import WORKLOADS

__all__ = ["run"]

_ROOT = Path(__file__).parent.parent


def run(
    cells: Sequence[Cell],
    *,
    repeats: int,
    seed: int,
    seconds: float,
    directory: Path,
    say: Callable[[str], None],
) -> Iterator[list[dict[str, object]]]:
    """Measure each of `cells` `repeats` times.

    After each round comes what was found so far, as it goes into the JSON file.
    """
    rng = random.Random(seed)
    outcomes: dict[Cell, list[Outcome]] = {cell: [] for cell in cells}
    for round_number in range(1, repeats + 1):
        pending = [cell for cell in cells if not _is_settled(outcomes[cell])]
        rng.shuffle(pending)
        for number, cell in enumerate(pending, 1):
            start = time.monotonic()
            outcome = _in_fresh_process(cell, seconds, directory)
            took = time.monotonic() - start
            problem = outcome.faults or outcome.skipped
            say(
                f"round {round_number} of {repeats}, {number} of {len(pending)}, {took:.1f} s: "
                f"{cell}{': ' if problem else ''}{problem}"
            )
            outcomes[cell].append(outcome)
        yield [_summary(cell, found) for cell, found in outcomes.items()]


def _is_settled(outcomes: Sequence[Outcome]) -> bool:
    """Whether another run would say the same."""
    return any(outcome.skipped for outcome in outcomes)


def _in_fresh_process(cell: Cell, seconds: float, directory: Path) -> Outcome:
    longest = WORKLOADS[cell.workload].longest
    with tempfile.TemporaryDirectory(prefix="hq-benchmark-", dir=directory) as place:
        order = {"cell": dataclasses.asdict(cell), "seconds": seconds, "directory": place}
        return _carried_out(order, longest)


def _carried_out(order: dict[str, object], longest: float) -> Outcome:
    try:
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.cells"],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            cwd=_ROOT,
            timeout=longest,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(faults=f"hangs: nothing after {longest:.0f} s")
    if child.returncode:
        return Outcome(faults=f"exit status {child.returncode}: {child.stderr[-200:]}")
    return Outcome(**json.loads(child.stdout.splitlines()[-1]))


def _summary(cell: Cell, outcomes: Sequence[Outcome]) -> dict[str, object]:
    runs = [outcome.metrics for outcome in outcomes if outcome.metrics]
    names = [name for name in (runs[0] if runs else ()) if all(name in run for run in runs)]
    return {
        **dataclasses.asdict(cell),
        "skipped": next((outcome.skipped for outcome in outcomes if outcome.skipped), ""),
        "faults": next((outcome.faults for outcome in outcomes if outcome.faults), ""),
        "median": {name: statistics.median(run[name] for run in runs) for name in names},
        "runs": runs,
    }
