"""Reading again and again, without being deaf to signals meanwhile."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from hq_cli.errors import CommandError
from hq_cli.inbox import ENDED, Inbox
from hq_cli.top.model import Kind, Reading

__all__ = ["Outcome", "Source", "outcomes"]

Outcome = list[Reading] | CommandError
"""What was read, or why nothing was."""


class Source(Protocol):
    """Where streams can be read."""

    @property
    def kind(self) -> Kind:
        """What can be known of them."""

    @property
    def name(self) -> str:
        """The directory or the URL."""

    def read(self) -> list[Reading]:
        """Every stream, as it is now; raises `CommandError`."""


def outcomes(source: Source, inbox: Inbox, interval: float) -> Iterator[Outcome | None]:
    """What `source` reads, with `interval` seconds of rest in between, until a signal comes.

    None: the window has another size. Reading may take as long as a server or a disk likes, so a
    daemon thread does it.
    """
    while True:
        reading = _InBackground(source.read, inbox.post)
        due: float | None = None
        while due is None or time.monotonic() < due:
            message = inbox.wait(None if due is None else due - time.monotonic())
            if not message:
                continue
            if message[0] == ENDED:
                due = time.monotonic() + interval
                yield reading.outcome()
            elif message[0] == signal.SIGWINCH:
                yield None
            else:
                return


class _InBackground:
    def __init__(self, read: Callable[[], list[Reading]], ended: Callable[[], None]) -> None:
        self._read = read
        self._ended = ended
        self._outcome: Outcome | None = None
        self._failure: Exception | None = None
        threading.Thread(target=self._run, name="hq-top", daemon=True).start()

    def outcome(self) -> Outcome:
        """Once it has ended; raises what nobody has foreseen."""
        if self._failure:
            raise self._failure
        assert self._outcome is not None
        return self._outcome

    def _run(self) -> None:
        try:
            self._outcome = self._read()
        except CommandError as exc:
            self._outcome = exc
        except Exception as exc:
            self._failure = exc
        self._ended()
