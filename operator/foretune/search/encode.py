"""Configurations as rows of a matrix, and back: unit interval for numbers, one-hot for categories.

Notation: n configurations, D columns, k parameters with more than one value. A number takes one column
in [0, 1] on its own scale (an ordinal by rank), a choice of two takes one column {0, 1}, a choice of
more takes a column an option with 1/sqrt(2) in the chosen one, so that any two options are 1 apart.
Constants take none. float64 throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from foretune.domain.space import Choice, Float, Int, Parameter, Scale, Value, canonical
from foretune.search.sampling import tunable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foretune.domain.space import Params, Space

MAX_LEVELS: Final = 20_000
"""Numbers with more values than this are searched as if continuous, and rounded at the end."""

FEW_LEVELS: Final = 8
"""Numbers with more values than this are worth a gradient step; those with fewer are flipped instead."""


@dataclass(frozen=True)
class Column:
    """The columns of one parameter."""

    parameter: Parameter
    start: int
    width: int
    codes: Tensor | None
    """`levels x width`: the row of each value; None for (nearly) continuous numbers."""
    edges: Tensor | None
    """`levels - 1`: where in [0, 1] a uniform draw passes from one value to the next."""
    values: tuple[Value, ...]
    """The values behind `codes`."""

    @cached_property
    def rows(self) -> list[list[float]]:
        """`codes` as plain numbers (a list a level)."""
        assert self.codes is not None
        rows: list[list[float]] = self.codes.tolist()
        return rows

    @cached_property
    def levels(self) -> dict[str, int]:
        """Where each of `values` stands among them, by its canonical text."""
        return {canonical(value): i for i, value in reversed(list(enumerate(self.values)))}

    @property
    def stop(self) -> int:
        """First column behind these."""
        return self.start + self.width

    @property
    def smooth(self) -> bool:
        """Whether a small step along the column means a small change."""
        ordered = self.width == 1 and not isinstance(self.parameter, Choice)
        return ordered and (self.codes is None or len(self.codes) > FEW_LEVELS)


class Encoding:
    """The matrix form of one space."""

    def __init__(self, space: Space) -> None:
        """Lay out the columns of `space`."""
        self.space = space
        columns: list[Column] = []
        for parameter in tunable(space):
            columns.append(_column(parameter, columns[-1].stop if columns else 0))
        self.columns: Final = tuple(columns)
        self.width: Final = columns[-1].stop if columns else 0

    @property
    def smooth(self) -> list[int]:
        """Indices of the columns that a gradient may move."""
        return [column.start for column in self.columns if column.smooth]

    def encode(self, configurations: Sequence[Mapping[str, Value]]) -> Tensor:
        """Return the `n x D` rows of legal configurations."""
        numbers: list[list[float]] = [[] for _ in configurations]
        for column in self.columns:
            name, parameter = column.parameter.name, column.parameter
            for row, params in zip(numbers, configurations, strict=True):
                if column.codes is None:
                    row.append(min(1.0, max(0.0, parameter.to_unit(params[name]))))
                else:
                    row.extend(column.rows[_level(column, params[name])])
        return torch.tensor(numbers, dtype=torch.float64).reshape(len(numbers), self.width)

    def decode(self, row: Tensor) -> Params:
        """Return the legal configuration nearest to a row of `D` numbers."""
        chosen: dict[str, Value] = {}
        for column in self.columns:
            part = row[column.start : column.stop].unsqueeze(0)
            if column.codes is None:
                chosen[column.parameter.name] = column.parameter.from_unit(float(part))
            else:
                chosen[column.parameter.name] = column.values[int(_nearest(column, part))]
        return {
            p.name: chosen[p.name] if p.name in chosen else p.from_unit(0.5)
            for p in self.space.parameters
        }

    def snap(self, rows: Tensor) -> Tensor:
        """Return `n x D` rows moved to the nearest legal ones (huge integers stay unrounded)."""
        snapped = rows.clamp(0.0, 1.0)
        for column in self.columns:
            if column.codes is not None:
                part = slice(column.start, column.stop)
                snapped[:, part] = column.codes[_nearest(column, rows[:, part])]
        return snapped

    def draw(self, uniform: Tensor) -> Tensor:
        """Return legal `n x D` rows for an `n x k` matrix of uniform numbers, fair to every value."""
        rows = torch.empty(len(uniform), self.width, dtype=torch.float64)
        for j, column in enumerate(self.columns):
            u = uniform[:, j].contiguous()
            if column.codes is None or column.edges is None:
                rows[:, column.start] = u
            else:
                level = torch.searchsorted(column.edges, u, right=True)
                rows[:, column.start : column.stop] = column.codes[level]
        return rows

    def grid(self) -> Tensor:
        """Return every configuration of a finite space as rows; the caller has checked the number."""
        levels = [torch.arange(len(c.codes)) for c in self.columns if c.codes is not None]
        if len(levels) < len(self.columns):
            raise ValueError("grid: the space has a continuous parameter")
        index = torch.cartesian_prod(*levels).reshape(-1, len(levels))
        parts = [c.codes[index[:, j]] for j, c in enumerate(self.columns) if c.codes is not None]
        return torch.cat(parts, dim=1)


def _column(parameter: Parameter, start: int) -> Column:
    count = parameter.cardinality
    if count is None or (count > MAX_LEVELS and isinstance(parameter, Float | Int)):
        return Column(parameter, start, 1, None, None, ())
    values = tuple(parameter.values())
    levels = torch.arange(count, dtype=torch.float64)
    edges = levels[1:] / count
    if isinstance(parameter, Choice) and count > 2:  # noqa: PLR2004 - two options need one column
        codes = torch.eye(count, dtype=torch.float64) / math.sqrt(2.0)
    elif isinstance(parameter, Float | Int):
        units = [min(1.0, max(0.0, parameter.to_unit(value))) for value in values]
        codes = torch.tensor(units, dtype=torch.float64).unsqueeze(1)
        if parameter.scale is Scale.LOG:
            edges = _log_edges(values)
    else:
        codes = (levels / (count - 1)).unsqueeze(1)
    return Column(parameter, start, codes.shape[1], codes, edges, values)


def _log_edges(values: Sequence[Value]) -> Tensor:
    """Return where draws change value when each value owns what is nearest to it, measured in logs."""
    numbers = torch.tensor([float(value) for value in values], dtype=torch.float64)
    middle = (numbers[1:] + numbers[:-1]).div(2).log()
    low = (numbers[0] - (numbers[1] - numbers[0]) / 2).clamp(min=numbers[0] / 2).log()
    high = (numbers[-1] + (numbers[-1] - numbers[-2]) / 2).log()
    return (middle - low) / (high - low)


def _level(column: Column, value: Value) -> int:
    parameter = column.parameter
    if isinstance(parameter, Float | Int):
        assert parameter.step is not None
        return min(len(column.values) - 1, round((float(value) - parameter.low) / parameter.step))
    return column.levels[canonical(value)]


def _nearest(column: Column, part: Tensor) -> Tensor:
    """Return the level nearest to each row of an `n x width` part."""
    assert column.codes is not None
    if column.width > 1:
        return part.argmax(dim=1)
    codes = column.codes[:, 0]
    return torch.searchsorted((codes[1:] + codes[:-1]) / 2, part[:, 0].contiguous())
