"""Where moves are too small to matter: what was tried tells how far apart two configurations must be.

An objective may not tell near configurations apart: whole numbers behind a float, a metric with few
different values, a table or a tree in the place of a training. Two trials with exactly the same value
show it. Another trial that near to one of them would be wasted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Tensor

MOSTLY: Final = 0.5
"""Share of the trials that near to an earlier one that must have had its very value."""

FURTHER: Final = 2.0
"""How many times as far the next trial goes, unless another that near was different."""

FARTHEST: Final = 0.2
"""Largest distance kept, times the square root of the number of columns."""

WASTED: Final = 1e6
"""Log score that a candidate loses where it would be wasted."""


def radius(X: Tensor, values: Tensor) -> float:
    """Return the distance up to which moves mostly changed nothing; 0 when none is known.

    `X` are `n x D` rows in the order of the trials, `values` (`n`) what came of them.
    """
    if len(X) < 2:  # noqa: PLR2004 - a distance needs two
        return 0.0
    distances = torch.cdist(X, X)
    distances = distances.masked_fill(torch.ones_like(distances).triu().bool(), torch.inf)
    away, which = distances[1:].min(dim=1)
    order = away.argsort(stable=True)
    away, same = away[order], (values[1:] == values[which])[order]
    share = same.cumsum(dim=0) / torch.arange(1, len(order) + 1)
    found = (same & (share > MOSTLY)).nonzero()
    if len(found) == 0:
        return 0.0
    last = int(found[-1])
    reach = FURTHER * float(away[last])
    beyond = away[last + 1 :][~same[last + 1 :]]
    if len(beyond):
        reach = min(reach, float(beyond[0]) * (1 - 1e-9))
    return min(reach, FARTHEST * math.sqrt(X.shape[1]))


def wasted(candidates: Tensor, X: Tensor, reach: float) -> Tensor:
    """Return what each of `m x D` candidates loses (`m`): all within `reach` of a tried row."""
    if reach <= 0 or len(X) == 0:
        return candidates.new_zeros(len(candidates))
    near = torch.cdist(candidates, X).amin(dim=1) <= reach
    return near * -WASTED
