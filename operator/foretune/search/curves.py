"""What a training that is not over will come to, learned from the curves of trainings that are.

A curve is the objective so far, reduced as the objective says (by default the best so far), over epochs.
Curves of all tasks are put on one grid of r = epoch / epochs of the whole training and into units in which
tasks are comparable: -log(1 - a) of a share, -log of a loss, larger is better. At each point of the grid the
gain that is still to come is linear in the level and the two latest slopes; its deviation is that of the
curves of like level, since a curve at chance level does one thing and a curve near the top another. The
threshold is conformal: on past tasks, each predicted without itself, one eventual best in a hundred would
have been stopped. Decision 0011 has the figures of this form and of the Gaussian process that it replaces.

The standard library only: the tracking server, which decides upon each report, has no numpy.

Notation: K points of the grid, n curves, y_k a curve at point k, g = y_K - y_k its gain to come.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from foretune.domain.job import Goal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.job import Objective

GRID: Final = tuple(((k + 1) / 16) ** 2 for k in range(16))
"""Shares of a training at which curves are compared: close together early, where most is decided."""

EARLIEST: Final = 0.1
"""Share of a training before which nothing is said."""

FIRST: Final = next(k for k, share in enumerate(GRID) if share >= EARLIEST)
"""First point of the grid at which something is said."""

SHORT, LONG = 2, 4
"""Points of the grid over which the two slopes are taken."""

LIKE: Final = 10
"""The deviation is that of one curve in so many, those nearest in level."""

FEWEST_LIKE: Final = 20
"""Curves that a deviation is taken from at least."""

FLOOR: Final = 0.1
"""Share of the mean square error that is added to the local one: curves of like level may agree by chance."""

RIDGE: Final = 1e-3
"""Prior precision of the slopes' coefficients, for each curve."""

FEW: Final = 8
"""Curves below which the gain to come is their mean gain, whatever the slopes."""

LEAST: Final = 3
"""Curves below which nothing is said."""

HISTORY: Final = 50
"""Whole curves of past tasks below which a job's own are better."""

MIN_TASKS: Final = 4
"""Past tasks below which they are no sample of what curves do: with two, the calibration of a third failed."""

ALPHA: Final = 0.01
"""Share of eventual bests that may be stopped."""

ORDERS: Final = 40
"""Orders in which each past task is run through again for the threshold."""

LENGTH: Final = 20
"""Trials of such a run, at most; half of the task's, so that not always the same one wins."""

FOLDS: Final = 5
"""Groups of past tasks that are predicted without themselves."""

EPSILON: Final = 1e-3
"""Added within logarithms."""

START_Z: Final = 3.0
"""Deviations below the best at which a curve is stopped while nothing past tells better."""

LEAST_Z: Final = 1.3
"""Least such distance, however smooth the past was (a chance of about .1)."""


@dataclass(frozen=True)
class Curve:
    """The curve of one trial."""

    points: tuple[tuple[float, float], ...]
    """(epoch, objective so far) in rising order of epoch."""
    full: float
    """Epochs of the whole training."""
    ended: bool = False
    """Whether it ran to its end: then the last point is its value."""

    @classmethod
    def of(
        cls,
        objective: Objective,
        reports: Sequence[tuple[float, float]],
        *,
        full: float,
        ended: bool = False,
    ) -> Curve:
        """Reduce what was reported; without any the curve has no points."""
        points: list[tuple[float, float]] = []
        values: list[float] = []
        for epoch, value in reports:
            values.append(value)
            reduced = objective.reduced(values)
            if reduced is not None:
                points.append((epoch, reduced))
        return cls(tuple(points), full, ended)

    @property
    def share(self) -> float:
        """Share of the training that is done."""
        return self.points[-1][0] / self.full if self.points and self.full > 0 else 0.0

    @property
    def spared(self) -> float:
        """Epochs that are not trained."""
        return max(0.0, self.full - self.points[-1][0]) if self.points else 0.0

    @property
    def last(self) -> float:
        """The objective so far; `points` must not be empty."""
        return self.points[-1][1]

    def at(self, epoch: float) -> float:
        """Return the objective at an epoch, between reports in between, before the first as there."""
        i = bisect.bisect_left(self.points, (epoch, -math.inf))
        if i == 0:
            return self.points[0][1]
        if i == len(self.points):
            return self.last
        (x0, y0), (x1, y1) = self.points[i - 1 : i + 1]
        return y0 + (y1 - y0) * (epoch - x0) / (x1 - x0)


