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
    from collections.abc import Callable, Sequence

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

KEPT: Final = 6
"""Grid points that predict: the likeliest."""

LEAST: Final = 0.02
"""Those less likely than the likeliest by this factor don't."""

FOLLOWS: Final = 0.6
"""Prior probability that the target follows the average of the past tasks."""

UNSIGNED: Final = 0.1
"""Prior probability that it has their structure, but which way is up is not known. The rest: it is much
like one of them."""

TWINS: Final = 8
"""Tasks that it may be like: those that go with its values most."""

TWIN_VALUES: Final = 3
"""Values from which on that can be told."""

TWIN_RESIDUALS: Final = (0.1, 0.3)
"""Variances of what is new about a target that is like one task."""

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
class Belief:
    """One way in which the target may be related to the past tasks."""

    mean: Tensor
    """`T`: the average that the target follows, as weights of the tasks' functions."""
    factors: Tensor
    """`T x R`: how it deviates from that, as weights of the tasks' functions."""
    residuals: tuple[float, ...]
    log_prior: float


@dataclass(frozen=True)
class _Point:
    """One grid point, conditioned."""

    belief: Belief
    residual: float
    noise: float
    scale: float
    location: float
    factors: Tensor
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
        past: bool = True,
        parts: Parts = ALL,
        noise: Tensor | None = None,
    ) -> None:
        """Condition on `n` standardised values at `n` rows.

        Without `past` it is the plain process. `noise` (`n`) are variances known of each value.
        """
        self._X = rows.X
        self._kernel = kernel
        self._count = rows.values.shape[1]
        held = beliefs(rows.values, y, parts) if past else [nothing_known(self._count)]
        points = self._points_of(held, rows, y, torch.zeros_like(y) if noise is None else noise)
        evidence = torch.tensor([point.log_evidence for point in points], dtype=torch.float64)
        finite(evidence)
        priors = torch.tensor([belief.log_prior for belief in held], dtype=torch.float64)
        self.log_evidence: Final = float(evidence.logsumexp(dim=0) - priors.logsumexp(dim=0))
        order = evidence.argsort(descending=True, stable=True)[:KEPT]
        order = order[evidence[order] > evidence[order[0]] + math.log(LEAST)]
        self._points = [points[i] for i in order.tolist()]
        self.log_weights: Final = evidence[order].log_softmax(dim=0)

    def _points_of(
        self, beliefs: Sequence[Belief], rows: Rows, y: Tensor, noise: Tensor
    ) -> list[_Point]:
        n = len(y)
        new, known = self._kernel(rows.X, rows.X), torch.diag(noise)
        identity = torch.eye(n, dtype=torch.float64)
        grid = [(b, s, v) for b in beliefs for s, v in itertools.product(b.residuals, NOISES)]
        factors = {id(b): rows.values @ b.factors for b in beliefs}
        means = {id(b): rows.values @ b.mean for b in beliefs}
        shared = {key: F @ F.transpose(0, 1) for key, F in factors.items()}
        A = torch.stack([shared[id(b)] + s * new + v * identity + known for b, s, v in grid])
        L = choleskys(A)
        mean = torch.stack([means[id(b)] for b, _, _ in grid])
        columns = torch.stack([torch.ones_like(mean), y.expand_as(mean), mean], dim=2)
        solved = torch.cholesky_solve(columns, L)
        gram = columns.transpose(1, 2) @ solved
        # Integrating the location out leaves what is not explained by a constant.
        total = gram[:, 0, 0]
        left = gram - gram[:, :, :1] * gram[:, :1, :] / total[:, None, None]
        yy, ym, mm = left[:, 1, 1], left[:, 1, 2], left[:, 2, 2]
        scale, log_integral = torch.ones_like(yy), torch.zeros_like(yy)
        if n > 1 and float(yy.max()) > TINY:
            yy = yy.clamp(min=TINY)
            scale = (-ym + (ym * ym + 4 * (n - 1) * yy).sqrt()) / (2 * (n - 1))
            steps = torch.linspace(-SCALE_SPAN, SCALE_SPAN, SCALES, dtype=torch.float64)
            b = scale[:, None] * steps.exp()
            density = -(n - 1) * b.log() - 0.5 * (
                yy[:, None] / b.square() - 2 * ym[:, None] / b + mm[:, None]
            )
            log_integral = density.logsumexp(dim=1) + (steps[1] - steps[0]).log()
        half = L.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        evidence = log_integral - half - 0.5 * total.log()
        location = (gram[:, 0, 1] / scale - gram[:, 0, 2]) / total
        alpha = solved[:, :, 1] / scale[:, None] - solved[:, :, 2]
        alpha = alpha - location[:, None] * solved[:, :, 0]
        count = len(NOISES)
        return [
            _Point(
                belief,
                residual,
                v,
                float(scale[k]),
                float(location[k]),
                factors[id(belief)],
                L[k],
                alpha[k],
                solved[k, :, 0],
                float(evidence[k]) + belief.log_prior - math.log(len(belief.residuals) * count),
            )
            for k, (belief, residual, v) in enumerate(grid)
        ]

    def at(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (`m x G`) at `m` rows, at each kept grid point."""
        new = self._kernel(rows.X, self._X)
        means, deviations = [], []
        for point in self._points:
            mean, factors = rows.values @ point.belief.mean, rows.values @ point.belief.factors
            cross = factors @ point.factors.transpose(0, 1) + point.residual * new
            own = factors.square().sum(dim=1) + point.residual
            half = torch.linalg.solve_triangular(point.L, cross.transpose(0, 1), upper=False)
            slack = (1 - cross @ point.ones).square() / point.ones.sum()
            variance = own - half.square().sum(dim=0) + slack
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

    @property
    def noise_sd(self) -> float:
        """Deviation of one measurement from the function."""
        variances = [point.scale**2 * point.noise for point in self._points]
        return math.sqrt(float(self.log_weights.exp() @ torch.tensor(variances).double()))

    def shares(self) -> Tensor:
        """Return how much of the posterior mean each past task stands for (`T`)."""
        total = torch.zeros(self._count, dtype=torch.float64)
        for weight, point in zip(self.log_weights.exp(), self._points, strict=True):
            belief = point.belief
            beta = point.factors.transpose(0, 1) @ point.alpha
            total = total + weight * (belief.mean + belief.factors @ beta)
        return total


def nothing_known(count: int) -> Belief:
    """Return the belief that past tasks have nothing to say."""
    nothing = torch.zeros(count, dtype=torch.float64)
    return Belief(nothing, torch.zeros(count, 0, dtype=torch.float64), (1.0,), 0.0)


def beliefs(values: Tensor, y: Tensor, parts: Parts) -> list[Belief]:
    """Return how the target may be related to the past tasks, given what they say (`n x T`) of `y`."""
    count = values.shape[1]
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    each = (torch.eye(count, dtype=torch.float64) - weights.unsqueeze(1)) * weights.sqrt()
    middle = weights.unsqueeze(1)
    follow = torch.cat([each, STRENGTH * middle], dim=1)
    if not parts.factors:
        return [Belief(weights, torch.zeros_like(follow), RESIDUALS, 0.0)]
    # Negated or not: the same functions without a sign.
    unsigned = torch.cat([each, middle], dim=1)
    found = [
        Belief(weights, follow, RESIDUALS, math.log(FOLLOWS)),
        Belief(torch.zeros_like(weights), unsigned, RESIDUALS, math.log(UNSIGNED)),
    ]
    if len(y) < TWIN_VALUES:
        return found
    share = math.log((1 - FOLLOWS - UNSIGNED) / count)
    for t in _alike(values, y):
        one = torch.zeros_like(weights)
        one[t] = 1.0
        found.append(Belief(one, STRENGTH * one.unsqueeze(1), TWIN_RESIDUALS, share))
    return found


def _alike(values: Tensor, y: Tensor) -> list[int]:
    """Return the tasks whose functions go with `y` most."""
    F, z = values - values.mean(dim=0), y - y.mean()
    fit = (z @ F) / F.square().sum(dim=0).clamp(min=TINY).sqrt()
    order: list[int] = fit.argsort(descending=True, stable=True).tolist()
    return order[:TWINS]


def choleskys(A: Tensor) -> Tensor:
    """Return the lower Cholesky factors of a stack of matrices, each with as much jitter as it needs."""
    finite(A)
    L, info = torch.linalg.cholesky_ex(A)
    for k in info.nonzero().flatten().tolist():
        L[k] = cholesky(A[k])
    return L  # type: ignore[no-any-return]


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
