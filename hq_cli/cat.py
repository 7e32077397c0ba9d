"""``hq cat``: what a stream has left on disk, to standard output."""

import argparse
import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hq_cli.console import Console
from hq_cli.descriptors import Sink, check_open
from hq_cli.errors import CommandError
from hq_cli.printing import printable
from hq_cli.spool import EXIT_STATUS, found, the_failure
from hq_cli.supervision import explain_write
from hq_core import Damage, HybridQueueError
from hq_core.spool.checking import salvage
from hq_core.spool.finding import Spool
from hq_core.spool.repairing import own

__all__ = ["configure", "run"]

_STDOUT: Final = 1
_CANNOT_LOCK: Final = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP, errno.EISDIR}
"""A read-only place, another user's, or one where no file can be made before it has a name."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq cat``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Write every whole record that a stream has left on disk to standard output, oldest first "
        "and one behind the other: what 'hq pipe' would have delivered. Takes nothing out of the "
        "stream. What is damaged is left out, and told. Refuses a stream that a queue has open."
    )
    parser.epilog = EXIT_STATUS
    add = parser.add_argument
    add("path", metavar="FILE|DIR", type=Path, help="a file of the stream, or a directory with one")
    add("--framed", action="store_true", help="4 bytes of length, big-endian, before each record")


def run(args: argparse.Namespace) -> int:
    """Run ``hq cat``; returns the exit status."""
    check_open(_STDOUT, "standard output", writable=True)
    spool = _only(found(args.path), args.path)
    console = Console(sys.stderr)
    places = 0
    with _kept_closed(spool):
        for record in _records(spool):
            if isinstance(record, Damage):
                places += 1
                console.say(printable(f"left out at byte {record.offset}: {record.reason}"))
            else:
                _write(Sink(_STDOUT), record, framed=args.framed)
    return 2 if places else 0


def _only(spools: list[Spool], path: Path) -> Spool:
    if len(spools) != 1:
        there = f"{len(spools)} streams are in {path}: name one of their files"
        raise CommandError(printable(there if spools else f"no stream is in {path}"))
    return spools[0]


def _records(spool: Spool) -> Iterator[bytes | Damage]:
    """The spool's, with what fails told as the command does."""
    try:
        yield from salvage(spool)
    except (HybridQueueError, OSError) as exc:
        raise the_failure(exc) from exc


def _write(sink: Sink, record: bytes, *, framed: bool) -> None:
    try:
        if framed:
            sink.write(len(record).to_bytes(4, "big"))
        sink.write(record)
    except OSError as exc:
        raise CommandError(explain_write(exc)) from exc


@contextlib.contextmanager
def _kept_closed(spool: Spool) -> Iterator[None]:
    """No queue opens the stream within this context; where that cannot be had, none has."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(contextlib.nullcontext() if spool.aside else own(spool))
        except OSError as exc:
            if exc.errno not in _CANNOT_LOCK:
                raise the_failure(exc) from exc
            stack.enter_context(_unchanged(spool))
        except HybridQueueError as exc:
            raise the_failure(exc) from exc
        yield


@contextlib.contextmanager
def _unchanged(spool: Spool) -> Iterator[None]:
    """Raises `CommandError` if a queue has the stream open, or has had it within this context."""
    before = _as_it_is(spool)
    yield
    if _as_it_is(spool) != before:
        raise CommandError(
            printable(f"{spool.path} was opened meanwhile: what was written may not be all of it")
        )


def _as_it_is(spool: Spool) -> tuple[int, ...]:
    if owner := spool.owner():
        raise CommandError(printable(f"{spool.path} is in use by process {owner}"))
    try:
        info = spool.path.lstat()
    except OSError as exc:
        raise the_failure(exc) from exc
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns
