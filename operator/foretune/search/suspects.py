"""Rows of a past task whose unit or direction is not that of the others. No torch, no numpy.

Each rule asks for more than an odd value: the rows must look as the others do once repaired, or lie
beyond any doubt apart from them. A steep loss, a rare success and a reward of both signs are no poison.
"""

from __future__ import annotations

import math
import re
from statistics import fmean, median, pvariance
from typing import TYPE_CHECKING, Final

from foretune.search.registry import text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foretune.domain.space import Value

FLIPPED: Final = 0.2
"""Largest share of a task's rows that may have the wrong sign."""

GAP: Final = 2.0
"""Factor between the two kinds of row where some are in per cent and others are fractions."""

SLACK: Final = 0.25
"""How far beyond the others repaired rows may lie, in units of their range."""

NEARLY: Final = 0.9
"""Share of the odd rows that must fall among the others once repaired."""

ABSURD: Final = 1000.0
"""A best value is no result when it is further from the rest than this many times their range and size."""

RARE: Final = 0.05
"""Largest share of a task's rows that may be absurd."""

BULK: Final = 0.1
"""Share of the worst rows that the range of the rest leaves out: they may be as bad as they like."""

LOOKED_AT: Final = 400
"""Rows of each kind that are compared when it matters where odd rows lie."""

SURE: Final = 3.5
"""Standard deviations beyond chance from which odd rows are those of a region."""

FEW: Final = 3
"""Odd rows below which nothing can be said of where they lie."""

ENOUGH: Final = 5
"""Odd rows that must be bad ones, of a metric that is no rate by its name, before they are poison: they do
little harm, and a few losses of ten among losses of a tenth diverged."""


RATES: Final = re.compile(
    r"acc|error|err(?![a-z])|auc|auroc|(?<![a-z])f1|precision|recall|dice|iou(?![a-z])",
    re.IGNORECASE,
)
"""Metrics that are fractions or per cent, and nothing else."""


def suspects(
    values: Sequence[float],
    configuration: Callable[[int], Mapping[str, Value]],
    *,
    maximize: bool,
    metric: str = "",
) -> dict[int, str]:
    """Return the places of rows to set aside, each with the reason.

    `configuration` gives the parameters at a place; it is only asked where they decide. Of a `metric` that
    is a rate by its name no region of the space is of another unit or sign.
    """
    rate = RATES.search(metric) is not None
    if not values:
        return {}
    found = _absurd(values, maximize=maximize)
    for rule in (_flipped, _per_cent, _fractions, _hundredfold):
        places = [i for i in range(len(values)) if i not in found]
        odd, reason = rule([values[i] for i in places])
        marked = {places[i] for i in odd}
        others = [i for i in places if i not in marked]
        harmless = not rate and (len(marked) < ENOUGH or rule is _hundredfold)
        if harmless and _are_bad(values, marked, others, maximize=maximize):
            continue
        if marked and (rate or not _a_region(marked, others, configuration)):
            found |= dict.fromkeys(marked, reason)
    return found


def _are_bad(
    values: Sequence[float], odd: set[int], others: Sequence[int], *, maximize: bool
) -> bool:
    """Return whether the odd values are worse than all others."""
    if not odd or not others:
        return False
    sign = 1.0 if maximize else -1.0
    return max(sign * values[i] for i in odd) < min(sign * values[i] for i in others)


def _absurd(values: Sequence[float], *, maximize: bool) -> dict[int, str]:
    """Return the few best values that lie beyond any comparison with the others.

    Only good ones: how bad a bad one is does not matter. One success among failures that hardly differ is
    none of them: it must be far away in units of the values themselves, too.
    """
    order = sorted(range(len(values)), key=lambda i: values[i], reverse=maximize)
    most = math.floor(RARE * len(values)) or 1
    unit = max(abs(v) for v in values) or 1.0
    y = [values[i] / unit for i in order]
    for count in range(min(most, len(values) - 3), 0, -1):
        floor = len(y) - 1 - math.floor(BULK * len(y))
        span = max(abs(y[count] - y[max(count, floor)]), abs(y[count]))
        gap = abs(y[count - 1] - y[count])
        if span > 0 and gap > ABSURD * span:
            return dict.fromkeys(order[:count], "absurdly good")
    return {}


def _per_cent(values: Sequence[float]) -> tuple[list[int], str]:
    """Return rows in per cent where most are fractions."""
    odd = [i for i, value in enumerate(values) if 1 < value <= 100]  # noqa: PLR2004
    fractions = sum(0 <= value <= 1 for value in values)
    likely = 2 * fractions >= len(values)
    return (odd if likely and _misfit(values, odd, 0.01) else []), "per cent"


