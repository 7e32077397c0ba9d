"""The backend that a command is about: ``NAME [-o KEY=VALUE]...``."""

import argparse
from typing import Final

from hq_cli.errors import CommandError
from hq_cli.options import parse_options

__all__ = ["add_arguments", "options", "testing_is_missing"]

_SUITE_NEEDS: Final = {"pytest", "hypothesis"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the backend's name and its options."""
    parser.add_argument("name", metavar="NAME", help="of the backend; 'hq backends' lists them")
    parser.add_argument(
        "-o",
        dest="options",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the backend; may be repeated",
    )


def options(args: argparse.Namespace) -> dict[str, object]:
    """The options given for the backend; raises `CommandError`, `PluginError`."""
    try:
        return parse_options(args.name, args.options)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc


def testing_is_missing(exc: ModuleNotFoundError) -> CommandError:
    """What to tell of `exc`; raises it again if it is not about the extra ``[testing]``."""
    module = (exc.name or "").partition(".")[0].removeprefix("_")
    if module not in _SUITE_NEEDS:
        raise exc
    return CommandError(f"hq_core.testing needs {module}: pip install 'hybrid-queue[testing]'")
