"""How an attempt ended, and what follows: the table of the architecture, section 6.

Exit code 0 is not "finished": an unmodified script may exit 0 on SIGTERM, and a Job that was asked to
stop may have reached its end all the same. What was reported, and what the cluster says, decide.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foretune.contract import ExitCode
from foretune.domain.job import MAX_INFRA_RETRIES, Builtin
from foretune.domain.trial import (
    AttemptPhase,
    AttemptRecord,
    EndReason,
    ObservedAttempt,
    Outcome,
    Trial,
    TrialState,
)
from foretune.planner import trainer

if TYPE_CHECKING:
    from foretune.domain.job import JobSpec
    from foretune.planner.snapshot import Recovered

SIGTERM_EXIT: Final = 143
"""What a shell or runtime reports for a process that SIGTERM ended."""

MESSAGE_LIMIT: Final = 256
"""Characters of a failure's message that the status keeps."""

INFRA: Final = frozenset({EndReason.PREEMPTED, EndReason.NODE_LOST, EndReason.PROCESS_LOST})
"""Ends that say nothing about the configuration: retried, never counted."""

RETRIED_ERRORS: Final = frozenset({EndReason.ERROR, EndReason.DATA_UNREACHABLE})
"""Ends that may go away by themselves: retried as often as the failure policy says."""

_CUDA_OOM: Final = ("CUDA out of memory", "OutOfMemoryError", "CUBLAS_STATUS_ALLOC_FAILED")
_LEFT_WHEN_ASKED: Final = frozenset({None, SIGTERM_EXIT, int(ExitCode.PREEMPTED), 137})
_EXIT_REASONS: Final = {
    int(ExitCode.OUT_OF_MEMORY): EndReason.OUT_OF_MEMORY,
    int(ExitCode.DIVERGED): EndReason.DIVERGED,
    int(ExitCode.BAD_CONFIG): EndReason.CONFIG_BUG,
    int(ExitCode.BAD_EXTRA): EndReason.CONFIG_BUG,
    int(ExitCode.DATA_UNREACHABLE): EndReason.DATA_UNREACHABLE,
}
_STATES: Final = {
    EndReason.DONE: TrialState.COMPLETED,
    EndReason.OUT_OF_MEMORY: TrialState.INFEASIBLE,
    EndReason.DIVERGED: TrialState.INFEASIBLE,
    EndReason.TIMED_OUT: TrialState.TIMED_OUT,
    EndReason.DELETED: TrialState.CANCELLED,
}


@dataclass(frozen=True)
class _End:
    reason: EndReason
    message: str = ""


def held_gpu_s(attempt: ObservedAttempt, until: float) -> float:
    """Return GPUs x seconds from binding (else from start) to the end, or to `until`, of all pods."""
    begin = attempt.bound_at if attempt.bound_at is not None else attempt.started_at
    end = attempt.ended_at if attempt.ended_at is not None else until
    newest = max(0.0, end - begin) if begin is not None else 0.0
    return attempt.gpus * (attempt.replaced_s + newest)


def record_of(attempt: ObservedAttempt, now: float, end: _End | None = None) -> AttemptRecord:
    """Return what the history keeps of an observed attempt."""
    return AttemptRecord(
        number=attempt.number,
        state=attempt.phase,
        pod_uid=attempt.pod_uid,
        created_at=attempt.created_at,
        bound_at=attempt.bound_at,
        started_at=attempt.started_at,
        ended_at=(attempt.ended_at or now) if end else attempt.ended_at,
        exit_code=attempt.exit_code,
        reason=end.reason if end else None,
        message=end.message if end else "",
        node=attempt.node,
        gpus=attempt.gpus,
        held_gpu_s=held_gpu_s(attempt, now) if end else 0.0,
    )


def classify(
    attempt: ObservedAttempt, trial: Trial, spec: JobSpec, recovered: Recovered, now: float
) -> Outcome:
    """Return the outcome of an ended attempt; `recovered` is what could be read of it."""
    end = _reason(attempt, trial, spec, recovered)
    state, failure = _state(end.reason, trial, spec, has_value=_has_value(trial, spec, recovered))
    return Outcome(
        index=attempt.index,
        attempt=attempt.number,
        state=state,
        reason=end.reason,
        message=end.message[:MESSAGE_LIMIT],
        counts_as_failure=failure,
        attempt_record=record_of(attempt, now, end),
        records=recovered.records,
        source=recovered.source,
    )


def _has_value(trial: Trial, spec: JobSpec, recovered: Recovered) -> bool:
    metric = spec.objective.metric
    return trial.value is not None or any(
        metric in record.get("metrics", {}) for record in recovered.records
    )


def _reason(attempt: ObservedAttempt, trial: Trial, spec: JobSpec, recovered: Recovered) -> _End:
    """Return why the attempt ended: the first row that fits."""
    if attempt.exit_code == ExitCode.DONE and attempt.phase is AttemptPhase.SUCCEEDED:
        return _finished(trial, spec, recovered)
    return _taken(attempt, trial, spec) or _broken(attempt, spec, recovered)


