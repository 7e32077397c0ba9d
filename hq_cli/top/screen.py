"""Views on a terminal, or as plain text, by rich. Extra ``[tui]``.

Whatever comes from outside is a `Text`, which rich does not interpret, and escaped before.
"""

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from hq_cli.errors import CommandError
from hq_cli.printing import printable
from hq_cli.top.model import View
from hq_cli.top.table import GAP, fitting

try:
    from rich.cells import cell_len
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as exc:
    raise CommandError("'hq top' needs an extra: pip install 'hybrid-queue[tui]'") from exc

__all__ = ["live", "picture", "plain"]

_WIDE: Final = 200
"""Characters in a line of plain text: room for all columns and long names."""
_HEADINGS: Final = 2


@contextlib.contextmanager
def live() -> Iterator[Callable[[View], None]]:
    """The terminal, whole, until the context ends: it draws the view it is given."""
    console = Console(file=sys.stdout, highlight=False)
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        raise CommandError("standard output is no terminal to draw on: use --once or --json")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a stream may have a name that it cannot show
    with Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as screen:

        def show(view: View) -> None:
            width, height = console.size
            screen.update(picture(view, width, height), refresh=True)

        yield show


def plain(view: View) -> str:
    """`view` as lines of text, however long, without any style."""
    text = io.StringIO()
    console = Console(file=text, width=_WIDE, color_system=None, force_terminal=False)
    console.print(picture(view, _WIDE, len(view.rows) + _HEADINGS))
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def picture(view: View, width: int, height: int) -> RenderableType:
    """`view` in so many columns and lines; what does not fit is counted."""
    room = max(height - _HEADINGS, 0)
    shown = view.rows if len(view.rows) <= room else view.rows[: max(room - 1, 0)]
    longest = max([cell_len(printable(row.reading.stream)) for row in view.rows], default=0)
    columns = fitting(view.kind, width, longest)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for column, has in columns:
        table.add_column(
            column.title,
            justify="left" if column.is_text else "right",
            width=has,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in shown:
        table.add_row(
            *(
                Text(column.cell(row, has), "bold yellow" if column.is_warning(row) else "")
                for column, has in columns
            )
        )
    parts: list[RenderableType] = [_title(view), table]
    if len(shown) < len(view.rows):
        parts.append(_line(f"and {len(view.rows) - len(shown)} more", "dim"))
    return Group(*parts)


def _title(view: View) -> Text:
    count = f"{len(view.rows)} stream{'' if len(view.rows) == 1 else 's'}"
    clock = time.strftime("%H:%M:%S", time.localtime(view.time))
    if view.failure:
        return _line(f"{clock}: {view.failure}", "bold red")
    return _line(f"{clock}  {count}  {view.source}", "bold")


def _line(text: str, style: str) -> Text:
    return Text(printable(text), style, no_wrap=True, overflow="ellipsis")
