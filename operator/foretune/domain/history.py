"""Tasks, proposals and observations: what one tuning job leaves to the next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

from foretune.domain.job import Objective
from foretune.domain.space import Params, Space
from foretune.domain.trial import Trial
from foretune.errors import InvalidInputError

NINETY: Final = 1.6448536269514722
"""Standard deviations on each side of the mean that hold 90 % of a normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration recorded before it was answered; (job uid, index) is its identity."""

    job_uid: str
    index: int
    params: Params
    config_hash: str
    proposer: str
    """`default`, `sobol`, `gp`, `meta-gp`, `random`, `grid`; `sobol/fallback` when it stood in for another."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Audit of the proposal: predicted mean and sd, level, latency."""
    created_at: float = 0.0

    @property
    def expected(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the value that was expected, its noise included where it is told."""
        mean, sd, noise = (self.detail.get(name) for name in ("mean", "sd", "noise_sd"))
        if not (_finite(mean) and _finite(sd)):
            return None
        return float(mean), math.hypot(sd, noise if _finite(noise) else 0.0)


def _finite(value: Any) -> TypeGuard[float]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job as the history keeps it."""

    uid: str
    namespace: str
    name: str
    manifest: Mapping[str, Any]
    objective: Objective
    context: Mapping[str, str] = field(default_factory=dict)
    created_at: float = 0.0
    closed_at: float | None = None
    phase: str = "Pending"
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class PastJob:
    """What must be known of a job to tell whether another one may learn from it."""

    uid: str
    namespace: str
    name: str
    objective: Objective
    space: Mapping[str, Any]
    """As in its manifest."""
    context: Mapping[str, str]
    created_at: float
    closed: bool = False
    """Whether it has ended: then it teaches nothing new."""
    closed_at: float | None = None


@dataclass(frozen=True)
class SourceTask:
    """A past tuning task to learn from: its own objective, and its space where that is known."""

    name: str
    """What audits call it; no two tasks of one history share it."""
    objective: Objective
    trials: tuple[Trial, ...]
    space: Space | None = None
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse trials that have not ended."""
        open_ones = [trial.index for trial in self.trials if not trial.state.terminal]
        if open_ones:
            raise InvalidInputError(f"completed: trial {open_ones[0]} has not ended")
