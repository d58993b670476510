"""The mixed-effects Gaussian process, conditioned exactly: past tasks as mean and covariance.

    y(x) = a + b [ mu(x) + psi(x)' beta + s g(x) ] + e,  beta ~ N(0, I),  g ~ GP(0, k),  e ~ N(0, b^2 v)

mu is the average of the tasks' functions, psi their deviations from it (and a part of mu itself, whose
strength is not certain either), g what is new about this task. The location a has a flat prior and is
integrated out; the scale b has a flat prior on its logarithm and is summed over; s and v lie on a
small grid. One factorisation a grid point, no gradient steps. With mu = psi = 0 the same lines give the
plain process that the evidence is compared with.

Notation: n observed rows, p pending rows, m query rows, G grid points.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from botorch.acquisition.analytic import _log_ei_helper
from torch import Tensor

from foretune.search.posterior import CHUNK, cholesky, finite

if TYPE_CHECKING:
    from collections.abc import Callable

RESIDUALS: Final = (0.3, 1.0)
"""Variances of what is new about the target, in units of a past task's own variance."""

NOISES: Final = (0.01, 0.1, 0.5)
"""Variances of the noise, in the same units."""

STRENGTH: Final = 0.5
"""Standard deviation of the strength with which the target follows the average."""

SCALES: Final = 41
"""Grid points of log b."""

SCALE_SPAN: Final = math.log(30.0)
"""Half the width of that grid, around the likeliest scale."""

KEPT: Final = 3
"""Grid points that predict: the likeliest."""

TINY: Final = 1e-18
"""Sum of squares below which all values count as equal."""


@dataclass(frozen=True)
class Parts:
    """What past tasks give beside mean and kernel; less of it to see what a part is worth."""

    factors: bool = True


ALL: Final = Parts()


@dataclass(frozen=True)
class Rows:
    """Rows of the target, and what past tasks say about them."""

    X: Tensor
    """`m x D`."""
    values: Tensor
    """`m x T`."""

    def __getitem__(self, index: slice | Tensor) -> Rows:
        """Return some of the rows."""
        return Rows(self.X[index], self.values[index])

    def __add__(self, other: Rows) -> Rows:
        """Return these rows and then the others."""
        return Rows(torch.cat([self.X, other.X]), torch.cat([self.values, other.values]))


@dataclass(frozen=True)
class _Point:
    """One grid point, conditioned."""

    residual: float
    scale: float
    location: Tensor
    L: Tensor
    alpha: Tensor
    ones: Tensor
    """The inverse covariance times a vector of ones."""
    log_evidence: float


