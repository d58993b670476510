"""Which names mean the same dimension, and which values the same quantity."""

from __future__ import annotations

import math

import pytest

from foretune.domain.space import Float, Int, Scale
from foretune.search.registry import CONVERSIONS, canonical_name, conversion, label, matched

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


@pytest.mark.parametrize(
    ("options", "change", "wanted"),
    [
        pytest.param((16, 32, 64, 128), math.log2, "2^", id="logarithm to base 2"),
        pytest.param((5e-4, 1e-3, 5e-3, 1e-2), math.log10, "10^", id="decimal logarithm"),
        pytest.param((5e-4, 1e-3, 5e-3, 1e-2), lambda v: 100 * v, "x0.01", id="per cent"),
        pytest.param((0.0, 0.3, 0.6), lambda v: v / 1000, "x1000", id="thousands"),
        pytest.param((16, 32), math.log2, "2^", id="two options"),
        pytest.param((16, 32, 64), lambda v: 4 * v, None, id="other options"),
        pytest.param((1, 2, 4, 8), lambda v: v - 1 or 3, None, id="a finer grid"),
    ],
)
def test_an_ordinal_is_recognised_by_its_options(
    options: tuple[float, ...], change: object, wanted: str | None
) -> None:
    """A change of unit that turns nearly all values into options is believed, whatever the range."""
    values = [float(f"{change(option):.5g}") for option in options] * 5
    assert conversion(values, lambda u: u, options=options) == wanted


@pytest.mark.parametrize(
    ("low", "high"),
    [(1e-6, 1.0), (1e-3, 1e-2), (1e-3, 1.0), (1e-2, 100.0), (1e-1, 10.0)],
)
def test_other_bounds_are_no_other_unit(low: float, high: float) -> None:
    """A learning rate searched elsewhere in wider, narrower or higher bounds keeps its values."""
    values = [low * (high / low) ** (i / 99) for i in range(100)]
    parameter = Float(name="lr", low=1e-4, high=1e-1, scale=Scale.LOG)
    assert conversion(values, parameter.to_unit, wanted="lr", offered="eta") is None


def test_the_very_bounds_times_a_hundred_are_another_unit() -> None:
    """Where many values would fit as they stand, a change of unit must fill the whole range."""
    wide = Float(name="lr", low=1e-8, high=10.0, scale=Scale.LOG)
    values = [100 * wide.from_unit(i / 99) for i in range(100)]
    assert conversion(values, wide.to_unit, wanted="lr") == "x0.01"
    assert conversion(values[:80], wide.to_unit, wanted="lr") is None


def test_whole_numbers_stay_whole() -> None:
    """Layers from logarithms are recognised; ten times as many layers are not layers in per cent."""
    layers = Int(name="layers", low=1, high=5)
    logs = [round(math.log2(n), 6) for n in (1, 2, 3, 4, 5)] * 4
    assert conversion(logs, layers.to_unit, wanted="layers", whole=True) == "2^"
    more = list(range(10, 51))
    assert conversion(more, layers.to_unit, wanted="layers", whole=True) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Adam", "adam"),
        ("torch.optim.SGD", "sgd"),
        ("gradient_descent", "SGD"),
        ("no", False),
        ("True", True),
        ("16", 16),
        ("1e-3", 0.001),
    ],
)
def test_spellings_of_an_option_meet(one: object, other: object) -> None:
    """Case, punctuation, module and the usual synonyms don't matter."""
    assert label(one) == label(other)


def test_other_options_stay_apart() -> None:
    """Two optimizers are two, and what is no value of a space has a label of its own."""
    words = ["adam", "adamw", "nadam", "0.1.2", "", [1, 2], None, 10**400]
    assert len({label(word) for word in words}) == len(words)
