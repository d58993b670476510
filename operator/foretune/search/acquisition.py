"""Where to try next: log expected improvement over a pool of legal configurations, then polished.

LogEI is that of S. Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian
Optimization", NeurIPS 2023, as BoTorch computes it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import torch
from botorch.acquisition.analytic import _log_ei_helper
from scipy.optimize import minimize

from foretune.search import sobol
from foretune.search.posterior import CHUNK, finite

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from foretune.search.designer import Deadline
    from foretune.search.economy import Economy
    from foretune.search.encode import Encoding
    from foretune.search.posterior import Posterior

ENUMERATED: Final = 20_000
"""Finite spaces up to this size are scored whole."""

SOBOL_POOL: Final = 2048
"""Candidates spread over the whole space."""

SPRAY: Final = 512
"""Candidates near the best configurations."""

SPRAY_SDS: Final = (0.02, 0.1, 0.3)
"""Standard deviations of the spray, in units of a parameter's range, used in turn."""

FLIP: Final = 0.2
"""Chance that a sprayed candidate takes a fresh value for a parameter without small steps."""

STARTS: Final = 4
"""Candidates polished by gradient steps."""

POLISH_STEPS: Final = 25
"""L-BFGS iterations of the polish."""


class Acquisition:
    """log EI, averaged over fantasies, plus what the economy of the job adds."""

    def __init__(self, posterior: Posterior, economy: Economy) -> None:
        """Keep the models; the incumbent is the best posterior mean at known rows."""
        self._posterior = posterior
        self._economy = economy
        self._incumbent = posterior.incumbent()

    def __call__(self, X: Tensor) -> Tensor:
        """Return the score (`m`) of `m x D` rows, differentiable in them."""
        mean, sd = self._posterior.at(X)
        column = sd.unsqueeze(1)
        log_ei = _log_ei_helper((mean - self._incumbent) / column) + column.log()
        score = torch.logsumexp(log_ei, dim=1) - torch.log(torch.tensor(float(mean.shape[1])))
        return score + self._economy.adjust(X)

    def scores(self, X: Tensor, deadline: Deadline) -> Tensor:
        """Return the scores of many rows, in chunks; raises when the deadline passes."""
        parts: list[Tensor] = []
        with torch.no_grad():
            for chunk in torch.split(X, CHUNK):
                deadline.check()
                parts.append(self(chunk))
        scores = torch.cat(parts)
        finite(scores)
        return scores


def pool(encoding: Encoding, best: Tensor, *, seed: int) -> Tensor:
    """Return candidates as legal rows: the whole space if small, else Sobol and a spray around `best`.

    `best` holds the best known rows (`b x D`, b may be 0), the best first.
    """
    count = encoding.space.cardinality
    if count is not None and count <= ENUMERATED:
        return encoding.grid()
    dimensions = len(encoding.columns)
    points = itertools.islice(sobol.points(dimensions, seed=seed), SOBOL_POOL)
    spread = encoding.draw(torch.tensor(list(points), dtype=torch.float64))
    if len(best) == 0:
        return spread
    return torch.cat([spread, spray(encoding, best, seed=seed)])


def spray(encoding: Encoding, best: Tensor, *, seed: int, count: int = SPRAY) -> Tensor:
    """Return `count` legal rows near `best` (`b x D`, b at least 1)."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    kind = {"generator": generator, "dtype": torch.float64}
    rows = best.repeat(count // len(best) + 1, 1)[:count].clone()
    fresh = encoding.draw(torch.rand(count, len(encoding.columns), **kind))  # type: ignore[call-overload]
    sds = torch.tensor(SPRAY_SDS, dtype=torch.float64)[torch.arange(count) % len(SPRAY_SDS)]
    for column in encoding.columns:
        part = slice(column.start, column.stop)
        if column.smooth:
            noise = torch.randn(count, **kind)  # type: ignore[call-overload]
            moved = rows[:, column.start] + sds * noise
            # Reflect at the ends: clamping would pile candidates up on the bounds.
            rows[:, column.start] = 1 - (1 - moved.abs()).abs()
        else:
            flip = torch.rand(count, **kind) < FLIP  # type: ignore[call-overload]
            rows[flip, part] = fresh[flip, part]
    return encoding.snap(rows)


def polish(
    encoding: Encoding, score: Callable[[Tensor], Tensor], starts: Tensor, deadline: Deadline
) -> Tensor:
    """Return `starts` (`s x D`) moved uphill along the smooth columns, snapped to legal rows."""
    smooth = encoding.smooth
    if not smooth or len(starts) == 0:
        return starts[:0]
    shape = (len(starts), len(smooth))

    def negative(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        deadline.check()
        x = torch.tensor(flat, dtype=torch.float64).reshape(shape).requires_grad_()
        rows = starts.clone()
        rows[:, smooth] = x
        total = -score(rows).sum()
        (gradient,) = torch.autograd.grad(total, x)
        finite(gradient)
        return float(total.detach()), gradient.reshape(-1).numpy()

    options: dict[str, Any] = {"maxiter": POLISH_STEPS}
    result = minimize(
        negative,
        starts[:, smooth].reshape(-1).numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * (shape[0] * shape[1]),
        options=options,
    )
    rows = starts.clone()
    rows[:, smooth] = torch.tensor(result.x, dtype=torch.float64).reshape(shape)
    return encoding.snap(rows)
