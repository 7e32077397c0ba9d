"""``hq inspect``: what streams have left on disk, at a glance."""

import argparse
import dataclasses
import os
import time

from hq_cli import temporary
from hq_cli.sizes import format_duration, format_size
from hq_cli.spool import Row, add_arguments, explain, findings, found, look, moved, show, status
from hq_core import Damage, HybridQueueError
from hq_core.spool.checking import inspect
from hq_core.spool.finding import Spool, find, set_aside

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq inspect``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Show what a stream has left on disk, or every stream of a directory: how many records, "
        "where they are, who owns them. Changes nothing, and may be used while a queue runs. "
        "Looks at no more than it must; 'hq verify' walks every record. Without an argument: the "
        "temporary directories of your pipes that had no --dir, in TMPDIR, or in /var/tmp."
    )
    what = "a file of a stream, or a directory of streams; nothing: what pipes left"
    add_arguments(parser, what=what, is_needed=False)


def run(args: argparse.Namespace) -> int:
    """Run ``hq inspect``; returns the exit status."""
    if args.path is None:
        return _temporaries(as_json=args.json)
    spools = found(args.path)
    rows = look(spools, _row)
    is_list = not spools or spools[0].directory == args.path
    aside = [os.fspath(path) for path in set_aside(args.path)] if is_list else []
    lines = [line for row in rows for line in _lines(row)]
    lines += [f"set aside: {path}" for path in aside]
    show({"streams": rows, "set_aside": aside}, lines or ["no streams"], as_json=args.json)
    return status(rows)


def _temporaries(*, as_json: bool) -> int:
    """Show what pipes without a directory of their own have, or have left."""
    where = temporary.place()
    rows = [_temporary(spool) for spool in temporary.temporaries(where)]
    lines = [line for row in rows for line in _temporary_lines(row)]
    if not rows:
        lines = [f"no temporary spools of yours in {where}"]
    show({"place": os.fspath(where), "temporary": rows}, lines, as_json=as_json)
    errors = [row for row in rows if row["state"] == "error"]
    return status([stream for row in rows for stream in row["streams"]] + errors)


def _temporary(spool: temporary.Temporary) -> Row:
    row: Row = {"path": os.fspath(spool.path), "owner": None, "state": "error"}
    row |= {"streams": [], "set_aside": []}
    try:
        size, written = spool.usage()
        streams = [moved(r, spool.held, spool.path) for r in look(find(spool.held), _row)]
        aside = [os.fspath(spool.path / path.name) for path in set_aside(spool.held)]
        owner = spool.owner()
        state = "in use" if owner else "empty" if spool.is_bare() else "left"
    except (HybridQueueError, OSError) as exc:  # about this one; the next may be fine
        return row | {"error": explain(exc)}
    age = max(0.0, time.time() - written)
    row |= {"streams": streams, "set_aside": aside, "owner": owner}
    return row | {"state": state, "size_bytes": size, "age_seconds": round(age, 3)}


def _temporary_lines(row: Row) -> list[str]:
    if "error" in row:
        return [row["path"], f"  error     {row['error']}"]
    return [
        row["path"],
        f"  owner     {_owner(row)}",
        f"  size      {format_size(row['size_bytes'])} on disk",
        f"  age       {format_duration(row['age_seconds'])} since it was last written",
        *(f"  stream    {_holds(stream)}" for stream in row["streams"]),
        *(f"  aside     {path}" for path in row["set_aside"]),
        *(["  state     nothing is in it: the next pipe removes it"] * (row["state"] == "empty")),
    ]


def _holds(stream: Row) -> str:
    if "error" in stream:
        return f"{stream['stream']}: error: {stream['error']}"
    text = f"{stream['stream']}: {stream['records']} records, {format_size(stream['size_bytes'])}"
    return text + "".join(f"; damaged: {place['reason']}" for place in stream["damage"])


def _owner(row: Row) -> str:
    return f"process {row['owner']}" if row["owner"] else "none"


def _row(spool: Spool) -> Row:
    inspection = inspect(spool)
    row = dataclasses.asdict(inspection)
    del row["options"], row["damage_offset"]
    damage = []
    if inspection.damage:
        damage.append(Damage(inspection.damage_offset, 0, inspection.damage))
    return row | {"state": "damaged" if damage else "fine", "damage": findings(damage)}


def _lines(row: Row) -> list[str]:
    lines = [row["path"], f"  stream    {row['stream']}"]
    if "error" in row:
        return [*lines, f"  backend   {row['backend']}", f"  error     {row['error']}"]
    lines += [
        f"  backend   {row['backend']}, {row['format']}",
        f"  owner     {_owner(row)}",
        f"  records   {row['records']}, {format_size(row['size_bytes'])}, "
        f"from byte {row['head']} to {row['tail']}",
        f"  position  {row['position']}",
    ]
    if row["torn_bytes"]:
        lines.append(f"  torn      {row['torn_bytes']} bytes at the end, of no record")
    lines += [f"  damage    at byte {d['offset']}: {d['reason']}" for d in row["damage"]]
    return lines
