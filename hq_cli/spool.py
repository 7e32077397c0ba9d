"""What `hq inspect`, `verify`, `cat` and `repair` have in common.

Each looks at streams one by one: what fails for one is told of it, and does not keep the others
from being looked at. File names and the messages about them are written by strangers, and are
escaped before they reach a terminal.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from hq_cli.errors import CommandError
from hq_cli.printing import print_lines, printable
from hq_cli.supervision import explain_write
from hq_core import Damage, HybridQueueError
from hq_core.spool.checking import Checked
from hq_core.spool.finding import Spool, find

__all__ = [
    "EXIT_STATUS",
    "Row",
    "add_arguments",
    "damage_lines",
    "describe",
    "explain",
    "findings",
    "found",
    "look",
    "moved",
    "show",
    "status",
    "the_failure",
]

EXIT_STATUS: Final = "Exit status: 0 fine, 1 an error, 2 damaged."

Row = dict[str, Any]
"""What is told of a stream, under the names that ``--json`` has for it."""


def add_arguments(parser: argparse.ArgumentParser, *, what: str, is_needed: bool = True) -> None:
    """Give `parser` the place to look at and ``--json``."""
    parser.add_argument(
        "path", metavar="FILE|DIR", type=Path, help=what, nargs=None if is_needed else "?"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.epilog = EXIT_STATUS


def found(path: Path) -> list[Spool]:
    """The streams at `path`; raises `CommandError` if there is no such place."""
    try:
        return find(path)
    except (HybridQueueError, OSError) as exc:
        raise the_failure(exc) from exc


def moved(row: Row, held: Path, path: Path) -> Row:
    """What was found by the name `held`, as found at `path`."""
    return {
        key: value.replace(f"{held}/", f"{path}/") if key in {"path", "error"} else value
        for key, value in row.items()
    }


def look(spools: Sequence[Spool], at: Callable[[Spool], Row]) -> list[Row]:
    """What `at` tells of each; an error that it raises is told in its stead."""
    return [_look(spool, at) for spool in spools]


def _look(spool: Spool, at: Callable[[Spool], Row]) -> Row:
    row: Row = {
        "stream": spool.stream_id,
        "path": os.fspath(spool.path),
        "backend": spool.backend.name,
        "owner": spool.owner(),
        "state": "error",
    }
    try:
        return row | at(spool)
    except (HybridQueueError, OSError) as exc:  # about this stream; the next may be fine
        return row | {"error": explain(exc)}


def describe(checked: Checked) -> Row:
    """What walking a stream has found."""
    inspection = dataclasses.asdict(checked.inspection)
    del inspection["damage"], inspection["options"]
    return inspection | {
        "state": "damaged" if checked.places else "fine",
        "records": checked.records,
        "payload_bytes": checked.payload_bytes,
        "damage": findings(checked.damage),
        "damaged_places": checked.places,
    }


def findings(damage: Sequence[Damage]) -> list[Row]:
    """Damaged places, for people and programs."""
    return [dataclasses.asdict(place) for place in damage]


def damage_lines(row: Row) -> list[str]:
    """A line for each damaged place that is told."""
    places = row["damage"]
    lines = [
        f"  at byte {place['offset']}"
        + (f", {place['size_bytes']} bytes" if place["size_bytes"] else "")
        + f": {place['reason']}"
        for place in places
    ]
    more = row["damaged_places"] - len(places)
    return [*lines, f"  and {more} more"] if more else lines


def show(document: Row, lines: Sequence[str], *, as_json: bool) -> None:
    """Print `document` as JSON, or `lines`."""
    try:
        print_lines([json.dumps(document, indent=2)] if as_json else list(map(printable, lines)))
    except OSError as exc:
        raise CommandError(explain_write(exc)) from exc


def status(rows: Sequence[Row]) -> int:
    """The exit status for what was found."""
    states = {row["state"] for row in rows}
    return 1 if "error" in states else 2 if "damaged" in states else 0


def the_failure(exc: Exception) -> CommandError:
    """What to tell of `exc`, safely."""
    return CommandError(printable(explain(exc)))


def explain(exc: Exception) -> str:
    """What to tell of `exc`, in words."""
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return str(exc)
