"""What a choice weighs besides the improvement that it promises: whether it works, and what it costs.

Both are learned from this job's trials and from those of past tasks. With neither failures nor a budget
of cost nothing is weighed, and the choice is that of the model alone.

Cost cooling is that of E. H. Lee et al., "Cost-aware Bayesian Optimization", 2020: improvement per cost to
the power of the share of the budget that is left, so that cheap trials come first and the last ones are
chosen by their promise alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from torch import Tensor

from foretune.domain.history import SourceTask
from foretune.domain.space import Space
from foretune.domain.trial import Trial, TrialState
from foretune.search.costmodel import CostModel, Features, Slopes, slopes
from foretune.search.designer import Completed
from foretune.search.feasibility import Feasibility, SharedFeasibility
from foretune.search.kept import kept_failures, kept_values
from foretune.search.posterior import CHUNK
from foretune.search.registry import params_key
from foretune.search.tasks import placed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.search.designer import Problem
    from foretune.search.encode import Encoding
    from foretune.search.feasibility import Feasible

T = TypeVar("T")

TASKS: Final = 32
"""Past tasks read, those with the most trials."""

ROWS: Final = 100
"""Trials read of each for their costs and failures, an even choice by value."""

FEW: Final = 5
"""Trials below which a past task's costs or failures say nothing."""

OWN: Final = 150
"""The job's latest trials that enter the models of cost and of shared failures."""

FAILING: Final = 160
"""Trials of all past tasks together that enter the model of failures, which costs O(n^3)."""

CACHED: Final = 4
"""Histories kept ready."""


class Economy:
    """What is added to log expected improvement."""

    def __init__(
        self, feasibility: Feasible | None, cost: CostModel | None, weight: float = 0.0
    ) -> None:
        """Weigh the chance of success, and log cost by `weight`, where a model of them is given."""
        self._feasibility = feasibility
        self._cost = cost
        self._weight = weight

    @classmethod
    def of(cls, problem: Problem, encoding: Encoding, completed: Completed) -> Economy:
        """Learn from this job's trials that have ended and from `problem.history`."""
        worked, failed = kept_values(problem, completed), kept_failures(problem, completed)
        past = _past(problem.history, encoding)
        feasibility: Feasible | None = None
        if failed or len(past.failed):
            X = encoding.encode([t.params for t in worked])
            bad = encoding.encode([t.params for t in failed])
            feasibility = _shared(past, X[-OWN:], bad) if len(past.failed) else Feasibility(X, bad)
        paid = [t for t in worked if _paid(t)][-OWN:]
        rows = encoding.encode([t.params for t in paid])
        logs = torch.tensor([math.log(t.cost or 1.0) for t in paid], dtype=torch.float64)
        cost = CostModel(past.features, rows, logs, past.slopes)
        weight = problem.budget if problem.budget is not None and cost.trusted else 0.0
        return cls(feasibility, cost if cost.trusted else None, weight)

    def adjust(self, X: Tensor) -> Tensor:
        """Return what is added to the log expected improvement (`m`) of `m x D` rows, differentiable."""
        total = X.new_zeros(len(X))
        if self._feasibility is not None:
            parts = [self._feasibility.log_probability(chunk) for chunk in torch.split(X, CHUNK)]
            total = total + torch.cat(parts)
        if self._cost is not None and self._weight > 0:
            total = total - self._weight * self._cost.log_cost(X)
        return total

    def audit(self, x: Tensor) -> dict[str, Any]:
        """Return what is expected of one row (`1 x D`), as far as it is known."""
        found: dict[str, Any] = {}
        with torch.no_grad():
            if self._feasibility is not None:
                found["feasible"] = round(float(self._feasibility.log_probability(x).exp()), 4)
            if self._cost is not None and self._cost.known:
                found["expected_cost"] = float(self._cost.log_cost(x).exp())
                found["cost_weight"] = round(self._weight, 4)
        return found


