"""Histories as strangers bring them, through the public API: whatever is in them, there is an answer.

Of every history here the model must make what it can: no exception, no level lower, and nothing set aside
that could have been used.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from foretune.api.space import parse_space
from foretune.optimizer import Observation, Optimizer, TaskHistory
from foretune.search.sampling import random_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foretune.domain.space import Params

SPACE = {
    "lr": {"min": 1e-4, "max": 0.1, "scale": "log"},
    "batch_size": {"values": [16, 32, 64, 128]},
    "dropout": {"min": 0.0, "max": 0.6, "type": "float"},
    "optimizer": {"values": ["adam", "sgd", "rmsprop"]},
    "layers": {"min": 1, "max": 6},
}


def loss(params: Mapping[str, Any], shift: float = 0.0) -> float:
    """A valley over `SPACE`."""
    return (
        (math.log10(params["lr"]) + 2.5 + shift) ** 2
        + 0.1 * abs(math.log2(params["batch_size"]) - 5)
        + (params["dropout"] - 0.2) ** 2
        + {"adam": 0.0, "sgd": 0.2, "rmsprop": 0.1}[params["optimizer"]]
        + 0.1 * abs(params["layers"] - 3 - shift)
    )


def points(space: Mapping[str, Any], count: int, seed: int) -> list[Params]:
    """Random configurations."""
    return list(itertools.islice(random_points(parse_space(space, "space"), seed), count))


def rows(count: int = 30, seed: int = 0, shift: float = 0.0) -> list[Observation]:
    """Random configurations of `SPACE` with their values."""
    return [Observation(p, value=loss(p, shift)) for p in points(SPACE, count, seed)]


def changed(change: Callable[[int, Observation], Observation]) -> list[TaskHistory]:
    """One past task whose rows were changed."""
    return [TaskHistory("a", [change(i, row) for i, row in enumerate(rows())])]


def with_params(change: Callable[[int, Params], Params]) -> list[TaskHistory]:
    """One past task whose configurations were changed."""
    return changed(lambda i, o: Observation(change(i, dict(o.params)), value=o.value))


def with_value(change: Callable[[int, float], float]) -> list[TaskHistory]:
    """One past task whose values were changed."""
    return changed(lambda i, o: Observation(o.params, value=change(i, o.value or 0.0)))


@dataclass(frozen=True)
class Case:
    """A history and what becomes of it."""

    history: list[TaskHistory]
    tasks: int = 1
    aside: dict[str, int] = field(default_factory=dict)
    prior: str = "used"


def scalars(params: Params) -> Params:
    """Numbers as numpy and torch have them."""
    return {
        "lr": np.float64(params["lr"]),
        "batch_size": np.int32(params["batch_size"]),
        "dropout": torch.tensor(params["dropout"], dtype=torch.float64),
        "optimizer": np.str_(params["optimizer"]),
        "layers": torch.tensor(params["layers"]),
    }


OOM = [Observation(p, failure="oom") for p in points(SPACE, 20, 5)]
FAIR = [TaskHistory(f"t{i}", rows(seed=i, shift=0.1 * i)) for i in range(2)]
CASES: dict[str, Case] = {
    "one name for all tasks": Case([TaskHistory("a", rows(seed=i)) for i in range(3)], 3),
    "an empty task": Case([TaskHistory("empty", []), *FAIR], 2),
    "one row": Case([TaskHistory("one", rows(1)), *FAIR], 2),
    "equal values": Case([*with_value(lambda i, v: 1.0), *FAIR], 2),
    "nothing but failures": Case([TaskHistory("oom", OOM), *FAIR], 2),
    "nothing else": Case([TaskHistory("oom", OOM)], 0, prior="none"),
    "repeated rows": Case([TaskHistory("a", rows(8) * 9)]),
    "numpy and torch": Case(with_params(lambda i, p: scalars(p))),
    "text": Case(with_params(lambda i, p: {k: str(v) for k, v in p.items()})),
    "None": Case(with_params(lambda i, p: p | ({"dropout": None} if i % 2 else {}))),
    "a list": Case(with_params(lambda i, p: p | {"layers": [64, 64]})),
    "an integer beyond all floats": Case(with_params(lambda i, p: p | {"batch_size": 10**400})),
    "NaN as a parameter": Case(with_params(lambda i, p: p | {"lr": math.nan if i % 3 else 0.1})),
    "a negative learning rate": Case(with_params(lambda i, p: p | {"lr": -p["lr"]})),
    "odd names": Case(with_params(lambda i, p: p | {"": 1, "ü/§": "x", "lr ": 3})),
    "other kinds": Case(with_params(lambda i, p: p | {"lr": "auto", "optimizer": i % 2})),
    "an outlier": Case(with_value(lambda i, v: 1e6 if i == 3 else v)),
    "an absurd outlier": Case(
        with_value(lambda i, v: -1e6 if i == 3 else v), aside={"absurdly good": 1}
    ),
    "huge values": Case(with_value(lambda i, v: 1e307 * v)),
    "tiny values": Case(with_value(lambda i, v: 1e-310 * v)),
    "hardly different values": Case(with_value(lambda i, v: 1 + 1e-15 * round(v))),
    "per cent among fractions": Case(
        with_value(lambda i, v: (100 if i % 5 == 3 else 1) * (0.9 - v / 100)),
        aside={"per cent": 6},
    ),
    "no parameter in common": Case(with_params(lambda i, p: {"z": i}), 0, prior="none"),
    "twice the same": Case([FAIR[0], FAIR[0]], 1),
}
"""By what is odd about it."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_any_history_gets_an_answer(name: str) -> None:
    """Before and after the first values, of the expert with past tasks wherever they say anything."""
    case = CASES[name]
    optimizer = Optimizer(SPACE, history=case.history)
    for _ in range(3):
        (suggestion,) = optimizer.suggest()
        detail = suggestion.detail
        assert optimizer.space.problems(suggestion.params) == []
        assert "fallbacks" not in detail
        assert (detail["prior"], detail["tasks"]) == (case.prior, case.tasks)
        assert detail.get("set_aside", {}) == case.aside
        optimizer.observe(suggestion.id, value=loss(suggestion.params))


