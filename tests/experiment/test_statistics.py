"""Statistics against values computed by hand or by another way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from foretune.experiment import statistics as st


def a_run(method: str, task: str, regret: list[float], seed: int = 0, **changes: Any) -> st.Run:
    """Return a record with what statistics read."""
    n = len(regret)
    return {
        "family": "f",
        "task": task,
        "dataset": task,
        "seed": seed,
        "method": method,
        "regret": regret,
        "values": [0.0] * n,
        "mean": [None] * n,
        "sd": [None] * n,
        **changes,
    }


def test_a_task_is_the_mean_of_its_seeds() -> None:
    """Two seeds of one task and one of another: each task counts once."""
    m = st.matrix(
        [
            a_run("m", "a", [1.0, 0.5], seed=0),
            a_run("m", "a", [0.0, 0.0], seed=1),
            a_run("m", "b", [0.75, 0.25], dataset="d"),
        ],
        budget=2,
    )
    assert m.tasks == (("f", "a"), ("f", "b"))
    assert m.datasets == (("f", "a"), ("f", "d"))
    np.testing.assert_allclose(m.curves, [[0.5, 0.25], [0.75, 0.25]])


def test_a_table_that_was_used_up_keeps_its_last_regret() -> None:
    """A small table ends early, and stays where it ended."""
    assert st.curve(a_run("m", "a", [0.5, 0.0]), 4).tolist() == [0.5, 0.0, 0.0, 0.0]
    assert st.curve(a_run("m", "a", [0.5, 0.2, 0.1]), 2).tolist() == [0.5, 0.2]


def test_the_bootstrap_draws_whole_data_sets() -> None:
    """With all tasks in one data set nothing is resampled; with two there are three possible means."""
    values = np.array([0.0, 1.0, 1.0])
    alone = st.interval(values, ["d", "d", "d"])
    assert (alone.value, alone.low, alone.high) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    means = st.weights(["a", "b", "b"]) @ values
    shares = {
        round(mean, 6): share
        for mean, share in zip(*np.unique(means, return_counts=True), strict=True)
    }
    # a a -> 0, a b -> (0 + 1 + 1) / 3, b b -> 1, with probabilities 1/4, 1/2, 1/4.
    assert set(shares) == {0.0, round(2 / 3, 6), 1.0}
    assert shares[0.0] / st.RESAMPLES == pytest.approx(0.25, abs=0.02)


def test_an_interval_narrows_as_data_sets_are_added() -> None:
    """For many data sets it is the mean plus and minus 1.96 standard errors."""
    values = np.random.default_rng(1).normal(0.3, 0.1, 200)
    found = st.interval(values, list(range(200)))
    half = 1.96 * values.std() / math.sqrt(200)
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_differences_are_taken_task_by_task() -> None:
    """A method that is better by a tenth everywhere is so with certainty, however tasks differ."""
    one = st.matrix([a_run("m", t, [r - 0.1]) for t, r in (("a", 0.2), ("b", 0.9), ("c", 0.5))], 1)
    other = st.matrix([a_run("p", t, [r]) for t, r in (("b", 0.9), ("c", 0.5), ("a", 0.2))], 1)
    found = st.paired(one, other, 1)
    assert (found.value, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1))


def test_wilcoxon_is_exact_for_few_tasks() -> None:
    """Five tasks, all better: 2 x (1/2)^5; nothing differs: 1."""
    tasks = "abcde"
    one = st.matrix([a_run("m", t, [0.1]) for t in tasks], 1)
    other = st.matrix([a_run("p", t, [0.2 + 0.01 * i]) for i, t in enumerate(tasks)], 1)
    assert st.wilcoxon(one, other, 1) == pytest.approx(2 / 2**5)
    assert st.wilcoxon(one, one, 1) == 1.0


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    """.01, .02, .03 times 3, 2, 1: .03, .04, and .04 again."""
    assert st.holm({"c": 0.03, "a": 0.01, "b": 0.02}) == pytest.approx(
        {"a": 0.03, "b": 0.04, "c": 0.04}
    )
    assert st.holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


def test_ranks_share_ties_and_average_over_seeds() -> None:
    """Equal regrets share the mean of their ranks."""
    runs = [
        *(a_run(m, "a", [r]) for m, r in (("x", 0.1), ("y", 0.1), ("z", 0.5))),
        *(a_run(m, "a", [r], seed=1) for m, r in (("x", 0.3), ("y", 0.2), ("z", 0.1))),
    ]
    found = st.ranks(runs, 1)
    assert found == {
        "x": {("f", "a"): (1.5 + 3) / 2},
        "y": {("f", "a"): (1.5 + 2) / 2},
        "z": {("f", "a"): (3 + 1) / 2},
    }


def test_the_critical_difference_is_that_of_demsars_table() -> None:
    """Five methods: q is 2.728; J. Demsar, JMLR 7, 2006, table 5."""
    assert st.critical_difference(5, 30) == pytest.approx(
        2.728 * math.sqrt(5 * 6 / (6 * 30)), rel=1e-3
    )


def test_friedman_sees_a_clear_order_and_needs_three_methods() -> None:
    """Eight tasks that all rank three methods alike are no chance; two methods are no case for it."""
    clear = {
        m: {("f", str(t)): rank for t in range(8)} for m, rank in (("a", 1), ("b", 2), ("c", 3))
    }
    assert st.friedman(clear) == pytest.approx(
        math.exp(-8)
    )  # chi2 of 2 n with 2 degrees of freedom
    assert math.isnan(st.friedman({m: clear[m] for m in "ab"}))
    assert st.friedman(dict.fromkeys("xyz", clear["a"])) == 1.0


def test_a_level_is_reached_at_the_first_evaluation_below_it() -> None:
    """Counted from 1; None when it never is."""
    assert st.reaches(np.array([0.9, 0.5, 0.2, 0.2]), 0.2) == 3
    assert st.reaches(np.array([0.9, 0.5]), 0.2) is None


def test_runs_worse_than_another_are_counted_seed_by_seed() -> None:
    """Ties are not worse; a run without a counterpart is left out."""
    mine = [a_run("m", "a", [r], seed=s) for s, r in enumerate((0.3, 0.2, 0.1, 0.9))]
    plain = [a_run("p", "a", [0.2], seed=s) for s in range(3)]
    assert st.worse_share(mine, plain, 1) == pytest.approx(1 / 3)


def test_only_places_that_every_method_has_are_compared() -> None:
    """A seed that one method has not run yet is left out for all."""
    runs = [a_run("m", "a", [0.1]), a_run("p", "a", [0.2]), a_run("m", "a", [0.3], seed=1)]
    assert st.complete(runs) == runs[:2]


def test_coverage_counts_predictions_after_the_start() -> None:
    """Of the predictions after the first three, half are inside 1.645 standard deviations."""
    run = a_run(
        "m",
        "a",
        [1.0] * 6,
        values=[9.0, 9.0, 9.0, 1.6, 1.7, None],
        mean=[0.0, None, 0.0, 0.0, 0.0, 0.0],
        sd=[1.0, None, 1.0, 1.0, 1.0, 1.0],
    )
    assert st.coverage([run]) == (0.5, 2)
    assert math.isnan(st.coverage([a_run("m", "a", [1.0] * 6)])[0])
