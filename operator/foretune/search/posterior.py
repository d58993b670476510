"""The posterior of a fitted Gaussian process given finished trials and fantasies of pending ones.

Notation: n observed rows X, p pending rows, S fantasies, m query rows. The fantasies share one
factorisation, since the variance of a Gaussian process does not depend on the values observed.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import torch

from foretune.search import sobol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FANTASIES: Final = 16
"""Joint draws of the outcomes of pending trials; the acquisition is averaged over them."""

JITTER: Final = (0.0, 1e-8, 1e-6, 1e-4)
"""Added to the diagonal in turn until the matrix factorises; past the last one the model is given up."""

CHUNK: Final = 1024
"""Query rows handled at once, which bounds memory."""


class NotFiniteError(ArithmeticError):
    """A model has hyperparameters or predictions that are NaN or infinite."""


class Posterior:
    """Mean and deviation of the latent function at new rows."""

    def __init__(
        self,
        kernel: Callable[[Tensor, Tensor], Tensor],
        *,
        constant: float,
        noise: float,
        X: Tensor,
        z: Tensor,
        extra: Tensor | None = None,
    ) -> None:
        """Condition on targets `z` (`n` or `n x S`) at rows `X` (`n x D`) with noise variance `noise`.

        `extra` (`n`) is added to the noise variance of each row, as of targets that are predictions.
        """
        self._kernel = kernel
        self._constant = constant
        self._noise = noise
        self._X = X
        self._z = z if z.ndim == 2 else z.unsqueeze(1)  # noqa: PLR2004 - a vector becomes a column
        self._extra = torch.zeros(len(X), dtype=torch.float64) if extra is None else extra
        K = kernel(X, X) + torch.diag(self._extra)
        self._L = cholesky(K + noise * torch.eye(len(X), dtype=torch.float64))
        self._alpha = torch.cholesky_solve(self._z - constant, self._L)
        finite(self._alpha)

    def at(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean (`m x S`) and the deviation (`m`) at `m x D` rows, differentiable in them."""
        cross = self._kernel(X, self._X)
        mean = self._constant + cross @ self._alpha
        half = torch.linalg.solve_triangular(self._L, cross.transpose(0, 1), upper=False)
        prior = self._kernel(X[:1], X[:1]).reshape(())  # stationary: the same everywhere
        variance = prior - half.square().sum(dim=0)
        return mean, variance.clamp(min=1e-12).sqrt()

    def incumbent(self) -> Tensor:
        """Return the largest posterior mean over the conditioning rows, one for each fantasy (`S`)."""
        mean, _ = self.at(self._X)
        return torch.amax(mean, dim=0)

    def with_pending(self, pending: Tensor, *, seed: int) -> Posterior:
        """Return the posterior with outcomes fantasised at `p x D` rows; `p` may be 0."""
        if len(pending) == 0:
            return self
        cross = self._kernel(pending, self._X)
        mean = self._constant + cross @ self._alpha
        half = torch.linalg.solve_triangular(self._L, cross.transpose(0, 1), upper=False)
        joint = self._kernel(pending, pending) - half.transpose(0, 1) @ half
        joint = joint + self._noise * torch.eye(len(pending), dtype=torch.float64)
        points = itertools.islice(sobol.points(len(pending), seed=seed), FANTASIES)
        uniform = torch.tensor(list(points), dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
        draws = mean + cholesky(joint) @ torch.special.ndtri(uniform).transpose(0, 1)
        return Posterior(
            self._kernel,
            constant=self._constant,
            noise=self._noise,
            X=torch.cat([self._X, pending]),
            z=torch.cat([self._z.expand(-1, FANTASIES), draws]),
            extra=torch.cat([self._extra, torch.zeros(len(pending), dtype=torch.float64)]),
        )


def cholesky(A: Tensor) -> Tensor:
    """Return the lower Cholesky factor, with as much jitter as `JITTER` allows.

    Raises `torch.linalg.LinAlgError` when that is not enough, `NotFiniteError` for NaN.
    """
    finite(A)
    for jitter in JITTER[:-1]:
        L: Tensor
        L, info = torch.linalg.cholesky_ex(A + jitter * torch.eye(len(A), dtype=A.dtype))
        if not int(info):
            return L
    last: Tensor = torch.linalg.cholesky(A + JITTER[-1] * torch.eye(len(A), dtype=A.dtype))
    return last


def finite(values: Tensor) -> None:
    """Raise `NotFiniteError` when any of `values` is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise NotFiniteError("the surrogate's numbers are not finite")