def _fractions(values: Sequence[float]) -> tuple[list[int], str]:
    """Return fractions where most rows are in per cent: a few small losses are no mistake."""
    odd = [i for i, value in enumerate(values) if 0 <= value <= 1]
    likely = FEW <= len(odd) < len(values) / 2 and max(values) <= 100  # noqa: PLR2004
    return (odd if likely and _misfit(values, odd, 100.0) else []), "fraction"


def _hundredfold(values: Sequence[float]) -> tuple[list[int], str]:
    """Return rows that were made per cent once more, where the others are in per cent already."""
    odd = [i for i, value in enumerate(values) if value > 100]  # noqa: PLR2004
    likely = 2 * sum(0 <= value <= 100 for value in values) >= len(values)  # noqa: PLR2004
    return (odd if likely and _misfit(values, odd, 0.01) else []), "per cent of per cent"


def _misfit(values: Sequence[float], odd: Sequence[int], repair: float) -> bool:
    """Return whether the odd values, repaired, fall among the others, and only then."""
    marked = set(odd)
    others = sorted(value for i, value in enumerate(values) if i not in marked)
    if not odd or not others:
        return False
    repaired = [values[i] * repair for i in odd]
    slack = SLACK * (others[-1] - others[0])
    among = sum(others[0] - slack <= value <= others[-1] + slack for value in repaired)
    low, high = others[len(others) // 10], others[(9 * len(others)) // 10]
    # A loss a little above 1 is no per cent: there is a gap between the two kinds of row.
    sizes = [abs(values[i]) for i in odd]
    largest, least = max(map(abs, others)), min(map(abs, others))
    apart = min(sizes) > GAP * largest or GAP * max(sizes) < least
    alike = len(odd) < FEW or low <= median(repaired) <= high
    return apart and alike and among >= NEARLY * len(odd)


def _flipped(values: Sequence[float]) -> tuple[list[int], str]:
    """Return the few rows of the other sign, when they look just as the others do but for it.

    An objective that crosses zero has many values near it, and few large ones beyond.
    """
    negative = sum(value < 0 for value in values)
    sign = -1.0 if 2 * negative < len(values) else 1.0
    odd = [i for i, value in enumerate(values) if sign * value > 0]
    if not odd or len(odd) > FLIPPED * len(values):
        return [], ""
    sizes = sorted(-sign * value for value in values if sign * value <= 0)
    low, high = sizes[len(sizes) // 4], sizes[(3 * len(sizes)) // 4]
    alike = low <= median(sign * values[i] for i in odd) <= high
    small = sum(abs(value) < low / 2 for value in values)
    return (odd if alike and small <= (1 - NEARLY) * len(values) else []), "wrong sign"


def _a_region(
    odd: set[int], others: Sequence[int], configuration: Callable[[int], Mapping[str, Value]]
) -> bool:
    """Return whether odd rows lie where others don't, as the solved ones of a task do, and not by chance."""
    count = min(len(odd), LOOKED_AT)
    if count < FEW or len(others) < FEW:
        return False
    chosen = _even(sorted(odd), LOOKED_AT) + _even(others, LOOKED_AT)
    points = _places([configuration(i) for i in chosen])
    for column in zip(*points, strict=True):
        for place in (column, [abs(x - 0.5) for x in column]):  # at an end, or in the middle
            spread = pvariance(place) * (1 / count + 1 / (len(place) - count))
            apart = fmean(place[:count]) - fmean(place[count:])
            if apart**2 > SURE**2 * spread:
                return True
    near = 0
    for i in range(count):
        distances = (
            (sum((a - b) ** 2 for a, b in zip(points[i], other, strict=True)), j)
            for j, other in enumerate(points)
            if j != i
        )
        near += min(distances)[1] < count
    chance = (count - 1) / (len(points) - 1)
    # Neighbours are mutual, so that small numbers of them come by twos.
    return near > count * chance + SURE * math.sqrt(count * chance * (1 - chance)) + 1.5


def _even(rows: Sequence[int], limit: int) -> list[int]:
    step = max(1.0, len(rows) / limit)
    return [rows[int(k * step)] for k in range(min(limit, len(rows)))]


def _places(configurations: Sequence[Mapping[str, Value]]) -> list[list[float]]:
    """Return points in a cube: numbers by their rank, which needs no scale, other values by equality."""
    names = sorted({name for params in configurations for name in params})
    points: list[list[float]] = [[] for _ in configurations]
    for name in names:
        values = [params.get(name) for params in configurations]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            levels = sorted(set(values), key=float)  # type: ignore[arg-type]
            place = {level: i / max(1, len(levels) - 1) for i, level in enumerate(levels)}
            for point, value in zip(points, values, strict=True):
                point.append(place[value])
        else:
            texts = [text(value) for value in values]
            for option in sorted(set(texts))[1:]:
                for point, said in zip(points, texts, strict=True):
                    point.append(0.7 * (said == option))
    return points
