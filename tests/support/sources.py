"""Past tasks that tests of designers learn from."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tests.support.designs import completed

from foretune.domain.job import Goal, Objective
from foretune.search.designer import SourceTask
from foretune.search.sampling import random_points

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foretune.domain.space import Params, Space
    from foretune.domain.trial import Trial


def source(
    name: str,
    space: Space,
    objective: Callable[[Params], float],
    *,
    count: int = 40,
    seed: int = 0,
    goal: Goal = Goal.MAXIMIZE,
    trials: Sequence[Trial] | None = None,
) -> SourceTask:
    """A past task: `count` random configurations with their values, or the given trials."""
    if trials is None:
        points = itertools.islice(random_points(space, seed), count)
        trials = [completed(i, p, objective(p)) for i, p in enumerate(points)]
    return SourceTask(name, Objective(metric="y", goal=goal), tuple(trials))
