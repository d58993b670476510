"""Past tasks: what is kept of them, what is set aside and why, and how they are mapped."""

from __future__ import annotations

import math
import random
import statistics
from typing import TYPE_CHECKING

import pytest
import torch
from tests.support.designs import MIXED, completed, failed, problem, valley
from tests.support.sources import source

from foretune.domain.job import Goal
from foretune.domain.space import Choice, Float, Ordinal, Scale, Space
from foretune.search.condense import scores
from foretune.search.encode import Encoding
from foretune.search.sampling import random_points
from foretune.search.tasks import MAX_ROWS, MAX_TASKS, MAX_TOTAL, Library, read

if TYPE_CHECKING:
    from foretune.search.designer import SourceTask

PLANE = Space(
    (
        Float(name="lr", low=1e-4, high=1e-1, scale=Scale.LOG),
        Float(name="dropout", low=0.0, high=0.5),
    )
)


def library(space: Space, *tasks: SourceTask) -> Library:
    """Read some tasks for a problem over `space`."""
    given = problem(space, history=tuple(tasks))
    return read(given, Encoding(space))


def plane(params: dict[str, object]) -> float:
    """An accuracy over `PLANE`, between 0 and 1."""
    lr, dropout = math.log10(float(params["lr"])), float(params["dropout"])
    return 0.9 - 0.1 * (lr + 2) ** 2 - 0.2 * (dropout - 0.2) ** 2


def test_a_task_of_the_same_space_is_kept_whole() -> None:
    """Every row, its score in the order of the values, and the best configurations as they were."""
    task = source("a", MIXED, valley, count=60)
    kept = library(MIXED, task).tasks[0]
    assert kept.rows.shape == (60, Encoding(MIXED).width)
    assert bool((kept.known == 1).all())
    assert kept.set_aside == {}
    values = sorted((t.value for t in task.trials if t.value is not None), reverse=True)
    assert [valley(p) for p in kept.bests] == values[: len(kept.bests)]
    assert kept.z.tolist() == sorted(kept.z.tolist(), reverse=True)
    assert statistics.fmean(kept.z.tolist()) == pytest.approx(0, abs=1e-9)


def test_scores_count_what_is_good_and_not_how_bad_is_bad() -> None:
    """Scores keep the order, and an outlier on the bad side moves none of the good ones apart."""
    told = scores([5.0, 4.0, 3.0, 2.0, 1.0]).tolist()
    assert told == sorted(told, reverse=True)
    assert (told[0] - told[1]) / (told[1] - told[2]) == pytest.approx(1)
    worse = scores([5.0, 4.0, 3.0, 2.0, -1e9])
    assert (worse[0] - worse[1]) / (worse[1] - worse[2]) == pytest.approx(1)
    assert all(map(math.isfinite, scores([1.0, 1.0, 1.0, 0.0])))
    assert all(map(math.isfinite, scores([1e300, 0.0, -1e300])))


@pytest.mark.slow
def test_a_huge_task_costs_no_more_than_a_capped_one() -> None:
    """Of many rows the best are kept, and no more than the cap, whatever the number of tasks."""
    big = source("big", MIXED, valley, count=3000)
    kept = library(MIXED, big).tasks[0]
    assert len(kept.z) == MAX_ROWS
    best = max(t.value for t in big.trials if t.value is not None)
    assert valley(kept.bests[0]) == best
    many = [source(f"t{i:02}", MIXED, valley, count=60, seed=i) for i in range(MAX_TASKS + 3)]
    found = library(MIXED, *many)
    assert len(found.tasks) == MAX_TASKS
    assert sum(len(t.z) for t in found.tasks) <= MAX_TOTAL
    assert len(found.rejected) == 3


def test_the_order_of_tasks_and_trials_changes_nothing() -> None:
    """Any permutation gives the same rows, to the last bit."""
    tasks = [source(f"t{i}", MIXED, valley, count=300, seed=i) for i in range(4)]
    wanted = library(MIXED, *tasks)
    rng = random.Random(1)
    mixed = [
        source(t.name, MIXED, valley, trials=rng.sample(t.trials, len(t.trials))) for t in tasks
    ]
    found = library(MIXED, *rng.sample(mixed, len(mixed)))
    for one, other in zip(wanted.tasks, found.tasks, strict=True):
        assert one.name == other.name
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.z, other.z)
        assert one.bests == other.bests


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda v: 100 * v, "per cent", id="per cent"),
        pytest.param(lambda v: -v, "wrong sign", id="wrong sign"),
        pytest.param(lambda v: math.nan, "no finite value", id="NaN"),
    ],
)
def test_poisoned_rows_are_set_aside_with_a_reason(spoil: object, reason: str) -> None:
    """One row in ten of another unit, sign or no number leaves the others as they were."""
    clean = source("a", PLANE, plane, count=100)
    trials = [
        completed(t.index, t.params, spoil(t.value)) if t.index % 10 == 3 else t
        for t in clean.trials
    ]
    kept = library(PLANE, source("a", PLANE, plane, trials=trials)).tasks[0]
    assert kept.set_aside == {reason: 10}
    assert len(kept.z) == 90
    assert plane(kept.bests[0]) <= 1