def _finished(trial: Trial, spec: JobSpec, recovered: Recovered) -> _End:
    if _has_value(trial, spec, recovered):
        return _End(EndReason.STOPPED_BY_RULE if trial.stop_requested else EndReason.DONE)
    if trial.nonfinite:
        return _End(EndReason.DIVERGED, f"{spec.objective.metric} was never finite")
    return _End(EndReason.METRICS_MISSING, _missing(spec, trial, recovered))


def _taken(attempt: ObservedAttempt, trial: Trial, spec: JobSpec) -> _End | None:
    """Return the end of an attempt that something outside the trial ended, else None."""
    code = attempt.exit_code
    if attempt.disruption is not None:
        return _End(EndReason.PREEMPTED, attempt.disruption)
    if attempt.deadline_exceeded:
        limit = f" ({spec.trial.timeout_s:g} s)" if spec.trial.timeout_s else ""
        return _End(EndReason.TIMED_OUT, f"ran longer than trial.timeout{limit}")
    if trial.stop_requested is not None and code in _LEFT_WHEN_ASKED:
        return _End(EndReason.STOPPED_BY_RULE, trial.stop_requested)
    if attempt.phase is AttemptPhase.GONE:
        return _End(EndReason.PROCESS_LOST, "the process is gone and left no exit code")
    if code == ExitCode.PREEMPTED or (code == SIGTERM_EXIT and attempt.deleting):
        return _End(EndReason.PREEMPTED, "asked to leave")
    return None


def _broken(attempt: ObservedAttempt, spec: JobSpec, recovered: Recovered) -> _End:
    """Return the end of an attempt that failed by itself."""
    text = f"{recovered.text}\n{attempt.termination_message}"
    code, tail = attempt.exit_code, _tail(attempt, recovered)
    if attempt.container_reason == "OOMKilled" or any(mark in text for mark in _CUDA_OOM):
        return _End(EndReason.OUT_OF_MEMORY, tail)
    workload = spec.trial.workload
    if code in trainer.SAYS and isinstance(workload, Builtin):
        reading = code == ExitCode.DATA_UNREACHABLE
        tail = str(trainer.problem(tail, workload, reading=reading))
    if code in _EXIT_REASONS:
        return _End(_EXIT_REASONS[code], tail)
    return _End(EndReason.ERROR, f"exit code {code}: {tail}")


def _state(
    reason: EndReason, trial: Trial, spec: JobSpec, *, has_value: bool
) -> tuple[TrialState, bool]:
    """Return the trial's next state, and whether the end counts as a failure."""
    if reason is EndReason.STOPPED_BY_RULE:
        return (TrialState.EARLY_STOPPED if has_value else TrialState.CANCELLED), False
    if reason in _STATES:
        return _STATES[reason], False
    if reason in INFRA:
        lost = sum(a.reason in INFRA for a in trial.attempts)
        return (TrialState.RETRYING if lost < MAX_INFRA_RETRIES else TrialState.FAILED), False
    errors = sum(a.reason in RETRIED_ERRORS for a in trial.attempts)
    if reason in RETRIED_ERRORS and errors < spec.failure.on_error_retries:
        return TrialState.RETRYING, False
    return TrialState.FAILED, reason is not EndReason.CONFIG_BUG


def deleted(attempt: ObservedAttempt, trial: Trial, now: float) -> Outcome:
    """Return the outcome of an attempt that somebody (perhaps we, after a stop) deleted."""
    stopped = trial.stop_requested is not None
    end = _End(
        EndReason.STOPPED_BY_RULE if stopped else EndReason.DELETED,
        trial.stop_requested or "its Job was deleted by hand",
    )
    kept = stopped and trial.value is not None
    return Outcome(
        index=attempt.index,
        attempt=attempt.number,
        state=TrialState.EARLY_STOPPED if kept else TrialState.CANCELLED,
        reason=end.reason,
        message=end.message,
        attempt_record=record_of(attempt, now, end),
    )


def unstartable(attempt: ObservedAttempt, reason: EndReason, message: str, now: float) -> Outcome:
    """Return the outcome of an attempt that the planner gives up before it ran to an end."""
    return Outcome(
        index=attempt.index,
        attempt=attempt.number,
        state=TrialState.FAILED,
        reason=reason,
        message=message[:MESSAGE_LIMIT],
        counts_as_failure=reason is not EndReason.IMAGE_UNPULLABLE,
        attempt_record=record_of(attempt, now, _End(reason, message[:MESSAGE_LIMIT])),
    )


def _missing(spec: JobSpec, trial: Trial, recovered: Recovered) -> str:
    metric = spec.objective.metric
    seen = sorted({*trial.metrics_seen, *recovered.metrics_seen})
    if not seen:
        return f"exit code 0, but no metric was reported; objective.metric is {metric!r}"
    close = difflib.get_close_matches(metric, seen, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"exit code 0, but {metric!r} was not reported; seen: {', '.join(seen[:12])}{hint}"


def _tail(attempt: ObservedAttempt, recovered: Recovered) -> str:
    """Return the last telling line: what a person would read first."""
    for text in (attempt.termination_message, recovered.text):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith(("FORETUNE ", "{"))]
        if lines:
            return lines[-1]
    return attempt.container_reason or "no output"
