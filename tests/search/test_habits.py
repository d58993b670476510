"""The start of a job by what was good elsewhere, and who answers with which history (levels L0 to L3)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.designs import MIXED, WITH_DEFAULT, ask, completed, problem, running
from tests.support.sources import source

from foretune.domain.job import Algorithm
from foretune.domain.space import Choice, Float, Int, Ordinal, Scale, Space
from foretune.search.designer import designer_for
from foretune.search.habits import KIN, Habits, with_kin
from foretune.search.sampling import sobol_points

if TYPE_CHECKING:
    from foretune.domain.space import Params
    from foretune.search.designer import SourceTask

NET = Space(
    (
        Float(name="learning_rate", low=1e-6, high=1.0, scale=Scale.LOG),
        Choice(name="optim", options=("Adam", "SGD")),
        Float(name="width", low=0.0, high=1.0),
    )
)
TARGET = Space(
    (
        Float(name="lr", low=1e-6, high=1.0, scale=Scale.LOG),
        Choice(name="optimizer", options=("sgd", "adam", "rmsprop")),
        Float(name="clip", low=0.0, high=1.0),
        Float(name="beta", low=0.0, high=1.0),
        Int(name="heads", low=1, high=9),
    )
)
"""Shares two of six parameters with `NET`, by other names: no kin."""


def good_at(lr: float, optimizer: str = "Adam") -> object:
    """An objective whose top lies at one learning rate and one optimizer."""

    def value(params: Params) -> float:
        away = math.log10(float(params.get("learning_rate", params.get("lr", 1.0))) / lr)
        same = params.get("optim", params.get("optimizer")) == optimizer
        return -(away**2) - (0.0 if same else 5.0)

    return value


def nets(lr: float = 1e-3) -> tuple[SourceTask, ...]:
    """Tasks of another kind of network."""
    return tuple(source(f"n{i}", NET, good_at(lr), count=80, seed=i) for i in range(3))


def starts(habits: Habits, count: int = 64) -> list[Params]:
    """The first configurations of the bent sequence."""
    return list(itertools.islice(habits.points(0), count))


def test_a_start_lies_where_values_were_good() -> None:
    """Most points have about the learning rate and the optimizer that were good elsewhere."""
    points = starts(Habits(TARGET, nets()))
    near = [p for p in points if abs(math.log10(p["lr"]) + 3) < 1]
    adam = [p for p in points if p["optimizer"] == "adam"]
    plain = list(itertools.islice(sobol_points(TARGET, 0), 64))
    assert len(near) > 0.6 * len(points)
    assert len(adam) > 0.6 * len(points)
    assert len([p for p in plain if abs(math.log10(p["lr"]) + 3) < 1]) < 0.4 * len(plain)


def test_nothing_is_ruled_out() -> None:
    """Far learning rates and the other optimizers still come, and what is unknown stays uniform."""
    points = starts(Habits(TARGET, nets()), 256)
    assert {p["optimizer"] for p in points} == {"sgd", "adam", "rmsprop"}
    assert any(p["lr"] > 0.1 for p in points)
    assert any(p["lr"] < 1e-5 for p in points)
    assert 0.4 < sum(p["clip"] < 0.5 for p in points) / 256 < 0.6


def test_parameters_meet_by_meaning_only() -> None:
    """Names of the same meaning are known, others are not; a space without any has no habits."""
    assert Habits(TARGET, nets()).known == ("lr", "optimizer")
    other = Space((Float(name="C", low=0.1, high=10.0, scale=Scale.LOG),))
    assert Habits(other, nets()).known == ()


def test_values_far_outside_the_range_say_nothing() -> None:
    """A learning rate that was good at 10^-3 is no guide for one between 10 and 1000."""
    far = Space((Float(name="lr", low=10.0, high=1000.0, scale=Scale.LOG),))
    assert Habits(far, nets()).known == ()


def test_each_kind_of_task_counts_alike() -> None:
    """Twenty tasks of one kind don't outvote two of another."""
    other = Space(
        (
            Float(name="lr", low=1e-6, high=1.0, scale=Scale.LOG),
            Choice(name="optimizer", options=("Adam", "SGD")),
        )
    )
    many = tuple(source(f"n{i}", NET, good_at(1e-5), count=80, seed=i) for i in range(20))
    few = tuple(source(f"o{i}", other, good_at(1e-1), count=80, seed=i) for i in range(2))
    points = starts(Habits(TARGET, many + few), 256)
    high = sum(p["lr"] > 1e-2 for p in points)
    low = sum(p["lr"] < 1e-4 for p in points)
    assert 0.5 < high / low < 2.0


def test_the_order_of_tasks_changes_nothing() -> None:
    """Habits are a function of the set of tasks."""
    tasks = nets()
    assert starts(Habits(TARGET, tasks)) == starts(Habits(TARGET, tasks[::-1]))


@given(st.floats(0.0, 0.999999), st.floats(0.0, 0.999999))
def test_bending_keeps_the_order_and_the_unit_interval(u: float, v: float) -> None:
    """The bent coordinate rises with the coordinate and stays in [0, 1)."""
    habits = _bent()
    a, b = sorted((u, v))
    for name in ("lr", "optimizer", "clip"):
        assert 0.0 <= habits.bent(name, a) <= habits.bent(name, b) < 1.0


