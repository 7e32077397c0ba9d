"""The command line: which subcommand, and how failures are told."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from hq_cli.errors import CommandError

__all__ = ["main"]

COMMANDS: Final = {
    "pipe": "buffer a stream between two programs, in memory and then on disk",
    "demo": "show a queue riding out a stalled consumer, with a picture as the proof",
    "backends": "list the overflow backends and what they promise",
    "check": "run the conformance suite on a backend",
    "bench": "measure a backend beside the bare file system",
    "top": "show streams as they are now, how fast they move and how full they were",
    "inspect": "show what streams have left on disk, and who owns them",
    "verify": "walk all that streams have left on disk, in search of damage",
    "cat": "write what a stream has left on disk to standard output",
    "repair": "put what is whole in the place of what is damaged, keeping that",
}
"""Subcommand to summary; each is the module of its name, with `configure` and `run`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, by default the process's; returns the exit status.

    0 is fine, 1 an error, 2 means that a pipe had to drop something, or that a spool is damaged.
    ``--help`` and ``--version``
    raise `SystemExit`.
    """
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        status: int = args.run(args)
    except Exception as exc:
        print(f"hq: error: {_explanation(exc)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hq: interrupted", file=sys.stderr)
        return 1
    return status


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="hq",
        description="A FIFO for byte streams that overflows to disk and never changes order.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, allow_abbrev=False)
        if name in argv:  # the others are not worth importing
            importlib.import_module(f"hq_cli.{name}").configure(command)
    return parser.parse_args(argv)


def _explanation(exc: Exception) -> str:
    """What to tell of `exc`; raises it again if it is nobody's foreseen failure."""
    from hq_cli.printing import printable  # not needed to print --help
    from hq_core.errors import HybridQueueError

    if isinstance(exc, CommandError):
        return "\n".join(map(printable, str(exc).split("\n")))
    if isinstance(exc, HybridQueueError):
        return printable(str(exc))
    if isinstance(exc, OSError) and exc.strerror:
        return printable(f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror)
    raise exc


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        from hq_cli.printing import printable

        # Not argparse's exit status 2, which means something else here.
        raise CommandError(f"{printable(message)}\nhq: see '{self.prog} --help'")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # slow, and not needed for anything else

        print(f"hq (hybrid-queue) {version('hybrid-queue')}")
        parser.exit()
