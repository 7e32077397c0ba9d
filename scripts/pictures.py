"""The pictures in docs/images that show the command at work: ``make pictures``.

One function draws one picture. The charts beside them show what was measured, and are drawn by
`benchmarks.charts`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hq_cli import main

__all__ = ["PICTURES", "depth"]

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"


def depth(path: Path, *, seconds: float = 10) -> None:
    """What ``hq demo`` draws: depth and pressure while a consumer stalls, and after."""
    if main.main(["demo", "--seconds", f"{seconds:g}", "--svg", str(path)]):
        raise RuntimeError("hq demo proved something wrong: no picture of that")


PICTURES: Final[dict[str, Callable[[Path], None]]] = {"depth.svg": depth}
"""Who draws which file."""


if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name](IMAGES / name)
