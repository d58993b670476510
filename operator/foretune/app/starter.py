"""Priors made elsewhere: the one that ships, and those taken in from other places, for jobs that need them."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import foretune
from foretune.app.artefact import Prior, read

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from foretune.domain.history import SourceTask
    from foretune.search.designer import Problem

FOLDER: Final = Path(foretune.__file__).parent / "search" / "starter"
"""Where the package keeps the starter prior."""

STARTER: Final = "starter"
"""What it is called where priors are named."""

NONE: Final = "none"
"""No prior of any other place."""


@functools.cache
def starter() -> Prior:
    """Return the starter prior, read once; raises `InvalidInputError` when the package is damaged."""
    return read(FOLDER)


@functools.cache
def starter_tasks() -> tuple[SourceTask, ...]:
    """Return its tasks, the same object each time, under names that audits tell from past jobs."""
    return tuple(replace(task, name=f"{STARTER}:{task.name}") for task in starter().tasks)


class ElsewherePrior:
    """Adds tasks of other places to problems; implements `services.suggestion.PriorSource`."""

    def __init__(self, priors: Iterable[Prior] = (), *, known: Collection[str] = ()) -> None:
        """Give the starter's tasks and those of `priors`, but for the names `known`: jobs of this history."""
        more = [task for prior in priors for task in prior.tasks if task.name not in known]
        self._tasks: Final = (*starter_tasks(), *more)

    def extend(self, problem: Problem) -> Problem:
        """Return the problem with those tasks; a designer looks at them where the job has few of its own."""
        return replace(problem, starter=self._tasks)


def elsewhere(setting: str) -> ElsewherePrior | None:
    """Return what a setting means: `starter`, `none`, or the folder of a prior to add to the starter.

    Raises `InvalidInputError` for a folder without a sound prior.
    """
    if setting == NONE:
        return None
    return ElsewherePrior() if setting == STARTER else ElsewherePrior([read(Path(setting))])
