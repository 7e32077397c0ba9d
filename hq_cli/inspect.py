"""``hq inspect``: what streams have left on disk, at a glance."""

import argparse
import dataclasses
import os

from hq_cli.sizes import format_size
from hq_cli.spool import Row, add_arguments, findings, found, look, show, status
from hq_core import Damage
from hq_core.spool.checking import inspect
from hq_core.spool.finding import Spool, set_aside

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq inspect``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Show what a stream has left on disk, or every stream of a directory: how many records, "
        "where they are, who owns them. Changes nothing, and may be used while a queue runs. "
        "Looks at no more than it must; 'hq verify' walks every record."
    )
    add_arguments(parser, what="a file of a stream, or a directory of streams")


def run(args: argparse.Namespace) -> int:
    """Run ``hq inspect``; returns the exit status."""
    spools = found(args.path)
    rows = look(spools, _row)
    is_list = not spools or spools[0].directory == args.path
    aside = [os.fspath(path) for path in set_aside(args.path)] if is_list else []
    lines = [line for row in rows for line in _lines(row)]
    lines += [f"set aside: {path}" for path in aside]
    show({"streams": rows, "set_aside": aside}, lines or ["no streams"], as_json=args.json)
    return status(rows)


def _row(spool: Spool) -> Row:
    inspection = inspect(spool)
    row = dataclasses.asdict(inspection)
    del row["options"], row["damage_offset"]
    damage = []
    if inspection.damage:
        damage.append(Damage(inspection.damage_offset, 0, inspection.damage))
    return row | {"state": "damaged" if damage else "fine", "damage": findings(damage)}


def _lines(row: Row) -> list[str]:
    owner = f"process {row['owner']}" if row["owner"] else "none"
    lines = [row["path"], f"  stream    {row['stream']}"]
    if "error" in row:
        return [*lines, f"  backend   {row['backend']}", f"  error     {row['error']}"]
    lines += [
        f"  backend   {row['backend']}, {row['format']}",
        f"  owner     {owner}",
        f"  records   {row['records']}, {format_size(row['size_bytes'])}, "
        f"from byte {row['head']} to {row['tail']}",
        f"  position  {row['position']}",
    ]
    if row["torn_bytes"]:
        lines.append(f"  torn      {row['torn_bytes']} bytes at the end, of no record")
    lines += [f"  damage    at byte {d['offset']}: {d['reason']}" for d in row["damage"]]
    return lines
