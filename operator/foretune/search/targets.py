"""From the objective's values to what a Gaussian process is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


WINSOR: Final = 3.0
"""Bad values count at most this many times the spread above the median below it: how bad a bad
configuration is does not matter, and one diverged loss must not flatten everything else."""

LONELY: Final = 30.0
"""A best value further from the second best than this many times the range of all the others is
drawn nearer (to `WINSOR` ranges); it stays the best."""


SAME: Final = 1e-12
"""Values that differ by less than this, relative to the largest, are taken for equal."""


@dataclass(frozen=True)
class Targets:
    """Standardised targets, larger is better, and the way back to the metric's unit."""

    z: Tensor
    """`n`, mean 0 and standard deviation 1 (all 0 when the values are equal)."""
    center: float
    scale: float
    sign: float

    @classmethod
    def of(cls, values: Sequence[float], *, maximize: bool) -> Targets:
        """Orient, winsorise and standardise finite values; at least one."""
        sign = 1.0 if maximize else -1.0
        # In units of the largest value, so that neither squares overflow nor differences vanish.
        unit = max(abs(value) for value in values) or 1.0
        y = sign * torch.tensor([value / unit for value in values], dtype=torch.float64)
        y = _raise_floor(_pull_lonely_best(y))
        center = y.mean()
        spread = float((y - center).square().mean().sqrt())
        scale = spread if spread > SAME else 1.0
        return cls((y - center) / scale, float(center) * unit, scale * unit, sign)

    def mean(self, z: float) -> float:
        """Return a standardised mean in the metric's unit and direction."""
        return self.sign * (self.center + self.scale * z)

    def sd(self, sd: float) -> float:
        """Return a standardised deviation in the metric's unit."""
        return self.scale * sd


def _pull_lonely_best(y: Tensor) -> Tensor:
    if len(y) < 3:  # noqa: PLR2004 - two values have no range to compare with
        return y
    ordered = y.sort().values
    span = ordered[-2] - ordered[0]
    gap = ordered[-1] - ordered[-2]
    if span > 0 and gap > LONELY * span:
        return y.clamp(max=float(ordered[-2] + WINSOR * span))
    return y


def _raise_floor(y: Tensor) -> Tensor:
    middle = y.quantile(0.5)
    spread = torch.maximum(y.max() - middle, middle - y.quantile(0.25))
    return y.clamp(min=float(middle - WINSOR * spread)) if spread > 0 else y
