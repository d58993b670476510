"""When the models expect no improvement any more: the stopping rule of a whole job, opt-in."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Final

from foretune.domain.job import Goal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.job import JobSpec
    from foretune.domain.trial import Forecast, Trial

MIN_TRIALS: Final = 8
"""Ended trials before which no job has converged; two for each parameter, too."""

IN_A_ROW: Final = 3
"""Latest proposals that must promise nothing: the experts take turns, so that each has its say."""

NOISE_SHARE: Final = 0.25
"""An improvement smaller than this share of the noise's deviation is none that one could see."""

HOPE: Final = 0.1
"""Chance of becoming the best with which a running trial is waited for."""

_NORMAL: Final = NormalDist()


def expected_improvement(forecast: Forecast, goal: Goal) -> float:
    """Return by how much a trial was expected to beat the best, in the metric's unit."""
    gain = (forecast.mean - forecast.incumbent) * (1.0 if goal is Goal.MAXIMIZE else -1.0)
    if forecast.sd <= 0:
        return max(gain, 0.0)
    u = gain / forecast.sd
    return max(forecast.sd * (u * _NORMAL.cdf(u) + _NORMAL.pdf(u)), 0.0)


def hope(forecast: Forecast, goal: Goal) -> float:
    """Return the chance that a trial is better than the best."""
    gain = (forecast.mean - forecast.incumbent) * (1.0 if goal is Goal.MAXIMIZE else -1.0)
    return _NORMAL.cdf(gain / forecast.sd) if forecast.sd > 0 else float(gain > 0)


def least_improvement(spec: JobSpec, trials: Sequence[Trial]) -> float | None:
    """Return the most that the latest proposals promised, once that is too little; None before.

    Each proposal is its expert's best by expected improvement, so that what it promises is the most that
    the expert expects of any configuration.
    """
    if not spec.search.stop_when_converged:
        return None
    searched = [p for p in spec.space.parameters if p.cardinality != 1]
    ended = [trial for trial in trials if trial.state.terminal]
    if len(ended) < max(MIN_TRIALS, 2 * len(searched)):
        return None
    latest = sorted(trials, key=lambda t: t.index)[-IN_A_ROW:]
    forecasts = [trial.forecast for trial in latest if trial.forecast is not None]
    if len(forecasts) < IN_A_ROW:
        return None
    goal = spec.objective.goal
    promised = max(expected_improvement(forecast, goal) for forecast in forecasts)
    noise = max(forecast.noise_sd for forecast in forecasts)
    if promised >= max(spec.search.tolerance, NOISE_SHARE * noise):
        return None
    running = [t for t in trials if not t.state.terminal]
    if any(t.forecast is None or hope(t.forecast, goal) > HOPE for t in running):
        return None
    return promised
