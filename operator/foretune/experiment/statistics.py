"""Figures of many runs: the unit is the task, and intervals resample data sets, not runs.

Runs of one task share its table, so a hundred of them know no more of other tasks than one: a bootstrap over
runs would promise precision that four tasks can't give.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Run = dict[str, Any]
"""A record of the ledger."""

BUDGETS: Final = (1, 3, 5, 10, 25, 50)
"""Evaluations at which regret is told."""

RESAMPLES: Final = 10_000
"""Bootstrap samples of an interval."""

LEVEL: Final = 0.95
"""Confidence of an interval."""

COVERED: Final = 0.9
"""Probability of the predicted intervals whose coverage is counted."""

TIED: Final = 1e-9
"""Regrets that differ by less are equal."""


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Matrix:
    """Regret curves of one method: tasks in rows, evaluations in columns, the mean over seeds."""

    tasks: tuple[tuple[str, str], ...]
    """(family, task)"""
    datasets: tuple[tuple[str, str], ...]
    """(family, data set) of each task: what is resampled."""
    curves: Floats


def curve(run: Run, budget: int, key: str = "regret") -> Floats:
    """Return a run's regret after 1..budget evaluations; a table that was used up keeps its last one."""
    values = np.asarray(run[key], dtype=np.float64)[:budget]
    return np.concatenate([values, np.full(budget - len(values), values[-1])])


def matrix(runs: Iterable[Run], budget: int, key: str = "regret") -> Matrix:
    """Return the mean curves of one method's runs by task."""
    by_task: dict[tuple[str, str], list[Floats]] = defaultdict(list)
    dataset: dict[tuple[str, str], tuple[str, str]] = {}
    for run in runs:
        task = run["family"], run["task"]
        by_task[task].append(curve(run, budget, key))
        dataset[task] = run["family"], run["dataset"]
    tasks = tuple(sorted(by_task))
    curves = np.array([np.mean(by_task[task], axis=0) for task in tasks])
    return Matrix(tasks, tuple(dataset[task] for task in tasks), curves)


def weights(clusters: Sequence[Any], seed: int = 0) -> Floats:
    """Return `RESAMPLES x n` weights of n values for a bootstrap that draws whole clusters."""
    names = sorted(set(clusters))
    member = np.array(
        [[cluster == name for cluster in clusters] for name in names], dtype=np.float64
    )
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    found = drawn @ member
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def interval(values: Floats, clusters: Sequence[Any]) -> Interval:
    """Return the mean of `values` (one a task) with its interval by the bootstrap over clusters."""
    means = weights(clusters) @ values
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def paired(one: Matrix, other: Matrix, at: int) -> Interval:
    """Return the mean difference (one - other) after `at` evaluations on the tasks that both have."""
    common = sorted(set(one.tasks) & set(other.tasks))
    rows = [one.tasks.index(task) for task in common]
    others = [other.tasks.index(task) for task in common]
    differences = one.curves[rows, at - 1] - other.curves[others, at - 1]
    return interval(differences, [one.datasets[row] for row in rows])


def wilcoxon(one: Matrix, other: Matrix, at: int) -> float:
    """Return the two-sided p of Wilcoxon's signed rank test over the common tasks; 1 if nothing differs."""
    common = sorted(set(one.tasks) & set(other.tasks))
    a = one.curves[[one.tasks.index(task) for task in common], at - 1]
    b = other.curves[[other.tasks.index(task) for task in common], at - 1]
    if np.all(np.abs(a - b) <= TIED):
        return 1.0
    return float(stats.wilcoxon(a, b).pvalue)


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Return p values adjusted for their number (S. Holm, Scand. J. Statist. 6, 1979)."""
    adjusted: dict[str, float] = {}
    least = 0.0
    for i, name in enumerate(sorted(ps, key=lambda n: ps[n])):
        least = max(least, min(1.0, (len(ps) - i) * ps[name]))
        adjusted[name] = least
    return adjusted


def place(run: Run) -> tuple[str, str, int]:
    """Return where a run is compared with others: family, task, seed."""
    return run["family"], run["task"], run["seed"]


def complete(runs: Iterable[Run]) -> list[Run]:
    """Return the runs of those (family, task, seed) that every method has: else means don't compare."""
    by_place: dict[tuple[Any, ...], dict[str, Run]] = defaultdict(dict)
    for run in runs:
        by_place[place(run)][run["method"]] = run
    methods = {method for there in by_place.values() for method in there}
    return [run for there in by_place.values() if set(there) == methods for run in there.values()]