@dataclass(frozen=True)
class Unit:
    """Where curves of several tasks are comparable; larger is better."""

    kind: str
    """`share`, `percent`, `positive` (losses) or `free`, which only curves of one task have in common."""
    sign: float

    @classmethod
    def of(cls, objective: Objective, values: Sequence[float]) -> Unit:
        """Tell the unit from the values of one task."""
        if objective.goal is Goal.MINIMIZE:
            return cls("positive" if min(values) > 0 else "free", -1.0)
        if min(values) >= 0 and max(values) <= 100:  # noqa: PLR2004 - per cent
            return cls("share" if max(values) <= 1 else "percent", 1.0)
        return cls("free", 1.0)

    def into(self, value: float) -> float:
        """Return a value in this unit; what lies outside counts as the border."""
        if self.kind == "free":
            return self.sign * value
        if self.kind == "positive":
            return -math.log(max(value, 0.0) + EPSILON)
        share = value / 100 if self.kind == "percent" else value
        return -math.log(max(1 - share, 0.0) + EPSILON)

    def back(self, z: float) -> float:
        """Return a number of this unit as a value."""
        if self.kind == "free":
            return self.sign * z
        if self.kind == "positive":
            return max(math.exp(-z) - EPSILON, 0.0)
        share = min(1 + EPSILON - math.exp(-z), 1.0)
        return 100 * share if self.kind == "percent" else share

    def like(self, other: Unit) -> bool:
        """Whether curves of the one say something of curves of the other."""
        if self == other:
            return self.kind != "free"
        return {self.kind, other.kind} == {"share", "percent"}


Row = tuple[float, ...]
"""A curve at the points of the grid, K numbers in its unit, or fewer while it is not over."""


def on_grid(curve: Curve, unit: Unit) -> Row:
    """Return the curve at the points of the grid that it has reached."""
    reached = [k for k, share in enumerate(GRID) if share <= curve.share + 1e-9 or curve.ended]
    end = curve.points[-1][0] if curve.ended else curve.full
    return tuple(unit.into(curve.at(GRID[k] * end)) for k in reached)


def _features(row: Row, k: int) -> tuple[float, float, float, float]:
    return 1.0, row[k], row[k] - row[k - SHORT], row[k] - row[k - LONG]


