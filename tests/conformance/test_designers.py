"""The one suite that every registered designer passes."""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.designs import (
    MIXED,
    SMALL,
    STEPPED,
    WITH_DEFAULT,
    ask,
    completed,
    failed,
    run,
    running,
    spread,
    valley,
)
from tests.support.designs import problem as plain_problem
from tests.support.sources import source

from foretune.domain.job import Algorithm, Goal
from foretune.domain.trial import EndReason
from foretune.errors import SpaceExhaustedError
from foretune.search.designer import (
    REGISTRY,
    Completed,
    Deadline,
    Designer,
    Pending,
    Problem,
    SourceTask,
    designer_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune.domain.space import Space

    Make = Callable[..., Problem]

FINITE_ONLY = {Algorithm.GRID}
SPACES = {"mixed": MIXED, "small": SMALL, "stepped": STEPPED, "default": WITH_DEFAULT}


WITH_HISTORY = "auto, with a history"
MODELLED = {Algorithm.AUTO, Algorithm.GP, WITH_HISTORY}
"""Those that fit a model, which takes time."""


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in MODELLED else [])
        for name in (*sorted(REGISTRY), WITH_HISTORY)
    ],
    ids=str,
)
def kind(request: pytest.FixtureRequest) -> str:
    """Each registered algorithm, and the one that learns from past tasks with some of them."""
    return request.param


@pytest.fixture
def algorithm(kind: str) -> Algorithm:
    """The algorithm."""
    return Algorithm.AUTO if kind == WITH_HISTORY else Algorithm(kind)


@pytest.fixture
def problem(kind: str) -> Make:
    """What makes a problem, with past tasks of the same direction where the kind has them."""

    def of(space: Space, **changes: Any) -> Problem:
        if kind == WITH_HISTORY:
            changes["history"] = past(space, changes.get("goal", Goal.MAXIMIZE))
        return plain_problem(space, **changes)

    return of


@pytest.fixture
def designer(algorithm: Algorithm) -> Designer:
    """Its designer."""
    return designer_for(algorithm)


@functools.lru_cache
def past(space: Space, goal: Goal) -> tuple[SourceTask, ...]:
    """Three past tasks, the same objects each time."""
    sign = -1.0 if goal is Goal.MINIMIZE else 1.0
    return tuple(
        source(f"t{i}", space, lambda p: sign * spread(p), count=9 + i, seed=i, goal=goal)
        for i in range(3)
    )


def needs(algorithm: Algorithm, space: Space) -> Space:
    """Return `space`, or a finite one for an algorithm that needs that."""
    return STEPPED if algorithm in FINITE_ONLY and space.cardinality is None else space


@pytest.mark.parametrize("name", SPACES)
def test_every_suggestion_is_legal_and_new(
    designer: Designer, algorithm: Algorithm, name: str, problem: Make
) -> None:
    """Bounds, steps and types are respected, and no configuration comes twice."""
    space = needs(algorithm, SPACES[name])
    trials = run(designer, problem(space), 11)
    for trial in trials:
        assert space.problems(trial.params) == []
        assert list(trial.params) == list(space.names)
    assert len({space.key(trial.params) for trial in trials}) == len(trials)


def test_a_finite_space_is_used_up_and_then_exhausted(designer: Designer, problem: Make) -> None:
    """Every configuration of a finite space is proposed once, then `SpaceExhaustedError`."""
    trials = run(designer, problem(SMALL), 12)
    assert {SMALL.key(t.params) for t in trials} == {SMALL.key(p) for p in SMALL.grid()}
    with pytest.raises(SpaceExhaustedError, match="all 12 configurations"):
        ask(designer, problem(SMALL), trials)


def test_configurations_that_only_wait_are_not_proposed_again(
    designer: Designer, problem: Make
) -> None:
    """Pending trials use up a finite space just as finished ones do."""
    trials = [running(i, params) for i, params in enumerate(SMALL.grid())]
    assert ask(designer, problem(SMALL), trials[:-1]).params == trials[-1].params
    with pytest.raises(SpaceExhaustedError):
        ask(designer, problem(SMALL), trials)


def test_a_batch_of_pending_trials_has_no_duplicates(
    designer: Designer, algorithm: Algorithm, problem: Make
) -> None:
    """Eight proposals in a row without any outcome, after six with one, are all different."""
    space = needs(algorithm, MIXED)
    trials = run(designer, problem(space), 6)
    for index in range(6, 14):
        trials.append(running(index, ask(designer, problem(space), trials).params))
    assert len({space.key(t.params) for t in trials}) == 14


def test_the_same_request_gives_the_same_answer(
    designer: Designer, algorithm: Algorithm, problem: Make
) -> None:
    """A fresh designer answers like a used one: nothing is remembered between calls."""
    space = needs(algorithm, MIXED)
    trials = run(designer, problem(space, seed=3), 9)
    again = ask(designer_for(algorithm), problem(space, seed=3), trials)
    assert again == ask(designer, problem(space, seed=3), trials)


def test_seeds_matter(designer: Designer, algorithm: Algorithm, kind: str, problem: Make) -> None:
    """Another seed is another search (the grid has only one order; the bests of past tasks may have)."""
    first, second = (
        [t.params for t in run(designer, problem(needs(algorithm, MIXED), seed=s), 4)]
        for s in (1, 2)
    )
    if kind != WITH_HISTORY:
        assert (first == second) == (algorithm is Algorithm.GRID)


