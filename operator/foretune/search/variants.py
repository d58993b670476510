"""The learning designer with parts taken out: what each part is worth is measured with these.

Made by name for `foretune experiment replay --methods NAME=foretune.search.variants:FUNCTION`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from foretune.search.conditioning import Parts
from foretune.search.fit import Fit
from foretune.search.meta_gp import MetaGP, basis_of
from foretune.search.plain_gp import PlainGP

if TYPE_CHECKING:
    from foretune.search.basis import Basis
    from foretune.search.designer import (
        Completed,
        Deadline,
        Designer,
        Pending,
        Problem,
        Suggestion,
    )


def no_guard() -> Designer:
    """Return the expert with a prior alone: no turn of the plain expert, no rejection."""
    return MetaGP(guard=False)


def hyperbo() -> Designer:
    """Return the form of HyperBO: past tasks as mean and kernel, not as covariance; no guard."""
    return MetaGP(guard=False, parts=Parts(factors=False))


def kernel_only() -> Designer:
    """Return the plain expert with the past tasks' kernel in place of one fitted to the job."""
    return KernelOnly()


class KernelOnly:
    """Past tasks give the kernel and its noise, nothing else."""

    name: Final = "kernel-only"

    def suggest(
        self, problem: Problem, completed: Completed, pending: Pending, deadline: Deadline
    ) -> Suggestion:
        """Return the plain expert's suggestion under the shared kernel."""
        basis = basis_of(problem)
        plain = PlainGP()
        if basis is not None:
            plain = PlainGP(fit=lambda X, z, _, extra=None: _shared(basis, X, z, extra))
        return plain.suggest(replace(problem, history=()), completed, pending, deadline)


def _shared(basis: Basis, X: torch.Tensor, z: torch.Tensor, extra: torch.Tensor | None) -> Fit:
    """Return the shared kernel as a fit, with the mean of greatest likelihood."""
    K = basis.kernel(X, X) + basis.noise * torch.eye(len(z), dtype=torch.float64)
    if extra is not None:
        K = K + extra.diag()
    weights = torch.linalg.solve(K, torch.ones_like(z))
    constant = float(weights @ z / weights.sum())
    return Fit(basis.kernel, constant, basis.noise, tuple(basis.lengthscales.tolist()))
