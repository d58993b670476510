"""What to start: recorded trials without an attempt first, then new ones, never above the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretune.domain.trial import TrialState
from foretune.planner.prune import quota_of
from foretune.planner.snapshot import Launch, Propose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.trial import Trial
    from foretune.planner.snapshot import Snapshot

WAITING = frozenset({TrialState.PROPOSED, TrialState.RETRYING})
"""States of a trial that has no live attempt and needs one."""


def live(trial: Trial, snapshot: Snapshot) -> bool:
    """Whether an attempt of the trial holds, or may soon hold, its place."""
    if trial.state.terminal:
        return False
    concluded = {a.number for a in trial.attempts if a.reason is not None}
    return trial.state not in WAITING or any(
        attempt.number not in concluded for attempt in snapshot.of(trial.index)
    )


def next_attempt(trial: Trial, snapshot: Snapshot) -> int:
    """Return the number after the highest that the history or the cluster knows."""
    known = [a.number for a in trial.attempts] + [a.number for a in snapshot.of(trial.index)]
    return max(known, default=-1) + 1


def next_index(snapshot: Snapshot) -> int:
    """Return the index after the highest that the history or the cluster knows."""
    known = [t.index for t in snapshot.trials] + [a.index for a in snapshot.attempts]
    return max(known, default=-1) + 1


def admit(snapshot: Snapshot) -> Sequence[Launch | Propose]:
    """Return what to start now; empty while suspended, refused, or full.

    Recorded trials come first, and one proposal at a time: what a refused launch teaches, and the
    proposal before, are then known.
    """
    spec = snapshot.job.spec
    if spec.suspend or snapshot.rejected or quota_of(snapshot) or snapshot.collision:
        return ()
    free = spec.parallelism - sum(live(trial, snapshot) for trial in snapshot.trials)
    waiting = [
        trial for trial in snapshot.trials if trial.state in WAITING and not live(trial, snapshot)
    ]
    launches = [
        Launch(index=trial.index, number=next_attempt(trial, snapshot))
        for trial in waiting[: max(0, free)]
    ]
    if launches:
        return launches
    index = next_index(snapshot)
    if free > 0 and index < spec.trials and not snapshot.exhausted:
        return (Propose(index=index),)
    return ()
