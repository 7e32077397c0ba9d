"""The arguments of ``hq top``, and what it does with them."""

import argparse
import contextlib
import dataclasses
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hq_cli.arguments import seconds
from hq_cli.descriptors import Sink, check_open
from hq_cli.errors import CommandError
from hq_cli.inbox import receiving
from hq_cli.supervision import STOP_SIGNALS, explain_write
from hq_cli.top.directory import Directory
from hq_cli.top.endpoint import Endpoint
from hq_cli.top.model import History, View, document
from hq_cli.top.sampling import Outcome, Source, outcomes

__all__ = ["configure", "run"]

_STDOUT: Final = 1

Show = Callable[[View], None]


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq top``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Show streams as they are now: how full, how fast, and how that was lately; the fullest "
        "first. From a spool directory: what is stored there, whoever owns it; how much is in "
        "memory cannot be seen from outside. From a metrics page, such as 'hq pipe --metrics' "
        "serves: all of it. Blank is what is not known. Ctrl-C ends it."
    )
    parser.epilog = "Exit status: 0 fine, also when interrupted; 1 an error."
    add = parser.add_argument
    add("source", metavar="DIR|URL", help="a spool directory, or http://HOST:PORT/metrics")
    add("--interval", type=seconds, default=1.0, metavar="SEC", help="seconds between readings (1)")
    add("--once", action="store_true", help="read twice, print what is found as text, and end")
    add("--json", action="store_true", help="print a JSON object a line, one for each reading")


def run(args: argparse.Namespace) -> int:
    """Run ``hq top``; returns the exit status."""
    check_open(_STDOUT, "standard output", writable=True)
    source = _source(args.source)
    is_live = not (args.once or args.json)
    signals = (*STOP_SIGNALS, signal.SIGWINCH) if is_live else STOP_SIGNALS
    with contextlib.ExitStack() as stack:
        inbox = stack.enter_context(receiving(signals))
        views = _views(outcomes(source, inbox, args.interval), source)
        first = next(views, None)  # if it fails, that is said where it stays
        if first is None:
            return 0
        show = _show(args, stack)
        if not args.once:
            show(first)
            for view in views:
                show(view)
        elif (second := next(views, None)) is None:
            raise CommandError("interrupted between the two readings")
        elif second.failure:
            raise CommandError(second.failure)
        else:
            show(second)
    return 0


def _source(place: str) -> Source:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place):
        return Endpoint(place)
    return Directory(Path(place))


def _views(found: Iterator[Outcome | None], source: Source) -> Iterator[View]:
    """A view for each outcome; raises the failure of the first one, tells of those after it."""
    history = History()
    view: View | None = None
    for outcome in found:
        if isinstance(outcome, CommandError):
            if view is None:
                raise outcome
            view = dataclasses.replace(view, failure=str(outcome))
        elif outcome is not None:
            rows = history.add(outcome, time.monotonic())
            view = View(source.name, source.kind, time.time(), rows)
        if view is not None:
            yield view


def _show(args: argparse.Namespace, stack: contextlib.ExitStack) -> Show:
    """How a view is shown; `stack` ends it."""
    if args.json:
        return lambda view: _print(json.dumps(document(view)) + "\n")
    from hq_cli.top import screen  # an extra, and slow to import

    if args.once:
        return lambda view: _print(screen.plain(view))
    return stack.enter_context(screen.live())


def _print(text: str) -> None:
    """Unbuffered, so that nothing is left to fail at the end."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        Sink(_STDOUT).write(text.encode(encoding, "replace"))
    except OSError as exc:
        raise CommandError(explain_write(exc)) from exc
