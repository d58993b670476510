"""Plots as SVG text: regret curves with their intervals, and ranks. No plotting library is needed.

SVG shows in every browser and on every forge, and a changed figure shows in a diff.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

COLOURS: Final = (
    "#1b6ca8",
    "#d1495b",
    "#2e8b57",
    "#8d6cab",
    "#e08e0b",
    "#4d4d4d",
    "#17a2a2",
    "#a0522d",
)
"""Told apart by people with the common kinds of colour blindness, as far as eight can be."""

DASHES: Final = ("", "6 3")
"""Lines of the ninth method and those after it are dashed, in the same colours."""

WIDTH: Final = 640
HEIGHT: Final = 400
LEFT, RIGHT, TOP, BOTTOM = 62, 150, 36, 46
"""Margins in pixels; the right one holds the legend."""

FLOOR: Final = 1e-3
"""Smallest regret that is drawn: the axis is logarithmic."""


@dataclass(frozen=True)
class Line:
    """One method's curve: mean and interval after 1, 2, ... evaluations."""

    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def regret_plot(title: str, lines: Mapping[str, Line], strokes: Mapping[str, Stroke]) -> str:
    """Return a plot of regret (logarithmic) against evaluations (logarithmic)."""
    evaluations = max(len(line.mean) for line in lines.values())
    lowest = min(min(line.mean) for line in lines.values())
    floor = 10.0 ** math.floor(math.log10(min(0.1, max(FLOOR, lowest))))

    def x(n: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(n) / math.log(max(2, evaluations))

    def y(regret: float) -> float:
        share = math.log10(min(1.0, max(floor, regret))) / math.log10(floor)
        return TOP + (HEIGHT - TOP - BOTTOM) * share

    parts = _frame(title)
    for tick in (t for t in (1, 2, 3, 5, 10, 25, 50, 100) if t <= evaluations):
        parts.append(_vertical(x(tick), str(tick)))
    for decade in range(round(-math.log10(floor)) + 1):
        for step in (1, 2, 5):
            value = step * 10.0**-decade
            if floor <= value <= 1:
                parts.append(_horizontal(y(value), f"{value:g}"))
    parts.append(_text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 8, "evaluations", "middle"))
    parts.append(_text(16, TOP - 12, "mean normalised regret", "start"))
    for place, (name, line) in enumerate(lines.items()):
        stroke = strokes[name]
        band = [(x(i + 1), y(v)) for i, v in enumerate(line.high)]
        band += [(x(i + 1), y(v)) for i, v in reversed(list(enumerate(line.low)))]
        parts.append(
            f'<polygon points="{_points(band)}" fill="{stroke.colour}" fill-opacity="0.12"/>'
        )
        mean = [(x(i + 1), y(v)) for i, v in enumerate(line.mean)]
        parts.append(f'<polyline points="{_points(mean)}" fill="none" {stroke} stroke-width="2"/>')
        at = TOP + 14 + 20 * place
        parts.append(_bar(WIDTH - RIGHT + 14, at, stroke))
        parts.append(_text(WIDTH - RIGHT + 40, at + 4, name, "start"))
    return _svg(parts, HEIGHT)


def rank_plot(
    title: str, ranks: Mapping[str, float], difference: float, strokes: Mapping[str, Stroke]
) -> str:
    """Return mean ranks on a line, the best left, and how far apart they must be to differ at 5 %."""
    ordered = sorted(ranks, key=lambda name: ranks[name])
    height = TOP + 70 + 24 * len(ordered)
    count = len(ordered)

    def x(rank: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (rank - 1) / max(1, count - 1)

    parts = _frame(title)
    axis = TOP + 34
    parts.append(f'<path d="M{x(1):.1f} {axis} H{x(count):.1f}" stroke="#333" fill="none"/>')
    for rank in range(1, count + 1):
        parts.append(f'<path d="M{x(rank):.1f} {axis - 4} v8" stroke="#333"/>')
        parts.append(_text(x(rank), axis - 9, str(rank), "middle"))
    for place, name in enumerate(ordered):
        at = axis + 24 + 24 * place
        here = x(ranks[name])
        parts.append(
            f'<path d="M{here:.1f} {axis} V{at} H{WIDTH - RIGHT + 8}" '
            f'{strokes[name]} stroke-width="1.6" fill="none"/>'
        )
        parts.append(_text(WIDTH - RIGHT + 12, at + 4, f"{name} {ranks[name]:.2f}", "start"))
    if math.isfinite(difference) and difference < count - 1:
        end = x(1 + difference)
        parts.append(
            f'<path d="M{x(1):.1f} {height - 12} H{end:.1f}" stroke="#333" stroke-width="3"/>'
        )
        parts.append(_text(end + 6, height - 8, f"critical difference {difference:.2f}", "start"))
    return _svg(parts, height)


@dataclass(frozen=True)
class Stroke:
    """How a method's lines are drawn."""

    colour: str
    dash: str = ""

    def __str__(self) -> str:
        """Return the attributes of a path."""
        dashed = f' stroke-dasharray="{self.dash}"' if self.dash else ""
        return f'stroke="{self.colour}"{dashed}'


def strokes_of(methods: Sequence[str]) -> dict[str, Stroke]:
    """Return a stroke for each method, no two alike."""
    choice = [Stroke(colour, dash) for dash in DASHES for colour in COLOURS]
    return {name: choice[i % len(choice)] for i, name in enumerate(methods)}


def _svg(parts: Sequence[str], height: float) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        'font-family="sans-serif" font-size="12" fill="#222">\n'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _frame(title: str) -> list[str]:
    return [
        f'<text x="{WIDTH - 12}" y="18" text-anchor="end" font-size="13">{escape(title)}</text>'
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(x: float, y: float, stroke: Stroke) -> str:
    return f'<path d="M{x:.1f} {y:.1f} h20" {stroke} stroke-width="3"/>'


def _vertical(x: float, label: str) -> str:
    return (
        f'<path d="M{x:.1f} {TOP} V{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>'
        f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>'
    )


def _horizontal(y: float, label: str) -> str:
    return (
        f'<path d="M{LEFT} {y:.1f} H{WIDTH - RIGHT}" stroke="#e4e4e4"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
