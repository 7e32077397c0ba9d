"""The fault campaign: whatever fails, nothing accepted is lost, nothing refused is delivered.

A share of it runs with the other tests; ``make faults`` runs it whole. Every run is replayable:
what is random comes from a seed, and a failure names it.

This module says how much of the campaign runs, and where its figures go.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["FIGURES", "amount", "note", "sentence", "table"]

WHOLE: Final = os.environ.get("HQ_FAULTS") == "whole"
"""Whether ``make faults`` runs, and not the share that belongs to every test run."""

FIGURES: Final = Path(__file__).parents[2] / "build" / "faults.jsonl"
"""One line for each figure noted."""


def amount(share: int, whole: int) -> int:
    """How many scenarios to run: `share` in every test run, `whole` in ``make faults``."""
    return whole if WHOLE else share


def sentence(test: str) -> str:
    """What the name of a test says."""
    return test.removeprefix("test_").replace("_", " ")


def note(campaign: str, subject: str, **figures: int) -> None:
    """Note what `campaign` did to `subject` (a backend and its options), for the table."""
    FIGURES.parent.mkdir(exist_ok=True)
    with FIGURES.open("a") as file:
        file.write(json.dumps({"campaign": campaign, "subject": subject, **figures}) + "\n")


def table(lines: Iterable[str]) -> str:
    """The figures noted in `lines` as a Markdown table; later runs replace earlier ones."""
    rows = {(row["campaign"], row["subject"]): row for row in map(json.loads, lines)}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    text = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows.values():
        cells = (row.get(name, "") for name in names)
        text.append(
            "| " + " | ".join(f"{c:,}" if isinstance(c, int) else str(c) for c in cells) + " |"
        )
    return "\n".join(text)


if __name__ == "__main__":
    print(table(FIGURES.read_text().splitlines()))
