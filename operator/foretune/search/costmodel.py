"""What a trial costs: log cost as a linear function of the parameters, their logarithms and products.

Notation: n trials with a known cost, D columns of the encoding, p features. Past tasks say how cost
follows the parameters (the slopes); its level is the job's own, since the unit may be another and the
machine is. Only ratios of costs matter to a choice, so that nothing is needed from the job to begin with.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from foretune.domain.space import Float, Int, Scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.search.encode import Encoding

PAIRED: Final = 16
"""First-order features up to which squares and products are features, too."""

SECOND_ORDER: Final = 0.25
"""Prior variance of their weights, in units of that of the first order."""

RIDGE: Final = 0.1
"""Penalty of the slopes of past tasks: the variance of log cost around the model."""

MOVES: Final = (0.03, 0.3, 3.0)
"""Prior variances of the difference between the job's slopes and those of past tasks."""

NOISES: Final = (0.01, 0.03, 0.1, 0.3)
"""Variances of log cost around the model."""

ENOUGH: Final = 15
"""Own trials from which they alone say whether the model is to be trusted."""

DOUBT: Final = 3.0
"""Log odds for the slopes of past tasks that are trusted, against the job's trials by themselves."""

TRUSTED: Final = 0.3
"""Share of the variance of log cost that must be explained, of trials that were left out."""

VALIDATED: Final = 16
"""Past tasks that are left out in turn, at most."""


class Features:
    """From rows of an encoding to what log cost is linear in."""

    def __init__(self, encoding: Encoding) -> None:
        """Add the logarithm of every positive number that is searched on a linear scale."""
        self._logs: list[tuple[int, float, float]] = []
        for column in encoding.columns:
            parameter = column.parameter
            if isinstance(parameter, Float | Int) and parameter.scale is not Scale.LOG:
                low, high = float(parameter.low), float(parameter.high)
                if low > 0:
                    self._logs.append((column.start, high / low - 1, math.log(high / low)))
        first = encoding.width + len(self._logs)
        self._pairs = torch.triu_indices(first, first) if first <= PAIRED else None
        second = 0 if self._pairs is None else self._pairs.shape[1]
        self.variances: Final = torch.ones(first + second, dtype=torch.float64)
        self.variances[first:] = SECOND_ORDER

    def __call__(self, X: Tensor) -> Tensor:
        """Return the features (`m x p`) of `m x D` rows, differentiable in them."""
        inside = X.clamp(0.0, 1.0)
        logs = [(1 + inside[:, i : i + 1] * more).log() / span for i, more, span in self._logs]
        first = torch.cat([inside, *logs], dim=1) - 0.5
        if self._pairs is None:
            return first
        return torch.cat([first, first[:, self._pairs[0]] * first[:, self._pairs[1]]], dim=1)


@dataclass(frozen=True)
class Slopes:
    """How cost follows the parameters, as past tasks say together."""

    weights: Tensor
    """`p`."""
    explained: float
    """Share of the variance explained in tasks that were left out; -inf for a single task."""


def slopes(features: Features, tasks: Sequence[tuple[Tensor, Tensor]]) -> Slopes | None:
    """Return the slopes of tasks given as rows (`n x D`) and log costs (`n`); None without any.

    Each task has a level of its own, which is projected out.
    """
    if not tasks:
        return None
    told = [(features(X), y) for X, y in tasks]
    centred = [(F - F.mean(dim=0), y - y.mean()) for F, y in told]
    grams = torch.stack([F.transpose(0, 1) @ F for F, _ in centred])
    products = torch.stack([F.transpose(0, 1) @ y for F, y in centred])
    gram, product = grams.sum(dim=0), products.sum(dim=0)
    gram = gram + torch.diag(RIDGE / features.variances)
    left, total = 0.0, 0.0
    for i, (F, y) in enumerate(centred[:VALIDATED] if len(tasks) > 1 else ()):
        weights = torch.linalg.solve(gram - grams[i], product - products[i])
        left += float((y - F @ weights).square().mean())
        total += float(y.square().mean())
    explained = 1 - left / total if total > 0 else -math.inf
    return Slopes(torch.linalg.solve(gram, product), explained)


class CostModel:
    """Log cost of a job's configurations, from its own trials and the slopes of past tasks."""

    def __init__(self, features: Features, X: Tensor, y: Tensor, past: Slopes | None) -> None:
        """Fit to the log costs `y` (`n`, may be none) of rows `X` (`n x D`)."""
        self._features = features
        self._own = features(X) * features.variances
        self._weights = torch.zeros(len(features.variances), dtype=torch.float64)
        self.explained = past.explained if past is not None else -math.inf
        """Share of the variance explained, of own trials left out in turn once there are enough."""
        self.known: Final = len(y) > 0
        """Whether the level is known: before the first own trial there are only ratios."""
        self._level, self._alpha = 0.0, y.new_zeros(len(y))
        if past is not None:
            self._weights = past.weights
        if self.known:
            self._fit(features(X), y, past)

    def _fit(self, F: Tensor, y: Tensor, past: Slopes | None) -> None:
        shared = self._own @ F.transpose(0, 1)
        identity, ones = torch.eye(len(y), dtype=torch.float64), torch.ones_like(y)
        nothing = torch.zeros_like(self._weights)
        starts = [(nothing, 0.0)]
        if past is not None:
            starts.append((past.weights, DOUBT if past.explained >= TRUSTED else 0.0))
        best = -math.inf
        for move, noise in itertools.product(MOVES, NOISES):
            L = torch.linalg.cholesky(move * shared + noise * identity)
            inverse = torch.cholesky_inverse(L)
            column = inverse @ ones
            precision = float(column.sum())
            # What the flat prior of the level leaves of the precision matrix.
            P = inverse - torch.outer(column, column) / precision
            size = float(L.diagonal().log().sum()) + 0.5 * math.log(precision)
            for start, odds in starts:
                rest = y - F @ start
                solved = P @ rest
                evidence = odds - 0.5 * float(rest @ solved) - size
                if evidence <= best:
                    continue
                best = evidence
                self._weights, self._alpha = start, move * solved
                self._level = float(column @ rest) / precision
                if len(y) >= ENOUGH:
                    errors = solved / P.diagonal()
                    spread = float((y - y.mean()).square().mean())
                    self.explained = (
                        1 - float(errors.square().mean()) / spread if spread > 0 else -math.inf
                    )

    @property
    def trusted(self) -> bool:
        """Whether the costs of trials that were left out are explained well enough to act on."""
        return self.explained >= TRUSTED

    def log_cost(self, X: Tensor) -> Tensor:
        """Return log cost (`m`) at `m x D` rows, up to the level unless it is known."""
        F = self._features(X)
        return self._level + F @ self._weights + F @ (self._own.transpose(0, 1) @ self._alpha)