def test_fractions_among_per_cent_are_set_aside() -> None:
    """An error of 0.07 among errors of 7 is no miracle."""
    clean = source("a", PLANE, lambda p: 100 * (1 - plane(p)), count=60, goal=Goal.MINIMIZE)
    trials = [
        completed(t.index, t.params, t.value / 100) if t.index % 10 == 3 else t
        for t in clean.trials
    ]
    kept = library(PLANE, source("a", PLANE, plane, trials=trials, goal=Goal.MINIMIZE)).tasks[0]
    assert kept.set_aside == {"fraction": 6}


def test_a_steep_loss_is_not_taken_for_poison() -> None:
    """A loss that spans orders of magnitude around 1, or crosses zero, keeps every row."""
    assert library(MIXED, source("zero", MIXED, valley, count=300)).tasks[0].set_aside == {}
    task = source("a", PLANE, lambda p: 10 ** (-8 * plane(p) + 5), count=100, goal=Goal.MINIMIZE)
    assert library(PLANE, task).tasks[0].set_aside == {}


def test_failures_are_kept_as_the_worst() -> None:
    """A configuration that ran out of memory elsewhere scores as badly as the worst value."""
    clean = source("a", PLANE, plane, count=40)
    point = {"lr": 0.09, "dropout": 0.49}
    kept = library(
        PLANE, source("a", PLANE, plane, trials=[*clean.trials, failed(99, point)])
    ).tasks[0]
    row = Encoding(PLANE).encode([point])
    at = int((kept.rows - row).square().sum(dim=1).argmin())
    assert torch.equal(kept.rows[at : at + 1], row)
    assert float(kept.z[at]) == float(kept.z.min())


def test_other_names_units_and_spellings_are_mapped() -> None:
    """Synonyms, logarithms, per cent and spellings of options lead to the same rows."""
    space = Space((*PLANE.parameters, Choice(name="optimizer", options=("adam", "sgd", "lion"))))
    clean = source("a", space, plane, count=60)
    trials = [
        completed(
            t.index,
            {
                "hp_learning_rate_log": math.log(float(t.params["lr"])),
                "DropoutRate": 100 * float(t.params["dropout"]),
                "optim": str(t.params["optimizer"]).upper(),
                "unheard_of": 7,
            },
            t.value or 0.0,
        )
        for t in clean.trials
    ]
    wanted = library(space, clean).tasks[0]
    found = library(space, source("a", space, plane, trials=trials)).tasks[0]
    assert torch.allclose(wanted.rows, found.rows, atol=1e-9)
    assert bool((found.known == 1).all())


def test_missing_parameters_and_options_are_marked() -> None:
    """A parameter that the task lacks is not known, an option that the target lacks is none of its own."""
    space = Space((*PLANE.parameters, Choice(name="optimizer", options=("adam", "sgd", "lion"))))
    clean = source("a", PLANE, plane, count=30)
    kept = library(space, clean).tasks[0]
    assert kept.known.tolist() == [1, 1, 0, 0, 0]
    assert all(space.problems(p) == [] for p in kept.bests)
    trials = [
        completed(t.index, t.params | {"optimizer": "lamb"}, t.value or 0) for t in clean.trials
    ]
    rows = library(space, source("a", space, plane, trials=trials)).tasks[0].rows
    assert torch.equal(rows[:, 2:], rows[:1, 2:].expand(len(rows), -1))


def test_an_ordinal_takes_values_between_its_own() -> None:
    """A batch size of 24 lies half way between 16 and 32."""
    space = Space((Ordinal(name="batch_size", options=(16, 32, 64)),))
    trials = [completed(i, {"batch_size": b}, float(b)) for i, b in enumerate((16, 24, 32, 48, 64))]
    rows = library(space, source("a", space, plane, trials=trials)).tasks[0].rows
    assert sorted(rows[:, 0].tolist()) == [0, 0.25, 0.5, 0.75, 1]


def test_a_task_that_says_nothing_is_rejected_with_a_reason() -> None:
    """Too few rows, equal values, other parameters and other ranges are told apart."""
    points = list(zip(range(20), random_points(PLANE, 0), strict=False))
    found = library(
        PLANE,
        source("few", PLANE, plane, count=3),
        source("flat", PLANE, lambda p: 1.0, count=20),
        source("none", PLANE, plane, trials=[]),
        source("other", PLANE, plane, trials=[completed(i, {"z": i}, i) for i in range(20)]),
        source(
            "far",
            PLANE,
            plane,
            trials=[completed(i, p | {"dropout": 9.0 + i}, i) for i, p in points],
        ),
    )
    assert found.tasks == ()
    assert {name: reason.split()[0] for name, reason in found.rejected.items()} == {
        "few": "fewer",
        "flat": "all",
        "none": "no",
        "other": "no",
        "far": "its",
    }
