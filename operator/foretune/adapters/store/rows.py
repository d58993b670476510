"""From rows to domain values: jobs, proposals, trials with their attempts."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from foretune.adapters.store.schema import attempts, costs, proposals, trials
from foretune.domain.history import JobRecord, PastJob, Proposal
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.trial import (
    AttemptPhase,
    AttemptRecord,
    EndReason,
    Forecast,
    Trial,
    TrialState,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Connection, Row


def objective_json(objective: Objective) -> dict[str, Any]:
    """Return an objective as the jobs table keeps it."""
    return {
        "metric": objective.metric,
        "goal": objective.goal.value,
        "target": objective.target,
        "reduce": objective.reduce.value,
    }


def objective_of(value: dict[str, Any]) -> Objective:
    """Return the objective of a jobs row."""
    return Objective(
        metric=value["metric"],
        goal=Goal(value["goal"]),
        target=value["target"],
        reduce=Reduce(value["reduce"]),
    )


def job_of(row: Row[Any]) -> JobRecord:
    """Return a job of its row."""
    return JobRecord(
        uid=row.uid,
        namespace=row.namespace,
        name=row.name,
        manifest=row.manifest,
        objective=objective_of(row.objective),
        context=row.context,
        created_at=row.created_at,
        closed_at=row.closed_at,
        phase=row.phase,
        reason=row.reason,
        message=row.message,
    )


def proposal_of(row: Row[Any]) -> Proposal:
    """Return a proposal of its row."""
    return Proposal(
        job_uid=row.job_uid,
        index=row.trial_index,
        params=row.params,
        config_hash=row.config_hash,
        proposer=row.proposer,
        detail=row.detail,
        created_at=row.created_at,
    )


def past_job_of(row: Any) -> PastJob:
    """Return a past job of its row, with the space of its task."""
    return PastJob(
        uid=row.uid,
        namespace=row.namespace,
        name=row.name,
        objective=objective_of(row.objective),
        space=row.space,
        context=row.context,
        created_at=row.created_at,
        closed=row.closed_at is not None,
        closed_at=row.closed_at,
    )


def load_trials(
    connection: Connection, job_uid: str, chosen: int | Collection[int] | None = None
) -> list[Trial]:
    """Return the trials of a job by index, or the chosen ones: two queries, whatever their number."""
    wanted = trials.c.job_uid == job_uid
    if isinstance(chosen, int):
        wanted &= trials.c.trial_index == chosen
    elif chosen is not None:
        wanted &= trials.c.trial_index.in_(chosen)
    query = (
        select(
            trials,
            proposals.c.params,
            proposals.c.config_hash,
            proposals.c.proposer,
            proposals.c.detail,
        )
        .join(
            proposals,
            (proposals.c.job_uid == trials.c.job_uid)
            & (proposals.c.trial_index == trials.c.trial_index),
        )
        .where(wanted)
        .order_by(trials.c.trial_index)
    )
    rows = connection.execute(query).all()
    tries: dict[int, list[AttemptRecord]] = defaultdict(list)
    booked = (costs.c.trial_id == attempts.c.trial_id) & (costs.c.attempt == attempts.c.number)
    of_job = (
        select(attempts, costs.c.gpu_held_s)
        .join(trials, trials.c.id == attempts.c.trial_id)
        .outerjoin(costs, booked)
        .where(wanted)
        .order_by(attempts.c.number)
    )
    for row in connection.execute(of_job).all():
        tries[row.trial_id].append(_attempt(row))
    return [_trial(row, tries[row.id]) for row in rows]


def _attempt(row: Row[Any]) -> AttemptRecord:
    return AttemptRecord(
        number=row.number,
        state=AttemptPhase(row.state),
        pod_uid=row.pod_uid,
        created_at=row.created_at,
        bound_at=row.bound_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        exit_code=row.exit_code,
        reason=EndReason(row.reason) if row.reason else None,
        message=row.message,
        node=row.node,
        gpus=row.gpus,
        held_gpu_s=row.gpu_held_s or 0.0,
    )


def _trial(row: Row[Any], tries: list[AttemptRecord]) -> Trial:
    trial = Trial(
        job_uid=row.job_uid,
        index=row.trial_index,
        params=row.params,
        state=TrialState(row.state),
        config_hash=row.config_hash,
        value=row.value,
        value_sd=row.value_sd,
        epochs=row.epochs,
        reports=row.reports,
        attempts=tuple(tries),
        reason=EndReason(row.reason) if row.reason else None,
        message=row.message,
        counts_as_failure=row.counts_as_failure,
        nonfinite=row.nonfinite,
        metrics_seen=tuple(row.metrics_seen),
        proposer=row.proposer,
        forecast=_forecast(row.detail),
        source=row.source,
        created_at=row.created_at,
        ended_at=row.ended_at,
        cpu_s=row.cpu_s,
        resources=row.resources,
        gpu_s=sum(attempt.held_gpu_s for attempt in tries),
        stop_requested=row.stop_requested,
    )
    return replace(trial, cost=_cost(trial))


def _forecast(detail: Mapping[str, Any]) -> Forecast | None:
    """Return what a proposal's audit says of the model's expectation."""
    found = [detail.get(name) for name in ("mean", "sd", "incumbent", "noise_sd")]
    numbers = [float(v) for v in found if isinstance(v, int | float) and math.isfinite(v)]
    if len(numbers) == len(found):
        return Forecast(*numbers)
    return None


def _cost(trial: Trial) -> float | None:
    """Return what a trial cost in the unit that its attempts share, or None while nothing is booked."""
    if any(attempt.gpus for attempt in trial.attempts):
        return trial.gpu_s or None
    return trial.cpu_s if trial.cpu_s is not None else trial.seconds
