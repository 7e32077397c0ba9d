"""Standard error: lines that stay, above one status line that is drawn again and again."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from hq_cli.printing import printable

__all__ = ["Console"]

_ERASE: Final = "\r\x1b[K"


class Console:
    """Writes to `stream`, from any thread. Never raises: where nobody reads, nobody is told.

    Closed standard error is `stream` None, as in `sys.stderr`.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._status = ""

    def is_terminal(self) -> bool:
        """Whether somebody may be watching."""
        return self._stream is not None and self._stream.isatty()

    def width(self) -> int | None:
        """Characters that fit on one line without wrapping; None if this is no terminal."""
        try:
            assert self._stream is not None
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (AssertionError, OSError, ValueError):
            return None
        return max(columns - 1, 1) if columns else None

    def say(self, text: str) -> None:
        """A line that stays: ``hq: `` and `text`."""
        with self._lock:
            erase = _ERASE if self._status else ""
            self._write(f"{erase}hq: {text}\n{self._status}")

    def show(self, status: str) -> None:
        """Make `status` the status line."""
        with self._lock:
            self._status = status
            self._write(_ERASE + status)

    def clear(self) -> None:
        """Take the status line away."""
        with self._lock:
            if self._status:
                self._status = ""
                self._write(_ERASE)

    @contextlib.contextmanager
    def relaying(self, logger: logging.Logger, words: Callable[[str], str] = str) -> Iterator[None]:
        """Within this context the warnings of `logger`, put in `words`, are lines that stay."""
        handler = _Relay(self, words)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def _write(self, text: str) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()


class _Relay(logging.Handler):
    def __init__(self, console: Console, words: Callable[[str], str]) -> None:
        super().__init__(logging.WARNING)
        self._console = console
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        self._console.say(printable(self._words(record.getMessage())))
