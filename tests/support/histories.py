"""Values for tests of the history, of which only what a test is about is spelled out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foretune.domain.history import JobRecord, Proposal
from foretune.domain.job import Objective
from foretune.domain.trial import AttemptPhase, AttemptRecord, EndReason, Outcome, TrialState
from foretune.planner.naming import config_hash
from foretune.ports import ReportBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.ports import History

SPEC: dict[str, Any] = {
    "objective": {"metric": "accuracy"},
    "space": {"lr": {"min": 0.0001, "max": 0.1, "scale": "log"}, "layers": {"values": [2, 3, 4]}},
    "trial": {"builtin": {"model": "cnn", "dataset": "digits"}},
    "search": {"algorithm": "sobol", "seed": 7},
}


def a_job(uid: str = "job-1", **changes: Any) -> JobRecord:
    """Return a running job."""
    values: dict[str, Any] = {
        "uid": uid,
        "namespace": "team-a",
        "name": "demo",
        "manifest": SPEC,
        "objective": Objective(metric="accuracy"),
        "created_at": 1000.0,
        "phase": "Running",
    }
    return JobRecord(**{**values, **changes})


def a_proposal(job_uid: str = "job-1", index: int = 0, **changes: Any) -> Proposal:
    """Return a proposal."""
    params = changes.pop("params", {"lr": 0.001 * (index + 1), "layers": 2})
    values: dict[str, Any] = {"proposer": "sobol", "created_at": 1001.0 + index}
    return Proposal(
        job_uid=job_uid,
        index=index,
        params=params,
        config_hash=config_hash(params),
        **{**values, **changes},
    )


def an_attempt(number: int = 0, **changes: Any) -> AttemptRecord:
    """Return an attempt that runs in pod `pod-<number>`."""
    values: dict[str, Any] = {"state": AttemptPhase.RUNNING, "pod_uid": f"pod-{number}"}
    return AttemptRecord(number=number, **{**values, **changes})


def epochs(*values: float, metric: str = "accuracy", first_seq: int = 0) -> list[dict[str, Any]]:
    """Return one report an epoch."""
    return [
        {"seq": first_seq + i, "kind": "epoch", "epoch": i + 1.0, "metrics": {metric: value}}
        for i, value in enumerate(values)
    ]


def a_batch(reports: Sequence[dict[str, Any]], index: int = 0, **changes: Any) -> ReportBatch:
    """Return reports of a trial's first pod."""
    values: dict[str, Any] = {
        "job_uid": "job-1",
        "attempt": 0,
        "pod_uid": "pod-0",
        "received_at": 2000.0,
    }
    return ReportBatch(index=index, reports=reports, **{**values, **changes})


def an_outcome(index: int = 0, attempt: int = 0, **changes: Any) -> Outcome:
    """Return the end of an attempt that completed its trial."""
    reason = changes.get("reason", EndReason.DONE)
    record = an_attempt(
        attempt, state=AttemptPhase.SUCCEEDED, reason=reason, gpus=2, held_gpu_s=120.0
    )
    values: dict[str, Any] = {
        "state": TrialState.COMPLETED,
        "reason": reason,
        "attempt_record": record,
    }
    return Outcome(index=index, attempt=attempt, **{**values, **changes})


def running_trial(history: History, index: int = 0, job: JobRecord | None = None) -> str:
    """Record a job and a trial of it that runs; return the job's uid."""
    job = job or a_job()
    history.put_job(job)
    history.put_proposal(a_proposal(job.uid, index))
    history.put_attempt(job.uid, index, an_attempt())
    return job.uid


def tuned(
    history: History, job: JobRecord, values: Sequence[float | None], *, first: int = 0
) -> None:
    """Record a job with one ended trial a value, at lr 0.001, 0.002, ... of 2 layers; None ran out of memory."""
    history.put_job(job)
    for index, value in enumerate(values, first):
        history.put_proposal(a_proposal(job.uid, index))
        ends: dict[str, Any] = {"state": TrialState.INFEASIBLE, "reason": EndReason.OUT_OF_MEMORY}
        if value is not None:
            ends = {"records": tuple(epochs(value, metric=job.objective.metric))}
        outcome = an_outcome(index, **ends)
        history.commit(job.uid, outcome, at=2000.0 + index)
