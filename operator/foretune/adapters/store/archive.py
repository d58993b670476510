"""`Archive`: imports into the history's database, many rows at a time, and what an export reads of it."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, insert, select

from foretune.adapters.store.curves import Curve
from foretune.adapters.store.engine import Stored
from foretune.adapters.store.rows import job_of, load_trials, objective_json
from foretune.adapters.store.schema import (
    attempts,
    costs,
    imports,
    jobs,
    proposals,
    reports,
    set_aside,
    tasks,
    trials,
)
from foretune.domain.exchange import KEY, PROPOSER, Counts, Import, PastTrial, SetAside, is_imported
from foretune.domain.job import Scope
from foretune.domain.space import canonical
from foretune.domain.trial import AttemptPhase
from foretune.planner.naming import config_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Row, Table

    from foretune.domain.history import JobRecord
    from foretune.domain.space import Params, Value
    from foretune.domain.trial import Trial

BATCH: Final = 1000
"""Rows held in memory at once, on the way in and on the way out."""


class Archive(Stored):
    """The past of a history's database; safe beside a tracker that writes to it, for processes and threads."""

    # ---------------------------------------------------------------------- in
    def job(self, uid: str) -> JobRecord | None:
        """Return a job, or None."""
        with self._database.reading() as connection:
            row = connection.execute(select(jobs).where(jobs.c.uid == uid)).one_or_none()
            return job_of(row) if row is not None else None

    def begin(self, imported: Import) -> int:
        """Return the number of an import; of one that was made before, the same."""
        with self._database.writing() as connection:
            row = {
                "digest": imported.digest,
                "source": imported.source,
                "format": imported.format,
                "sha256": imported.sha256,
                "at": imported.at,
            }
            self._put(connection, imports, [row])
            query = select(imports.c.id).where(imports.c.digest == imported.digest)
            return int(connection.execute(query).scalar_one())

    def add(
        self,
        number: int,
        job: JobRecord,
        rows: Iterable[PastTrial | SetAside],
        *,
        at: float,
        refused: Callable[[SetAside], None],
    ) -> Counts:
        """Add to a job, in one transaction, the trials that it lacks, and keep what is set aside.

        What is stored stays as it is: a trial that is there with another configuration or value is set
        aside, and so is each new one of a job that was not imported; `refused` hears of both. Trials get
        the next free indices.
        """
        with self._database.writing() as connection:
            owned = self._own(connection, job)
            known = self._known(connection, job.uid)
            last = select(func.max(trials.c.trial_index)).where(trials.c.job_uid == job.uid)
            after = connection.execute(last).scalar()
            counts, free = Counts(), 0 if after is None else int(after) + 1
            rows = iter(rows)
            while batch := list(islice(rows, BATCH)):
                new: list[PastTrial] = []
                aside = [row for row in batch if isinstance(row, SetAside)]
                for trial in (row for row in batch if isinstance(row, PastTrial)):
                    mine = (_configuration(trial.params), trial.value)
                    before = known.setdefault(trial.key, mine)
                    if before is mine:
                        reason = (
                            "" if owned else "is of a job that was not imported: nothing is added"
                        )
                    else:
                        reason = _conflict(before, mine)
                    if reason:
                        aside.append(_refused(job, trial, reason))
                        refused(aside[-1])
                    elif before is mine:
                        new.append(trial)
                self._insert(connection, job, free, new, at)
                self._keep(connection, number, aside)
                free += len(new)
                rest = len(batch) - len(new) - len(aside)
                counts += Counts(added=len(new), known=rest, set_aside=len(aside))
            return counts

    def _own(self, connection: Connection, job: JobRecord) -> bool:
        """Make the job's row if there is none; return whether trials may be added to it."""
        mine = select(jobs).where(jobs.c.uid == job.uid).with_for_update()
        row = connection.execute(mine).one_or_none()
        if row is None:
            self._put(
                connection,
                jobs,
                [
                    {
                        "uid": job.uid,
                        "task_id": self._task(connection, job),
                        "namespace": job.namespace,
                        "name": job.name,
                        "manifest": dict(job.manifest),
                        "objective": objective_json(job.objective),
                        "context": dict(job.context),
                        "created_at": job.created_at,
                        "closed_at": job.closed_at,
                        "phase": job.phase,
                        "reason": job.reason,
                        "message": job.message,
                        "published": _published(job.manifest),
                    }
                ],
            )
            # Another import may have made it meanwhile: whoever comes second waits here for the first.
            row = connection.execute(mine).one()
        return is_imported(job_of(row))

    def _task(self, connection: Connection, job: JobRecord) -> int:
        # Not only by objective, space and context, as a job's: a file says little of what its tasks are.
        space = job.manifest.get("space") or {}
        about = [objective_json(job.objective), space, dict(job.context), job.name, "import"]
        text = json.dumps(about, sort_keys=True)
        key = {
            "namespace": job.namespace,
            "signature": hashlib.sha256(text.encode()).hexdigest()[:32],
        }
        facts = {
            "metric": job.objective.metric,
            "goal": job.objective.goal.value,
            "space": space,
            "context": dict(job.context),
        }
        self._put(connection, tasks, [{**key, **facts}])
        return int(connection.execute(select(tasks.c.id).filter_by(**key)).scalar_one())

    def _known(self, connection: Connection, job_uid: str) -> dict[str, tuple[str, float | None]]:
        """Return configuration and value of each trial that the job has, by its key."""
        query = (
            select(proposals.c.trial_index, proposals.c.detail, proposals.c.params, trials.c.value)
            .join(
                trials,
                (trials.c.job_uid == proposals.c.job_uid)
                & (trials.c.trial_index == proposals.c.trial_index),
            )
            .where(proposals.c.job_uid == job_uid)
            .execution_options(yield_per=BATCH)
        )
        return {
            _key(row.detail, row.trial_index): (_configuration(row.params), row.value)
            for row in connection.execute(query)
        }

    def _insert(
        self,
        connection: Connection,
        job: JobRecord,
        free: int,
        new: Sequence[PastTrial],
        at: float,
    ) -> None:
        if not new:
            return
        placed = list(enumerate(new, free))
        connection.execute(
            insert(proposals), [_proposal_row(job.uid, index, trial, at) for index, trial in placed]
        )
        connection.execute(
            insert(trials),
            [_trial_row(job, index, trial, at) for index, trial in placed],
        )
        query = select(trials.c.trial_index, trials.c.id).where(
            trials.c.job_uid == job.uid, trials.c.trial_index >= free
        )
        ids = {row.trial_index: row.id for row in connection.execute(query)}
        for table, rows in (
            (attempts, [_attempt_row(ids[i], t, at) for i, t in placed if _ran(t)]),
            (costs, [_cost_row(ids[i], t, at) for i, t in placed if _ran(t)]),
            (reports, [row for i, t in placed for row in _report_rows(ids[i], job, t, at)]),
        ):
            if rows:
                connection.execute(insert(table), rows)

    def keep(self, number: int, aside: Iterable[SetAside]) -> Counts:
        """Keep rows that are set aside, of a task of which nothing else is left."""
        held, counts = iter(aside), Counts()
        with self._database.writing() as connection:
            while batch := list(islice(held, BATCH)):
                self._keep(connection, number, batch)
                counts += Counts(set_aside=len(batch))
        return counts

    def _keep(self, connection: Connection, number: int, aside: Sequence[SetAside]) -> None:
        rows = [
            {
                "import_id": number,
                "digest": one.digest,
                "task": one.task[:253],
                "line": one.line,
                "row": dict(one.row),
                "reason": one.reason,
            }
            for one in aside
        ]
        if rows:
            statement = self._dialect.insert(set_aside).on_conflict_do_nothing()
            connection.execute(statement, rows)

    def _put(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        connection.execute(self._dialect.insert(table).values(rows).on_conflict_do_nothing())

    # --------------------------------------------------------------------- out
    def jobs(self, *, namespace: str | None = None, name: str | None = None) -> Sequence[JobRecord]:
        """Return matching jobs, oldest first."""
        query = select(jobs).order_by(jobs.c.created_at, jobs.c.uid)
        if namespace is not None:
            query = query.where(jobs.c.namespace == namespace)
        if name is not None:
            query = query.where(jobs.c.name == name)
        with self._database.reading() as connection:
            return [job_of(row) for row in connection.execute(query).all()]

    def configurations(self, job: JobRecord) -> Iterator[Params]:
        """Yield the configuration of each trial of a job that has ended."""
        query = (
            select(proposals.c.params)
            .join(
                trials,
                (trials.c.job_uid == proposals.c.job_uid)
                & (trials.c.trial_index == proposals.c.trial_index),
            )
            .where(proposals.c.job_uid == job.uid, trials.c.ended_at.is_not(None))
            .execution_options(yield_per=BATCH)
        )
        with self._database.reading() as connection:
            for row in connection.execute(query):
                yield row.params

    def past(self, job: JobRecord) -> Iterator[PastTrial]:
        """Yield the trials of a job that have ended, by index, with their curves."""
        first = -1
        while True:
            with self._database.reading() as connection:
                window = (
                    select(trials.c.trial_index)
                    .where(trials.c.job_uid == job.uid, trials.c.trial_index > first)
                    .order_by(trials.c.trial_index)
                    .limit(BATCH)
                )
                found = [row.trial_index for row in connection.execute(window)]
                if not found:
                    return
                span = (first + 1, found[-1])
                first = found[-1]
                batch = load_trials(connection, job.uid, found)
                keys, curves = self._details(connection, job, span)
            for trial in batch:
                if trial.state.terminal:
                    yield _past(trial, keys[trial.index], curves.get(trial.index, ()))

    def _details(
        self, connection: Connection, job: JobRecord, span: tuple[int, int]
    ) -> tuple[dict[int, str], dict[int, tuple[tuple[float, float], ...]]]:
        """Return keys and curves of the trials of a span of indices."""
        query = select(proposals.c.trial_index, proposals.c.detail).where(
            proposals.c.job_uid == job.uid, proposals.c.trial_index.between(*span)
        )
        keys = {
            row.trial_index: _key(row.detail, row.trial_index) for row in connection.execute(query)
        }
        of_span = (
            select(reports, trials.c.trial_index)
            .join(trials, trials.c.id == reports.c.trial_id)
            .where(trials.c.job_uid == job.uid, trials.c.trial_index.between(*span))
            .order_by(trials.c.trial_index)
        )
        rows: dict[int, list[Row[Any]]] = {}
        for row in connection.execute(of_span):
            rows.setdefault(row.trial_index, []).append(row)
        metric = job.objective.metric
        curves = {
            index: tuple(
                (point.epoch, point.metrics[metric])
                for point in Curve(found).points()
                if metric in point.metrics
            )
            for index, found in rows.items()
        }
        return keys, curves

    def imports(self) -> Sequence[tuple[int, Import, Mapping[str, int]]]:
        """Return every import, oldest first: its number, what it was, and how often each reason stands aside."""
        with self._database.reading() as connection:
            reasons: dict[int, dict[str, int]] = {}
            query = (
                select(set_aside.c.import_id, set_aside.c.reason, func.count().label("rows"))
                .group_by(set_aside.c.import_id, set_aside.c.reason)
                .order_by(set_aside.c.import_id, set_aside.c.reason)
            )
            for row in connection.execute(query):
                reasons.setdefault(row.import_id, {})[row.reason] = row.rows
            listed = connection.execute(select(imports).order_by(imports.c.id)).all()
            return [
                (
                    row.id,
                    Import(
                        source=row.source,
                        format=row.format,
                        sha256=row.sha256,
                        at=row.at,
                        digest=row.digest,
                    ),
                    reasons.get(row.id, {}),
                )
                for row in listed
            ]

    def set_aside(self) -> Iterator[tuple[str, SetAside]]:
        """Yield every row that was set aside, with the source of its import, in the order of the files."""
        last = 0
        while True:
            with self._database.reading() as connection:
                query = (
                    select(set_aside, imports.c.source)
                    .join(imports, imports.c.id == set_aside.c.import_id)
                    .where(set_aside.c.id > last)
                    .order_by(set_aside.c.id)
                    .limit(BATCH)
                )
                found = connection.execute(query).all()
            if not found:
                return
            last = found[-1].id
            for row in found:
                aside = SetAside(task=row.task, line=row.line, row=row.row, reason=row.reason)
                yield row.source, aside


def _published(manifest: Mapping[str, Any]) -> str:
    """Return who may learn from a job: its namespace, unless the export it comes from says otherwise."""
    said = manifest.get("history") or {}
    return str(said.get("scope", Scope.NAMESPACE)) if said.get("publish", True) else "none"


def _key(detail: Mapping[str, Any], index: int) -> str:
    return str(detail.get(KEY, index))


def _configuration(params: Mapping[str, Value]) -> str:
    """Return a text that is equal for equal configurations: 16 and 16.0 are the same."""
    return "|".join(f"{name}={canonical(params[name])}" for name in sorted(params))


def _conflict(before: tuple[str, float | None], mine: tuple[str, float | None]) -> str:
    if before[0] != mine[0]:
        return "is stored with another configuration"
    return "" if before[1] == mine[1] else f"is stored with the value {before[1]}, not {mine[1]}"


def _refused(job: JobRecord, trial: PastTrial, reason: str) -> SetAside:
    return SetAside(task=job.name, line=trial.line, row=trial.raw, reason=reason)


def _ran(trial: PastTrial) -> bool:
    return (trial.gpu_s, trial.cpu_s, trial.seconds) != (None, None, None)


def _end(trial: PastTrial, at: float) -> float:
    return at if trial.ended_at is None else trial.ended_at


def _proposal_row(job_uid: str, index: int, trial: PastTrial, at: float) -> dict[str, Any]:
    return {
        "job_uid": job_uid,
        "trial_index": index,
        "params": trial.params,
        "config_hash": config_hash(trial.params),
        "proposer": trial.proposer,
        "detail": {KEY: trial.key, "line": trial.line},
        "created_at": at if trial.created_at is None else trial.created_at,
    }


def _trial_row(job: JobRecord, index: int, trial: PastTrial, at: float) -> dict[str, Any]:
    return {
        "job_uid": job.uid,
        "trial_index": index,
        "state": trial.state.value,
        "reason": trial.reason.value if trial.reason is not None else None,
        "message": trial.message,
        "counts_as_failure": trial.counts_as_failure,
        "created_at": at if trial.created_at is None else trial.created_at,
        "ended_at": _end(trial, at),
        "value": trial.value,
        "value_sd": trial.value_sd,
        "epochs": trial.epochs,
        "reports": len(trial.curve),
        "metrics_seen": [job.objective.metric] if trial.curve else [],
        "source": PROPOSER,
        "cpu_s": trial.cpu_s,
    }


def _attempt_row(trial_id: int, trial: PastTrial, at: float) -> dict[str, Any]:
    end = _end(trial, at)
    return {
        "trial_id": trial_id,
        "number": 0,
        "state": (AttemptPhase.SUCCEEDED if trial.state.succeeded else AttemptPhase.FAILED).value,
        "started_at": None if trial.seconds is None else end - trial.seconds,
        "ended_at": None if trial.seconds is None else end,
        "reason": trial.reason.value if trial.reason is not None else None,
        # The number is not known: one stands for "some", so that the GPU time is what the trial cost.
        "gpus": 0 if trial.gpu_s is None else 1,
    }


def _cost_row(trial_id: int, trial: PastTrial, at: float) -> dict[str, Any]:
    return {
        "trial_id": trial_id,
        "attempt": 0,
        "gpu_held_s": trial.gpu_s or 0.0,
        "cpu_s": trial.cpu_s,
        "booked_at": at,
    }


def _report_rows(
    trial_id: int, job: JobRecord, trial: PastTrial, at: float
) -> Iterator[dict[str, Any]]:
    for seq, (epoch, value) in enumerate(trial.curve):
        yield {
            "trial_id": trial_id,
            "attempt": 0,
            "pod_uid": PROPOSER,
            "seq": seq,
            "kind": "epoch",
            "epoch": epoch,
            "metrics": {job.objective.metric: value},
            "nonfinite": [],
            "resources": {},
            "source": PROPOSER,
            "received_at": _end(trial, at),
        }


def _past(trial: Trial, key: str, curve: tuple[tuple[float, float], ...]) -> PastTrial:
    return PastTrial(
        key=key,
        line=0,
        params=trial.params,
        state=trial.state,
        reason=trial.reason,
        value=trial.value,
        value_sd=trial.value_sd,
        message=trial.message,
        counts_as_failure=trial.counts_as_failure,
        proposer=trial.proposer,
        curve=curve,
        epochs=trial.epochs,
        gpu_s=trial.gpu_s if any(attempt.gpus for attempt in trial.attempts) else None,
        cpu_s=trial.cpu_s,
        seconds=None if trial.seconds is None else round(trial.seconds, 6),
        created_at=trial.created_at,
        ended_at=trial.ended_at,
    )
