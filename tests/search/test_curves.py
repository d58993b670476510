"""What past curves tell of a training that is not over."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretune.domain.job import Goal, Objective, Reduce
from foretune.search import curves as c

ACCURACY = Objective(metric="accuracy")
LOSS = Objective(metric="loss", goal=Goal.MINIMIZE)


def saturating(
    top: float, rate: float, *, epochs: int = 20, noise: float = 0.0, seed: int = 0
) -> list[tuple[float, float]]:
    """Return an accuracy that nears `top`."""
    rng = random.Random(seed)
    return [
        (e, min(1.0, max(0.0, top * (1 - math.exp(-rate * e)) + rng.gauss(0, noise))))
        for e in map(float, range(1, epochs + 1))
    ]


def a_task(seed: int, count: int = 40) -> list[c.Curve]:
    """Return whole curves of one task: most end somewhere between chance and its best."""
    rng = random.Random(seed)
    best = rng.uniform(0.8, 0.97)
    return [
        c.Curve.of(
            ACCURACY,
            saturating(
                best - abs(rng.gauss(0, 0.15)), rng.uniform(0.15, 0.6), noise=0.005, seed=seed + i
            ),
            full=20,
            ended=True,
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def model() -> c.CurveModel:
    """What six tasks teach."""
    found = c.learn(ACCURACY, [a_task(100 * i) for i in range(6)], grace=4)
    assert found is not None
    return found


UNITS = [
    c.Unit("share", 1.0),
    c.Unit("percent", 1.0),
    c.Unit("positive", -1.0),
    c.Unit("free", -1.0),
    c.Unit("free", 1.0),
]


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
@given(share=st.floats(0.0, 1.0), other=st.floats(0.0, 1.0))
def test_a_unit_is_left_as_it_is_entered(unit: c.Unit, share: float, other: float) -> None:
    """There and back gives the value again, and the better of two values is the larger one within."""
    size = 100.0 if unit.kind == "percent" else 1.0
    a, b = share * size, other * size
    assert unit.back(unit.into(a)) == pytest.approx(a, abs=1e-6 * size)
    if unit.sign * a > unit.sign * b:
        assert unit.into(a) >= unit.into(b)


def test_the_unit_is_told_from_the_values() -> None:
    """Shares, per cents and losses are known by their range; anything else is only like itself."""
    assert c.Unit.of(ACCURACY, [0.1, 0.9]).kind == "share"
    assert c.Unit.of(ACCURACY, [10.0, 90.0]).kind == "percent"
    assert c.Unit.of(ACCURACY, [-1.0, 0.5]).kind == "free"
    assert c.Unit.of(LOSS, [0.1, 9.0]).kind == "positive"
    assert c.Unit.of(LOSS, [-0.1, 9.0]).kind == "free"
    assert c.Unit.of(ACCURACY, [10.0, 90.0]).like(c.Unit.of(ACCURACY, [0.1]))
    assert not c.Unit.of(LOSS, [0.1]).like(c.Unit.of(ACCURACY, [0.1]))
    assert not c.Unit("free", 1.0).like(c.Unit("free", 1.0))


def test_a_curve_is_what_the_objective_makes_of_the_reports() -> None:
    """The best so far by default, what was last where the objective says so; NaN is no value."""
    reports = [(1.0, 0.5), (2.0, math.nan), (3.0, 0.4), (4.0, 0.7)]
    best = c.Curve.of(ACCURACY, reports, full=8)
    assert best.points == ((1.0, 0.5), (2.0, 0.5), (3.0, 0.5), (4.0, 0.7))
    assert (best.share, best.last, best.spared, best.at(3.5)) == (0.5, 0.7, 4.0, pytest.approx(0.6))
    last = Objective(metric="accuracy", reduce=Reduce.LAST)
    assert c.Curve.of(last, reports, full=8).points[2] == (3.0, 0.4)
    assert c.Curve.of(ACCURACY, [(1.0, math.nan)], full=8).points == ()


def test_the_grid_ends_where_the_curve_ends() -> None:
    """A curve that is not over has the points that it has reached; a whole one has all of them."""
    unit = c.Unit("free", 1.0)
    reports = [(float(e), float(e)) for e in range(1, 51)]
    half = c.on_grid(c.Curve.of(ACCURACY, reports, full=100), unit)
    assert len(half) == sum(share <= 0.5 for share in c.GRID)
    assert half[-1] == pytest.approx(100 * c.GRID[len(half) - 1])
    whole = c.on_grid(c.Curve.of(ACCURACY, reports, full=100, ended=True), unit)
    assert (len(whole), whole[-1]) == (16, 50.0)


def test_the_regression_is_the_ridge_of_linear_algebra() -> None:
    """Without numpy the coefficients are those that numpy finds."""
    rng = np.random.default_rng(0)
    X = np.c_[np.ones(50), rng.normal(size=(50, 3))]
    y = X @ [1.0, 2.0, -1.0, 0.5] + rng.normal(size=50)
    penalty = c.RIDGE * 50 * np.diag([0, 1, 1, 1])
    expected = np.linalg.solve(X.T @ X + penalty, X.T @ y)
    found = c._ridge([tuple(row) for row in X.tolist()], y.tolist())
    assert found == pytest.approx(expected, rel=1e-9)


def test_final_values_are_predicted_with_their_deviation(model: c.CurveModel) -> None:
    """Of a new task's curves at a third nine in ten end within two deviations, and most errors are small."""
    errors = []
    for whole in a_task(12345, 60):
        cut = c.Curve(whole.points[:7], whole.full)
        found = model.of([whole.last], ACCURACY)
        assert found is not None
        mean, sd = found.final(cut) or (math.nan, math.nan)
        assert 0 <= mean <= 1
        assert mean >= cut.last - 1e-9  # a best so far never falls
        errors.append((whole.last - mean) / sd)
    assert np.mean(np.abs(errors) < 2) >= 0.9
    assert 0.2 < np.median(np.abs(errors)) < 1.2


