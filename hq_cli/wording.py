"""What the library says, in the words of the command line.

Its messages name arguments of the queue, such as ``leftover='resume'``; whoever types a command has
options. What is data in a message stays as it is: the directory, and the name of the stream.
"""

import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["wording"]

_WORDS = r"""
    leftover='(?P<leftover>\w+)'(?P<more>(?:\ or\ '\w+')*)
    | backend='(?P<backend>[^']+)'
    | on_corruption='(?P<damage>quarantine)'
    | (?P<place>use\ another\ stream\ id\ or\ directory)
"""


def wording(directory: Path, name: str) -> Callable[[str], str]:
    """What turns messages about the stream `name` in `directory` into those of the command."""
    data = "|".join([re.escape(str(directory.absolute())), re.escape(repr(name))])
    pattern = re.compile(rf"(?P<data>{data}) | {_WORDS}", re.VERBOSE)
    return lambda message: pattern.sub(_replaced, message)


def _replaced(match: re.Match[str]) -> str:
    if match["leftover"]:
        return f"--leftover {match['leftover']}" + match["more"].replace("'", "")
    if match["backend"]:
        return f"--backend {match['backend']}"
    if match["damage"]:
        return "--leftover quarantine"
    if match["place"]:
        return "choose another --name or --dir"
    return match[0]
