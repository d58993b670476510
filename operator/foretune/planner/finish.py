"""When a job is over, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foretune.constants import Condition, Reason
from foretune.domain.job import Builtin
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.planner.converge import least_improvement
from foretune.planner.outcomes import RETRIED_ERRORS, held_gpu_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.job import JobSpec, Objective
    from foretune.planner.snapshot import Snapshot

SAME_FAILURES: Final = 3
"""Trials that must end with the same error, with no success, before it is the program's fault."""

MAX_INFEASIBLE_FRACTION: Final = 0.5
"""Share of `budget.trials` that may run out of memory or diverge."""

MIN_INFEASIBLE: Final = 4
"""Infeasible trials that no job fails for, however small."""

HOUR: Final = 3600.0


@dataclass(frozen=True)
class Verdict:
    """Why no further trial is started. `final` once nothing runs any more."""

    condition: Condition
    reason: Reason
    message: str
    stop_rule: str | None = None
    """Set when running trials are asked to stop rather than left to finish."""


def best(objective: Objective, trials: Sequence[Trial]) -> Trial | None:
    """Return the ended trial with the best value that was observed; the earliest of equals."""
    found: Trial | None = None
    for trial in sorted(trials, key=lambda t: t.index):
        if trial.value is None or not observed(trial):
            continue
        if found is None or objective.better(trial.value, found.value or 0.0):
            found = trial
    return found


def observed(trial: Trial) -> bool:
    """Whether the trial has ended with a value that was reported, not predicted."""
    return trial.state.succeeded and trial.value is not None and not trial.value_sd


def gpu_seconds(snapshot: Snapshot, now: float) -> float:
    """Return the GPU seconds held so far: booked attempts, and those that run now."""
    booked = sum(trial.gpu_s for trial in snapshot.trials)
    ended = {
        (trial.index, attempt.number)
        for trial in snapshot.trials
        for attempt in trial.attempts
        if attempt.reason is not None
    }
    running = sum(
        held_gpu_s(attempt, now)
        for attempt in snapshot.attempts
        if (attempt.index, attempt.number) not in ended
    )
    return booked + running


def verdict(snapshot: Snapshot, now: float) -> Verdict | None:
    """Return why the job is over, or None while there is more to do."""
    spec, trials = snapshot.job.spec, snapshot.trials
    ended = [trial for trial in trials if trial.state.terminal]
    return (
        _failed(spec, ended)
        or _reached(spec, trials)
        or _enough(spec, ended)
        or _idle(spec, ended)
        or _converged(spec, trials)
        or _spent(spec, gpu_seconds(snapshot, now))
        or _exhausted(snapshot)
    )


def _failed(spec: JobSpec, ended: Sequence[Trial]) -> Verdict | None:
    return _unrunnable(spec, ended) or _too_many(spec, ended)


def _unrunnable(spec: JobSpec, ended: Sequence[Trial]) -> Verdict | None:
    """Return that the program or its image can't run at all, whatever the configuration."""
    for trial in ended:
        if trial.reason is EndReason.CONFIG_BUG:
            message = f"trial {trial.index} can't run as configured: {trial.message}"
            return Verdict(Condition.FAILED, Reason.CONFIG_BUG, message, "config_bug")
        if trial.reason is EndReason.IMAGE_UNPULLABLE:
            return Verdict(Condition.FAILED, Reason.IMAGE_UNPULLABLE, trial.message, "image")
    if any(trial.state.succeeded for trial in ended):
        return None
    errors = [trial for trial in ended if trial.reason in RETRIED_ERRORS]
    first = sorted(errors, key=lambda t: t.index)[:SAME_FAILURES]
    for trial in first:
        if trial.reason is EndReason.DATA_UNREACHABLE and _reads_folder(spec):
            message = f"trial {trial.index} can't read its data: {trial.message}"
            return Verdict(Condition.FAILED, Reason.CONFIG_BUG, message, "config_bug")
    if len(first) == SAME_FAILURES and len({trial.message for trial in first}) == 1:
        message = f"the first {SAME_FAILURES} trials failed alike: {first[0].message}"
        return Verdict(Condition.FAILED, Reason.CONFIG_BUG, message, "config_bug")
    return None


