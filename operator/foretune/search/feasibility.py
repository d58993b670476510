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

CONVERGED: Final = 1e-6
"""Change of the log odds from which on they have converged: the error left is about its square."""

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
        fit = _Laplace(_kernel(self._X, self._X), _signs(len(worked), len(failed)))
        self._predict = _Prediction(fit, torch.ones(len(self._X)).double(), torch.zeros(()))

    def log_probability(self, X: Tensor) -> Tensor:
        """Return log P(feasible) at `m x D` rows, differentiable in them."""
        return self._predict(_kernel(X, self._X), _diagonal(X))


class SharedFeasibility:
    """The same from this job's trials and those of past tasks, as far as these fail alike.

    The log odds of a task are `level + shared(x) + own(x)`. How much of their variance is shared, and
    whether they depend on x at all, is summed over `MODELS` by the evidence of all tasks: failures that
    have nothing in common teach nothing.
    """

    def __init__(self, X: Tensor, failed: Tensor, task: Tensor) -> None:
        """Condition on `n x D` rows, which of them failed (`n`), and their tasks (`n`; 0 is this job)."""
        self._X = X
        same = task.unsqueeze(0) == task.unsqueeze(1)
        sign = 1.0 - 2.0 * failed.to(torch.float64)
        within = _kernel(X, X)
        fits: list[_Laplace] = []
        for model in MODELS:
            start = fits[-1].log_odds if fits else None
            fits.append(_Laplace(_covariance(within, same, model), sign, start))
        weights = torch.tensor([f.log_evidence for f in fits], dtype=torch.float64).softmax(dim=0)
        self.weights: Final = dict(zip(MODELS, weights.tolist(), strict=True))
        """Weight of each of `MODELS`; those that hardly count predict nothing."""
        own = (task == 0).to(torch.float64)
        self._parts = [
            (
                model.pattern,
                _Prediction(
                    fit,
                    model.pattern * (own + model.share * (1 - own)),
                    LEVEL_VARIANCE / 2 * (1 + own),
                ),
                math.log(self.weights[model]),
            )
            for model, fit in zip(MODELS, fits, strict=True)
            if self.weights[model] >= COUNTS
        ]

    def log_probability(self, X: Tensor) -> Tensor:
        """Return log P(feasible) in this job at `m x D` rows, differentiable in them."""
        cross, diagonal = _kernel(X, self._X), _diagonal(X)
        parts = [
            predict(cross, pattern * diagonal + LEVEL_VARIANCE) + log_weight
            for pattern, predict, log_weight in self._parts
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
    """The posterior of the log odds at `n` rows."""

    def __init__(self, K: Tensor, sign: Tensor, start: Tensor | None = None) -> None:
        """Condition on signs (`n`, +1 worked, -1 failed) under the covariance `K`.

        `start` (`n`) are log odds that are thought to be near the answer, which does not depend on them.
        """
        f = torch.full_like(sign, PRIOR_LOGIT) if start is None else start
        for _ in range(STEPS):
            p = f.sigmoid()
            root = (p * (1 - p)).clamp(min=1e-9).sqrt()
            b = root.square() * (f - PRIOR_LOGIT) + (sign + 1) / 2 - p
            L = _factor(K, root)
            solved = torch.cholesky_solve((root * (K @ b)).unsqueeze(1), L).squeeze(1)
            new = PRIOR_LOGIT + K @ (b - root * solved)
            done = bool((new - f).abs().max() < CONVERGED)
            f = new
            if done:
                break
        p = f.sigmoid()
        self.log_odds: Final = f
        self.root: Final = (p * (1 - p)).clamp(min=1e-9).sqrt()
        self.gradient: Final = (sign + 1) / 2 - p
        self.L: Final = _factor(K, self.root)
        likelihood = torch.nn.functional.logsigmoid(sign * f).sum()
        prior = -0.5 * self.gradient @ (f - PRIOR_LOGIT)
        self.log_evidence: Final = float(likelihood + prior - self.L.diagonal().log().sum())


def _factor(K: Tensor, root: Tensor) -> Tensor:
    """Return the lower Cholesky factor of I + root K root."""
    B = (root.unsqueeze(1) * K).mul_(root)
    B.diagonal().add_(1.0)
    L: Tensor = torch.linalg.cholesky(B)
    return L


class _Prediction:
    """What a posterior says where the covariance with its `n` rows is `scale * within + offset`.

    Multiplied out once, so that models that differ in `scale` and `offset` alone share one `within`.
    """

    def __init__(self, fit: _Laplace, scale: Tensor, offset: Tensor) -> None:
        """Take `scale` and `offset`, one for each row, or for all (`n` or scalar)."""
        self._slope = scale * fit.gradient
        self._level = PRIOR_LOGIT + float((offset * fit.gradient).sum())
        columns = torch.cat([torch.diag(fit.root * scale), (fit.root * offset).unsqueeze(1)], dim=1)
        half = torch.linalg.solve_triangular(fit.L, columns, upper=False)
        self._half, self._shift = half[:, :-1].transpose(0, 1), half[:, -1]

    def __call__(self, within: Tensor, diagonal: Tensor) -> Tensor:
        """Return log P(worked) (`m`) from `within` (`m x n`) and prior variances (`m`)."""
        mean = self._level + within @ self._slope
        half = torch.addmm(self._shift, within, self._half)
        variance = (diagonal - half.square().sum(dim=1)).clamp(min=0.0)
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
