"""The cost model: what it learns from a job, from past tasks, and when it is trusted."""

from __future__ import annotations

import math

import pytest
import torch

from foretune.api.space import parse_space
from foretune.search.costmodel import ENOUGH, CostModel, Features, slopes
from foretune.search.encode import Encoding

SPACE = parse_space(
    {
        "batch": {"type": "int", "min": 16, "max": 512, "scale": "log"},
        "layers": {"type": "int", "min": 1, "max": 8},
        "epochs": {"type": "float", "min": 2.0, "max": 50.0},
        "optimizer": {"values": ["sgd", "adam", "rmsprop"]},
    },
    "space",
)
ENCODING = Encoding(SPACE)
FEATURES = Features(ENCODING)
NOTHING = (torch.empty(0, ENCODING.width, dtype=torch.float64), torch.empty(0, dtype=torch.float64))


def rows(count: int, seed: int) -> torch.Tensor:
    """Return legal rows."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, len(ENCODING.columns), generator=generator, dtype=torch.float64)
    return ENCODING.draw(uniform)


def log_cost(X: torch.Tensor, *, level: float = 0.0, noise: float = 0.0) -> torch.Tensor:
    """Return log seconds: epochs times layers, over the root of the batch size."""
    told = []
    for row in X:
        p = ENCODING.decode(row)
        told.append(math.log(p["epochs"] * (1 + p["layers"])) - 0.5 * math.log(p["batch"]))
    errors = torch.randn(len(X), generator=torch.Generator().manual_seed(len(X)))
    return torch.tensor(told, dtype=torch.float64) + level + noise * errors


def past(count: int, *, rows_each: int = 60, noise: float = 0.1):
    """Return the slopes of so many past tasks, each on a machine of its own speed."""
    told = []
    for task in range(count):
        X = rows(rows_each, seed=100 + task)
        told.append((X, log_cost(X, level=3.0 * task, noise=noise)))
    return slopes(FEATURES, told)


def explained(model: CostModel, X: torch.Tensor) -> float:
    """Return the share of the variance of true log costs that ratios of predictions explain."""
    errors = model.log_cost(X) - log_cost(X)
    truth = log_cost(X)
    return float(1 - errors.var() / truth.var())


def test_nothing_known_is_not_trusted():
    """Without own trials and past tasks there is no opinion on cost."""
    model = CostModel(FEATURES, *NOTHING, None)
    assert not model.trusted
    assert not model.known
    assert model.log_cost(rows(5, 0)).abs().max() == 0


def test_past_tasks_alone_give_the_ratios_of_costs():
    """Three past tasks on machines of different speed are enough for a job without any trial."""
    model = CostModel(FEATURES, *NOTHING, past(3))
    assert model.trusted
    assert not model.known
    assert explained(model, rows(200, 7)) > 0.95


def test_a_single_past_task_is_not_trusted_before_the_job_confirms_it():
    """Whether one task's costs say anything about another's is not known; ten own trials can say it."""
    assert not CostModel(FEATURES, *NOTHING, past(1)).trusted
    X = rows(ENOUGH, 3)
    assert CostModel(FEATURES, X, log_cost(X, level=5.0), past(1)).trusted


def test_own_trials_give_the_level_and_correct_the_slopes():
    """The unit is the job's own, and a job whose costs differ from the past is learned from its trials."""
    X = rows(60, 3)
    told = CostModel(FEATURES, X, log_cost(X, level=5.0), past(3))
    query = rows(100, 8)
    assert (told.log_cost(query) - log_cost(query, level=5.0)).abs().mean() < 0.1
    mirrored = CostModel(FEATURES, X, -log_cost(X), past(3))
    assert mirrored.trusted
    assert float((mirrored.log_cost(query) + log_cost(query)).abs().mean()) < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_costs_that_follow_nothing_are_not_trusted(seed):
    """Cost that is noise explains nothing of the trials that are left out."""
    y = torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert not CostModel(FEATURES, rows(40, seed), y, None).trusted
    told = [(rows(40, s), torch.roll(y, s)) for s in range(seed, seed + 4)]
    assert not CostModel(FEATURES, *NOTHING, slopes(FEATURES, told)).trusted


@pytest.mark.parametrize("count", [1, 2, ENOUGH, 30])
def test_equal_costs_are_no_reason_to_choose(count):
    """Costs that are all the same are predicted as such, and not acted upon."""
    X = rows(count, 1)
    model = CostModel(FEATURES, X, torch.full((count,), 4.0, dtype=torch.float64), None)
    assert not model.trusted
    assert torch.allclose(model.log_cost(rows(9, 2)), torch.tensor(4.0, dtype=torch.float64))


def test_left_out_trials_are_those_of_the_formula():
    """The leave-one-out errors in closed form are those of refitting without each trial."""
    X = rows(12, 5)
    y = log_cost(X, noise=0.3)
    F = FEATURES(X)
    v, noise = FEATURES.variances, 0.1
    K = (F * v) @ F.T + noise * torch.eye(12, dtype=torch.float64)
    inverse = torch.linalg.inv(K)
    column = inverse.sum(dim=1)
    P = inverse - torch.outer(column, column) / column.sum()
    closed = (P @ y) / P.diagonal()
    for i in range(12):
        rest = [j for j in range(12) if j != i]
        part = torch.linalg.inv(K[rest][:, rest])
        level = (part.sum(dim=0) @ y[rest]) / part.sum()
        predicted = level + K[i, rest] @ part @ (y[rest] - level)
        assert float(y[i] - predicted) == pytest.approx(float(closed[i]), abs=1e-9)


def test_the_model_is_differentiable_up_to_the_bounds():
    """The polish follows the gradient of cost, also where a parameter is at its bound."""
    X = rows(40, 2)
    model = CostModel(FEATURES, X, log_cost(X), None)
    corner = torch.zeros(1, ENCODING.width, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.log_cost(corner).sum(), corner)
    assert gradient.isfinite().all()


def test_a_wide_space_has_features_of_first_order_only():
    """The number of features stays linear in a space of many parameters."""
    space = parse_space(
        {f"x{i}": {"type": "float", "min": 0.0, "max": 1.0} for i in range(40)}, "s"
    )
    wide = Features(Encoding(space))
    assert wide(torch.rand(3, 40, dtype=torch.float64)).shape == (3, 40)
