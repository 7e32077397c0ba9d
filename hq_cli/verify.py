"""``hq verify``: every record of what streams have left on disk, looked at."""

import argparse

from hq_cli.sizes import format_size
from hq_cli.spool import Row, add_arguments, damage_lines, describe, found, look, show, status
from hq_core.spool.checking import check
from hq_core.spool.finding import Spool

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq verify``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Walk every record that a stream, or every stream of a directory, has left on disk, and "
        "tell where there is none to be had. Changes nothing. While a queue is writing, what it "
        "is about to change may look damaged: verify again once it is closed. A payload that was "
        "changed shows only in the format with checksums."
    )
    add_arguments(parser, what="a file of a stream, or a directory of streams")


def run(args: argparse.Namespace) -> int:
    """Run ``hq verify``; returns the exit status."""
    rows = look(found(args.path), _row)
    lines = [line for row in rows for line in _lines(row)]
    show({"streams": rows}, lines or ["no streams"], as_json=args.json)
    return status(rows)


def _row(spool: Spool) -> Row:
    return describe(check(spool))


def _lines(row: Row) -> list[str]:
    if "error" in row:
        return [f"{row['path']}: error: {row['error']}"]
    verdict = "DAMAGED" if row["damage"] else "fine"
    text = f"{row['path']}: {verdict}, {row['records']} whole records"
    text += f", {format_size(row['payload_bytes'])}"
    if row["owner"]:
        text += f"; in use by process {row['owner']}"
    return [text, *damage_lines(row)]
