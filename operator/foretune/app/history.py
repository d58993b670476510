"""Past jobs of a history, as tasks that a designer learns from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from foretune.api.space import parse_space
from foretune.app.place import open_history
from foretune.errors import InvalidInputError
from foretune.search.designer import SourceTask

if TYPE_CHECKING:
    from pathlib import Path

    from foretune.domain.history import JobRecord
    from foretune.domain.space import Space
    from foretune.ports import History

MAX_JOBS: Final = 200
"""Jobs read, the newest first: more than a designer takes in."""

_log = logging.getLogger(__name__)


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
            name = f"{job.namespace}/{job.name}"
            found.append(SourceTask(name, job.objective, ended, _space(job), dict(job.context)))
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


def _space(job: JobRecord) -> Space | None:
    space: Any = job.manifest.get("space")
    try:
        return parse_space(space, "space")
    except InvalidInputError as error:  # of another version: the trials say enough by themselves
        _log.info("job %s/%s: its space is not read: %s", job.namespace, job.name, error)
        return None
