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
    ],
)
@pytest.mark.parametrize("maximize", [True, False])
def test_odd_objectives_lose_no_row(reward: object, maximize: bool) -> None:
    """A reward of both signs, a rare success and a steep loss are results like others."""
    rows = points(150, seed=3)
    assert suspects([reward(p) for p in rows], rows.__getitem__, maximize=maximize) == {}
