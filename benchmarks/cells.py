"""A cell: one workload, one peer, one size of message, measured once in a process of its own.

``python -m benchmarks.cells`` measures the one that is on standard input; see `benchmarks.runner`.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Cell", "Outcome", "Workload"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured."""

    workload: str
    peer: str
    size: str
    """One of `messages.SIZES`, or whatever else the workload varies."""

    def __str__(self) -> str:
        return " / ".join((self.workload, self.peer, self.size))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of a cell gave."""

    metrics: dict[str, float] = field(default_factory=dict)
    faults: str = ""
    """Messages that were lost, came twice, late or damaged, or what it failed with."""
    skipped: str = ""
    """Why it cannot be measured here."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A way to use a queue."""

    name: str
    peers: tuple[str, ...]
    sizes: tuple[str, ...]
    measure: Callable[[Cell, Path, float], Outcome]
    """Called with an empty directory and about how many seconds it may take."""
    longest: float = 120.0
    """Seconds after which it hangs."""

    def cells(self) -> Iterable[Cell]:
        """All combinations."""
        return (Cell(self.name, peer, size) for peer in self.peers for size in self.sizes)


def main() -> None:
    """Measure the cell on standard input, and print the outcome."""
    from benchmarks.workloads import WORKLOADS

    order = json.load(sys.stdin)
    cell = Cell(**order["cell"])
    try:
        outcome = WORKLOADS[cell.workload].measure(cell, Path(order["directory"]), order["seconds"])
    except ModuleNotFoundError as exc:
        outcome = Outcome(skipped=f"{exc.name} is not installed")
    except Exception as exc:
        outcome = Outcome(faults=f"{type(exc).__name__}: {exc}")
    print(json.dumps(dataclasses.asdict(outcome)))


if __name__ == "__main__":
    main()
