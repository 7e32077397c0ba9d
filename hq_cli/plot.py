"""Depth and pressure over time as an SVG picture. Pure.

Two panels over one time axis. The picture brings its own background, light or dark as the viewer
prefers, so it can be read wherever it is put.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hq_cli.axes import Panel, ceiling, ticks

__all__ = ["Point", "picture"]

_WIDTH: Final = 860
_HEIGHT: Final = 540
_LEFT: Final = 64
_RIGHT: Final = 836
_MOST_POINTS: Final = 400

_STYLE: Final = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #59636e }
.title { font-size: 18px; font-weight: 600; fill: #1f2328 }
.strong { font-weight: 600; fill: #1f2328 }
.card { fill: #ffffff; stroke: #d0d7de }
.grid { stroke: #e4e8ec }
.axis { stroke: #8c959f }
.memory { fill: #54a0f0 }
.disk { fill: #ee8434 }
.stall { fill: #8c959f; fill-opacity: 0.16 }
.pressure { fill: none; stroke: #8250df; stroke-width: 2; stroke-linejoin: round }
.full { stroke: #cf222e; stroke-dasharray: 5 4 }
text.limit { fill: #cf222e }
@media (prefers-color-scheme: dark) {
  text { fill: #9aa4af }
  .title, .strong { fill: #e6edf3 }
  .card { fill: #0d1117; stroke: #30363d }
  .grid { stroke: #21272e }
  .axis { stroke: #6e7681 }
  .memory { fill: #388bfd }
  .disk { fill: #f0883e }
  .pressure { stroke: #b083f0 }
  .full { stroke: #ff7b72 }
  text.limit { fill: #ff7b72 }
}
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of a queue."""

    seconds: float
    """Since the start."""
    in_memory: int
    """Packets in the memory tier."""
    on_disk: int
    """Packets in the overflow backend."""
    pressure: float
    """As in `QueueStats`."""

    @property
    def depth(self) -> int:
        """Packets in the queue."""
        return self.in_memory + self.on_disk


def picture(
    points: Sequence[Point], stall: tuple[float, float], *, seconds: float, title: str
) -> str:
    """The SVG of `points` (at least one) over `seconds` or more; `stall` is (from, until)."""
    shown = _thinned(points)
    seconds = max(shown[-1].seconds, seconds)
    peak = max(shown, key=lambda p: p.depth)
    depth = Panel(_LEFT, _RIGHT, 112, 306, seconds, ceiling(max(peak.depth, 1)))
    pressure = Panel(
        _LEFT, _RIGHT, 358, 490, seconds, ceiling(max(1.2, *(p.pressure for p in shown)))
    )
    body = [
        f'<rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="8"/>',
        _text(24, 36, title, "title"),
        *_legend(),
        _stall(depth, stall),
        _stall(pressure, stall),
        *_frame(depth, "packets in the queue"),
        *_frame(pressure, "pressure"),
        _area(depth, shown, "disk", [p.depth for p in shown]),
        _area(depth, shown, "memory", [p.in_memory for p in shown]),
        _text(
            depth.x(peak.seconds) + 8, depth.y(peak.depth) + 5, f"{peak.depth} packets", "strong"
        ),
        *_limit(pressure),
        f'<path class="pressure" d="M{_path(pressure, shown, [p.pressure for p in shown])}"/>',
        *_time_axis(pressure),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'width="{_WIDTH}" height="{_HEIGHT}" role="img">',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            *body,
            "</svg>\n",
        ]
    )


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most `_MOST_POINTS` or so of them: of each stretch of time the deepest moment."""
    stretch = points[-1].seconds / _MOST_POINTS or 1.0
    deepest: dict[int, Point] = {}
    for point in points[1:-1]:
        key = int(point.seconds / stretch)
        if key not in deepest or point.depth > deepest[key].depth:
            deepest[key] = point
    return [points[0], *deepest.values(), points[-1]]


def _legend() -> list[str]:
    drawn = []
    for x, name, label in (
        (24, "memory", "in memory"),
        (126, "disk", "on disk"),
        (210, "stall", "consumer stalled"),
    ):
        drawn.append(f'<rect class="{name}" x="{x}" y="54" width="14" height="14" rx="2"/>')
        drawn.append(_text(x + 20, 66, label))
    return drawn


def _frame(panel: Panel, label: str) -> list[str]:
    drawn = [_text(24, panel.top - 18, label, "strong")]
    for value in ticks(panel.highest, 5):
        y = panel.y(value)
        drawn.append(_line("axis" if value == 0 else "grid", panel.left, y, panel.right, y))
        drawn.append(_text(panel.left - 8, y + 4, f"{value:g}", anchor="end"))
    return drawn


def _time_axis(panel: Panel) -> list[str]:
    drawn = []
    for value in ticks(panel.seconds, 11):
        x = panel.x(value)
        drawn.append(_line("axis", x, panel.bottom, x, panel.bottom + 5))
        drawn.append(_text(x, panel.bottom + 20, f"{value:g}", anchor="middle"))
    drawn.append(_text(panel.right, panel.bottom + 38, "time in seconds", anchor="end"))
    return drawn


def _stall(panel: Panel, stall: tuple[float, float]) -> str:
    x, end = panel.x(stall[0]), panel.x(stall[1])
    return (
        f'<rect class="stall" x="{x:.1f}" y="{panel.top:g}" '
        f'width="{end - x:.1f}" height="{panel.bottom - panel.top:g}"/>'
    )


def _limit(panel: Panel) -> list[str]:
    y = panel.y(1.0)
    return [
        _line("full", panel.left, y, panel.right, y),
        _text(panel.right - 4, y - 6, "pressure 1.0 = memory full", "limit", anchor="end"),
    ]


def _area(panel: Panel, points: Sequence[Point], name: str, values: Sequence[float]) -> str:
    first, last = panel.x(points[0].seconds), panel.x(points[-1].seconds)
    ground = f"{panel.bottom:g}"
    line = _path(panel, points, values)
    return f'<path class="{name}" d="M{first:.1f} {ground}L{line}L{last:.1f} {ground}Z"/>'


def _path(panel: Panel, points: Sequence[Point], values: Sequence[float]) -> str:
    return "L".join(
        [
            f"{panel.x(point.seconds):.1f} {panel.y(value):.1f}"
            for point, value in zip(points, values, strict=True)
        ]
    )


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, name: str = "", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        + (f' class="{name}"' if name else "")
        + f">{text}</text>"
    )