def test_nothing_is_said_too_early(model: c.CurveModel) -> None:
    """Before a tenth of the training there is no prediction."""
    early = c.Curve(((1.0, 0.1), (2.0, 0.2)), 40.0)
    assert model.predict(early) is None
    assert model.final(early) is None
    assert model.behind(early, 0.99) == -math.inf


def test_a_percentage_is_understood_by_what_shares_taught(model: c.CurveModel) -> None:
    """A job whose accuracies are per cents has the same prediction, a hundred times as large."""
    whole = a_task(7)[0]
    cut = whole.points[:8]
    share = model.of([0.5], ACCURACY)
    percent = model.of([50.0], ACCURACY)
    assert share is not None
    assert percent is not None
    mean, sd = share.final(c.Curve(cut, 20)) or (0, 0)
    other = percent.final(c.Curve(tuple((e, 100 * v) for e, v in cut), 20))
    assert other == pytest.approx((100 * mean, 100 * sd))
    assert model.of([-3.0], ACCURACY) is None
    assert model.of([3.0], LOSS) is None


def test_few_tasks_and_few_curves_teach_nothing() -> None:
    """Three tasks are no sample of tasks, and curves of an unknown kind say nothing of others."""
    assert c.learn(ACCURACY, [a_task(i) for i in range(c.MIN_TASKS - 1)], grace=4) is None
    assert c.learn(ACCURACY, [a_task(i, 5) for i in range(5)], grace=4) is None
    assert c.learn(ACCURACY, [], grace=4) is None
    free = [[c.Curve.of(ACCURACY, [(1.0, -5.0), (2.0, -3.0)], full=2, ended=True)] * 20] * 5
    assert c.learn(ACCURACY, free, grace=4) is None


def test_a_job_tells_of_itself() -> None:
    """Three whole curves give a mean gain with a deviation; two say nothing."""
    whole = a_task(3, 12)
    assert c.own_model(ACCURACY, whole[:2]) is None
    few, many = c.own_model(ACCURACY, whole[:3]), c.own_model(ACCURACY, whole)
    assert few is not None
    assert many is not None
    cut = c.Curve(whole[0].points[:8], 20)
    for model in (few, many):
        mean, sd = model.final(cut) or (0, 0)
        assert cut.last <= mean <= 1
        assert sd > 0
    assert (few.tasks, few.curves) == (0, 3)


@pytest.mark.slow
def test_the_threshold_keeps_its_promise_on_tasks_it_has_not_seen() -> None:
    """Calibrated for one in a hundred on twelve tasks, few bests of forty others would be stopped."""
    tasks = [a_task(1000 * i, 40) for i in range(1, 53)]
    model = c.learn(ACCURACY, tasks[:12], grace=4)
    assert model is not None
    assert model.z >= c.LEAST_Z
    rows = [[c.on_grid(curve, model.unit) for curve in task] for task in tasks[12:]]
    scores = [score for task in rows for score in c._scores(task, model.points, 4)]
    assert np.mean(np.array(scores) > model.z) <= 0.05


def test_the_same_curves_give_the_same_model() -> None:
    """Nothing is drawn but from fixed seeds, so that a restarted server decides alike."""
    tasks = [a_task(100 * i, 20) for i in range(5)]
    one, other = (c.learn(ACCURACY, tasks, grace=4) for _ in range(2))
    assert one is not None
    assert other is not None
    cut = c.Curve(tasks[0][0].points[:8], 20)
    assert (one.z, one.predict(cut)) == (other.z, other.predict(cut))