def _bent() -> Habits:
    if not _kept:
        _kept.append(Habits(TARGET, nets()))
    return _kept[0]


_kept: list[Habits] = []


@pytest.mark.parametrize("value", [8, 20, 100, 4000])
def test_an_ordinal_reads_numbers_between_and_beyond_its_options(value: int) -> None:
    """Whatever batch size was good elsewhere, a start is legal."""
    theirs = Space((Int(name="bs", low=1, high=5000), Float(name="z", low=0.0, high=1.0)))
    tasks = (source("t", theirs, lambda p: -abs(p["bs"] - value), count=200),)
    space = Space((Ordinal(name="batch_size", options=(16, 32, 64, 128)),))
    for params in starts(Habits(space, tasks), 16):
        assert not space.problems(params)


# ------------------------------------------------------------------ who answers
def test_level_0_no_task_is_of_use() -> None:
    """Without history, or where a starter shares nothing, proposals are those of the plain designer."""
    designer = designer_for(Algorithm.AUTO)
    plain = ask(designer, problem(WITH_DEFAULT, seed=3), [completed(0, WITH_DEFAULT.default(), 1)])
    strange = replace(problem(WITH_DEFAULT, seed=3), starter=_strangers())
    same = ask(designer, strange, [completed(0, WITH_DEFAULT.default(), 1)])
    assert (same.params, same.proposer, same.detail) == (
        plain.params,
        plain.proposer,
        plain.detail,
    )
    assert plain.proposer == "sobol"


def _strangers() -> tuple[SourceTask, ...]:
    space = Space((Float(name="q", low=0.0, high=1.0), Float(name="r", low=0.0, high=1.0)))
    return (source("strange", space, lambda p: p["q"], count=30),)


@pytest.mark.slow
def test_level_1_a_starter_of_other_kinds_starts_the_job() -> None:
    """The start is bent and says so; then the plain model proposes."""
    designer = designer_for(Algorithm.AUTO)
    asked = replace(problem(TARGET, seed=1), starter=nets())
    trials = []
    for index in range(5):
        suggestion = ask(designer, asked, trials)
        assert suggestion.proposer == "starter"
        assert suggestion.detail["expert"] == "starter"
        assert list(suggestion.detail["known"]) == ["lr", "optimizer"]
        trials.append(completed(index, suggestion.params, good_at(1e-3, "adam")(suggestion.params)))
    assert len({TARGET.key(trial.params) for trial in trials}) == 5
    assert ask(designer, asked, trials).proposer == "gp"


def test_the_default_configuration_comes_before_a_start() -> None:
    """The default is what a user compares with, with a starter, too."""
    asked = replace(problem(WITH_DEFAULT), starter=nets())
    suggestion = ask(designer_for(Algorithm.AUTO), asked)
    assert (suggestion.params, suggestion.proposer) == (WITH_DEFAULT.default(), "default")


def test_a_batch_at_the_start_has_no_duplicates() -> None:
    """Trials that run count as used."""
    designer = designer_for(Algorithm.AUTO)
    asked = replace(problem(TARGET), starter=nets())
    trials = []
    for index in range(4):
        trials.append(running(index, ask(designer, asked, trials).params))
    assert len({TARGET.key(trial.params) for trial in trials}) == 4


def test_level_2_kin_of_the_starter_are_past_tasks() -> None:
    """Tasks with nearly the same parameters guide a job as its own past tasks would."""
    asked = replace(problem(NET), starter=nets())
    suggestion = ask(designer_for(Algorithm.AUTO), asked)
    assert (suggestion.proposer, suggestion.detail["tasks"]) == ("meta-gp", 3)


def test_level_3_enough_own_tasks_are_the_whole_history() -> None:
    """With four past tasks of its own a job looks at no other."""
    own = tuple(source(f"own{i}", NET, good_at(1e-2), count=30, seed=i) for i in range(4))
    asked = replace(problem(NET), history=own, starter=nets())
    assert with_kin(NET, own, asked.starter) == own
    suggestion = ask(designer_for(Algorithm.AUTO), asked)
    assert (suggestion.proposer, suggestion.detail["tasks"]) == ("meta-gp", 4)


def test_few_own_tasks_are_joined_by_kin() -> None:
    """One past task of its own and the starter's kin make one history, the same object each time."""
    own, others = (source("own", NET, good_at(1e-2), count=30),), nets()
    joined = with_kin(NET, own, others)
    assert [task.name for task in joined] == ["own", "n0", "n1", "n2"]
    assert with_kin(NET, own, others) is joined


def test_own_tasks_that_share_nothing_don_t_hinder_a_start() -> None:
    """A history of other things is no history: the job starts by what was good elsewhere."""
    asked = replace(problem(TARGET), history=_strangers(), starter=nets())
    assert ask(designer_for(Algorithm.AUTO), asked).proposer == "starter"


def test_kin_share_two_thirds_of_their_parameters() -> None:
    """The mission's six parameters are no kin of a network's three."""
    assert KIN > 3 / 7
    assert with_kin(MIXED, (), nets()) == ()
