"""Past jobs of a history, as tasks that a designer learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foretune.app.place import open_history
from foretune.domain.history import PastJob
from foretune.domain.job import Scope
from foretune.services.tracker.catalogue import task_of

if TYPE_CHECKING:
    from pathlib import Path

    from foretune.domain.history import JobRecord, SourceTask
    from foretune.ports import History

MAX_JOBS: Final = 200
"""Jobs read, the newest first: more than a designer takes in."""

MAX_TRAINED: Final = 1000
"""Jobs that a prior is made of, the newest first."""

MAX_ROWS: Final = 200
"""Trials with a value read of each of them."""


def source_tasks(
    history: History, *, namespace: str | None = None, without: str = ""
) -> tuple[SourceTask, ...]:
    """Return the jobs of a namespace (or of all) that have ended trials, but for the one with uid `without`.

    A job that still runs counts with the trials that have ended.
    """
    found: list[SourceTask] = []
    for job in history.find_jobs(namespace=namespace):
        if len(found) == MAX_JOBS:
            break
        if job.uid == without:
            continue
        ended = tuple(trial for trial in history.trials(job.uid) if trial.state.terminal)
        if ended:
            found.append(task_of(_past(job), f"{job.namespace}/{job.name}", ended))
    return tuple(found)


def tasks_of_file(path: Path) -> tuple[SourceTask, ...]:
    """Return the tasks in a history database of this machine, which is only read.

    Raises `InvalidInputError` when it can't be used.
    """
    history = open_history(path, read_only=True)
    try:
        return source_tasks(history)
    finally:
        history.close()


def lessons_of_file(path: Path, *, namespace: str | None = None) -> tuple[SourceTask, ...]:
    """Return what can be learned from the jobs of a file that may be learned from, whatever their size.

    Raises `InvalidInputError` when it can't be used.
    """
    history = open_history(path, read_only=True)
    try:
        jobs = history.past_jobs(
            namespaces=None if namespace is None else {namespace},
            published=tuple(scope.value for scope in Scope),
            limit=MAX_TRAINED,
        )
        found: dict[str, SourceTask] = {}
        for job in jobs:
            name = f"{job.namespace}/{job.name}"
            name = name if name not in found else f"{name}@{job.uid}"
            found[name] = task_of(job, name, history.lessons(job.uid, limit=MAX_ROWS))
        return tuple(found.values())
    finally:
        history.close()


def _past(job: JobRecord) -> PastJob:
    return PastJob(
        uid=job.uid,
        namespace=job.namespace,
        name=job.name,
        objective=job.objective,
        space=job.manifest.get("space", {}),
        context=job.context,
        created_at=job.created_at,
        closed=job.closed_at is not None,
    )