class Mixed:
    """The posterior over the grid, given values at some rows."""

    def __init__(
        self,
        rows: Rows,
        y: Tensor,
        *,
        kernel: Callable[[Tensor, Tensor], Tensor],
        weights: Tensor | None = None,
        parts: Parts = ALL,
    ) -> None:
        """Condition on `n` standardised values at `n` rows.

        `weights` (`T`, sum 1) say how much each past task counts; without them it is the plain process.
        """
        self._X = rows.X
        self._kernel = kernel
        self._weights = weights
        self._parts = parts
        self._mean, self._factors = self._known(rows)
        shared = self._factors @ self._factors.transpose(0, 1)
        new = kernel(rows.X, rows.X)
        identity = torch.eye(len(y), dtype=torch.float64)
        grid = itertools.product(RESIDUALS if weights is not None else (1.0,), NOISES)
        points = [self._point(shared + s * new + v * identity, y, residual=s) for s, v in grid]
        evidence = torch.tensor([point.log_evidence for point in points], dtype=torch.float64)
        finite(evidence)
        self.log_evidence: Final = float(evidence.logsumexp(dim=0)) - math.log(len(points))
        order = evidence.argsort(descending=True, stable=True)[:KEPT]
        self._points = [points[i] for i in order.tolist()]
        self.log_weights: Final = evidence[order].log_softmax(dim=0)

    def _known(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the mean (`m`) and the factors of the covariance (`m x R`) that the past tasks give."""
        if self._weights is None:
            return rows.values.new_zeros(len(rows.X)), rows.values.new_zeros(len(rows.X), 0)
        mean = rows.values @ self._weights
        middle = mean.unsqueeze(1)
        deviations = (rows.values - middle) * self._weights.sqrt()
        factors = torch.cat([deviations, STRENGTH * middle], dim=1)
        return mean, factors if self._parts.factors else torch.zeros_like(factors)

    def _point(self, A: Tensor, y: Tensor, *, residual: float) -> _Point:
        n = len(y)
        L = cholesky(A)
        columns = torch.stack([torch.ones_like(y), y, self._mean], dim=1)
        solved = torch.cholesky_solve(columns, L)
        ones = solved[:, 0]
        gram = columns.transpose(0, 1) @ solved
        # Integrating the location out leaves what is not explained by a constant.
        left = gram - torch.outer(gram[:, 0], gram[0]) / gram[0, 0]
        yy, ym, mm = float(left[1, 1]), float(left[1, 2]), float(left[2, 2])
        scale, log_integral = 1.0, 0.0
        if n > 1 and yy > TINY:
            scale = (-ym + math.sqrt(ym * ym + 4 * (n - 1) * yy)) / (2 * (n - 1))
            steps = torch.linspace(-SCALE_SPAN, SCALE_SPAN, SCALES, dtype=torch.float64)
            b = scale * steps.exp()
            log_density = -(n - 1) * b.log() - 0.5 * (yy / b.square() - 2 * ym / b + mm)
            log_integral = float(log_density.logsumexp(dim=0) + (steps[1] - steps[0]).log())
        log_evidence = (
            log_integral - float(L.diagonal().log().sum()) - 0.5 * math.log(float(gram[0, 0]))
        )
        rest = y / scale - self._mean
        location = (ones @ rest) / gram[0, 0]
        alpha = solved[:, 1] / scale - solved[:, 2] - location * ones
        return _Point(residual, scale, location, L, alpha, ones, log_evidence)

    def at(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (`m x G`) at `m` rows, at each kept grid point."""
        mean, factors = self._known(rows)
        shared = factors @ self._factors.transpose(0, 1)
        new = self._kernel(rows.X, self._X)
        own = factors.square().sum(dim=1)
        means, deviations = [], []
        for point in self._points:
            cross = shared + point.residual * new
            half = torch.linalg.solve_triangular(point.L, cross.transpose(0, 1), upper=False)
            slack = (1 - cross @ point.ones).square() / point.ones.sum()
            variance = own + point.residual - half.square().sum(dim=0) + slack
            means.append(point.scale * (point.location + mean + cross @ point.alpha))
            deviations.append(point.scale * variance.clamp(min=1e-12).sqrt())
        return torch.stack(means, dim=1), torch.stack(deviations, dim=1)

    def summary(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (`m`) of the mixture over the grid."""
        mean, sd = self.at(rows)
        weights = self.log_weights.exp()
        middle = mean @ weights
        spread = (sd.square() + (mean - middle.unsqueeze(1)).square()) @ weights
        return middle, spread.sqrt()

    def shares(self) -> Tensor:
        """Return how much of the posterior mean each past task stands for (`T`)."""
        assert self._weights is not None
        point = self._points[0]
        beta = self._factors.transpose(0, 1) @ point.alpha
        root = self._weights.sqrt()
        middle = 1 + STRENGTH * beta[-1] - root @ beta[:-1]
        shares: Tensor = root * beta[:-1] + self._weights * middle
        return shares


def log_improvement(model: Mixed, rows: Rows, incumbent: Tensor) -> Tensor:
    """Return log expected improvement (`m`) over `incumbent` (`G`), averaged over the grid."""
    parts = []
    for start in range(0, len(rows.X), CHUNK):
        mean, sd = model.at(rows[start : start + CHUNK])
        log_ei = _log_ei_helper((mean - incumbent) / sd) + sd.log()
        parts.append((log_ei + model.log_weights).logsumexp(dim=1))
    score = torch.cat(parts)
    finite(score)
    return score