def _too_many(spec: JobSpec, ended: Sequence[Trial]) -> Verdict | None:
    """Return that more trials failed, or were infeasible, than may."""
    failed = [trial for trial in ended if trial.counts_as_failure]
    limit = spec.failure.limit(spec.trials)
    if len(failed) > limit:
        message = f"{len(failed)} trials failed, {limit} may; last: {failed[-1].message}"
        return Verdict(Condition.FAILED, Reason.MAX_FAILED_TRIALS, message, "failed")
    infeasible = [trial for trial in ended if trial.state is TrialState.INFEASIBLE]
    limit = max(MIN_INFEASIBLE, int(spec.trials * MAX_INFEASIBLE_FRACTION))
    if len(infeasible) > limit:
        message = (
            f"{len(infeasible)} trials ran out of memory or diverged, {limit} may: the space holds "
            f"too few configurations that work; last: {infeasible[-1].message}"
        )
        return Verdict(Condition.FAILED, Reason.MAX_FAILED_TRIALS, message, "failed")
    return None


def _reads_folder(spec: JobSpec) -> bool:
    """Return whether data that can't be read are a folder's: unlike a hub, it will not come back."""
    return isinstance(spec.trial.workload, Builtin) and spec.trial.workload.data_path is not None


def _reached(spec: JobSpec, trials: Sequence[Trial]) -> Verdict | None:
    if spec.objective.target is None:
        return None
    for trial in trials:
        if observed(trial) and trial.value is not None and spec.objective.reached(trial.value):
            message = (
                f"trial {trial.index} reached {trial.value:g} (target {spec.objective.target:g})"
            )
            return Verdict(Condition.COMPLETE, Reason.TARGET_REACHED, message, "target")
    return None


def _enough(spec: JobSpec, ended: Sequence[Trial]) -> Verdict | None:
    if len(ended) < spec.trials:
        return None
    return Verdict(Condition.COMPLETE, Reason.MAX_TRIALS, f"{len(ended)} trials have ended")


def _idle(spec: JobSpec, ended: Sequence[Trial]) -> Verdict | None:
    """Say that the latest trials to end brought no improvement."""
    if spec.idle_trials is None:
        return None
    counted = [t for t in ended if t.state is not TrialState.CANCELLED]
    in_order = sorted(counted, key=lambda t: (t.ended_at or 0.0, t.index))
    top: float | None = None
    idle = 0
    for trial in in_order:
        idle += 1
        value = trial.value
        if value is None or not observed(trial):
            continue
        if top is None or spec.objective.better(value, top):
            top, idle = value, 0
    if top is None or idle < spec.idle_trials:
        return None
    message = f"the last {idle} trials brought nothing better than {top:g}"
    return Verdict(Condition.COMPLETE, Reason.CONVERGED, message)


def _converged(spec: JobSpec, trials: Sequence[Trial]) -> Verdict | None:
    promised = least_improvement(spec, trials)
    if promised is None:
        return None
    message = f"the models expect an improvement of {promised:.2g} at most"
    return Verdict(Condition.COMPLETE, Reason.CONVERGED, message)


def _spent(spec: JobSpec, seconds: float) -> Verdict | None:
    if spec.gpu_hours is None or seconds < spec.gpu_hours * HOUR:
        return None
    message = f"{seconds / HOUR:.2f} GPU hours of {spec.gpu_hours:g} are spent"
    return Verdict(Condition.COMPLETE, Reason.BUDGET_EXHAUSTED, message)


def _exhausted(snapshot: Snapshot) -> Verdict | None:
    if not snapshot.exhausted:
        return None
    message = f"all {snapshot.job.spec.space.cardinality} configurations of the space were tried"
    return Verdict(Condition.COMPLETE, Reason.SPACE_EXHAUSTED, message)


def over(snapshot: Snapshot) -> bool:
    """Whether the status last written already says, for this generation, that the job has ended.

    Then nothing is proposed any more, so that a restart with a thousand ended jobs asks nobody. A job
    whose template was refused has the phase Failed too, yet it has not ended: it is tried again.
    """
    status = snapshot.job.status
    ended = any(
        condition.get("type") in {Condition.COMPLETE, Condition.FAILED}
        and condition.get("status") == "True"
        for condition in status.get("conditions", ())
    )
    return ended and status.get("observedGeneration") == snapshot.job.generation
