"""The tasks that the starter prior is made of: recorded histories whose licence lets us ship them.

`foretune prior train --from FOLDER --out FOLDER` reads them; the same data gives the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foretune.experiment.histories import sampled
from foretune.experiment.tasks import load

if TYPE_CHECKING:
    from pathlib import Path

    from foretune.domain.history import SourceTask

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
"""Rows read of a task, drawn at random with seed 0; the artefact keeps fewer."""


def starter_tasks(folder: Path) -> tuple[tuple[SourceTask, ...], dict[str, str]]:
    """Return the tasks, and the licence of each by name; `folder` holds `history/`.

    Raises `InvalidInputError` when a family is not there.
    """
    tasks: list[SourceTask] = []
    licences: dict[str, str] = {}
    for family, licence in LICENCES.items():
        for table in load(family, folder):
            task = sampled(table, ROWS, 0).task()
            tasks.append(task)
            licences[task.name] = licence
    return tuple(tasks), licences
