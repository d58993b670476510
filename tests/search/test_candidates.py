"""Proposals among given configurations only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.designs import MIXED, ask, problem, run

from foretune import optimizer
from foretune.domain.job import Algorithm
from foretune.errors import InvalidInputError, SpaceExhaustedError
from foretune.search.candidates import drawn, nearest, spread
from foretune.search.designer import REGISTRY, designer_for
from foretune.search.sampling import random_points

SOME = tuple(params for params, _ in zip(random_points(MIXED, 3), range(12), strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", sorted(set(REGISTRY) - {Algorithm.GRID}))
def test_every_candidate_is_proposed_once_and_nothing_else(algorithm: Algorithm) -> None:
    """A designer uses up the candidates, then says that none is left."""
    designer = designer_for(algorithm)
    limited = replace(problem(MIXED), candidates=SOME)
    trials = run(designer, limited, len(SOME))
    assert {MIXED.key(t.params) for t in trials} == {MIXED.key(p) for p in SOME}
    with pytest.raises(SpaceExhaustedError, match="candidates: all 12 were proposed"):
        ask(designer, limited, trials)


@pytest.mark.slow
def test_the_model_chooses_the_candidate_it_thinks_best() -> None:
    """The Gaussian process finds the best of many candidates sooner than chance would."""
    rows = tuple(params for params, _ in zip(random_points(MIXED, 5), range(300), strict=False))

    def at(algorithm: str) -> int:
        opt = optimizer.Optimizer(MIXED, algorithm=algorithm, seed=1, candidates=rows)
        lrs = []
        for _ in range(20):
            (suggestion,) = opt.suggest()
            assert suggestion.params in rows
            lrs.append(float(suggestion.params["lr"]))
            opt.observe(suggestion.id, value=abs(lrs[-1] - 0.09))
        return sorted((float(r["lr"]) for r in rows), key=lambda lr: abs(lr - 0.09)).index(
            min(lrs, key=lambda lr: abs(lr - 0.09))
        )

    assert at("gp") == 0
    assert at("random") > 0


def test_nearest_measures_numbers_on_their_scale_and_choices_as_apart() -> None:
    """Another optimizer is further away than a learning rate half the range off."""
    (point,) = (dict(SOME[0], lr=1e-3, optimizer="adam"),)
    other_lr, other_optimizer = dict(point, lr=1e-1), dict(point, optimizer="sgd")
    assert nearest(MIXED, (other_optimizer, other_lr), point) == other_lr


def test_seeds_spread_and_draw_differently() -> None:
    """Another seed starts at another candidate; the same one at the same."""
    for choose in (spread, drawn):
        first = {MIXED.key(choose(MIXED, SOME, set(), seed=seed)) for seed in range(8)}
        assert len(first) > 2
        assert choose(MIXED, SOME, set(), seed=4) == choose(MIXED, SOME, set(), seed=4)


def test_candidates_are_checked() -> None:
    """An illegal candidate is named; an empty list is no candidates at all."""
    with pytest.raises(InvalidInputError, match=r"candidates\[1\].*lr"):
        optimizer.Optimizer(MIXED, candidates=[SOME[0], dict(SOME[1], lr=7.0)])
    with pytest.raises(InvalidInputError, match="must not be empty"):
        optimizer.Optimizer(MIXED, candidates=[])