@pytest.mark.slow
@pytest.mark.parametrize(
    "space",
    [
        pytest.param({"lr": SPACE["lr"]}, id="subset"),
        pytest.param(SPACE | {"z": {"min": 0.0, "max": 2.0}}, id="superset"),
        pytest.param({"eta": {"min": 1e-5, "max": 1.0, "scale": "log"}, **{
            k: v for k, v in SPACE.items() if k != "lr"
        }}, id="renamed, wider"),
        pytest.param(SPACE | {"batch_size": {"min": 8, "max": 256, "scale": "log"}}, id="no list"),
        pytest.param(SPACE | {"layers": {"values": [1, 2, 3, 4, 5, 6]}}, id="a list"),
        pytest.param(SPACE | {"layers": {"min": 1.0, "max": 6.5}}, id="real numbers"),
        pytest.param(SPACE | {"dropout": {"value": 0.2}, "layers": {"value": 3}}, id="fixed"),
        pytest.param(SPACE | {"optimizer": {"values": ["SGD", "Adam"]}}, id="other spelling"),
        pytest.param(
            SPACE | {"optimizer": {"values": ["lion", "adam", "sgd", "rmsprop"]}}, id="more options"
        ),
        pytest.param({"optimizer": {"values": ["adam", "sgd", "rmsprop"]}}, id="one category"),
        pytest.param({f"x{i}": {"min": 0.0, "max": 3.0} for i in range(29)} | {
            "lr": SPACE["lr"]
        }, id="30 dimensions"),
    ],
)  # fmt: skip
def test_any_space_gets_an_answer(space: dict[str, Any]) -> None:
    """A target whose space differs from that of the past tasks uses what it shares with them."""
    optimizer = Optimizer(space, history=FAIR, goal="maximize", metric="accuracy")
    for number in range(3):
        (suggestion,) = optimizer.suggest()
        assert optimizer.space.problems(suggestion.params) == []
        assert "fallbacks" not in suggestion.detail
        assert (suggestion.detail["prior"], suggestion.detail["tasks"]) == ("used", 2)
        optimizer.observe(suggestion.id, value=0.1 * number)


@pytest.mark.slow
def test_candidates_of_any_number_are_proposed_once() -> None:
    """One candidate, or one given twice, is proposed once; then there is nothing left."""
    first, second = points(SPACE, 2, 3)
    for candidates in ([first], [first, second, first]):
        optimizer = Optimizer(SPACE, history=FAIR, candidates=candidates)
        found = optimizer.suggest(5)
        assert len(found) == len({str(s.params) for s in found}) == min(2, len(candidates))


def test_a_space_without_a_choice_has_one_configuration() -> None:
    """With a history as without one, the only configuration is proposed."""
    fixed = {"lr": {"value": 0.01}}
    assert Optimizer(fixed, history=FAIR).suggest(3)[0].params == {"lr": 0.01}
