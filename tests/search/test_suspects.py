"""Which rows of a past task are set aside, and which only look odd."""

from __future__ import annotations

import math
import random

import pytest

from foretune.search.suspects import suspects


def points(count: int, seed: int = 0) -> list[dict[str, float]]:
    """Random configurations of two numbers."""
    rng = random.Random(seed)
    return [{"x": rng.random(), "y": rng.random()} for _ in range(count)]


def accuracy(p: dict[str, float]) -> float:
    """Between 0.4 and 0.9."""
    return 0.9 - (p["x"] - 0.5) ** 2 - (p["y"] - 0.5) ** 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda v: 100 * v, "per cent", id="per cent"),
        pytest.param(lambda v: -v, "wrong sign", id="wrong sign"),
    ],
)
@pytest.mark.parametrize("maximize", [True, False])
def test_rows_of_another_unit_or_sign_are_found(spoil: object, reason: str, maximize: bool) -> None:
    """One row in ten, scattered over the space."""
    rows = points(100)
    values = [spoil(accuracy(p)) if i % 10 == 3 else accuracy(p) for i, p in enumerate(rows)]
    found = suspects(values, rows.__getitem__, maximize=maximize)
    assert found == dict.fromkeys(range(3, 100, 10), reason)


@pytest.mark.parametrize("metric", ["accuracy", "score"])
def test_rows_made_per_cent_twice_are_found(metric: str) -> None:
    """One row in ten is a hundred times as good as a value in per cent can be; a loss that large is a bad one."""
    rows = points(100)
    values = [100 * accuracy(p) * (100 if i % 10 == 3 else 1) for i, p in enumerate(rows)]
    found = suspects(values, rows.__getitem__, maximize=True, metric=metric)
    assert found == dict.fromkeys(range(3, 100, 10), "per cent of per cent")
    assert suspects(values, rows.__getitem__, maximize=False, metric="loss") == {}


@pytest.mark.parametrize("maximize", [True, False])
def test_two_units_in_equal_shares_are_told_apart(maximize: bool) -> None:
    """The smaller half is set aside, and what an outlier does to a range hides nothing."""
    rows = points(101)
    values = [accuracy(p) * (100 if i % 2 else 1) for i, p in enumerate(rows)]
    values[0] = 1e6 if maximize else -1e6
    found = suspects(values, rows.__getitem__, maximize=maximize)
    assert found == {0: "absurdly good"} | dict.fromkeys(range(1, 101, 2), "per cent")


@pytest.mark.parametrize("maximize", [True, False])
def test_fractions_among_per_cent_are_found(maximize: bool) -> None:
    """An error of 0.07 among errors of 7 is no miracle."""
    rows = points(100)
    values = [accuracy(p) * (1 if i % 9 == 3 else 100) for i, p in enumerate(rows)]
    found = suspects(values, rows.__getitem__, maximize=maximize)
    assert found == dict.fromkeys(range(3, 100, 9), "fraction")


@pytest.mark.parametrize("maximize", [True, False])
def test_an_absurdly_good_row_is_found(maximize: bool) -> None:
    """A best value a thousand ranges away from the rest is no result; a worst one may be what it likes."""
    rows = points(60)
    values = [accuracy(p) for p in rows]
    values[7], values[21] = 1e6, -1e6
    found = suspects(values, rows.__getitem__, maximize=maximize)
    assert found == {7 if maximize else 21: "absurdly good"}


@pytest.mark.parametrize(
    "reward",
    [
        pytest.param(lambda p: 200.0 if p["x"] > 0.85 else -150 - 90 * p["y"], id="solved region"),
        pytest.param(lambda p: 0.97 if p["x"] > 0.98 else 0.1 + 1e-4 * p["y"], id="rare success"),
        pytest.param(lambda p: 10 ** (6 * p["x"] - 4), id="steep loss"),
        pytest.param(lambda p: math.sin(7 * p["x"]) + p["y"] - 0.5, id="crosses zero"),
        pytest.param(lambda p: 0.8 + 0.3 * p["x"], id="a loss around 1"),
        pytest.param(lambda p: round(3 * p["x"]), id="few levels"),
        pytest.param(lambda p: 2.303 if p["x"] > 0.8 else 0.05 + 0.8 * p["y"], id="chance level"),
        pytest.param(lambda p: 0.3 if p["x"] < 0.2 else 2.5 + 80 * p["y"], id="a gap"),
        pytest.param(lambda p: 0.3 if abs(p["x"] - 0.5) < 0.1 else 2.5 + 80 * p["y"], id="middle"),
    ],
)
@pytest.mark.parametrize("maximize", [True, False])
def test_odd_objectives_lose_no_row(reward: object, maximize: bool) -> None:
    """A reward of both signs, a rare success and a steep loss are results like others."""
    rows = points(150, seed=3)
    assert suspects([reward(p) for p in rows], rows.__getitem__, maximize=maximize) == {}


def test_a_rate_has_one_unit_everywhere() -> None:
    """Accuracies in per cent are found even where they are those of a region, as of a later import."""
    rows = points(100)
    values = [accuracy(p) * (100 if p["x"] > 0.8 else 1) for p in rows]
    odd = {i: "per cent" for i, p in enumerate(rows) if p["x"] > 0.8}
    assert suspects(values, rows.__getitem__, maximize=True, metric="val_acc") == odd
    assert suspects(values, rows.__getitem__, maximize=True, metric="reward") == {}


def test_a_few_diverged_losses_are_no_per_cent() -> None:
    """Three of fifty losses are forty times the others: bad rows of a loss, yet poison of an error."""
    rows = points(50)
    values = [accuracy(p) * (40 if i in {3, 20, 41} else 0.5) for i, p in enumerate(rows)]
    assert suspects(values, rows.__getitem__, maximize=False, metric="crps") == {}
    odd = suspects(values, rows.__getitem__, maximize=False, metric="test_error")
    assert odd == dict.fromkeys([3, 20, 41], "per cent")
