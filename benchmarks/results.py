"""What a run wrote, read back."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell

__all__ = ["Results"]


@dataclass(frozen=True, slots=True)
class Results:
    """The figures of one run of ``python -m benchmarks``."""

    facts: dict[str, Any]
    """Machine, versions, and how it was measured."""
    medians: dict[Cell, dict[str, float]] = field(default_factory=dict)
    faults: dict[Cell, str] = field(default_factory=dict)
    """Of the cells in which messages went missing, or that failed."""

    @classmethod
    def read(cls, path: Path) -> "Results":
        """The results in the JSON file at `path`."""
        facts = json.loads(path.read_text("utf-8"))
        results = cls(facts)
        for entry in facts.pop("cells"):
            cell = Cell(entry["workload"], entry["peer"], entry["size"])
            if entry["median"]:
                results.medians[cell] = entry["median"]
            if entry["faults"]:
                results.faults[cell] = entry["faults"]
        return results

    def get(self, workload: str, peer: str, size: str, metric: str) -> float | None:
        """A median; None if it was not measured."""
        return self.medians.get(Cell(workload, peer, size), {}).get(metric)

    def peers(self, workload: str, size: str) -> list[str]:
        """Who was measured."""
        cells = {**self.medians, **self.faults}
        return [cell.peer for cell in cells if (cell.workload, cell.size) == (workload, size)]

    def source(self) -> str:
        """Where the figures come from, in a line."""
        machine = self.facts["machine"]
        return (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['file_system']}, "
            f"{machine['kernel']}, {machine['python']}; "
            f"medians of {self.facts['repeats']} runs, {self.facts['date'][:10]}"
        )
