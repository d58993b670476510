"""What past tasks say about a point: the posterior means of one Gaussian process a task.

The processes share one kernel, whose length scales and noise are fitted to all tasks together; a
parameter that a task does not have is left out of its distances. What the target fixes, yet a past task
varied, is a dimension of the past tasks, in which the target lies at 0. T tasks, D columns of the target,
E of its constants, m query rows.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from scipy.optimize import minimize
from torch import Tensor

from foretune.search.conditioning import Rows
from foretune.search.fit import MAX_LENGTH, matern
from foretune.search.posterior import cholesky, finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from foretune.search.tasks import Summary

FIT_TASKS: Final = 8
"""Tasks that the kernel is fitted to, evenly chosen."""

FIT_ROWS: Final = 80
"""Rows of each of them."""

FIT_STEPS: Final = 30
"""L-BFGS iterations of the fit."""

NOISE_BOUNDS: Final = (1e-3, 1.0)
"""Noise variance of the scores, whose variance is about 1."""

NOISE_MODE: Final = math.log(0.05)
NOISE_SPREAD: Final = 1.0
"""Log-normal prior of the noise variance."""

BLOCK: Final = 1 << 16
"""Kernel values computed at once: they stay in the cache of a core."""


class Basis:
    """One function a task, fitted once, evaluated anywhere."""

    def __init__(self, tasks: Sequence[Summary]) -> None:
        """Fit the shared kernel, and condition each task's process on its rows."""
        self.names: Final = tuple(task.name for task in tasks)
        self._lengthscales, self.noise = _fitted(tasks)
        self.lengthscales: Final = self._lengthscales[: tasks[0].rows.shape[1]]
        weights: list[Tensor] = []
        missed = spread = 0.0
        for task in tasks:
            scaled = _known(task) / self._lengthscales
            K = matern(scaled, scaled)
            L = cholesky(K + self.noise * torch.eye(len(K), dtype=torch.float64))
            weights.append(torch.cholesky_solve(task.z.unsqueeze(1), L).squeeze(1))
            left_out = weights[-1] / torch.cholesky_inverse(L).diagonal()
            missed += float(left_out.square().sum())
            spread += float((task.z - task.z.mean()).square().sum())
        self.followed: Final = 1 - missed / spread if spread > 0 else 0.0
        """Share of the scores' variance that each row's neighbours predict, the row itself left out
        (R. Dubrule, "Cross validation of kriging in a unique neighborhood", 1983)."""
        self._groups = _groups(tasks, weights, self._lengthscales)

    def at(self, X: Tensor) -> Rows:
        """Return `m x D` rows with the scores (`m x T`) that each task expects there."""
        values = X.new_empty(len(X), len(self.names))
        for group in self._groups:
            here = X * (group.known / self.lengthscales)
            besides = group.points.shape[1] - here.shape[1]
            scaled = torch.cat([here, here.new_zeros(len(X), besides)], dim=1)
            parts = torch.split(scaled, max(1, BLOCK // len(group.points)))
            values[:, group.places] = torch.cat([group.at(part) for part in parts])
        finite(values)
        return Rows(X, values)

    def kernel(self, A: Tensor, B: Tensor) -> Tensor:
        """Return the shared kernel between rows of the target."""
        return matern(A / self.lengthscales, B / self.lengthscales)


@dataclass(frozen=True)
class _Group:
    """Tasks that know the same parameters, their N rows one after the other."""

    places: list[int]
    """Which of the tasks, G of them."""
    known: Tensor
    """`D`."""
    points: Tensor
    """`N x (D + E)`, in units of the length scales."""
    weights: Tensor
    """`N`."""
    starts: list[int]
    """The first row of each task."""

    def at(self, scaled: Tensor) -> Tensor:
        """Return the scores (`m x G`) at `m x (D + E)` rows in units of the length scales."""
        parts = (matern(scaled, self.points) * self.weights).numpy()
        return torch.from_numpy(np.add.reduceat(parts, self.starts, axis=1))


def _groups(
    tasks: Sequence[Summary], weights: Sequence[Tensor], lengthscales: Tensor
) -> list[_Group]:
    """Return the tasks by what they know: one kernel matrix serves all of a group."""
    places: dict[tuple[float, ...], list[int]] = {}
    for i, task in enumerate(tasks):
        places.setdefault(tuple(task.known.tolist()), []).append(i)
    groups: list[_Group] = []
    for members in places.values():
        starts = [0, *itertools.accumulate(len(tasks[i].z) for i in members)][:-1]
        points = torch.cat([_known(tasks[i]) for i in members]) / lengthscales
        together = torch.cat([weights[i] for i in members])
        groups.append(_Group(members, tasks[members[0]].known, points, together, starts))
    return groups


def _known(task: Summary) -> Tensor:
    """Return a task's rows (`n x (D + E)`), 0 where it lacks a parameter."""
    return torch.cat([task.rows * task.known, task.besides], dim=1)


def _fitted(tasks: Sequence[Summary]) -> tuple[Tensor, float]:
    """Return length scales (`D + E`) and noise variance of greatest posterior density."""
    width = tasks[0].rows.shape[1] + tasks[0].besides.shape[1]
    step = max(1, len(tasks) / FIT_TASKS)
    chosen = [tasks[int(i * step)] for i in range(min(FIT_TASKS, len(tasks)))]
    parts = [_thinned(task) for task in chosen]
    prior = get_covar_module_with_dim_scaled_prior(ard_num_dims=width, use_rbf_kernel=False)
    start = prior.lengthscale.detach()[0].log().to(torch.float64)
    least = float(prior.raw_lengthscale_constraint.lower_bound)

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        theta = torch.tensor(flat, dtype=torch.float64, requires_grad=True)
        noise, lengthscales = theta[0].exp(), theta[1:].exp()
        total = 0.5 * ((theta[0] - NOISE_MODE) / NOISE_SPREAD).square()
        total = total - prior.lengthscale_prior.log_prob(lengthscales).sum()
        for X, z in parts:
            scaled = X / lengthscales
            K = matern(scaled, scaled) + noise * torch.eye(len(z), dtype=torch.float64)
            L = cholesky(K)
            white = torch.linalg.solve_triangular(L, z.unsqueeze(1), upper=False)
            total = total + 0.5 * white.square().sum() + L.diagonal().log().sum()
        total = total / sum(len(z) for _, z in parts)
        (gradient,) = torch.autograd.grad(total, theta)
        finite(gradient)
        return float(total.detach()), gradient.numpy()

    low, high = NOISE_BOUNDS
    result = minimize(
        loss,
        torch.cat([torch.tensor([NOISE_MODE], dtype=torch.float64), start]).numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=[
            (math.log(low), math.log(high)),
            *[(math.log(least), math.log(MAX_LENGTH))] * width,
        ],
        options={"maxiter": FIT_STEPS, "ftol": 1e-5},
    )
    best = torch.tensor(result.x, dtype=torch.float64)
    finite(best)
    return best[1:].exp(), float(best[0].exp())


def _thinned(task: Summary) -> tuple[Tensor, Tensor]:
    count = len(task.z)
    kept = min(FIT_ROWS, count)
    index = torch.tensor([int(i * count / kept) for i in range(kept)])
    return _known(task)[index], task.z[index]
