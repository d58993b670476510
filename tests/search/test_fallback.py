"""The proposal of last resort, and how configurations nobody tried are found."""

from __future__ import annotations

import collections
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.designs import MIXED, SMALL, WITH_DEFAULT, completed, failed, running

from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Scale, Space
from foretune.domain.trial import EndReason
from foretune.errors import SpaceExhaustedError
from foretune.search.fallback import sobol_proposal
from foretune.search.sampling import at, draw, shuffled, sobol_points


def test_it_goes_through_a_finite_space_and_then_says_so() -> None:
    """All twelve configurations come once, in whatever state the earlier trials are."""
    states = itertools.cycle(
        [
            lambda i, p: completed(i, p, 0.5),
            lambda i, p: failed(i, p, EndReason.ERROR),
            running,
        ]
    )
    trials = []
    for index in range(12):
        answer = sobol_proposal(SMALL, trials, 7)
        assert answer.proposer == "sobol/fallback"
        trials.append(next(states)(index, answer.params))
    assert {SMALL.key(t.params) for t in trials} == {SMALL.key(p) for p in SMALL.grid()}
    with pytest.raises(SpaceExhaustedError, match="all 12 configurations of the space"):
        sobol_proposal(SMALL, trials, 7)


def test_it_keeps_the_reason_and_starts_with_the_default() -> None:
    """The audit says why a designer was replaced; a default configuration still goes first."""
    answer = sobol_proposal(WITH_DEFAULT, [], 0, reason="timeout")
    assert answer.params == WITH_DEFAULT.default()
    assert answer.detail == {"reason": "timeout"}


def test_the_last_free_configuration_of_a_large_space_is_found() -> None:
    """When all but one of 4,000 configurations are known, that one is proposed."""
    space = Space((Int(name="a", low=1, high=2000), Choice(name="b", options=("x", "y"))))
    grid = list(space.grid())
    trials = [running(i, params) for i, params in enumerate(grid[:1234] + grid[1235:])]
    assert sobol_proposal(space, trials, 3).params == grid[1234]


def test_a_space_too_narrow_to_differ_is_exhausted() -> None:
    """A float whose bounds agree to twelve digits has one configuration."""
    space = Space((Float(name="x", low=1.0, high=1.0 + 1e-14),))
    first = sobol_proposal(space, [], 0).params
    with pytest.raises(SpaceExhaustedError, match="every configuration that differs"):
        sobol_proposal(space, [running(0, first)], 0)


def test_constants_are_filled_in_and_take_no_dimension() -> None:
    """A constant leaves the sequence of the other parameters as it is."""
    lr = Float(name="lr", low=0.0, high=1.0)
    plain = [p["lr"] for p in itertools.islice(sobol_points(Space((lr,)), 1), 8)]
    both = Space((Const(name="data", value="digits"), lr))
    found = list(itertools.islice(sobol_points(both, 1), 8))
    assert [p["lr"] for p in found] == plain
    assert all(p["data"] == "digits" for p in found)


@pytest.mark.parametrize(
    "parameter",
    [
        Int(name="p", low=1, high=4),
        Float(name="p", low=-0.3, high=0.6, step=0.3),
        Ordinal(name="p", options=(16, 32, 64, 128)),
        Choice(name="p", options=("a", "b", "c", "d")),
    ],
    ids=lambda p: type(p).__name__,
)
def test_every_value_of_a_grid_gets_its_share(parameter: Int) -> None:
    """Uniform draws are uniform over the values: the ends are not cut in half."""
    shares = collections.Counter(draw(parameter, (i + 0.5) / 1000) for i in range(1000))
    assert len(shares) == 4
    assert all(abs(count - 250) <= 1 for count in shares.values())


def test_whole_numbers_on_a_log_scale_are_drawn_by_ratio() -> None:
    """Small numbers are drawn more often on a log scale, each of them at least once."""
    parameter = Int(name="n", low=1, high=64, scale=Scale.LOG)
    shares = collections.Counter(draw(parameter, (i + 0.5) / 5000) for i in range(5000))
    assert set(shares) == set(range(1, 65))
    assert shares[1] > shares[8] > shares[40] > 0


@given(seed=st.integers(0, 10**6), limit=st.integers(0, 20))
@settings(deadline=None)
def test_the_walk_through_a_finite_space_repeats_nothing(seed: int, limit: int) -> None:
    """The seeded order visits different configurations, all of them if asked."""
    found = [SMALL.key(params) for params in shuffled(SMALL, limit=limit, seed=seed)]
    assert len(set(found)) == len(found) == min(limit, 12)


def test_numbering_agrees_with_the_grid() -> None:
    """Configuration number i is the i-th of `Space.grid`, log scales and steps included."""
    space = Space(
        (
            Int(name="a", low=2, high=11, step=3, scale=Scale.LOG),
            Float(name="b", low=0.0, high=0.3, step=0.1),
            Ordinal(name="c", options=(1, 10, 100)),
            Const(name="d", value=5),
        )
    )
    assert [at(space, i) for i in range(space.cardinality or 0)] == list(space.grid())


def test_a_proposal_is_a_function_of_the_seed_and_the_trials() -> None:
    """The order of the trials changes nothing; the seed does."""
    trials = []
    for index in range(5):
        trials.append(running(index, sobol_proposal(MIXED, trials, 1).params))
    wanted = sobol_proposal(MIXED, trials, 1)
    assert sobol_proposal(MIXED, trials[::-1], 1) == wanted
    assert sobol_proposal(MIXED, trials, 2) != wanted
