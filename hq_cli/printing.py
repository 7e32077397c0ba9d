"""Text for standard output, whatever the terminal obeys and whatever the locale can show."""

import sys
from collections.abc import Sequence
from contextlib import suppress

__all__ = ["print_lines", "printable"]


def printable(text: str) -> str:
    """`text` with whatever a terminal might obey, or cannot show, escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def print_lines(lines: Sequence[str]) -> None:
    """Print `lines`; what standard output cannot encode is escaped. Raises `OSError`.

    Nothing is printed to a closed standard output, as by `print`.
    """
    out = sys.stdout
    if out is None:
        return
    text = "".join(f"{line}\n" for line in lines)
    encoding = out.encoding or "utf-8"  # none: a stream of text in memory
    try:
        out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        out.flush()
    except OSError:
        with suppress(OSError):
            out.close()  # so that nobody tries again, and complains, at the end of the process
        raise