def ranks(runs: Iterable[Run], at: int) -> dict[str, dict[tuple[str, str], float]]:
    """Return the mean rank of each method on each task: among all in each seed, ties averaged."""
    by_place: dict[tuple[Any, ...], dict[str, float]] = defaultdict(dict)
    for run in runs:
        by_place[place(run)][run["method"]] = round(float(curve(run, at)[-1]), 9)
    found: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for (family, task, _), regrets in by_place.items():
        names = list(regrets)
        for name, rank in zip(names, stats.rankdata([regrets[n] for n in names]), strict=True):
            found[name][family, task].append(float(rank))
    return {
        name: {task: float(np.mean(values)) for task, values in tasks.items()}
        for name, tasks in found.items()
    }


def critical_difference(methods: int, tasks: int) -> float:
    """Return by how much mean ranks must differ to differ at 5 % (Nemenyi; J. Demsar, JMLR 7, 2006)."""
    q = stats.studentized_range.ppf(LEVEL, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * tasks)))


def friedman(by_method: Mapping[str, Mapping[tuple[str, str], float]]) -> float:
    """Return the p of Friedman's test that all methods are alike: 1 if all tie, NaN for fewer than three."""
    names = sorted(by_method)
    tasks = sorted(set.intersection(*(set(by_method[name]) for name in names)))
    if len(names) < 3 or len(tasks) < 2:  # noqa: PLR2004 - the test needs as many
        return float("nan")
    columns = [[by_method[name][task] for task in tasks] for name in names]
    if all(column == columns[0] for column in columns):
        return 1.0
    return float(stats.friedmanchisquare(*columns).pvalue)


def reaches(curve_of_means: Floats, level: float) -> int | None:
    """Return the first number of evaluations at which a curve is at or below `level`; None if never."""
    below = np.flatnonzero(curve_of_means <= level + TIED)
    return int(below[0]) + 1 if len(below) else None


def worse_share(runs: Iterable[Run], other: Iterable[Run], at: int) -> float:
    """Return the share of runs with more regret than the other method on the same task and seed."""
    theirs = {place(r): float(curve(r, at)[-1]) for r in other}
    pairs = [(float(curve(r, at)[-1]), theirs[place(r)]) for r in runs if place(r) in theirs]
    return float(np.mean([a > b + TIED for a, b in pairs])) if pairs else float("nan")


def coverage(runs: Iterable[Run], *, start: int = 3) -> tuple[float, int]:
    """Return how often a measurement fell into its predicted 90 % interval, and of how many predictions.

    Counted from the trial after `start` on; only proposals whose audit had mean and sd.
    """
    z = stats.norm.ppf((1 + COVERED) / 2)
    inside: list[bool] = []
    for run in runs:
        for value, mean, sd in list(zip(run["values"], run["mean"], run["sd"], strict=True))[
            start:
        ]:
            if value is not None and mean is not None and sd is not None:
                inside.append(abs(value - mean) <= z * sd)
    return (float(np.mean(inside)) if inside else float("nan")), len(inside)


def quantiles(runs: Iterable[Run], key: str) -> tuple[float, float]:
    """Return median and 99th percentile of a figure that every evaluation has."""
    values = [v for run in runs for v in run[key]]
    p50, p99 = np.quantile(values, [0.5, 0.99]) if values else (np.nan, np.nan)
    return float(p50), float(p99)
