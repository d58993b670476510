"""Small tables with known answers for tests of the replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Objective
from foretune.experiment.methods import Setting
from foretune.experiment.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

LINE = parse_space({"x": {"type": "float", "min": 0.0, "max": 1.0}}, "space")
"""One parameter in [0, 1]."""


def a_table(
    xs: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    values: Sequence[float] = (4.0, 3.0, 2.0, 1.0, 0.0),
    **changes: Any,
) -> Table:
    """Return a table over `LINE`, by default one whose loss falls with x."""
    fields: dict[str, Any] = {
        "family": "line",
        "task": "one",
        "dataset": "one",
        "space": LINE,
        "objective": Objective(metric="loss", goal=Goal.MINIMIZE),
        "columns": {"x": tuple(xs)},
        "values": np.array(values, dtype=np.float64),
        "context": {"model": "line", "dataset": "one"},
    }
    return Table(**{**fields, **changes})


MIXED_SPACE = parse_space(
    {
        "lr": {"type": "float", "min": 1e-4, "max": 1.0, "scale": "log"},
        "layers": {"type": "int", "min": 1, "max": 4},
        "batch": {"values": [16, 32, 64]},
        "optimizer": {"values": ["adam", "sgd"]},
        "epochs": {"value": 5},
    },
    "space",
)
MIXED_ROWS = [
    {
        "lr": lr,
        "layers": layers,
        "batch": batch,
        "optimizer": "adam" if layers % 2 else "sgd",
        "epochs": 5,
    }
    for lr in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    for layers in (1, 2, 3, 4)
    for batch in (16, 32, 64)
]
MIXED_TABLE = a_table(
    space=MIXED_SPACE,
    objective=Objective(metric="accuracy", goal=Goal.MAXIMIZE),
    columns={name: tuple(row[name] for row in MIXED_ROWS) for name in MIXED_SPACE.names},
    values=[float(row["layers"]) - abs(row["batch"] - 32) / 16 for row in MIXED_ROWS],
)
MIXED_SETTING = Setting(space=MIXED_SPACE, objective=MIXED_TABLE.objective, seed=0, budget=30)
"""A run on a table with every kind of parameter: accuracy rises with layers, batches of 32 are best."""
