"""Where trials fail: Gaussian-process classification with a fixed kernel, by Laplace's method.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), algorithms 3.1 and 3.2. The
kernel is linear plus Matern 5/2: running out of memory and diverging are mostly monotone in a few
parameters, other failures are local. Nothing is fitted, so that two failures are enough to learn from.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

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


class Feasibility:
    """P(a trial gives a value | x), from the trials that did and those that failed."""

    def __init__(self, worked: Tensor, failed: Tensor) -> None:
        """Condition on `w x D` rows that worked and `f x D` rows that failed."""
        self._X = torch.cat([worked, failed])
        sign = torch.ones(len(self._X), dtype=torch.float64)
        sign[len(worked) :] = -1.0
        K = _kernel(self._X, self._X)
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

    def log_probability(self, X: Tensor) -> Tensor:
        """Return log P(feasible) at `m x D` rows, differentiable in them."""
        cross = _kernel(X, self._X)
        mean = PRIOR_LOGIT + cross @ self._gradient
        half = torch.linalg.solve_triangular(
            self._L, (cross * self._root).transpose(0, 1), upper=False
        )
        variance = (_diagonal(X) - half.square().sum(dim=0)).clamp(min=0.0)
        # MacKay's approximation of the sigmoid averaged over a Gaussian.
        return torch.nn.functional.logsigmoid(mean / (1 + math.pi / 8 * variance).sqrt())


def _kernel(A: Tensor, B: Tensor) -> Tensor:
    linear = LINEAR_VARIANCE * (A - 0.5) @ (B - 0.5).transpose(0, 1)
    length = LOCAL_LENGTH * math.sqrt(max(1.0, A.shape[1] / 2))
    square = (A.unsqueeze(1) - B.unsqueeze(0)).square().sum(dim=2) / length**2
    r = (5 * square + 1e-18).sqrt()
    return linear + LOCAL_VARIANCE * (1 + r + r.square() / 3) * (-r).exp()


def _diagonal(X: Tensor) -> Tensor:
    return LINEAR_VARIANCE * (X - 0.5).square().sum(dim=1) + LOCAL_VARIANCE
