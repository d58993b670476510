"""A small chart in plain text: the value of each trial, and the best so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foretune.cli.words import number
from foretune.planner.finish import observed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.job import Objective
    from foretune.domain.trial import Trial

ROWS: Final = 8
"""Lines of the plot."""

COLUMNS: Final = 60
"""Widest plot, in characters."""

NARROWEST: Final = 16
"""Narrowest plot, so that its foot can be read."""

STRETCH: Final = 4
"""Most columns that one trial takes, so that few trials make a narrow chart."""


@dataclass(frozen=True)
class Glyphs:
    """What the chart is drawn with."""

    best: str
    trial: str
    side: str
    tick: str
    corner: str
    floor: str


UNICODE: Final = Glyphs(best="━", trial="•", side="│", tick="┤", corner="└", floor="─")
ASCII: Final = Glyphs(best="=", trial="o", side="|", tick="+", corner="+", floor="-")


def chart(trials: Sequence[Trial], objective: Objective, *, encoding: str = "utf-8") -> list[str]:
    """Return the lines of a chart of trials in the order in which they ended; none for fewer than two.

    Its height is what the best so far went through: a trial worse than the first best lies on the edge.
    """
    ended = [t for t in trials if observed(t)]
    ended.sort(key=lambda t: (t.ended_at or 0.0, t.index))
    values = [t.value for t in ended if t.value is not None]
    if len(values) < 2:  # noqa: PLR2004 - one point is no line
        return []
    glyphs = UNICODE if _can(encoding) else ASCII
    best = _best_so_far(values, objective)
    low, high = min(best), max(best)
    if low == high:  # the first was the best: show what lies around it
        low, high = min(values), max(values)
    span = high - low

    def row(value: float) -> int:
        share = (value - low) / span if span else 0.5
        return min(ROWS - 1, max(0, round(share * (ROWS - 1))))

    count = len(values)
    width = max(NARROWEST, min(COLUMNS, count * STRETCH))
    plot = [[" "] * width for _ in range(ROWS)]
    for column in range(width):
        at = column * count // width
        plot[row(best[at])][column] = glyphs.best
    for index, value in enumerate(values):
        column = (index * width + width // 2) // count
        plot[row(value)][min(column, width - 1)] = glyphs.trial
    labels = {ROWS - 1: number(high), 0: number(low)}
    margin = max(len(text) for text in labels.values())
    lines = [f"{objective.metric}: best so far {glyphs.best}, each trial {glyphs.trial}"]
    for index in reversed(range(ROWS)):
        label = labels.get(index, "")
        side = glyphs.tick if label else glyphs.side
        lines.append(f"  {label:>{margin}} {side}{''.join(plot[index])}".rstrip())
    lines.append(f"  {'':>{margin}} {glyphs.corner}{glyphs.floor * width}")
    last = f"{count} trials"
    lines.append(f"  {'':>{margin}}  1{last:>{width - 1}}")
    return lines


def _best_so_far(values: Sequence[float], objective: Objective) -> list[float]:
    found: list[float] = []
    for value in values:
        keep = found and not objective.better(value, found[-1])
        found.append(found[-1] if keep else value)
    return found


def _can(encoding: str) -> bool:
    """Whether an output of this encoding can show the better glyphs."""
    try:
        (UNICODE.best + UNICODE.trial + UNICODE.side).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
