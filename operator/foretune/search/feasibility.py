"""Where trials fail: Gaussian-process classification with a fixed kernel, by Laplace's method.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), algorithms 3.1 and 3.2. The
kernel is linear plus Matern 5/2: running out of memory and diverging are mostly monotone in a few
parameters, other failures are local. Hardly anything is fitted, so that two failures are enough to learn
from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

PRIOR_LOGIT: Final = 2.0
"""Log odds that an untried configuration works: most do (0.88)."""

LINEAR_VARIANCE: Final = 4.0
"""Prior variance of the change of the log odds along the whole range of one column."""

LOCAL_VARIANCE: Final = 4.0
"""Prior variance of local deviations of the log odds."""

LOCAL_LENGTH: Final = 0.35
"""Length scale of local deviations, in units of the range, times sqrt(D / 2)."""

STEPS: Final = 20
"""Newton steps; a handful converge."""

LEVEL_VARIANCE: Final = 2.0
"""Prior variance of the level of a task's log odds; half of it is shared by all tasks."""

COUNTS: Final = 0.02
"""Weight from which a model of shared failures is asked for predictions."""


class Feasible(Protocol):
    """A model of where trials work."""

    def log_probability(self, X: Tensor) -> Tensor:
        """Return log P(feasible) at `m x D` rows, differentiable in them."""


class Feasibility:
    """P(a trial gives a value | x), from the trials that did and those that failed."""

    def __init__(self, worked: Tensor, failed: Tensor) -> None:
        """Condition on `w x D` rows that worked and `f x D` rows that failed."""
        self._X = torch.cat([worked, failed])
        self._fit = _Laplace(_kernel(self._X, self._X), _signs(len(worked), len(failed)))

    def log_probability(self, X: Tensor) -> Tensor:
        """Return log P(feasible) at `m x D` rows, differentiable in them."""
        return self._fit.log_probability(_kernel(X, self._X), _diagonal(X))


class SharedFeasibility:
    """The same from this job's trials and those of past tasks, as far as these fail alike.

    The log odds of a task are `level + shared(x) + own(x)`. How much of their variance is shared, and
    whether they depend on x at all, is summed over `MODELS` by the evidence of all tasks: failures that
    have nothing in common teach nothing.
    """

    def __init__(self, X: Tensor, failed: Tensor, task: Tensor) -> None:
        """Condition on `n x D` rows, which of them failed (`n`), and their tasks (`n`; 0 is this job)."""
        self._X, self._own = X, task == 0
        same = task.unsqueeze(0) == task.unsqueeze(1)
        sign = 1.0 - 2.0 * failed.to(torch.float64)
        within = _kernel(X, X)
        fits = [_Laplace(_covariance(within, same, model), sign) for model in MODELS]
        weights = torch.tensor([f.log_evidence for f in fits], dtype=torch.float64).softmax(dim=0)
        self.weights: Final = dict(zip(MODELS, weights.tolist(), strict=True))
        """Weight of each of `MODELS`; those that hardly count predict nothing."""
        self._fits = [
            (model, fit, math.log(self.weights[model]))
            for model, fit in zip(MODELS, fits, strict=True)
            if self.weights[model] >= COUNTS
        ]

    def log_probability(self, X: Tensor) -> Tensor:
        """Return log P(feasible) in this job at `m x D` rows, differentiable in them."""
        cross, diagonal = _kernel(X, self._X), _diagonal(X)
        parts = [
            fit.log_probability(
                _covariance(cross, self._own, model), model.pattern * diagonal + LEVEL_VARIANCE
            )
            + log_weight
            for model, fit, log_weight in self._fits
        ]
        total: Tensor = torch.stack(parts, dim=1).logsumexp(dim=1)
        return total


@dataclass(frozen=True)
class _Model:
    """How the failures of tasks hang together."""

    pattern: float
    """1 where failures depend on the parameters, 0 where they come by chance."""
    share: float
    """Share of the variance of the log odds that tasks have in common."""


