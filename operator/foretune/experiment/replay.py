"""One run: a method tunes a recorded task, row by row.

Two protocols. `pool`: only rows of the table may be proposed; methods of this project are given the rows
as candidates, and a proposal that is no row (a peer's) is moved to the nearest untried one, which the
method is told. `nearest`: the method proposes freely and is told, at its own proposal, the outcome of the
nearest row, tried or not: the table as a function of the whole space. A full grid is the same under both.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from foretune.experiment.histories import Given, history_for
from foretune.experiment.methods import WITHOUT_HISTORY, Setting, method
from foretune.experiment.tasks import load

if TYPE_CHECKING:
    from foretune.experiment.methods import Ask, Session
    from foretune.experiment.tables import Table
    from foretune.optimizer import TaskHistory

PROTOCOLS: Final = ("pool", "nearest")

WITHOUT_MODEL: Final = frozenset({"random", "sobol"})
"""Methods that need no torch: a process that runs nothing else never loads it."""

STRANGERS: Final = {"tst_svm": "fcnet"}
"""N3: the family whose history a family gets, where it is not `tst_svm`."""


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """Everything that decides what a run does; one run is stored for each."""

    seed: int
    family: str
    task: str
    method: str
    protocol: str = "pool"
    batch: int = 1
    budget: int = 50
    rows: int = 200
    sources: int = 0
    variant: str = ""


def run(cell: Cell) -> dict[str, Any]:
    """Return the record of a run: the cell and what happened."""
    tables = load(cell.family)
    target = next(table for table in tables if table.task == cell.task)
    given = Given(rows=cell.rows, sources=cell.sources, variant=cell.variant)
    strangers = load(STRANGERS.get(cell.family, "tst_svm")) if cell.variant == "N3" else ()
    history: tuple[TaskHistory, ...] = ()
    if cell.method not in WITHOUT_HISTORY:
        history = history_for(tables, target, given, seed=cell.seed, strangers=strangers)
    free = target.complete or cell.protocol == "nearest"
    setting = Setting(
        space=target.space,
        objective=target.objective,
        seed=cell.seed,
        budget=min(cell.budget, len(target)),
        batch=cell.batch,
        context=target.context,
        history=history,
        candidates=() if free else tuple(target.params(row) for row in range(len(target))),
    )
    if cell.method not in WITHOUT_MODEL:
        _import_models()
    session = method(cell.method)(setting)
    try:
        record = tune(session, target, setting, protocol=cell.protocol)
        return record | {"grown_mib": session.grown_mib(), "dataset": target.dataset}
    finally:
        session.close()


def tune(session: Session, table: Table, setting: Setting, *, protocol: str) -> dict[str, Any]:
    """Spend the budget, and return what was tried, what came of it and how long the method thought."""
    tried = np.zeros(len(table), dtype=bool)
    found: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    moved = 0
    while (left := setting.budget - len(found["tried"])) > 0:
        cpu, wall = session.cpu_s(), time.perf_counter()
        asks = session.ask(min(setting.batch, left))
        cpu_s = (session.cpu_s() - cpu) / len(asks)
        wall_s = (time.perf_counter() - wall) / len(asks)
        outcomes: list[tuple[Ask, int, Any]] = []
        for ask in asks:
            exclusive = protocol == "pool"
            row, exact = table.nearest(ask.params, ~tried if exclusive else None)
            moved += not exact
            tried[row] = True
            outcomes.append((ask, row, table.params(row) if exclusive else ask.params))
        for ask, row, params in outcomes:
            value = table.observe(row, setting.seed)
            cost = None if table.costs is None else float(table.costs[row])
            session.tell(ask, params, value if np.isfinite(value) else None, cost)
            for name, item in zip(
                COLUMNS,
                (row, value, ask.mean, ask.sd, ask.proposer, wall_s, cpu_s),
                strict=True,
            ):
                found[name].append(item)
    values = np.array(found["values"])
    found["values"] = [float(v) if np.isfinite(v) else None for v in values]
    return {
        **found,
        **curves(table, found["tried"], values),
        "moved": moved,
    }


COLUMNS: Final = ("tried", "values", "mean", "sd", "proposer", "wall_s", "cpu_s")
"""What a record keeps of every evaluation."""


CURVES: Final = ("regret", "regret_observed", "regret_of_range")
"""What a record keeps as one figure after each evaluation."""


def curves(table: Table, rows: list[int], values: Any) -> dict[str, list[float]]:
    """Return the regret after each evaluation: of the best row tried, and of the one that looked best.

    They differ where a training is noisy; a user gets the second. The third is the first as a share of the
    table's whole range.
    """
    regrets = table.regrets[rows]
    losses = np.where(np.isfinite(values), -values if table.maximize else values, np.inf)
    looks_best = [int(losses[: n + 1].argmin()) for n in range(len(rows))]
    return {
        "regret": np.minimum.accumulate(regrets).tolist(),
        "regret_observed": regrets[looks_best].tolist(),
        "regret_of_range": np.minimum.accumulate(table.range_regrets[rows]).tolist(),
    }


def _import_models() -> None:
    """Import what every model needs, so that memory is counted from there."""
    import botorch  # noqa: F401, PLC0415
    import gpytorch  # noqa: F401, PLC0415
