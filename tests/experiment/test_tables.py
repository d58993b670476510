"""Tables: regret, distance, equal rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.support.tables import a_table

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Objective
from foretune.experiment.tables import merged

NAN = math.nan


@pytest.mark.parametrize(
    ("goal", "values", "regrets"),
    [
        ("minimize", [4.0, 3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.5, 0.0]),
        ("maximize", [4.0, 3.0, 2.0, 1.0, 0.0], [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("minimize", [NAN, 3.0, 1.0, 2.0, NAN], [1.0, 1.0, 0.0, 1.0, 1.0]),
        ("minimize", [1.0, 1.0, 1.0, 2.0, 9.0], [0.0, 0.0, 0.0, 1.0, 1.0]),
        ("minimize", [1e9, 2.0, 1.0, 0.0, 1.5], [1.0, 1.0, 2 / 3, 0.0, 1.0]),
    ],
)
def test_regret_is_0_at_the_best_and_1_at_the_median(
    goal: str, values: list[float], regrets: list[float]
) -> None:
    """A failed row, an outlier and a table whose median is its best count as a user would say."""
    table = a_table(values=values, objective=Objective(metric="y", goal=Goal(goal)))
    assert table.regrets == pytest.approx(regrets)


def test_the_nearest_row_is_found_on_the_scale_of_each_parameter() -> None:
    """A logarithmic number is near by its logarithm; another option is a whole range away."""
    space = parse_space(
        {
            "lr": {"min": 1e-4, "max": 1.0, "scale": "log", "type": "float"},
            "optimizer": {"values": ["adam", "sgd"]},
        },
        "space",
    )
    table = a_table(
        space=space,
        columns={"lr": (1e-3, 0.4, 1e-3), "optimizer": ("adam", "adam", "sgd")},
        values=[0.0, 1.0, 2.0],
    )
    assert table.nearest({"lr": 0.01, "optimizer": "adam"}) == (0, False)
    assert table.nearest({"lr": 0.2, "optimizer": "adam"}) == (1, False)
    assert table.nearest({"lr": 0.2, "optimizer": "sgd"}) == (2, False)
    assert table.nearest({"lr": 1e-3, "optimizer": "sgd"}) == (2, True)


def test_only_allowed_rows_are_near() -> None:
    """A row that was tried is passed over; when all were, that is said."""
    table = a_table()
    tried = np.array([False, False, True, False, False])
    assert table.nearest({"x": 0.55}, ~tried) == (3, False)
    with pytest.raises(LookupError, match="line/one: all 5 rows were tried"):
        table.nearest({"x": 0.5}, np.zeros(5, dtype=bool))


def test_a_training_is_repeated_alike_for_everyone_with_the_same_seed() -> None:
    """One of the replicates is drawn by seed and row."""
    replicates = np.arange(20.0).reshape(5, 4)
    table = a_table(replicates=replicates)
    seen = {table.observe(2, seed) for seed in range(40)}
    assert seen == set(replicates[2])
    assert table.observe(2, 7) == table.observe(2, 7)


def test_equal_rows_become_one_and_one_failure_is_a_failure() -> None:
    """Values of equal configurations are averaged; NaN stays NaN."""
    columns, (values, none) = merged(
        {"x": (0.5, 0.1, 0.5, 0.1, 0.9)}, [np.array([1.0, 2.0, 3.0, NAN, 5.0]), None]
    )
    assert columns == {"x": (0.5, 0.1, 0.9)}
    np.testing.assert_array_equal(values, [2.0, NAN, 5.0])
    assert none is None