@dataclass(frozen=True)
class _Past:
    """What past tasks say of cost and failures in the columns of one space."""

    history: tuple[SourceTask, ...]
    space: Space
    features: Features
    slopes: Slopes | None
    rows: Tensor
    """`n x D`, of tasks in which some trials failed and some did not."""
    failed: Tensor
    """`n`."""
    task: Tensor
    """`n`, from 1 on."""


_ready: list[_Past] = []


def _past(history: tuple[SourceTask, ...], encoding: Encoding) -> _Past:
    """Return what a history says; the same object is read once."""
    for known in _ready:
        if known.history is history and known.space == encoding.space:
            return known
    features = Features(encoding)
    costs: list[tuple[Tensor, Tensor]] = []
    failures: list[tuple[Tensor, Tensor]] = []
    for source in sorted(history, key=lambda s: (-len(s.trials), s.name))[:TASKS]:
        trials, bad = _chosen(source)
        found = placed(encoding, trials) if len(trials) >= FEW else None
        if found is None:
            continue
        rows, inside = found
        paid = torch.tensor([_paid(t) for t in trials]) & ~bad & inside
        logs = [math.log(t.cost or 1.0) for t, ok in zip(trials, paid.tolist(), strict=True) if ok]
        if len(logs) >= FEW:
            costs.append((rows[paid], torch.tensor(logs, dtype=torch.float64)))
        if bad[inside].any() and not bad[inside].all():
            failures.append((rows[inside], bad[inside]))
    rows, failed, task = _thinned(failures, encoding.width)
    past = _Past(history, encoding.space, features, slopes(features, costs), rows, failed, task)
    _ready.append(past)
    del _ready[:-CACHED]
    return past


def _chosen(source: SourceTask) -> tuple[list[Trial], Tensor]:
    """Return at most `ROWS` trials, and which of them failed, whatever the order of the task's."""
    completed = Completed(source.trials)
    valued = [t for t in completed.valued if t.value is not None and math.isfinite(t.value)]
    failed = completed.failures
    count = len(valued) + len(failed)
    share = min(1.0, ROWS / count) if count else 1.0
    lost = _even(sorted(failed, key=lambda t: params_key(t.params)), round(share * len(failed)))
    valued = _even(
        sorted(valued, key=lambda t: (t.value, t.cost or 0.0)), round(share * len(valued))
    )
    bad = torch.zeros(len(valued) + len(lost), dtype=torch.bool)
    bad[len(valued) :] = True
    return [*valued, *lost], bad


def _even(items: Sequence[T], count: int) -> list[T]:
    """Return `count` of the items at even steps."""
    return [items[int((k + 0.5) * len(items) / count)] for k in range(count)]


def _thinned(tasks: Sequence[tuple[Tensor, Tensor]], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of all tasks, which failed, and their tasks: an even choice of each."""
    rows = [torch.empty(0, width, dtype=torch.float64)]
    failed, task = [torch.empty(0, dtype=torch.bool)], [torch.empty(0, dtype=torch.long)]
    for number, (X, bad) in enumerate(tasks, start=1):
        count = min(len(X), max(1, FAILING // len(tasks)))
        index = torch.tensor(_even(range(len(X)), count))
        rows.append(X[index])
        failed.append(bad[index])
        task.append(torch.full((count,), number))
    return torch.cat(rows), torch.cat(failed), torch.cat(task)


def _shared(past: _Past, worked: Tensor, failed: Tensor) -> SharedFeasibility:
    bad = torch.zeros(len(worked) + len(failed), dtype=torch.bool)
    bad[len(worked) :] = True
    own = torch.zeros(len(bad), dtype=torch.long)
    return SharedFeasibility(
        torch.cat([worked, failed, past.rows]),
        torch.cat([bad, past.failed]),
        torch.cat([own, past.task]),
    )


def _paid(trial: Trial) -> bool:
    """Return whether a trial tells what its configuration costs: one stopped early does not."""
    known = trial.cost is not None and math.isfinite(trial.cost) and trial.cost > 0
    return known and trial.state is TrialState.COMPLETED
