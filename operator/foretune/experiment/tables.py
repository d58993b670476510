"""A recorded task as a table: configurations, what came of each, and how good that is.

Notation: n rows, r replicates of a row (seeds of the same training), D columns of the geometry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from foretune.domain.job import Goal, Objective
from foretune.domain.space import Choice, Space, Value, canonical

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from foretune.domain.space import Params

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One task of a family: every row was really evaluated."""

    family: str
    task: str
    dataset: str
    """Tasks of one data set are held out together."""
    space: Space
    objective: Objective
    columns: Mapping[str, Sequence[Value]]
    """By parameter, `n` legal values."""
    values: Floats
    """`n` objective values in their own unit, the mean of the replicates; NaN where the row failed."""
    replicates: Floats | None = None
    """`n x r`, where the training was repeated."""
    costs: Floats | None = None
    """`n`, seconds."""
    context: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False
    """Whether the rows are the whole space (a grid), so that every proposal is a row."""

    def __len__(self) -> int:
        """Return `n`."""
        return len(self.values)

    def params(self, row: int) -> Params:
        """Return the configuration of a row."""
        return {name: values[row] for name, values in self.columns.items()}

    def observe(self, row: int, seed: int) -> float:
        """Return what one training of a row gives: one replicate, the same for everyone with this seed."""
        if self.replicates is None:
            return float(self.values[row])
        drawn = np.random.default_rng([seed, row]).integers(self.replicates.shape[1])
        return float(self.replicates[row, drawn])

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        return self.objective.goal is Goal.MAXIMIZE

    @cached_property
    def regrets(self) -> Floats:
        """`n` normalised regrets: 0 the best row, 1 the median row and all that is worse or failed.

        A loss of ten times the median is as lost as the median itself; unclipped, it would decide the mean.
        """
        losses = -self.values if self.maximize else self.values
        known = losses[np.isfinite(losses)]
        best, median = float(known.min()), float(np.median(known))
        above = np.where(np.isfinite(losses), losses - best, np.inf)
        if median <= best:
            return np.where(above > 0, 1.0, 0.0)
        return np.clip(above / (median - best), 0.0, 1.0)

    @cached_property
    def range_regrets(self) -> Floats:
        """`n` regrets as shares of the whole range: 0 the best row, 1 the worst and what failed.

        Published results of HPO-B are told in this unit. One bad row makes all others look good.
        """
        losses = -self.values if self.maximize else self.values
        known = losses[np.isfinite(losses)]
        best, worst = float(known.min()), float(known.max())
        if worst <= best:
            return np.where(np.isfinite(losses), 0.0, 1.0)
        return np.where(np.isfinite(losses), (losses - best) / (worst - best), 1.0)

    @cached_property
    def geometry(self) -> Floats:
        """`n x D`: numbers in [0, 1] on their own scale, a column an option, any two options 1 apart."""
        return geometry(self.space, self.columns)

    def nearest(
        self, params: Mapping[str, Value], allowed: Bools | None = None
    ) -> tuple[int, bool]:
        """Return the allowed row nearest to `params` and whether it is that very configuration.

        Raises `LookupError` when no row is allowed.
        """
        point = geometry(self.space, {name: [params[name]] for name in self.space.names})[0]
        distances = np.square(self.geometry - point).sum(axis=1)
        if allowed is not None:
            if not allowed.any():
                raise LookupError(f"{self.family}/{self.task}: all {len(self)} rows were tried")
            distances = np.where(allowed, distances, np.inf)
        row = int(distances.argmin())
        return row, self.space.key(self.params(row)) == self.space.key(params)


def geometry(space: Space, columns: Mapping[str, Sequence[Value]]) -> Floats:
    """Return the `n x D` matrix in which distances between configurations are measured."""
    parts: list[Floats] = []
    for parameter in space.parameters:
        if parameter.cardinality == 1:
            continue
        distinct, codes = coded(columns[parameter.name])
        if isinstance(parameter, Choice):
            options = [canonical(option) for option in parameter.options]
            places = [options.index(canonical(value)) for value in distinct]
            table = np.eye(len(options))[places] / math.sqrt(2.0)
        else:
            table = np.array([[parameter.to_unit(value)] for value in distinct])
        parts.append(table[codes])
    return np.concatenate(parts, axis=1)


def coded(values: Sequence[Value]) -> tuple[list[Value], npt.NDArray[np.int64]]:
    """Return the different values, and for each of `values` its place among them."""
    places: dict[Value, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    return list(places), np.array(codes, dtype=np.int64)


def merged(
    columns: Mapping[str, Sequence[Value]], arrays: Iterable[Any]
) -> tuple[dict[str, tuple[Value, ...]], list[Any]]:
    """Return the rows with equal configurations made one: the mean of what was measured.

    A configuration that failed once has failed: a user would meet that, too.
    """
    keys: dict[tuple[Value, ...], list[int]] = {}
    for row, key in enumerate(zip(*columns.values(), strict=True)):
        keys.setdefault(key, []).append(row)
    if all(len(rows) == 1 for rows in keys.values()):
        return {name: tuple(values) for name, values in columns.items()}, list(arrays)
    groups = list(keys.values())
    first = {n: tuple(v[rows[0]] for rows in groups) for n, v in columns.items()}
    means = [
        None if array is None else np.array([array[rows].mean(axis=0) for rows in groups])
        for array in arrays
    ]
    return first, means
