"""From rows to domain values: jobs, trials with their attempts, and what their reports add up to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Row, select

from foretune.adapters.store.schema import attempts, costs, proposals, reports, trials
from foretune.domain.history import JobRecord, Proposal
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.trial import (
    AttemptPhase,
    AttemptRecord,
    EndReason,
    Point,
    Trial,
    TrialState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

TRAIN_LOSS: Final = "train_loss"
"""Metric whose divergence counts besides the objective's."""

DIVERGED_AFTER: Final = 2
"""Reports in a row that must name a non-finite objective or training loss."""


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


@dataclass
class _Curve:
    """What a trial's reports add up to."""

    by_epoch: dict[float, Row[Any]] = field(default_factory=dict)
    metrics: set[str] = field(default_factory=set)
    bad: list[bool] = field(default_factory=list)
    reports: int = 0
    cpu_s: dict[tuple[int, str], float] = field(default_factory=dict)
    source: str | None = None

    def add(self, row: Row[Any], metric: str) -> None:
        self.reports += 1
        self.metrics.update(row.metrics, row.nonfinite)
        if row.metrics or row.nonfinite:
            self.bad.append(metric in row.nonfinite or TRAIN_LOSS in row.nonfinite)
        if row.epoch is not None and row.metrics:
            self.by_epoch[row.epoch] = row
        if metric in row.metrics and self.source is None:
            self.source = row.source
        cpu = row.resources.get("cpu_s")
        if isinstance(cpu, int | float):
            key = (row.attempt, row.pod_uid)
            self.cpu_s[key] = max(self.cpu_s.get(key, 0.0), float(cpu))

    def values(self, metric: str) -> list[float]:
        found = (self.by_epoch[epoch].metrics for epoch in sorted(self.by_epoch))
        return [metrics[metric] for metrics in found if metric in metrics]


def report_rows(connection: Connection, trial_ids: Iterable[int]) -> Sequence[Row[Any]]:
    """Return the reports of trials in order of arrival within each trial."""
    query = (
        select(reports)
        .where(reports.c.trial_id.in_(list(trial_ids)))
        .order_by(reports.c.trial_id, reports.c.attempt, reports.c.received_at, reports.c.seq)
    )
    return connection.execute(query).all()


def load_trials(
    connection: Connection, job_uid: str, objective: Objective, index: int | None = None
) -> list[Trial]:
    """Return the trials of a job by index, or one of them, in a handful of queries."""
    query = (
        select(trials, proposals.c.params, proposals.c.config_hash, proposals.c.proposer)
        .join(
            proposals,
            (proposals.c.job_uid == trials.c.job_uid)
            & (proposals.c.trial_index == trials.c.trial_index),
        )
        .where(trials.c.job_uid == job_uid)
        .order_by(trials.c.trial_index)
    )
    if index is not None:
        query = query.where(trials.c.trial_index == index)
    rows = connection.execute(query).all()
    ids = [row.id for row in rows]
    held = _costs(connection, ids)
    tries: dict[int, list[AttemptRecord]] = defaultdict(list)
    wanted = select(attempts).where(attempts.c.trial_id.in_(ids)).order_by(attempts.c.number)
    for row in connection.execute(wanted).all():
        tries[row.trial_id].append(_attempt(row, held.get((row.trial_id, row.number), 0.0)))
    curves: dict[int, _Curve] = defaultdict(_Curve)
    for row in report_rows(connection, ids):
        curves[row.trial_id].add(row, objective.metric)
    return [_trial(row, tries[row.id], curves[row.id], objective) for row in rows]


def _costs(connection: Connection, ids: list[int]) -> dict[tuple[int, int], float]:
    query = select(costs).where(costs.c.trial_id.in_(ids))
    return {(row.trial_id, row.attempt): row.gpu_held_s for row in connection.execute(query).all()}


def _attempt(row: Row[Any], held_gpu_s: float) -> AttemptRecord:
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
        held_gpu_s=held_gpu_s,
    )


def _trial(row: Row[Any], tries: list[AttemptRecord], curve: _Curve, objective: Objective) -> Trial:
    recent = curve.bad[-DIVERGED_AFTER:]
    return Trial(
        job_uid=row.job_uid,
        index=row.trial_index,
        params=row.params,
        state=TrialState(row.state),
        config_hash=row.config_hash,
        value=objective.reduced(curve.values(objective.metric)),
        epochs=max(curve.by_epoch, default=0.0),
        reports=curve.reports,
        attempts=tuple(tries),
        reason=EndReason(row.reason) if row.reason else None,
        message=row.message,
        counts_as_failure=row.counts_as_failure,
        nonfinite=len(recent) == DIVERGED_AFTER and all(recent),
        metrics_seen=tuple(sorted(curve.metrics)),
        proposer=row.proposer,
        source=row.source or curve.source,
        created_at=row.created_at,
        ended_at=row.ended_at,
        cpu_s=sum(curve.cpu_s.values()) if curve.cpu_s else None,
        gpu_s=sum(attempt.held_gpu_s for attempt in tries),
        stop_requested=row.stop_requested,
    )


def points_of(rows: Iterable[Row[Any]]) -> list[Point]:
    """Return one point an epoch, the last report of each."""
    by_epoch = {row.epoch: row for row in rows if row.epoch is not None and row.metrics}
    return [
        Point(
            epoch=epoch,
            metrics=by_epoch[epoch].metrics,
            at=by_epoch[epoch].received_at,
            resources=by_epoch[epoch].resources,
        )
        for epoch in sorted(by_epoch)
    ]
