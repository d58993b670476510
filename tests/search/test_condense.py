"""What is kept of a past task, whatever its size and whatever is in it."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.designs import completed, failed

from foretune.domain.job import Goal, Objective
from foretune.domain.trial import Trial
from foretune.search.condense import KEPT, KEPT_LEAST, Condensed, condensed, limit_for, scores
from foretune.search.designer import SourceTask

if TYPE_CHECKING:
    import random


def task(values: Sequence[float], *, goal: Goal = Goal.MAXIMIZE, name: str = "a") -> SourceTask:
    """A task over one number, its rows in the order of the values."""
    trials = tuple(completed(i, {"x": i}, value) for i, value in enumerate(values))
    return SourceTask(name, Objective(metric="y", goal=goal), trials)


def test_a_small_task_is_kept_whole_with_the_best_first() -> None:
    """Trials come in the order of their scores, failed ones last and as bad as the worst."""
    source = task([0.1, 0.5, 0.3, 0.4, 0.2, 0.0])
    source = replace(source, trials=(failed(9, {"x": 9}), *source.trials))
    kept = condensed(source)
    assert [t.params["x"] for t in kept.trials] == [1, 3, 2, 4, 0, 5, 9]
    assert list(kept.scores[:-1]) == sorted(kept.scores[:-1], reverse=True)
    assert kept.scores[-1] == kept.scores[-2]
    assert (kept.rows, kept.set_aside, kept.reason) == (6, {}, "")
    assert condensed(kept) is kept


class Lazy(Sequence[Trial]):
    """A million rows that exist only while they are looked at."""

    def __init__(self, count: int) -> None:
        """Of so many rows."""
        self.count = count

    def __len__(self) -> int:
        """Return how many."""
        return self.count

    def __getitem__(self, index: int) -> Trial:
        """Make one."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        return completed(index, {"x": index, "k": "a"}, math.sin(index))


