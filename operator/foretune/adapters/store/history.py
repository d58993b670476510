"""`SqlHistory`: the port `History` over SQLAlchemy."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import case, func, insert, or_, select, update

from foretune.adapters.store.curves import Curve
from foretune.adapters.store.engine import Stored
from foretune.adapters.store.rows import (
    job_of,
    load_trials,
    objective_json,
    objective_of,
    past_job_of,
    proposal_of,
)
from foretune.adapters.store.schema import (
    attempts,
    costs,
    jobs,
    pods,
    proposals,
    reports,
    tasks,
    trials,
)
from foretune.domain.job import Goal, Scope
from foretune.domain.trial import AttemptPhase, TrialState
from foretune.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection, Row, Table

    from foretune.domain.history import JobRecord, PastJob, Proposal
    from foretune.domain.trial import AttemptRecord, Outcome, Point, Trial
    from foretune.ports import ReportBatch

TERMINAL: Final = [state.value for state in TrialState if state.terminal]
OPEN: Final = [state.value for state in TrialState if not state.terminal]

TOLD: Final = [
    TrialState.COMPLETED.value,
    TrialState.EARLY_STOPPED.value,
    TrialState.TIMED_OUT.value,
]
"""States of a trial whose value others may learn from."""

FAILED: Final = [TrialState.INFEASIBLE.value, TrialState.FAILED.value, TrialState.TIMED_OUT.value]
"""States of a trial whose failure others may learn from."""


class SqlHistory(Stored):
    """The history in a SQLite file or a PostgreSQL database; safe for threads and processes."""

    # ------------------------------------------------------------------ jobs
    def put_job(self, record: JobRecord) -> None:
        """Insert or update a job by uid; its creation time and its task stay."""
        values = {
            "namespace": record.namespace,
            "name": record.name,
            "manifest": dict(record.manifest),
            "objective": objective_json(record.objective),
            "context": dict(record.context),
            "closed_at": record.closed_at,
            "phase": record.phase,
            "reason": record.reason,
            "message": record.message,
            "published": _published(record.manifest),
        }
        with self._database.writing() as connection:
            changed = connection.execute(
                update(jobs).where(jobs.c.uid == record.uid).values(**values)
            ).rowcount
            if not changed:
                task_id = self._task(connection, record)
                row = {"uid": record.uid, "task_id": task_id, "created_at": record.created_at}
                self._put(connection, jobs, {**values, **row})

    def job(self, uid: str) -> JobRecord:
        """Return a job; raises `NotFoundError`."""
        with self._database.reading() as connection:
            return job_of(self._job_row(connection, uid))

    def find_jobs(
        self, *, namespace: str | None = None, name: str | None = None
    ) -> Sequence[JobRecord]:
        """Return matching jobs, newest first."""
        query = select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.uid)
        if namespace is not None:
            query = query.where(jobs.c.namespace == namespace)
        if name is not None:
            query = query.where(jobs.c.name == name)
        with self._database.reading() as connection:
            return [job_of(row) for row in connection.execute(query).all()]

    def close_job(self, job_uid: str, *, phase: str, reason: str, message: str, at: float) -> None:
        """Record how a job ended; open trials of a deleted job become Cancelled."""
        with self._database.writing() as connection:
            self._job_row(connection, job_uid)
            end = {"phase": phase, "reason": reason, "message": message, "closed_at": at}
            connection.execute(update(jobs).where(jobs.c.uid == job_uid).values(**end))
            if phase == "Deleted":
                connection.execute(
                    update(trials)
                    .where(trials.c.job_uid == job_uid, trials.c.state.in_(OPEN))
                    .values(state=TrialState.CANCELLED.value, reason="Deleted", ended_at=at)
                )

    def past_jobs(
        self,
        *,
        namespaces: Collection[str] | None,
        published: Collection[str],
        names: Collection[str] = (),
        metric: str | None = None,
        least: int = 1,
        limit: int,
    ) -> Sequence[PastJob]:
        """Return jobs to learn from, newest first, at most `limit`."""
        ends = (
            select(trials.c.ended_at)
            .where(trials.c.job_uid == jobs.c.uid, trials.c.ended_at.is_not(None))
            .order_by(trials.c.ended_at)
            .limit(1)
            .offset(least - 1)
            .scalar_subquery()
        )
        columns = (jobs.c.uid, jobs.c.namespace, jobs.c.name, jobs.c.objective, jobs.c.context)
        query = (
            select(*columns, jobs.c.created_at, jobs.c.closed_at, tasks.c.space)
            .join(tasks, tasks.c.id == jobs.c.task_id)
            .where(jobs.c.published.in_(published), ends.is_not(None))
            .order_by(jobs.c.created_at.desc(), jobs.c.uid)
            .limit(limit)
        )
        if namespaces is not None:
            query = query.where(jobs.c.namespace.in_(namespaces))
        if names:
            query = query.where(jobs.c.name.in_(names))
        if metric is not None:
            query = query.where(tasks.c.metric == metric)
        with self._database.reading() as connection:
            return [past_job_of(row) for row in connection.execute(query).all()]

    def ended(self, job_uids: Collection[str]) -> Mapping[str, int]:
        """Return how many trials of each job have ended; a job without any is left out."""
        query = (
            select(trials.c.job_uid, func.count())
            .where(trials.c.job_uid.in_(job_uids), trials.c.ended_at.is_not(None))
            .group_by(trials.c.job_uid)
        )
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query).all()}

    def decisions(self, job_uids: Collection[str]) -> Mapping[str, str]:
        """Return what the last proposal of each job that tells it said of past jobs."""
        said = proposals.c.detail["prior"].as_string()
        told = proposals.c.job_uid.in_(job_uids) & said.is_not(None)
        last = (
            select(proposals.c.job_uid, func.max(proposals.c.trial_index).label("last"))
            .where(told)
            .group_by(proposals.c.job_uid)
            .subquery()
        )
        query = select(proposals.c.job_uid, said).join(
            last,
            (last.c.job_uid == proposals.c.job_uid) & (last.c.last == proposals.c.trial_index),
        )
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query).all()}

    # ------------------------------------------------------------- proposals
    def proposals(self, job_uid: str) -> Sequence[Proposal]:
        """Return every proposal of the job by index; raises `NotFoundError`."""
        query = select(proposals).where(proposals.c.job_uid == job_uid)
        with self._database.reading() as connection:
            self._job_row(connection, job_uid)
            ordered = connection.execute(query.order_by(proposals.c.trial_index))
            return [proposal_of(row) for row in ordered.all()]

    def put_proposal(self, proposal: Proposal) -> Proposal:
        """Record a proposal and its trial; a second one of the same identity returns the first."""
        with self._database.writing() as connection:
            self._job_row(connection, proposal.job_uid)
            new = self._put(
                connection,
                proposals,
                {
                    "job_uid": proposal.job_uid,
                    "trial_index": proposal.index,
                    "params": proposal.params,
                    "config_hash": proposal.config_hash,
                    "proposer": proposal.proposer,
                    "detail": dict(proposal.detail),
                    "created_at": proposal.created_at,
                },
            )
            if new:
                trial = {
                    "job_uid": proposal.job_uid,
                    "trial_index": proposal.index,
                    "state": TrialState.PROPOSED.value,
                    "created_at": proposal.created_at,
                }
                connection.execute(insert(trials).values(**trial))
                return proposal
            row = self._proposal_row(connection, proposal.job_uid, proposal.index)
            assert row is not None
            return proposal_of(row)

    def proposal(self, job_uid: str, index: int) -> Proposal | None:
        """Return the recorded proposal, or None."""
        with self._database.reading() as connection:
            row = self._proposal_row(connection, job_uid, index)
            return proposal_of(row) if row is not None else None

    # ---------------------------------------------------------------- trials
    def trials(self, job_uid: str) -> Sequence[Trial]:
        """Return every trial of the job by index, values reduced by the job's objective."""
        with self._database.reading() as connection:
            self._job_row(connection, job_uid)
            return load_trials(connection, job_uid)

    def trial(self, job_uid: str, index: int) -> Trial:
        """Return one trial; raises `NotFoundError`."""
        with self._database.reading() as connection:
            found = load_trials(connection, job_uid, index)
            if not found:
                raise NotFoundError(f"the history has no trial {index} of job {job_uid!r}")
            return found[0]

    def lessons(self, job_uid: str, *, limit: int) -> Sequence[Trial]:
        """Return what can be learned from a job, whatever its size: some of its ended trials, by index."""
        first, rest = limit // 3, limit - limit // 3
        told = (
            trials.c.state.in_(TOLD) & trials.c.value.is_not(None) & trials.c.nonfinite.is_(False)
        )
        of_job = trials.c.job_uid == job_uid
        with self._database.reading() as connection:
            goal = objective_of(self._job_row(connection, job_uid).objective).goal
            value = trials.c.value.desc() if goal is Goal.MAXIMIZE else trials.c.value
            ranked = (
                select(
                    trials.c.trial_index,
                    func.row_number().over(order_by=(value, trials.c.trial_index)).label("place"),
                    func.count().over().label("count"),
                )
                .where(of_job, told)
                .subquery()
            )
            behind, others = ranked.c.place - first, ranked.c.count - first
            # Of the others each at which the share of them reaches the next whole number of `rest`.
            step = case((ranked.c.count > limit, others), else_=1)
            even = (behind * rest) // step > ((behind - 1) * rest) // step
            chosen = or_(ranked.c.count <= limit, ranked.c.place <= first, even)
            best = select(ranked.c.trial_index).where(chosen)
            failed = (
                select(trials.c.trial_index)
                .where(of_job, trials.c.state.in_(FAILED), ~told)
                .order_by(trials.c.trial_index.desc())
                .limit(limit // 4)
            )
            found = [*connection.scalars(best), *connection.scalars(failed)]
            return load_trials(connection, job_uid, found)

    def curve(self, job_uid: str, index: int) -> Sequence[Point]:
        """Return the trial's points in order of epoch; the last report of an epoch counts."""
        with self._database.reading() as connection:
            row = self._trial_row(connection, job_uid, index)
            return self._curve(connection, row.id).points()

    def curves(self, job_uid: str, indices: Collection[int]) -> Mapping[int, Sequence[Point]]:
        """Return the points of several trials; those without reports are left out."""
        query = (
            select(reports, trials.c.trial_index)
            .join(trials, trials.c.id == reports.c.trial_id)
            .where(trials.c.job_uid == job_uid, trials.c.trial_index.in_(indices))
        )
        rows: dict[int, list[Row[Any]]] = defaultdict(list)
        with self._database.reading() as connection:
            for row in connection.execute(query):
                rows[row.trial_index].append(row)
        return {index: Curve(found).points() for index, found in sorted(rows.items())}

    def put_attempt(self, job_uid: str, index: int, attempt: AttemptRecord) -> None:
        """Insert or update an attempt; the newest one moves its open trial to Pending or Running."""
        with self._database.writing() as connection:
            trial = self._trial_row(connection, job_uid, index, lock=True)
            if trial.state in TERMINAL:
                return
            known = {row.number: row for row in self._attempt_rows(connection, trial.id)}
            if attempt.number in known and known[attempt.number].reason is not None:
                return
            self._write_attempt(connection, trial.id, attempt)
            if attempt.number < max(known, default=0):
                return
            running = attempt.state is AttemptPhase.RUNNING
            state = TrialState.RUNNING if running else TrialState.PENDING
            connection.execute(
                update(trials).where(trials.c.id == trial.id).values(state=state.value)
            )

    def pods(self, job_uid: str, index: int) -> Sequence[tuple[int, str]]:
        """Return (attempt, pod uid) of every pod known to have run the trial, oldest first."""
        with self._database.reading() as connection:
            trial = self._trial_row(connection, job_uid, index)
            query = select(pods).where(pods.c.trial_id == trial.id)
            query = query.order_by(pods.c.attempt, pods.c.id)
            return [(row.attempt, row.pod_uid) for row in connection.execute(query).all()]

    def request_stop(self, job_uid: str, index: int, *, rule: str) -> None:
        """Record that a rule wants the trial stopped; the first rule stays."""
        with self._database.writing() as connection:
            trial = self._trial_row(connection, job_uid, index, lock=True)
            if trial.stop_requested is None and trial.state not in TERMINAL:
                connection.execute(
                    update(trials).where(trials.c.id == trial.id).values(stop_requested=rule)
                )

    def commit(self, job_uid: str, outcome: Outcome, *, at: float) -> Trial:
        """Store an outcome in one transaction; a terminal trial stays as it is."""
        with self._database.writing() as connection:
            trial = self._trial_row(connection, job_uid, outcome.index, lock=True)
            ended = {
                row.number
                for row in self._attempt_rows(connection, trial.id)
                if row.reason is not None
            }
            if trial.state not in TERMINAL and outcome.attempt not in ended:
                self._end(connection, trial, outcome, at)
            return load_trials(connection, job_uid, outcome.index)[0]

    def _end(self, connection: Connection, trial: Row[Any], outcome: Outcome, at: float) -> None:
        record = outcome.attempt_record
        pod_uid = record.pod_uid if record is not None else None
        source = outcome.source or "log_tail"
        for report in outcome.records:
            # A record that the trial wrote names its pod and seq, so that one received already is not
            # doubled; what was read from other text has numbers of its own, under its carrier's name.
            written = report.get("pod") or (pod_uid if "trial" in report else None)
            row = _report_row(report, trial.id, outcome.attempt, written or source)
            self._put(connection, reports, {**row, "source": source, "received_at": at})
        curve = self._summarise(connection, trial)
        if record is not None:
            self._write_attempt(connection, trial.id, record)
            booked = {
                "trial_id": trial.id,
                "attempt": outcome.attempt,
                "gpu_held_s": record.held_gpu_s,
                "cpu_s": curve.cpu_s(outcome.attempt),
                "booked_at": at,
            }
            self._put(connection, costs, booked)
        end = {
            "state": outcome.state.value,
            "reason": outcome.reason.value,
            "message": _storable(outcome.message),
            "counts_as_failure": outcome.counts_as_failure,
            "ended_at": at if outcome.final else None,
        }
        if outcome.state is TrialState.EARLY_STOPPED:
            # A truncated value is none of this configuration: what it would have had, or nothing.
            end["value"], end["value_sd"] = outcome.predicted or (None, 0.0)
        connection.execute(update(trials).where(trials.c.id == trial.id).values(**end))

    # --------------------------------------------------------------- reports
    def add_reports(self, batch: ReportBatch) -> int:
        """Store reports, each identity once; return how many were new.

        Those of a trial that has ended complete its curve, and change its value no more.
        """
        with self._database.writing() as connection:
            trial = self._trial_row(connection, batch.job_uid, batch.index, lock=True)
            source = {"source": batch.source, "received_at": batch.received_at}
            rows = [
                {**_report_row(report, trial.id, batch.attempt, batch.pod_uid), **source}
                for report in batch.reports
            ]
            new = self._put(connection, reports, rows)
            if new and trial.state not in TERMINAL:
                self._summarise(connection, trial)
            return new

    def counts(self) -> Mapping[str, int]:
        """Return totals: `jobs`, `trials`, `reports`, `observations`."""
        with self._database.reading() as connection:

            def total(table: Table) -> int:
                return connection.execute(select(func.count()).select_from(table)).scalar_one()

            ended = (trials.c.state.in_(TERMINAL), trials.c.value.is_not(None))
            observed = select(func.count()).where(*ended)
            return {
                "jobs": total(jobs),
                "trials": total(trials),
                "reports": total(reports),
                "observations": connection.execute(observed).scalar_one(),
            }

    # --------------------------------------------------------------- helpers
    def _put(
        self, connection: Connection, table: Table, values: dict[str, Any] | list[dict[str, Any]]
    ) -> int:
        """Insert rows, but those whose key is there; return how many were new."""
        statement = self._dialect.insert(table).values(values).on_conflict_do_nothing()
        # By default the driver's count of an INSERT is thrown away: -1 on PostgreSQL.
        counted = statement.execution_options(preserve_rowcount=True)
        return connection.execute(counted).rowcount

    def _task(self, connection: Connection, record: JobRecord) -> int:
        space = record.manifest.get("space", {})
        about = [objective_json(record.objective), space, dict(record.context)]
        text = json.dumps(about, sort_keys=True, default=str)
        key = {
            "namespace": record.namespace,
            "signature": hashlib.sha256(text.encode()).hexdigest()[:32],
        }
        facts = {
            "metric": record.objective.metric,
            "goal": record.objective.goal.value,
            "space": space,
            "context": dict(record.context),
        }
        self._put(connection, tasks, {**key, **facts})
        query = select(tasks.c.id).filter_by(**key)
        return int(connection.execute(query).scalar_one())

    def _job_row(self, connection: Connection, uid: str) -> Row[Any]:
        row = connection.execute(select(jobs).where(jobs.c.uid == uid)).one_or_none()
        if row is None:
            raise NotFoundError(f"the history has no job with uid {uid!r}")
        return row

    def _trial_row(
        self, connection: Connection, job_uid: str, index: int, *, lock: bool = False
    ) -> Row[Any]:
        query = select(trials).where(trials.c.job_uid == job_uid, trials.c.trial_index == index)
        if lock:  # where several write at once; SQLite has one writer and ignores it
            query = query.with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFoundError(f"the history has no trial {index} of job {job_uid!r}")
        return row

    def _proposal_row(self, connection: Connection, job_uid: str, index: int) -> Row[Any] | None:
        query = select(proposals).where(
            proposals.c.job_uid == job_uid, proposals.c.trial_index == index
        )
        return connection.execute(query).one_or_none()

    def _attempt_rows(self, connection: Connection, trial_id: int) -> Sequence[Row[Any]]:
        query = select(attempts).where(attempts.c.trial_id == trial_id)
        return connection.execute(query).all()

    def _curve(self, connection: Connection, trial_id: int) -> Curve:
        query = select(reports).where(reports.c.trial_id == trial_id)
        return Curve(connection.execute(query).all())

    def _summarise(self, connection: Connection, trial: Row[Any]) -> Curve:
        """Keep with the trial what its reports add up to."""
        curve = self._curve(connection, trial.id)
        objective = objective_of(self._job_row(connection, trial.job_uid).objective)
        columns = curve.summary(objective)
        connection.execute(update(trials).where(trials.c.id == trial.id).values(**columns))
        return curve

    def _write_attempt(self, connection: Connection, trial_id: int, attempt: AttemptRecord) -> None:
        values = asdict(attempt)
        del values["held_gpu_s"], values["number"]
        values["state"] = attempt.state.value
        values["reason"] = attempt.reason.value if attempt.reason is not None else None
        values["message"] = _storable(attempt.message)
        where = (attempts.c.trial_id == trial_id) & (attempts.c.number == attempt.number)
        if not connection.execute(update(attempts).where(where).values(**values)).rowcount:
            row = {"trial_id": trial_id, "number": attempt.number, **values}
            connection.execute(insert(attempts).values(**row))
        if attempt.pod_uid is not None:
            pod = {"attempt": attempt.number, "pod_uid": attempt.pod_uid}
            self._put(connection, pods, {"trial_id": trial_id, **pod})


def _published(manifest: Mapping[str, Any]) -> str:
    """Return who may learn from a job, by what its manifest says of the history."""
    said = manifest.get("history") or {}
    return str(said.get("scope", Scope.NAMESPACE)) if said.get("publish", True) else "none"


def _storable(text: str) -> str:
    """Return text without what PostgreSQL can't keep: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _report_row(
    report: Mapping[str, Any], trial_id: int, attempt: int, pod_uid: str
) -> dict[str, Any]:
    return {
        "trial_id": trial_id,
        "attempt": attempt,
        "pod_uid": pod_uid,
        "seq": report["seq"],
        "kind": report.get("kind", "epoch"),
        "epoch": report.get("epoch"),
        "step": report.get("step"),
        "metrics": dict(report.get("metrics", {})),
        "nonfinite": list(report.get("nonfinite", ())),
        "resources": dict(report.get("resources", {})),
        "data_fingerprint": report.get("data_fingerprint"),
        "sent_at": report.get("ts"),
    }
