"""How much of a job's budget is left, for a choice that weighs cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.trial import Trial

HOUR_S: Final = 3600.0
"""Seconds of an hour."""


def share_left(trials: Sequence[Trial], *, gpu_hours: float | None, wanted: int) -> float | None:
    """Return the share of the GPU hours that is left, or None where these don't limit the job.

    They do once the hours left won't pay for the trials left (of `wanted`) at the mean so far: with
    hours to spare, only the number of trials counts.
    """
    ended = [trial for trial in trials if trial.state.terminal]
    spent = sum(trial.gpu_s for trial in trials)
    if gpu_hours is None or not ended or spent <= 0:
        return None
    left = gpu_hours * HOUR_S - spent
    mean = sum(trial.gpu_s for trial in ended) / len(ended)
    if left >= mean * (wanted - len(ended)):
        return None
    return max(0.0, left / (gpu_hours * HOUR_S))
