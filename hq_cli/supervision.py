"""What the main thread does while a pipe runs, and what it says when it is over."""

import signal
import time
from typing import Final

from hq_cli.console import Console
from hq_cli.inbox import ENDED, Inbox
from hq_cli.report import Report
from hq_cli.sizes import format_size
from hq_cli.transfer import Transfer
from hq_core import BackendUnavailable, HybridQueueError, QueueFull, StreamLostError

__all__ = ["STOP_SIGNALS", "explain_read", "explain_write", "supervise"]

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_ONE_REQUEST: Final = 0.1
"""Seconds. Signals this close together are one request: ``timeout`` sends each twice, a terminal
that closes may, too."""


def supervise(
    transfer: Transfer, inbox: Inbox, report: Report, console: Console, interval: float
) -> bool:
    """Report every `interval` seconds until `transfer` is finished; False: told to give up.

    The first signal stops the reading, the second one gives up. Tells of a failure to read at once,
    since delivering what was read before may take long; a lost stream fails the writing too.
    """
    told = False
    stopped_at: float | None = None
    due = time.monotonic() + interval
    while True:
        message = inbox.wait(due - time.monotonic() if report.wanted() else None)
        now = time.monotonic()
        if now >= due:
            report.tick()
            due += interval * ((now - due) // interval + 1)
        if not message:
            continue
        if message[0] == ENDED:
            failure = transfer.read_failure
            if failure and not told and not isinstance(failure, StreamLostError):
                told = True
                console.say(f"error: {explain_read(failure)}; delivering what was read before")
            if transfer.finished:
                return True
        elif stopped_at is None:
            stopped_at = now
            transfer.stop()
            console.say(
                f"stopped reading, {format_size(report.left())} still to be written; "
                "interrupt again to discard it"
            )
        elif now - stopped_at >= _ONE_REQUEST:
            return False


def explain_read(failure: Exception) -> str:
    """Why reading has ended, in words; raises what nobody has foreseen."""
    match failure:
        case QueueFull():
            advice = "allow more with --max-disk, or wait for room with --when-full block"
            return f"{failure} ({advice})"
        case BackendUnavailable():
            return f"{failure} (--when-full block waits until it is back)"
        case HybridQueueError():
            return str(failure)
        case OSError():
            return f"cannot read standard input: {failure.strerror}"
        case _:
            raise failure


def explain_write(failure: Exception) -> str:
    """Likewise of writing."""
    match failure:
        case BrokenPipeError():
            return "the reader of standard output went away"
        case StreamLostError():
            return f"{failure}, and with it all that was stored"
        case HybridQueueError():
            return str(failure)
        case OSError():
            return f"cannot write standard output: {failure.strerror}"
        case _:
            raise failure
