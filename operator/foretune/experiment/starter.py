"""The tasks that the starter prior is made of: recorded histories whose licence lets us ship them.

`foretune prior train --from FOLDER --out FOLDER` reads them; the same data gives the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from foretune.domain.history import SourceTask
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.experiment.tasks import load

if TYPE_CHECKING:
    from pathlib import Path

    from foretune.domain.space import Params
    from foretune.experiment.tables import Table

LICENCES: Final = {
    "deepar_forecasting": "Apache-2.0",
    "deepobs_baselines": "MIT",
    "fcnet": "BSD-3-Clause",
    "lcbench_a": "Apache-2.0",
    "taskset_imdb_rnn": "Apache-2.0",
    "xgboost_libsvm": "Apache-2.0",
}
"""Families that go in. Left out: those without a stated licence, and `xgb34`, whose source does not say
what its parameters are called."""

ROWS: Final = 1000
"""Rows read of a task, evenly spaced in its file; the artefact keeps fewer."""

DIGITS: Final = 9
"""Significant digits kept of a number: the last bit of an exponential or a mean is another one on another
processor, and the artefact must be the same everywhere."""


def starter_tasks(folder: Path) -> tuple[tuple[SourceTask, ...], dict[str, str]]:
    """Return the tasks, and the licence of each by name; `folder` holds `history/`.

    Raises `InvalidInputError` when a family is not there.
    """
    tasks: list[SourceTask] = []
    licences: dict[str, str] = {}
    for family, licence in LICENCES.items():
        for table in load(family, folder):
            tasks.append(_task(table))
            licences[tasks[-1].name] = licence
    return tuple(tasks), licences


def _task(table: Table) -> SourceTask:
    count = min(ROWS, len(table))
    rows = [i * len(table) // count for i in range(count)]
    trials = tuple(_trial(table, row, index) for index, row in enumerate(rows))
    name = f"{table.family}/{table.task}"
    return SourceTask(name, table.objective, trials, table.space, dict(table.context))


def _trial(table: Table, row: int, index: int) -> Trial:
    value = float(table.values[row])
    cost = None if table.costs is None else float(table.costs[row])
    ended = bool(np.isfinite(value))
    return Trial(
        job_uid="",
        index=index,
        params=_params(table, row),
        state=TrialState.COMPLETED if ended else TrialState.INFEASIBLE,
        reason=EndReason.DONE if ended else EndReason.DIVERGED,
        config_hash="",
        value=_rounded(value) if ended else None,
        cost=_rounded(cost) if cost is not None and np.isfinite(cost) else None,
    )


def _params(table: Table, row: int) -> Params:
    """Return the configuration of a row, its numbers rounded where that is legal, too."""
    found = table.params(row)
    near = {name: _rounded(v) if isinstance(v, float) else v for name, v in found.items()}
    wrong = {p.name for p in table.space.parameters if p.problem(near[p.name]) is not None}
    return {name: found[name] if name in wrong else value for name, value in near.items()}


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
