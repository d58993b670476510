"""The rules that stop running trials, and what none of them may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretune.domain.job import EarlyStopping, Goal, Objective, StopMethod
from foretune.search.curves import Curve, CurveModel, learn
from foretune.search.stopping import Stopper

ACCURACY = Objective(metric="accuracy")
RULES = (StopMethod.MEDIAN, StopMethod.ASHA, StopMethod.CURVE)


def line(final: float, *, start: float = 0.1, epochs: int = 10, upto: int = 10) -> Curve:
    """Return a curve that rises evenly to `final`, of which `upto` epochs are there."""
    points = [
        (float(e), start + (final - start) * e / epochs) for e in range(1, min(upto, epochs) + 1)
    ]
    return Curve.of(ACCURACY, points, full=epochs, ended=upto >= epochs)


ENDED = [line(final) for final in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9)]
MANY = [line(0.1 + 0.02 * i) for i in range(41)]
HOPELESS = 0.11
"""Final value of a trial that stands still."""


def stopper(
    method: StopMethod, ended: list[Curve] = ENDED, prior: CurveModel | None = None, **spec: object
) -> Stopper:
    return Stopper(EarlyStopping(method=method, **spec), ACCURACY, ended, prior)


@pytest.mark.parametrize("method", RULES)
def test_a_hopeless_trial_is_stopped(method: StopMethod) -> None:
    """A trial that falls behind all others is stopped, and the reason names numbers."""
    decision = stopper(method, MANY).decide(line(HOPELESS, upto=6))
    assert decision is not None
    assert decision.rule == method.value
    assert any(digit in decision.message for digit in "0123456789")


@pytest.mark.parametrize("method", RULES)
@given(final=st.floats(0.0, 1.0), upto=st.integers(1, 10), ended=st.integers(0, 6))
def test_what_no_rule_may_do(method: StopMethod, final: float, upto: int, ended: int) -> None:
    """None is stopped in the warm-up, at its first or last report, or while it is the best."""
    known = ENDED[:ended]
    cut = line(final, start=0.0, upto=upto)
    decision = stopper(method, known).decide(cut)
    best = max((curve.last for curve in known), default=0.0)
    if ended < 4 or upto < 2 or upto == 10 or cut.last >= best:
        assert decision is None


@pytest.mark.parametrize("method", RULES)
def test_one_bad_report_stops_nothing(method: StopMethod) -> None:
    """A trial that was ahead and reports one bad value is judged by its best so far."""
    good = [(1.0, 0.3), (2.0, 0.5), (3.0, 0.65), (4.0, 0.75), (5.0, 0.05)]
    assert stopper(method).decide(Curve.of(ACCURACY, good, full=10)) is None


@pytest.mark.parametrize("method", RULES)
def test_the_earliest_epoch_is_the_specs(method: StopMethod) -> None:
    """`min` postpones every decision."""
    assert stopper(method, MANY, min=6).decide(line(HOPELESS, upto=5)) is None
    assert stopper(method, MANY, min=5).decide(line(HOPELESS, upto=5)) is not None


def test_none_is_none() -> None:
    """Without a rule nothing is stopped, nor by `auto` while the past has taught nothing."""
    assert stopper(StopMethod.NONE).decide(line(0.0, upto=9)) is None
    alone = stopper(StopMethod.AUTO)
    assert alone.method is StopMethod.NONE
    assert alone.decide(line(0.0, upto=9)) is None


@pytest.mark.slow
def test_auto_is_the_curve_rule_once_the_past_has_taught_it() -> None:
    """With curves of enough past tasks `auto` stops what has no chance, and says by what it knows."""
    tasks = [[line(0.3 + 0.01 * i + 0.001 * t) for i in range(60)] for t in range(5)]
    prior = learn(ACCURACY, tasks, grace=4)
    assert prior is not None
    taught = stopper(StopMethod.AUTO, prior=prior)
    assert taught.method is StopMethod.CURVE
    decision = taught.decide(line(0.2, upto=6))
    assert decision is not None
    assert "300 curves of 5 past jobs" in decision.message
    assert taught.decide(line(0.95, upto=6)) is None


def test_the_median_needs_five() -> None:
    """Four trials that ended have no median to speak of."""
    assert stopper(StopMethod.MEDIAN, ENDED[:4]).decide(line(HOPELESS, upto=6)) is None
    assert stopper(StopMethod.MEDIAN, ENDED[:5]).decide(line(HOPELESS, upto=6)) is not None


def test_asha_compares_with_those_that_run_and_were_stopped() -> None:
    """Of nine at a rung three go on: the fourth best is stopped, the third best is not."""
    running = [line(final, upto=4) for final in (0.2, 0.3)]
    found = stopper(StopMethod.ASHA)
    assert found.decide(line(0.82, upto=4), running) is None
    stopped = found.decide(line(0.75, upto=4), running)
    assert stopped is not None
    assert "3 of 8 trials are better" in stopped.message
    # Those that have not come to the rung are no rivals.
    assert found.decide(line(0.75, upto=4), [line(0.9, upto=1)] * 5) is not None


def test_less_is_better_where_the_objective_says_so() -> None:
    """For a loss the large one is stopped."""
    objective = Objective(metric="loss", goal=Goal.MINIMIZE)

    def falling(final: float, upto: int = 10) -> Curve:
        points = [(float(e), 2.0 + (final - 2.0) * e / 10) for e in range(1, upto + 1)]
        return Curve.of(objective, points, full=10, ended=upto == 10)

    ended = [falling(0.5 + 0.04 * i) for i in range(38)]
    for method in RULES:
        found = Stopper(EarlyStopping(method=method), objective, ended)
        assert found.decide(falling(1.99, 6)) is not None
        assert found.decide(falling(0.4, 6)) is None


def test_a_stopped_trial_gets_the_value_it_would_have_had() -> None:
    """Of a line it is the line's end, not where it was cut; of a whole run its value, for certain."""
    found = stopper(StopMethod.MEDIAN)
    mean, sd = found.final(line(0.65, upto=5)) or (0, 0)
    assert mean == pytest.approx(0.65, abs=0.1)
    assert mean > line(0.65, upto=5).last
    assert sd > 0
    assert found.final(line(0.65)) == (0.65, 0.0)
    assert found.final(Curve((), 10)) is None
    assert stopper(StopMethod.MEDIAN, []).final(line(0.65, upto=5)) is None
