"""``hq pipe``: standard input to standard output through a queue."""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Final

from hq_cli.arguments import address, block_size, seconds, size
from hq_cli.console import Console
from hq_cli.descriptors import Sink, Source, check_open
from hq_cli.errors import CommandError
from hq_cli.inbox import receiving
from hq_cli.metrics import serve_metrics
from hq_cli.options import parse_options
from hq_cli.report import Report
from hq_cli.sizes import format_size
from hq_cli.status import summary
from hq_cli.supervision import STOP_SIGNALS, explain_write, supervise
from hq_cli.transfer import Transfer
from hq_core import BytesTier, HybridQueue, StreamBusyError, Unlimited

__all__ = ["configure", "run"]

_STDIN: Final = 0
_STDOUT: Final = 1
_BYTES_PER_ITEM: Final = 512
"""The memory tier's item limit is `--memory` over this, so that what a block costs besides its
bytes (less than a tenth of this) stays small however short the blocks are."""
_FEWEST_ITEMS: Final = 16
_LARGE_TEMPORARY: Final = "/var/tmp"
_MOST_IN_HAND: Final = 1024 * 1024
"""Most bytes the writing thread takes out of the queue at once."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq pipe``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Copy standard input to standard output through a queue: in memory while there is room, "
        "then on disk, every byte in order. The first Ctrl-C stops reading and delivers the rest; "
        "the second discards it. Sizes take K, M, G and T (binary)."
    )
    parser.epilog = (
        "Exit status: 0 everything was delivered, 1 an error, 2 delivered except for what "
        "--when-full dropped."
    )
    _add_queue_options(parser)
    _add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``hq pipe``; returns the exit status."""
    if args.memory < args.block_size:
        raise CommandError(
            "--memory is less than --block-size: one block must fit; raise one or lower the other"
        )
    check_open(_STDIN, "standard input", writable=False)
    check_open(_STDOUT, "standard output", writable=True)
    console = Console(sys.stderr)
    with contextlib.ExitStack() as stack:
        stack.enter_context(console.relaying(logging.getLogger("hq_core")))
        lines = stack.enter_context(_open_lines(args.jsonl)) if args.jsonl else None
        queue = stack.enter_context(_open_queue(args, stack.enter_context(_directory(args.dir))))
        if args.metrics:
            console.say(f"metrics at {serve_metrics(queue, *args.metrics)}")
        inbox = stack.enter_context(receiving(STOP_SIGNALS))
        source = Source(_STDIN, args.block_size)
        stack.callback(source.stop)
        batch = _batch(args.memory, args.block_size)
        transfer = Transfer(queue, source, Sink(_STDOUT), batch=batch, ended=inbox.post)
        live = args.force_status or (console.is_terminal() and not args.quiet)
        report = Report(queue, transfer, args.memory, console=console, live=live, lines=lines)
        transfer.start()
        finished = supervise(transfer, inbox, report, console, args.interval)
        return _conclude(transfer, queue, report, console, finished=finished, quiet=args.quiet)


def _add_queue_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--memory", type=size, default="64M", metavar="SIZE", help="most bytes in memory (64M)")
    add("--dir", type=Path, help="where the overflow goes (a temporary directory of its own)")
    add("--max-disk", type=size, default="10G", metavar="SIZE", help="most bytes on disk (10G)")
    add(
        "--when-full",
        choices=["block", "raise", "drop-oldest", "drop-newest"],
        default="block",
        help="memory and disk full: wait (block), stop with an error (raise), or lose something",
    )
    add(
        "--block-size",
        type=block_size,
        default="64K",
        metavar="SIZE",
        help="most bytes read at once (64K)",
    )
    add("--backend", default="file", metavar="NAME", help="'hq backends' lists them (file)")
    add(
        "-o",
        dest="options",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the backend; may be repeated",
    )
    add("--name", default=f"pipe-{os.getpid()}", help="of the stream and its file (pipe-PID)")


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--interval", type=seconds, default=1.0, metavar="SEC", help="seconds between readings (1)")
    add("--jsonl", type=Path, metavar="FILE", help="write the readings there, a JSON object a line")
    add(
        "--metrics",
        type=address,
        metavar="HOST:PORT",
        help="serve the metrics of the queue to Prometheus there; port 0: any that is free",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="no status line, no summary")
    shown.add_argument(
        "--force-status",
        action="store_true",
        help="a status line even where standard error is no terminal",
    )


def _conclude(
    transfer: Transfer,
    queue: HybridQueue,
    report: Report,
    console: Console,
    *,
    finished: bool,
    quiet: bool,
) -> int:
    """Say how it went, and return the exit status."""
    reading = report.last()
    left = format_size(report.left())
    if transfer.write_failure:
        console.say(f"error: {explain_write(transfer.write_failure)}; {left} not delivered")
    if not finished:
        console.say(f"error: interrupted twice; {left} discarded")
    if transfer.read_failure or transfer.write_failure or not finished:
        return 1
    if not quiet:
        stats = queue.stats()
        console.say(summary(reading, blocks=stats.enqueued, spilled=stats.spilled))
    elif reading.dropped:
        console.say(f"{reading.dropped} blocks dropped")
    return 2 if reading.dropped else 0


def _open_queue(args: argparse.Namespace, directory: Path) -> HybridQueue:
    try:
        return HybridQueue(
            args.name,
            None,
            directory,
            backend=args.backend,
            backend_options=parse_options(args.backend, args.options),
            memory=BytesTier(args.memory, max(args.memory // _BYTES_PER_ITEM, _FEWEST_ITEMS)),
            limiter=Unlimited(),
            leftover="refuse",
            on_corruption="raise",
            max_overflow_bytes=args.max_disk,
            when_full=args.when_full.replace("-", "_"),
        )
    except StreamBusyError as exc:
        raise CommandError(f"{exc}; or choose another --name or --dir") from exc
    except ValueError as exc:
        raise CommandError(str(exc)) from exc


def _batch(memory: int, block_size: int) -> int:
    """How many blocks the writing thread takes at once: what it holds is in no tier's account."""
    return max(1, min(_MOST_IN_HAND, memory // 4) // block_size)


@contextlib.contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    """Where the overflow goes: `given`, or a temporary directory that goes with the context.

    Under TMPDIR if set, else ``/var/tmp``, since ``/tmp`` is often in memory.
    """
    if given is not None:
        yield given
        return
    own_choice = os.environ.get("TMPDIR") or not os.access(_LARGE_TEMPORARY, os.W_OK)
    parent = None if own_choice else _LARGE_TEMPORARY
    with tempfile.TemporaryDirectory(prefix="hq-pipe-", dir=parent) as name:
        yield Path(name)


def _open_lines(path: Path) -> FileIO:
    """Unbuffered: every line is seen when it is written, and none is left to fail at closing."""
    try:
        return FileIO(path, "w")
    except OSError as exc:
        raise CommandError(f"cannot write --jsonl {path}: {exc.strerror}") from exc
