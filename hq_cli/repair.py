"""``hq repair``: what is whole in the place of what is damaged."""

import argparse
import os

from hq_cli.sizes import format_size
from hq_cli.spool import Row, add_arguments, damage_lines, describe, found, look, show, status
from hq_core.spool.checking import check
from hq_core.spool.finding import Spool
from hq_core.spool.repairing import repair

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq repair``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Say what a repair of a damaged stream, or of every one in a directory, would keep and "
        "leave out. With --apply, do it: write the whole records to a new file, which takes the "
        "place of the damaged one. That is kept, as a backup with the date in its name. Nothing "
        "is ever guessed; what is doubtful comes again rather than being lost."
    )
    add_arguments(parser, what="a file of a stream, or a directory of streams")
    parser.add_argument("--apply", action="store_true", help="do it; the stream must be closed")
    parser.epilog = "Exit status: 0 nothing is damaged any more, 1 an error, 2 damaged."


def run(args: argparse.Namespace) -> int:
    """Run ``hq repair``; returns the exit status."""
    rows = look(found(args.path), _repaired if args.apply else _planned)
    lines = [line for row in rows for line in _lines(row)]
    show({"streams": rows, "applied": args.apply}, lines or ["no streams"], as_json=args.json)
    return status(rows)


def _planned(spool: Spool) -> Row:
    return describe(check(spool)) | {"backup": None}


def _repaired(spool: Spool) -> Row:
    before = describe(check(spool))
    if before["state"] == "fine" and not os.path.lexists(spool.scratch):
        return before | {"backup": None}
    backup = repair(spool)
    if backup is None:
        return before | {"backup": None}
    return before | {"state": "repaired", "backup": os.fspath(backup)}


def _lines(row: Row) -> list[str]:
    if "error" in row:
        return [f"{row['path']}: error: {row['error']}"]
    kept = f"{row['records']} whole records, {format_size(row['payload_bytes'])}"
    places = row["damaged_places"]
    left_out = "1 damaged place" if places == 1 else f"{places} damaged places"
    match row["state"]:
        case "fine":
            return [f"{row['path']}: fine, nothing to do"]
        case "repaired":
            text = f"repaired, keeps {kept}, without {left_out}; what was there is {row['backup']}"
        case _:
            text = f"DAMAGED; a repair would keep {kept}, without {left_out}; --apply does it"
    return [f"{row['path']}: {text}", *damage_lines(row)]
