"""Small tables with known answers for tests of the replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Objective
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
