"""The trials of a job that its models see: a fit costs O(n^3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foretune.domain.job import Goal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.trial import Trial
    from foretune.search.designer import Completed, Problem

KEPT: Final = 150
"""The best and the latest trials with a value, this many of each."""

KEPT_FAILURES: Final = 150
"""The latest failures."""


def kept(valued: Sequence[Trial], problem: Problem) -> list[Trial]:
    """Return at most 2 x `KEPT` trials by index: the best and the latest."""
    if len(valued) <= 2 * KEPT:
        return list(valued)
    sign = -1.0 if problem.objective.goal is Goal.MAXIMIZE else 1.0
    older, latest = valued[:-KEPT], valued[-KEPT:]
    best = sorted(older, key=lambda t: (sign * (t.value or 0.0), t.index))[:KEPT]
    return [*sorted(best, key=lambda t: t.index), *latest]


def kept_values(problem: Problem, completed: Completed) -> list[Trial]:
    """Return the trials with a value that models see, those outside the space left out."""
    return kept([t for t in completed.valued if not problem.space.problems(t.params)], problem)


def kept_failures(problem: Problem, completed: Completed) -> list[Trial]:
    """Return the failed trials that models see."""
    failed = [t for t in completed.failures if not problem.space.problems(t.params)]
    return failed[-KEPT_FAILURES:]
