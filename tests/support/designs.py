"""Spaces, trials and objectives that tests of designers share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from foretune.domain.job import Goal, Objective
from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Params, Scale, Space
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.search.designer import (
    Completed,
    Deadline,
    Designer,
    Pending,
    Problem,
    SourceTask,
    Suggestion,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIXED = Space(
    (
        Float(name="lr", low=1e-5, high=1e-1, scale=Scale.LOG),
        Ordinal(name="batch_size", options=(16, 32, 64, 128, 256)),
        Int(name="layers", low=1, high=8),
        Float(name="dropout", low=0.0, high=0.6, step=0.1),
        Choice(name="optimizer", options=("adam", "sgd", "rmsprop")),
        Int(name="epochs", low=1, high=30),
        Const(name="dataset", value="digits"),
    )
)
"""The six hyperparameters of the built-in trainer and a constant."""

SMALL = Space(
    (
        Choice(name="optimizer", options=("adam", "sgd", "rmsprop")),
        Choice(name="nesterov", options=(True, False)),
        Int(name="layers", low=1, high=2),
    )
)
"""Twelve configurations."""

STEPPED = Space(
    (Float(name="x", low=0.0, high=1.0, step=0.1), Float(name="y", low=0.0, high=1.0, step=0.1))
)
"""A finite grid of 121 configurations, without constants or categories."""

WITH_DEFAULT = Space(
    (
        Float(name="dropout", low=0.0, high=0.6, step=0.1, default=0.3),
        Choice(name="optimizer", options=("adam", "sgd"), default="sgd"),
    )
)
"""Every parameter has a default."""


def valley(params: Params) -> float:
    """A smooth objective over `MIXED` with its maximum of 0.3."""
    return (
        0.3
        - (math.log10(float(params["lr"])) + 2.7) ** 2
        - 0.2 * abs(math.log2(float(params["batch_size"]) / 64))
        - 0.05 * (float(params["layers"]) - 5) ** 2
        - 3.0 * (float(params["dropout"]) - 0.2) ** 2
        - {"adam": 0.0, "sgd": 0.3, "rmsprop": 0.2}[str(params["optimizer"])]
        - 0.02 * abs(float(params["epochs"]) - 20)
    )


def spread(params: Params) -> float:
    """A deterministic value for a configuration of any space."""
    total = 0.0
    for i, (name, value) in enumerate(sorted(params.items())):
        number = (
            float(value) if isinstance(value, int | float) else float(len(value) + ord(value[0]))
        )
        total += math.sin(number + i + len(name))
    return total


def completed(index: int, params: Params, value: float) -> Trial:
    """A trial that ended with a value."""
    return Trial(
        job_uid="job",
        index=index,
        params=params,
        state=TrialState.COMPLETED,
        config_hash="",
        value=value,
        reason=EndReason.DONE,
    )


def failed(index: int, params: Params, reason: EndReason = EndReason.OUT_OF_MEMORY) -> Trial:
    """A trial that ended without a value."""
    infeasible = {EndReason.OUT_OF_MEMORY, EndReason.DIVERGED}
    state = TrialState.INFEASIBLE if reason in infeasible else TrialState.FAILED
    return Trial(
        job_uid="job", index=index, params=params, state=state, config_hash="", reason=reason
    )


def running(index: int, params: Params) -> Trial:
    """A trial that has not ended."""
    return Trial(
        job_uid="job", index=index, params=params, state=TrialState.RUNNING, config_hash=""
    )


def problem(
    space: Space,
    *,
    seed: int = 0,
    goal: Goal = Goal.MAXIMIZE,
    initial: int | None = None,
    history: tuple[SourceTask, ...] = (),
) -> Problem:
    """A problem over `space`."""
    objective = Objective(metric="y", goal=goal)
    return Problem(space=space, objective=objective, seed=seed, initial=initial, history=history)


def ask(designer: Designer, given: Problem, trials: Sequence[Trial] = ()) -> Suggestion:
    """Ask for the next configuration, without a deadline."""
    done = Completed([t for t in trials if t.state.terminal])
    waiting = Pending([t for t in trials if not t.state.terminal])
    return designer.suggest(given, done, waiting, Deadline(math.inf))


def run(
    designer: Designer,
    given: Problem,
    count: int,
    objective: Callable[[Params], float] = spread,
) -> list[Trial]:
    """Run `count` trials one after the other."""
    trials: list[Trial] = []
    for index in range(count):
        params = ask(designer, given, trials).params
        trials.append(completed(index, params, objective(params)))
    return trials
