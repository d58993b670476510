"""The recorded histories as tables, where the data is."""

from __future__ import annotations

import numpy as np
import pytest

from foretune.api.space import parse_space
from foretune.errors import InvalidInputError
from foretune.experiment.tasks import FAMILIES, data_folder, family_of, legal, load

try:
    data_folder()
    MISSING = ""
except InvalidInputError:
    MISSING = "FORETUNE_DATA: no recorded histories here"

recorded = pytest.mark.skipif(bool(MISSING), reason=MISSING)

KNOWN = {
    # family: tasks, data sets, rows of all tasks, (task, best, median) as the data's README has them
    "lcbench_a": (17, 17, 8500, None),
    "fcnet": (4, 4, 248832, ("naval_propulsion", 3.19113e-05, 0.144475)),
    "taskset_imdb_rnn": (
        12,
        12,
        12000,
        ("FixedTextRNNClassification_imdb_patch32_GRU128_bs128", 0.357761, 0.705203),
    ),
    "deepar_forecasting": (11, 11, 2510, ("solar", 0.31986, 0.396923)),
    "tst_svm": (50, 50, 14400, ("banana", 0.910377, 0.55)),
    "xgb34": (34, 34, 34000, None),
    "xgboost_libsvm": (10, 10, 50000, ("a6a", 0.094674, 0.101738)),
    "steplaw_dense": (17, 17, 1911, ("1024|9552|16|8|80000000000", 2.29357, 2.32985)),
    "steplaw_moe": (16, 16, 708, None),
    "deepobs_baselines": (8, 7, 886, None),
    "neural_hpo_mnist_cifar": (2, 2, 295, None),
}


@recorded
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_family_is_read_whole_and_its_rows_fit_its_space(name: str) -> None:
    """Tasks, rows, best and median are those of the data's README; every row is legal and unlike others."""
    tables = load(name)
    tasks, datasets, rows, known = KNOWN[name]
    assert len(tables) == tasks
    assert len({table.dataset for table in tables}) == datasets
    assert sum(map(len, tables)) == rows
    for table in tables:
        for row in range(0, len(table), max(1, len(table) // 20)):
            params = table.params(row)
            assert table.space.problems(params) == []
            assert table.nearest(params) == (row, True)
        assert table.geometry.min() >= 0
        assert table.geometry.max() <= 1
        assert table.regrets.min() == 0
        if known is not None and table.task == known[0]:
            best = table.values[table.regrets.argmin()]
            assert best == pytest.approx(known[1], rel=1e-4)
            assert np.nanmedian(table.values) == pytest.approx(known[2], rel=1e-4)


@recorded
@pytest.mark.slow
def test_a_full_grid_is_the_whole_space() -> None:
    """Every configuration of the grid's space is a row, so that no proposal has to be moved."""
    for table in load("fcnet"):
        assert table.complete
        assert table.space.cardinality == len(table)
        assert table.replicates is not None
        assert table.replicates.mean(axis=1) == pytest.approx(table.values, rel=1e-3)


@recorded
def test_failed_trainings_are_rows_without_a_value() -> None:
    """Diverged runs are kept: a designer has to learn where they are."""
    failed = {table.task: int(np.isnan(table.values).sum()) for table in load("deepobs_baselines")}
    assert failed["fmnist_2c2d"] == 0
    assert failed["cifar10_3c3d"] > 20


def test_values_are_taken_for_the_nearest_legal_ones_but_not_for_others() -> None:
    """Single precision and a bound's last digit are mended; a value far from the space is refused."""
    space = parse_space(
        {"dropout": {"values": [0.0, 0.3, 0.6]}, "lr": {"min": 1e-4, "max": 0.1, "scale": "log"}},
        "space",
    )
    assert legal(space["dropout"], np.array([0.3, 0.6, 0.0], dtype=np.float32)) == (0.3, 0.6, 0.0)
    assert legal(space["lr"], [0.0999, 0.10000001]) == (0.0999, 0.1)
    with pytest.raises(InvalidInputError, match=r"dropout: 0\.4 is no value"):
        legal(space["dropout"], [0.4])
    with pytest.raises(InvalidInputError, match=r"lr: 0\.2 is no value"):
        legal(space["lr"], [0.2])


def test_an_unknown_family_and_a_missing_folder_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """The message says what there is, or which variable to set."""
    with pytest.raises(InvalidInputError, match=r"one of lcbench_a, .* not 'hpobench'"):
        family_of("hpobench")
    monkeypatch.setenv("FORETUNE_DATA", str(tmp_path))
    with pytest.raises(InvalidInputError, match="FORETUNE_DATA: there is no folder"):
        data_folder()