class _Point:
    """What is known at one point of the grid."""

    def __init__(self, rows: Sequence[Row], k: int) -> None:
        """Fit whole curves, at least `LEAST`."""
        self._k = k
        gains = [row[-1] - row[k] for row in rows]
        mean = math.fsum(gains) / len(gains)
        self._range = min(gains), max(gains)
        self._weights: tuple[float, ...] = (mean, 0.0, 0.0, 0.0)
        if len(rows) >= FEW:
            self._weights = _ridge([_features(row, k) for row in rows], gains)
        levels = sorted((row[k], (row[-1] - row[k] - self._gain(row)) ** 2) for row in rows)
        self._levels = [level for level, _ in levels]
        self._sums = list(itertools.accumulate((square for _, square in levels), initial=0.0))
        # A curve too few, as with the variance of a sample; more for the coefficients.
        lost = 1 if len(rows) < FEW else len(self._weights)
        self._spare = len(rows) / max(1, len(rows) - lost)

    def predict(self, row: Row) -> tuple[float, float]:
        """Return mean and deviation of the final value of a curve that has reached the point."""
        n = len(self._levels)
        width = min(n, max(FEWEST_LIKE, n // LIKE))
        at = bisect.bisect_left(self._levels, row[self._k]) - width // 2
        low = min(max(0, at), n - width)
        near = (self._sums[low + width] - self._sums[low]) / width
        square = (near + FLOOR * self._sums[-1] / n) * self._spare
        # A gain that no curve had is no prediction; how far it would have been from one is doubt.
        gain = self._gain(row)
        likely = min(max(gain, self._range[0]), self._range[1])
        return row[self._k] + likely, math.sqrt(square + (gain - likely) ** 2 + 1e-12)

    @property
    def falls(self) -> bool:
        """Whether values may fall, as those of a best so far never do."""
        return self._range[0] < 0

    def _gain(self, row: Row) -> float:
        features = _features(row, self._k)
        return math.fsum(w * f for w, f in zip(self._weights, features, strict=True))


def _ridge(rows: Sequence[tuple[float, ...]], targets: Sequence[float]) -> tuple[float, ...]:
    """Return the coefficients of a regression; the first column is the constant."""
    size = len(rows[0])
    a = [
        [math.fsum(row[i] * row[j] for row in rows) for j in range(size)]
        + [math.fsum(row[i] * y for row, y in zip(rows, targets, strict=True))]
        for i in range(size)
    ]
    for i in range(1, size):
        a[i][i] += RIDGE * len(rows)
    for i in range(size):  # positive definite by the ridge: no pivoting
        for j in range(size):
            if j != i:
                factor = a[j][i] / a[i][i]
                a[j] = [x - factor * y for x, y in zip(a[j], a[i], strict=True)]
    return tuple(a[i][size] / a[i][i] for i in range(size))


@dataclass(frozen=True)
class CurveModel:
    """Predicts final values; made by `learn` from past tasks, by `own_model` from the job itself."""

    unit: Unit
    z: float
    """Deviations by which a prediction must be below the best for a stop."""
    curves: int
    """Curves that it was fitted to."""
    tasks: int
    """Past tasks that they are of; 0 for the job's own."""
    points: Mapping[int, _Point]

    def predict(self, curve: Curve) -> tuple[float, float] | None:
        """Return mean and deviation of the final value, in this model's unit; None while it is too early."""
        row = on_grid(curve, self.unit)
        k = min(len(row), len(GRID) - 1) - 1
        if k < FIRST:
            return None
        mean, sd = self.points[k].predict(row)
        return mean if self.points[k].falls else max(mean, self.unit.into(curve.last)), sd

    def final(self, curve: Curve) -> tuple[float, float] | None:
        """Return mean and deviation of the final value in the metric's own unit."""
        found = self.predict(curve)
        if found is None:
            return None
        mean, sd = found
        high, low = self.unit.back(mean + sd), self.unit.back(mean - sd)
        return self.unit.back(mean), abs(high - low) / 2

    def behind(self, curve: Curve, incumbent: float) -> float:
        """Return by how many deviations the final value will be below a value; -inf while it is too early."""
        found = self.predict(curve)
        if found is None:
            return -math.inf
        return (self.unit.into(incumbent) - found[0]) / found[1]

    def of(self, values: Sequence[float], objective: Objective) -> CurveModel | None:
        """Return the model for a task with these values; None where its curves are of another kind."""
        unit = Unit.of(objective, values)
        return replace(self, unit=unit) if self.unit.like(unit) else None


def learn(
    objective: Objective, tasks: Sequence[Sequence[Curve]], *, grace: int
) -> CurveModel | None:
    """Return what the whole curves of past tasks tell, of the kind of unit that most of them have.

    The same curves give the same model; None where they are fewer than `HISTORY`, or of fewer tasks than
    `MIN_TASKS`.
    """
    kinds: dict[str, list[list[Row]]] = {}
    units: dict[str, Unit] = {}
    for task in tasks:
        whole = [curve for curve in task if curve.points]
        if len(whole) < LEAST:
            continue
        unit = Unit.of(objective, [curve.last for curve in whole])
        if unit.kind == "free":
            continue
        kind = "share" if unit.kind == "percent" else unit.kind
        units[kind] = unit
        kinds.setdefault(kind, []).append([on_grid(curve, unit) for curve in whole])
    if not kinds:
        return None
    kind, found = max(kinds.items(), key=lambda one: sum(map(len, one[1])))
    rows = [row for task_rows in found for row in task_rows]
    if len(rows) < HISTORY or len(found) < MIN_TASKS:
        return None
    return CurveModel(
        units[kind], conformal(found, grace=grace), len(rows), len(found), _points(rows)
    )


def own_model(objective: Objective, curves: Sequence[Curve]) -> CurveModel | None:
    """Return what the whole curves of the job itself tell; None where they are fewer than `LEAST`."""
    whole = [curve for curve in curves if curve.points]
    if len(whole) < LEAST:
        return None
    unit = Unit.of(objective, [curve.last for curve in whole])
    rows = [on_grid(curve, unit) for curve in whole]
    return CurveModel(unit, START_Z, len(rows), 0, _points(rows))


def _points(rows: Sequence[Row]) -> dict[int, _Point]:
    return {k: _Point(rows, k) for k in range(FIRST, len(GRID) - 1)}


def conformal(tasks: Sequence[Sequence[Row]], *, grace: int) -> float:
    """Return the threshold with which one eventual best in a hundred would have been stopped.

    Each task is run through again in `ORDERS` random orders, its curves predicted from the other tasks'.
    """
    folds = min(FOLDS, len(tasks))
    scores: list[float] = []
    for fold in range(folds):
        rest = [row for i, rows in enumerate(tasks) if i % folds != fold for row in rows]
        points = _points(rest)
        for i, rows in enumerate(tasks):
            if i % folds == fold:
                scores += _scores(rows, points, grace)
    scores.sort()
    rank = math.ceil((1 - ALPHA) * (len(scores) + 1))
    # A new task differs from those of the past, the more the fewer they are.
    return max(LEAST_Z, scores[min(rank, len(scores)) - 1]) * (1 + 1 / len(tasks))


def _scores(rows: Sequence[Row], points: Mapping[int, _Point], grace: int) -> list[float]:
    """Return by how much the eventual best of each order was behind at its worst; `LEAST_Z` if never."""
    predicted = [[points[k].predict(row) for k in points] for row in rows]
    rng = random.Random(len(rows))  # noqa: S311 - not cryptography
    found = []
    for _ in range(ORDERS):
        order = rng.sample(range(len(rows)), min(LENGTH, (len(rows) + 1) // 2))
        winner = max(order, key=lambda i: rows[i][-1])
        before = [rows[i][-1] for i in order[: order.index(winner)]]
        score = LEAST_Z
        if len(before) >= grace:
            best = max(before)
            score = max(score, *((best - mean) / sd for mean, sd in predicted[winner]))
        found.append(score)
    return found


def chance(z: float) -> float:
    """Return the chance of what is `z` deviations away."""
    return statistics.NormalDist().cdf(-z)