MODELS: Final = (_Model(0.0, 0.0), _Model(1.0, 0.0), _Model(1.0, 0.5), _Model(1.0, 0.9))
"""By chance; a pattern of each task's own; half of it in common; nearly all."""


def _covariance(within: Tensor, same: Tensor, model: _Model) -> Tensor:
    """Return the covariance of log odds where that within one task is `within`, but for the level."""
    pattern = model.pattern * within
    return torch.where(same, pattern + LEVEL_VARIANCE, model.share * pattern + LEVEL_VARIANCE / 2)


class _Laplace:
    """The posterior of the log odds at `n` rows, and what follows from it elsewhere."""

    def __init__(self, K: Tensor, sign: Tensor) -> None:
        """Condition on signs (`n`, +1 worked, -1 failed) under the covariance `K`."""
        f = torch.full_like(sign, PRIOR_LOGIT)
        identity = torch.eye(len(sign), dtype=torch.float64)
        for _ in range(STEPS):
            p = f.sigmoid()
            root = (p * (1 - p)).clamp(min=1e-9).sqrt()
            gradient = (sign + 1) / 2 - p
            b = root.square() * (f - PRIOR_LOGIT) + gradient
            B = identity + root.unsqueeze(1) * K * root.unsqueeze(0)
            self._L = torch.linalg.cholesky(B)
            solved = torch.cholesky_solve((root * (K @ b)).unsqueeze(1), self._L).squeeze(1)
            new = PRIOR_LOGIT + K @ (b - root * solved)
            done = bool((new - f).abs().max() < 1e-8)  # noqa: PLR2004 - converged in float64
            f = new
            if done:
                break
        p = f.sigmoid()
        self._root = (p * (1 - p)).clamp(min=1e-9).sqrt()
        self._gradient = (sign + 1) / 2 - p
        B = identity + self._root.unsqueeze(1) * K * self._root.unsqueeze(0)
        self._L = torch.linalg.cholesky(B)
        likelihood = torch.nn.functional.logsigmoid(sign * f).sum()
        prior = -0.5 * self._gradient @ (f - PRIOR_LOGIT)
        self.log_evidence: Final = float(likelihood + prior - self._L.diagonal().log().sum())

    def log_probability(self, cross: Tensor, diagonal: Tensor) -> Tensor:
        """Return log P(worked) (`m`) where the covariance with the rows is `cross` (`m x n`)."""
        mean = PRIOR_LOGIT + cross @ self._gradient
        half = torch.linalg.solve_triangular(
            self._L, (cross * self._root).transpose(0, 1), upper=False
        )
        variance = (diagonal - half.square().sum(dim=0)).clamp(min=0.0)
        # MacKay's approximation of the sigmoid averaged over a Gaussian.
        return torch.nn.functional.logsigmoid(mean / (1 + math.pi / 8 * variance).sqrt())


def _signs(worked: int, failed: int) -> Tensor:
    sign = torch.ones(worked + failed, dtype=torch.float64)
    sign[worked:] = -1.0
    return sign


def _kernel(A: Tensor, B: Tensor) -> Tensor:
    linear = LINEAR_VARIANCE * (A - 0.5) @ (B - 0.5).transpose(0, 1)
    length = LOCAL_LENGTH * math.sqrt(max(1.0, A.shape[1] / 2))
    # |a - b|^2 by its parts: an `m x n x D` array of differences would take gigabytes.
    square = A.square().sum(dim=1, keepdim=True) + B.square().sum(dim=1) - 2 * A @ B.transpose(0, 1)
    r = (5 / length**2 * square.clamp(min=0.0) + 1e-18).sqrt()
    return linear + LOCAL_VARIANCE * (1 + r + r.square() / 3) * (-r).exp()


def _diagonal(X: Tensor) -> Tensor:
    return LINEAR_VARIANCE * (X - 0.5).square().sum(dim=1) + LOCAL_VARIANCE
