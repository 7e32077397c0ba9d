"""From values to the coordinates of a picture, and round numbers to label them with. Pure."""

import math
from dataclasses import dataclass

__all__ = ["Panel", "ceiling", "ticks"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: maps seconds and values to coordinates, whose origin is the top left corner."""

    left: float
    right: float
    top: float
    bottom: float
    seconds: float
    """What the right edge means; the left one is 0."""
    highest: float
    """What the top edge means; the bottom one is 0."""

    def x(self, seconds: float) -> float:
        """Where `seconds` is."""
        return self.left + (self.right - self.left) * min(seconds / self.seconds, 1.0)

    def y(self, value: float) -> float:
        """Where `value` is."""
        return self.bottom - (self.bottom - self.top) * value / self.highest


def ticks(highest: float, most: int = 6) -> list[float]:
    """Round values from 0 to at most `highest` (> 0), `most` of them or fewer."""
    rough = highest / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [round(i * step, 10) for i in range(int(highest / step + 1e-6) + 1)]


def ceiling(highest: float) -> float:
    """A little more than `highest` (> 0), and a whole number of ticks."""
    step = ticks(highest * 1.05)[1]
    return step * math.ceil(highest * 1.05 / step)
