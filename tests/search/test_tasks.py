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
from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Scale, Space
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(math.log2, id="logarithm"),
        pytest.param(lambda v: v * 1000, id="thousands"),
        pytest.param(lambda v: f"{v}.0", id="text"),
        pytest.param(float, id="real"),
    ],
)
def test_a_list_of_numbers_in_another_unit_is_mapped(change: object) -> None:
    """Batch sizes as logarithms, in thousandths or as text lie where they belong."""
    space = Space((Ordinal(name="bs", options=(16, 32, 64, 128)), *PLANE.parameters))
    clean = source("a", space, plane, count=40)
    trials = [
        completed(t.index, t.params | {"bs": change(t.params["bs"])}, t.value or 0.0)
        for t in clean.trials
    ]
    wanted = library(space, clean).tasks[0]
    found = library(space, source("a", space, plane, trials=trials)).tasks[0]
    assert torch.allclose(wanted.rows, found.rows, atol=1e-9)


def test_flags_are_mapped_however_they_are_written() -> None:
    """True, 1, "yes" and "on" are one option, and a flag is a number where 0 and 1 are."""
    space = Space(
        (
            Choice(name="nesterov", options=(True, False)),
            Int(name="amsgrad", low=0, high=1),
            *PLANE.parameters,
        )
    )
    clean = source("a", space, plane, count=40)
    words = [(True, False), (1, 0), ("yes", "no"), ("On", "OFF"), ("1", "0")]
    wanted = library(space, clean).tasks[0]
    for yes, no in words:
        trials = [
            completed(
                t.index,
                t.params
                | {
                    "nesterov": yes if t.params["nesterov"] else no,
                    "amsgrad": bool(t.params["amsgrad"]),
                },
                t.value or 0.0,
            )
            for t in clean.trials
        ]
        found = library(space, source("a", space, plane, trials=trials)).tasks[0]
        assert torch.equal(wanted.rows, found.rows), (yes, no)


def test_no_weight_decay_is_the_least_of_all() -> None:
    """Zero has no logarithm; it lies at the lower bound instead of nowhere."""
    space = Space((Float(name="wd", low=1e-6, high=1e-1, scale=Scale.LOG), *PLANE.parameters))
    clean = source("a", space, plane, count=40)
    trials = [
        completed(t.index, t.params | {"wd": 0.0 if t.index % 2 else 0.1}, t.value or 0.0)
        for t in clean.trials
    ]
    rows = library(space, source("a", space, plane, trials=trials)).tasks[0].rows
    assert sorted(set(rows[:, 0].tolist())) == [0.0, 1.0]


@pytest.mark.parametrize("odd", [None, [64, 64], {"a": 1}, 10**400, math.nan, math.inf, "auto"])
def test_values_that_no_space_has_say_nothing(odd: object) -> None:
    """A row whose value can't be read counts as an average one in that parameter, and the rest teaches."""
    clean = source("a", PLANE, plane, count=40)
    trials = [
        completed(t.index, t.params | ({"lr": odd} if t.index % 3 == 0 else {}), t.value or 0.0)
        for t in clean.trials
    ]
    kept = library(PLANE, source("a", PLANE, plane, trials=trials)).tasks[0]
    assert len(kept.rows) == 40
    assert bool(kept.rows.isfinite().all())
    assert bool((kept.known == 1).all())


def test_options_that_are_all_foreign_say_nothing() -> None:
    """An optimizer's name says nothing about the optimizers of the target when it is none of them."""
    space = Space((*PLANE.parameters, Choice(name="optimizer", options=("adam", "sgd", "lion"))))
    clean = source("a", PLANE, plane, count=30)
    trials = [
        completed(t.index, t.params | {"optimizer": f"o{t.index % 3}"}, t.value or 0)
        for t in clean.trials
    ]
    kept = library(space, source("a", space, plane, trials=trials)).tasks[0]
    assert kept.known.tolist() == [1, 1, 0, 0, 0]


@pytest.mark.slow
def test_strangers_take_no_place_of_close_tasks() -> None:
    """Many large tasks of other models neither push a small close one out nor take its rows."""
    space = Space(
        (*PLANE.parameters, Float(name="decay", low=0, high=1), Int(name="k", low=1, high=9))
    )
    only = Space((PLANE.parameters[0], Float(name="z", low=0, high=1)))
    nothing = Space((Float(name="z", low=0, high=1),))
    tasks = [
        source("close", space, plane, count=150),
        *(source(f"other-{i:02}", nothing, lambda p: p["z"], count=200, seed=i) for i in range(70)),
        source("far", only, lambda p: math.log(p["lr"]) + p["z"], count=200),
    ]
    found = library(space, *tasks)
    assert [(t.name, len(t.rows)) for t in found.tasks] == [("close", 150)]
    assert len(found.rejected) == 71
    assert found.rejected["far"] == "shares few parameters, others share more"
    assert [t.name for t in library(space, tasks[-1]).tasks] == ["far"], "better than nothing"


def test_a_task_given_twice_counts_once() -> None:
    """The same rows under another name are no second opinion."""
    first = source("a", PLANE, plane, count=30)
    again = source("b", PLANE, plane, trials=list(reversed(first.trials)))
    found = library(PLANE, first, again, source("c", PLANE, plane, count=30, seed=5))
    assert [t.name for t in found.tasks] == ["a", "c"]
    assert found.rejected == {"b": "the same as another task"}


def test_what_the_target_fixes_is_a_dimension_of_those_who_varied_it() -> None:
    """Rows lie as far from the target's constants as their logarithms do, where these are counts."""
    fixed = (Const(name="epochs", value=10), Const(name="optimizer", value="sgd"))
    varied = Space(
        (
            *PLANE.parameters,
            Int(name="num_epochs", low=1, high=100),
            Choice(name="optim", options=("SGD", "adam")),
        )
    )
    plain = source("plain", PLANE, plane, count=30, seed=1)
    rich = source("rich", varied, plane, count=30)
    found = library(Space((*PLANE.parameters, *fixed)), plain, rich)
    assert found.tasks[0].besides.tolist() == [[0.0, 0.0]] * 30
    told = [
        (math.log(t.params["num_epochs"] / 10), float(t.params["optim"] == "adam"))
        for t in rich.trials
    ]
    span = max(a for a, _ in told) - min(a for a, _ in told)
    wanted = sorted((a / span, b) for a, b in told)
    got = sorted(map(tuple, found.tasks[1].besides.tolist()))
    assert torch.allclose(torch.tensor(got), torch.tensor(wanted), atol=1e-9)
    assert library(PLANE, rich).tasks[0].besides.shape == (30, 0)


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
