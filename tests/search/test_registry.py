"""Which names mean the same dimension, and which values the same quantity."""

from __future__ import annotations

import math

import pytest

from foretune.domain.space import Float, Int, Scale
from foretune.search.registry import CONVERSIONS, canonical_name, conversion, matched

LR = Float(name="lr", low=1e-5, high=1e-1, scale=Scale.LOG)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lr", "learning_rate"),
        ("LearningRate", "eta"),
        ("hp_learning_rate_log", "init_lr"),
        ("bs", "per_device_train_batch_size"),
        ("dropout", "dropout_rate"),
        ("n_layers", "num_layers"),
        ("epochs", "num_train_epochs"),
        ("wd", "weight-decay"),
        ("optim", "optimizer"),
    ],
)
def test_synonyms_meet(one: str, other: str) -> None:
    """Spelling, prefix and synonym don't matter."""
    assert canonical_name(one) == canonical_name(other)


def test_other_names_stay_apart() -> None:
    """What is in no table is compared by its own name."""
    names = ["x0", "x1", "beta2", "lr", "momentum", "dropout_1", "dropout_2"]
    assert len({canonical_name(name) for name in names}) == len(names)


def test_the_nearest_spelling_wins_and_each_name_is_used_once() -> None:
    """An equal name goes before a synonym, and a synonym that two names answer to is left out."""
    assert matched(["lr", "dropout"], ["eta", "lr", "p_drop"]) == {"lr": "lr", "dropout": "p_drop"}
    assert matched(["lr"], ["eta", "init_lr"]) == {}
    assert matched(["lr", "learning_rate"], ["eta"]) == {}
    assert matched(["x"], ["y"]) == {}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        pytest.param([1e-5, 1e-3, 1e-1], None, id="as it stands"),
        pytest.param([-11.0, -7.0, -3.0], "exp", id="natural logarithm"),
        pytest.param([-5.0, -3.0, -1.0], "10^", id="decimal logarithm"),
        pytest.param([2e-4, 2e-2, 5e-1], None, id="mostly inside"),
        pytest.param([20.0, 50.0, 70.0], None, id="nothing fits well"),
        pytest.param([], None, id="no values"),
    ],
)
def test_a_change_of_unit_is_believed_only_when_it_fits(
    values: list[float], wanted: str | None
) -> None:
    """Values that lie outside as they stand and inside under one change of unit are converted."""
    assert conversion(values, LR.to_unit) == wanted


def test_per_cent_and_powers_of_two_are_found() -> None:
    """Dropout in per cent and a batch size as its logarithm are the usual cases."""
    dropout = Float(name="dropout", low=0.0, high=0.6)
    assert conversion([5.0, 20.0, 50.0], dropout.to_unit) == "x0.01"
    batch = Int(name="batch", low=16, high=512, scale=Scale.LOG)
    assert conversion([4.0, 6.0, 9.0], batch.to_unit) == "2^"
    assert math.isclose(CONVERSIONS["2^"](6.0), 64.0)
