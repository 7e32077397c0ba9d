"""``hq pipe``: standard input to standard output through a queue."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from hq_cli import temporary
from hq_cli.arguments import address, block_size, seconds, size
from hq_cli.console import Console
from hq_cli.descriptors import Sink, Source, check_open
from hq_cli.errors import CommandError
from hq_cli.inbox import receiving
from hq_cli.metrics import serve_metrics
from hq_cli.options import parse_options
from hq_cli.printing import printable
from hq_cli.report import Report
from hq_cli.sizes import format_size
from hq_cli.status import summary
from hq_cli.supervision import STOP_SIGNALS, explain_write, supervise
from hq_cli.transfer import Transfer
from hq_cli.wording import wording
from hq_core import BytesTier, CorruptedData, HybridQueue, StreamBusyError, Unlimited

__all__ = ["configure", "run"]

_STDIN: Final = 0
_STDOUT: Final = 1
_BYTES_PER_ITEM: Final = 512
"""The memory tier's item limit is `--memory` over this, so that what a block costs besides its
bytes (less than a tenth of this) stays small however short the blocks are."""
_FEWEST_ITEMS: Final = 16
_DAMAGED: Final = "'hq repair' keeps what is whole, --leftover quarantine sets it all aside"
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
        "A pipe that is started again after a kill: --dir, --name and --leftover resume. Exit "
        "status: 0 everything was delivered, 1 an error, 2 delivered except for what --when-full "
        "dropped."
    )
    _add_queue_options(parser)
    _add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``hq pipe``; returns the exit status."""
    if args.memory < args.block_size:
        raise CommandError(
            "--memory is less than --block-size: one block must fit; raise one or lower the other"
        )
    if args.leftover != "refuse" and None in {args.dir, args.name}:
        raise CommandError(
            f"--leftover {args.leftover} needs --dir and --name: a pipe without them finds nothing "
            "of an earlier one"
        )
    args.name = f"pipe-{os.getpid()}" if args.name is None else args.name
    check_open(_STDIN, "standard input", writable=False)
    check_open(_STDOUT, "standard output", writable=True)
    console = Console(sys.stderr)
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_open_lines(args.jsonl)) if args.jsonl else None
        left = [] if args.dir else temporary.clear()
        directory = args.dir or stack.enter_context(temporary.new())
        words = wording(directory, args.name)
        stack.enter_context(console.relaying(logging.getLogger("hq_core"), words))
        queue = stack.enter_context(_opened(args, directory, words))
        if not args.quiet:
            _tell_what_is_left(console, queue, left)
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
        status = _conclude(transfer, queue, report, console, finished=finished, args=args)
        if not finished:
            queue.close()  # what is left is not wanted
        return status


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
    add("--name", help="of the stream and its file (pipe-PID)")
    add(
        "--leftover",
        choices=["resume", "discard", "refuse", "quarantine"],
        default="refuse",
        help="what a killed pipe of that --name left in --dir: deliver it first (resume), delete "
        "it (discard), stop with an error (refuse, the default), or set it aside (quarantine)",
    )


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
    args: argparse.Namespace,
) -> int:
    """Say how it went, and return the exit status."""
    reading = report.last()
    left = format_size(report.left())
    if transfer.write_failure:
        told = f"error: {explain_write(transfer.write_failure)}; {left} not delivered"
        if finished and args.leftover == "resume" and reading.disk_bytes:
            told += f", {format_size(reading.disk_bytes)} of it stay on disk"
            told += f"; {_DAMAGED}" * isinstance(transfer.write_failure, CorruptedData)
        console.say(printable(told))
    if not finished:
        console.say(f"error: interrupted twice; {left} discarded")
    if transfer.read_failure or transfer.write_failure or not finished:
        return 1
    if not args.quiet:
        stats = queue.stats()
        console.say(summary(reading, blocks=stats.enqueued, spilled=stats.spilled))
    elif reading.dropped:
        console.say(f"{reading.dropped} blocks dropped")
    return 2 if reading.dropped else 0


@contextlib.contextmanager
def _opened(
    args: argparse.Namespace, directory: Path, words: Callable[[str], str]
) -> Iterator[HybridQueue]:
    """The queue. With --leftover resume an end by an error keeps what is stored, as a kill does."""
    with _open_queue(args, directory, words) as queue:
        try:
            yield queue
        finally:
            if args.leftover == "resume":
                queue._engine.close(keep=True)  # of a queue that was closed nothing is kept


def _open_queue(
    args: argparse.Namespace, directory: Path, words: Callable[[str], str]
) -> HybridQueue:
    try:
        return HybridQueue(
            args.name,
            None,
            directory,
            backend=args.backend,
            backend_options=parse_options(args.backend, args.options),
            memory=BytesTier(args.memory, max(args.memory // _BYTES_PER_ITEM, _FEWEST_ITEMS)),
            limiter=Unlimited(),
            leftover=args.leftover,
            on_corruption="raise",
            max_overflow_bytes=args.max_disk,
            when_full=args.when_full.replace("-", "_"),
        )
    except StreamBusyError as exc:
        told = words(str(exc))
        choice = "" if "--name or --dir" in told else ", or choose another --name or --dir"
        raise CommandError(printable(told + choice)) from exc
    except CorruptedData as exc:
        raise CommandError(printable(f"{words(str(exc))}; {_DAMAGED}")) from exc
    except ValueError as exc:
        raise CommandError(str(exc)) from exc


def _tell_what_is_left(
    console: Console, queue: HybridQueue, left: Sequence[tuple[Path, int]]
) -> None:
    """Say what killed pipes have left: what is delivered first, and temporary spools."""
    if stored := queue.recovery.size_bytes:
        console.say(f"{format_size(stored)} of an earlier pipe come first")
    if left:
        count = "a killed pipe has" if len(left) == 1 else f"{len(left)} killed pipes have"
        size = format_size(sum(size for _, size in left))
        console.say(f"{count} left {size} in {left[0][0].parent}: 'hq inspect' shows them")


def _batch(memory: int, block_size: int) -> int:
    """How many blocks the writing thread takes at once: what it holds is in no tier's account."""
    return max(1, min(_MOST_IN_HAND, memory // 4) // block_size)


def _open_lines(path: Path) -> FileIO:
    """Unbuffered: every line is seen when it is written, and none is left to fail at closing."""
    try:
        return FileIO(path, "w")
    except OSError as exc:
        raise CommandError(f"cannot write --jsonl {path}: {exc.strerror}") from exc