@pytest.mark.slow
def test_of_many_rows_few_are_held() -> None:
    """Reading makes one row after the other and keeps the best third of its limit and some of the rest."""
    head = SourceTask("a", Objective(metric="y", goal=Goal.MAXIMIZE), ())
    tracemalloc.start()
    try:
        kept = condensed(head, Lazy(20_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(kept.trials), kept.rows) == (KEPT, 20_000)
    assert kept.trials[0].value == max(math.sin(i) for i in range(20_000))
    assert abs(sum(t.value or 0 for t in kept.trials[KEPT // 3 :]) / (KEPT * 2 / 3)) < 0.1
    assert peak < 20_000 * 300, "a row that is held costs a kilobyte"


def test_what_is_kept_shares_no_object_with_the_rows_that_were_given() -> None:
    """Equal to them it is, yet it doesn't hold their memory: every number and text is its own."""
    given = [completed(i, {"x": 1000 + i, "y": -0.0, "k": "adam"}, 0.5 + i) for i in range(10)]
    kept = condensed(replace(task([]), trials=tuple(given))).trials
    assert kept == tuple(reversed(given))
    assert all(math.copysign(1, float(trial.params["y"])) == -1 for trial in kept)
    theirs = {id(x) for trial in given for x in (trial.value, *trial.params.values())}
    assert not theirs & {id(x) for trial in kept for x in (trial.value, *trial.params.values())}


def test_many_tasks_are_kept_smaller() -> None:
    """The rows of all tasks together are bounded, while each still says something."""
    assert limit_for(1) == limit_for(80) == KEPT
    assert limit_for(1000) * 1000 <= 50_000
    assert limit_for(10**6) == KEPT_LEAST


def test_repeated_configurations_count_once_with_their_average() -> None:
    """Five seeds of one configuration are one row: luck doesn't make it the best."""
    rows = [(1, 0.9), (1, 0.1), (2, 0.6), (2, 0.6), (3, 0.3), (4, 0.2), (5, 0.1)]
    trials = tuple(completed(i, {"x": x}, v) for i, (x, v) in enumerate(rows))
    kept = condensed(SourceTask("a", Objective(metric="y", goal=Goal.MAXIMIZE), trials))
    assert [(t.params["x"], t.value) for t in kept.trials[:2]] == [(2, 0.6), (1, 0.5)]
    assert kept.rows == 5


@pytest.mark.slow
@given(
    st.lists(st.integers(-1000, 1000), min_size=5, max_size=25, unique=True),
    st.sampled_from([1e-6, 0.5, 3.0, 1e9]),
    st.sampled_from([0.0, 7.0, 1e4]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_neither_unit_nor_order_nor_direction_change_the_scores(
    numbers: list[int], scale: float, shift: float, rng: random.Random
) -> None:
    """Another unit, another origin, the negated objective and any permutation: the same scores."""
    values = [2000.0 + number for number in numbers]
    wanted = condensed(task(values))
    other = task([scale * (value + shift) for value in values])
    down = task([-value for value in values], goal=Goal.MINIMIZE)
    mixed = task(values)
    mixed = replace(mixed, trials=tuple(rng.sample(mixed.trials, len(values))))
    assert condensed(mixed) == wanted
    for found in (condensed(other), condensed(down)):
        assert [t.params for t in found.trials] == [t.params for t in wanted.trials]
        assert found.scores == pytest.approx(wanted.scores, rel=1e-6, abs=1e-6)


@pytest.mark.slow
@given(
    st.lists(
        st.one_of(
            st.floats(allow_nan=True, allow_infinity=True),
            st.sampled_from([0.0, -0.0, 1e300, -1e300, 5e-324, 1e6, 100.0, 0.5]),
        ),
        max_size=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_values_are_read(values: list[float]) -> None:
    """Whatever floats there are, scores are finite, or the task says why it is left out."""
    kept = condensed(task(values))
    assert kept.reason or len(kept.scores) >= 5
    assert all(map(math.isfinite, kept.scores))
    lost = sum(not math.isfinite(value) for value in values)
    assert kept.set_aside.get("no finite value", 0) == lost


def test_scores_count_what_is_good_and_not_how_bad_is_bad() -> None:
    """Scores keep the order, and an outlier on the bad side moves none of the good ones apart."""
    told = scores([5.0, 4.0, 3.0, 2.0, 1.0]).tolist()
    assert told == sorted(told, reverse=True)
    assert (told[0] - told[1]) / (told[1] - told[2]) == pytest.approx(1)
    worse = scores([5.0, 4.0, 3.0, 2.0, -1e9])
    assert (worse[0] - worse[1]) / (worse[1] - worse[2]) == pytest.approx(1)
    assert all(map(math.isfinite, scores([1.0, 1.0, 1.0, 0.0])))
    assert all(map(math.isfinite, scores([1e300, 0.0, -1e300])))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        pytest.param([], "no trials", id="none"),
        pytest.param([("x", 1.0)] * 9, "fewer", id="one configuration"),
        pytest.param([(i, 1.0) for i in range(9)], "all values are equal", id="equal"),
        pytest.param([(i, None) for i in range(9)], "fewer", id="all failed"),
    ],
)
def test_a_task_without_good_and_bad_says_why(
    rows: list[tuple[object, float]], reason: str
) -> None:
    """Such a task has no scores, yet its rows stay, for where trials fail may be learned from them."""
    trials = [
        completed(i, {"x": x}, value) if value is not None else failed(i, {"x": x})
        for i, (x, value) in enumerate(rows)
    ]
    kept = condensed(SourceTask("a", Objective(metric="y", goal=Goal.MAXIMIZE), tuple(trials)))
    assert isinstance(kept, Condensed)
    assert kept.reason.startswith(reason)
    assert len(kept.scores) == len(kept.trials) == len({t.params["x"] for t in trials})