def test_the_order_in_which_trials_are_given_changes_nothing(
    designer: Designer, algorithm: Algorithm, problem: Make
) -> None:
    """A permutation of finished and pending trials gives the same configuration."""
    space = needs(algorithm, MIXED)
    trials = run(designer, problem(space), 9)
    trials += [running(9, ask(designer, problem(space), trials).params)]
    trials += [failed(10, ask(designer, problem(space), trials).params)]
    wanted = ask(designer, problem(space), trials)
    for seed in range(3):
        mixed = random.Random(seed).sample(trials, len(trials))
        assert ask(designer, problem(space), mixed) == wanted


def test_minimising_is_maximising_the_negation(
    designer: Designer, algorithm: Algorithm, problem: Make
) -> None:
    """The direction of the objective is a sign and nothing else."""
    space = needs(algorithm, MIXED)
    up = run(designer, problem(space), 10)
    down = run(designer, problem(space, goal=Goal.MINIMIZE), 10, lambda p: -spread(p))
    assert [t.params for t in up] == [t.params for t in down]


def test_the_default_configuration_comes_first(designer: Designer, problem: Make) -> None:
    """A space whose parameters all have defaults starts with them."""
    suggestion = ask(designer, problem(WITH_DEFAULT))
    assert suggestion.params == {"dropout": 0.3, "optimizer": "sgd"}
    assert suggestion.proposer == "default"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0.5] * 9, id="constant"),
        pytest.param([0.5], id="one"),
        pytest.param([0.1, 0.2, 0.3, 0.2, 0.1, 0.4, 1e6], id="outlier"),
        pytest.param([0.1, 0.2, 0.3, 0.2, 0.1, 0.4, -1e6], id="bad outlier"),
        pytest.param([1e300, -1e300, 1e300, 0.0, 1.0, 2.0], id="huge"),
        pytest.param([1e-300, 2e-300, 3e-300, 4e-300, 5e-300, 6e-300], id="tiny"),
    ],
)
def test_odd_values_get_an_answer(
    designer: Designer, algorithm: Algorithm, values: list[float], problem: Make
) -> None:
    """Whatever the values, there is a legal new configuration."""
    space = needs(algorithm, MIXED)
    params = [t.params for t in run(designer_for(needs_points(algorithm)), problem(space), 9)]
    trials = [completed(i, p, v) for i, (p, v) in enumerate(zip(params, values, strict=False))]
    suggestion = ask(designer, problem(space), trials)
    assert space.problems(suggestion.params) == []
    assert space.key(suggestion.params) not in {space.key(t.params) for t in trials}
    assert not suggestion.fallbacks, "odd values are no reason to give the model up"


def needs_points(algorithm: Algorithm) -> Algorithm:
    """Return a cheap algorithm that works on the space of `algorithm`."""
    return algorithm if algorithm in FINITE_ONLY else Algorithm.SOBOL


@pytest.mark.parametrize(
    "reason",
    [
        EndReason.OUT_OF_MEMORY,
        EndReason.DIVERGED,
        EndReason.ERROR,
        EndReason.METRICS_MISSING,
        EndReason.NODE_LOST,
    ],
)
def test_failures_alone_get_an_answer(
    designer: Designer, algorithm: Algorithm, reason: EndReason, problem: Make
) -> None:
    """When every trial so far failed, the next configuration is legal and new."""
    space = needs(algorithm, MIXED)
    trials = []
    for index in range(6):
        params = ask(designer, problem(space), trials).params
        trials.append(failed(index, params, reason))
    assert len({space.key(t.params) for t in trials}) == 6


def test_trials_outside_the_space_are_passed_over(
    designer: Designer, algorithm: Algorithm, problem: Make
) -> None:
    """A trial with parameters that the space does not have disturbs nothing."""
    space = needs(algorithm, MIXED)
    trials = run(designer_for(needs_points(algorithm)), problem(space), 8)
    stranger = completed(8, {"other": 1}, 5.0)
    suggestion = ask(designer, problem(space), [*trials, stranger])
    assert space.problems(suggestion.params) == []


def test_many_pending_trials_without_any_value(
    designer: Designer, algorithm: Algorithm, problem: Make
) -> None:
    """A wide start (no trial has ended yet) keeps proposing new configurations."""
    space = needs(algorithm, MIXED)
    trials = []
    for index in range(20):
        trials.append(running(index, ask(designer, problem(space), trials).params))
    assert len({space.key(t.params) for t in trials}) == 20


def test_suggestions_are_plain_json_values(
    designer: Designer, algorithm: Algorithm, problem: Make
) -> None:
    """Parameters are exact Python types, as they go into JSON, the database and a pod."""
    space = needs(algorithm, MIXED)
    for trial in run(designer, problem(space), 8, valley if space is MIXED else spread):
        assert {type(v) for v in trial.params.values()} <= {int, float, str, bool}


def test_a_cancelled_deadline_still_gives_an_answer(
    designer: Designer, algorithm: Algorithm, problem: Make
) -> None:
    """Out of time, a designer that computes steps aside for one that does not."""
    space = needs(algorithm, MIXED)
    trials = run(designer_for(needs_points(algorithm)), problem(space), 9)
    deadline = Deadline(60.0)
    deadline.cancel()
    suggestion = designer.suggest(problem(space), Completed(trials), Pending(), deadline)
    assert space.problems(suggestion.params) == []
    if algorithm in {Algorithm.AUTO, Algorithm.GP}:
        assert suggestion.proposer == "sobol/fallback"
        assert {f.reason for f in suggestion.fallbacks} == {"timeout"}
