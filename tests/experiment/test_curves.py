"""Early stopping replayed on curves whose truth is known."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest

from foretune.domain.job import EarlyStopping, Goal, Objective, StopMethod
from foretune.experiment import curves as c
from foretune.search.curves import Curve

if TYPE_CHECKING:
    from pathlib import Path

ACCURACY = Objective(metric="value", goal=Goal.MAXIMIZE)


def a_task(name: str, finals: list[float]) -> c.Recorded:
    """Return a task whose curves near these values."""
    made = tuple(
        Curve.of(
            ACCURACY,
            [(float(e), final * (1 - math.exp(-e / 4))) for e in range(1, 21)],
            full=20,
            ended=True,
        )
        for final in finals
    )
    return c.Recorded("made", name, ACCURACY, made)


@pytest.fixture
def tasks() -> list[c.Recorded]:
    """Six tasks of 25 curves."""
    rng = random.Random(0)
    return [a_task(f"t{i}", [rng.uniform(0.2, 0.9) for _ in range(25)]) for i in range(6)]


def test_nothing_is_saved_without_a_rule(tasks: list[c.Recorded]) -> None:
    """Under `none` every epoch is trained, and nothing is lost."""
    found = c.run(tasks[0], EarlyStopping(method=StopMethod.NONE), None, trials=20, seed=0)
    assert (found.false, found.saved, found.regret, found.stopped) == (False, 0.0, 0.0, 0.0)
    assert math.isnan(found.error)


def test_a_false_stop_is_counted() -> None:
    """A best that starts slowly is lost to the median, and what that costs is told."""
    slow = Curve.of(
        ACCURACY, [(float(e), 0.01 if e < 15 else 0.99) for e in range(1, 21)], full=20, ended=True
    )
    rest = a_task("t", [0.5 + 0.01 * i for i in range(20)]).curves
    task = c.Recorded("made", "t", ACCURACY, (slow, *rest))
    spec = EarlyStopping(method=StopMethod.MEDIAN)
    results = [c.run(task, spec, None, trials=21, seed=seed) for seed in range(12)]
    lost = [r for r in results if r.false]
    assert lost
    assert all(r.regret > 0.3 for r in lost)
    assert all(r.saved > 0 for r in results)
    assert {r.false for r in results} == {True, False} or len(lost) == 12


def test_what_the_past_is(tasks: list[c.Recorded]) -> None:
    """A task's prior is of the other tasks of its family, and the same each time."""
    prior = c.prior_of(tasks[0], tasks, grace=4)
    again = c.prior_of(tasks[0], tasks, grace=4)
    assert prior is not None
    assert again is not None
    assert (prior.tasks, prior.curves) == (5, 125)
    assert prior.z == again.z
    assert c.prior_of(tasks[0], tasks[:4], grace=4) is None


@pytest.mark.slow
def test_the_table_has_each_rule_with_its_interval(tasks: list[c.Recorded], tmp_path: Path) -> None:
    """Rules with and without the past stand beside each other; what was written by hand is kept."""
    found = c.measure(tasks[:5], trials=12, runs=2)
    assert {rule for rule, _ in found} == set(c.RULES)
    page = tmp_path / "curves.md"
    c.write(found, page, command="the command")
    text = page.read_text()
    assert "| curve | made | 5 |" in text
    assert "[" in text
    page.write_text(text + "by hand\n")
    c.write(found, page, command="another")
    assert page.read_text().endswith("by hand\n")
    assert "`another`" in page.read_text()


def test_two_gaussians_are_multiplied(tasks: list[c.Recorded]) -> None:
    """The product lies between the two, and is surer than either; a wide forecast changes nothing."""
    prior = c.prior_of(tasks[0], tasks, grace=4)
    assert prior is not None
    cut = Curve(tasks[0].curves[0].points[:8], 20)
    mean, sd = prior.predict(cut) or (0, 0)
    parts = (prior.unit, prior.z, prior.curves, prior.tasks, prior.points)
    same, wide = c.Product(*parts, (mean + sd, sd)), c.Product(*parts, (mean + 9, 1e6))
    assert same.predict(cut) == pytest.approx((mean + sd / 2, sd / math.sqrt(2)))
    assert wide.predict(cut) == pytest.approx((mean, sd), rel=1e-3)
