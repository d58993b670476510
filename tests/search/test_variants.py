"""The learning designer with parts taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.search.test_meta_gp import PLANE, hills
from tests.support.designs import ask, completed, problem, run, spread

from foretune.experiment.methods import method
from foretune.search.variants import hyperbo, kernel_only, no_guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune.search.designer import Designer


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("make", [hyperbo, kernel_only, no_guard])
def test_each_proposes_new_and_legal_configurations(make: Callable[[], Designer]) -> None:
    """Every variant tunes a small job with a history, and never proposes one twice."""
    designer = make()
    trials = run(designer, problem(PLANE, history=hills()), 5)
    keys = {PLANE.key(trial.params) for trial in trials}
    assert len(keys) == 5
    assert not any(PLANE.problems(trial.params) for trial in trials)


def test_without_the_guard_the_plain_expert_has_no_turn() -> None:
    """What `no_guard` leaves out is every proposal of the plain expert."""
    designer, given = no_guard(), problem(PLANE, history=hills())
    trials = []
    for index in range(9):
        found = ask(designer, given, trials)
        assert found.proposer == "meta-gp"
        trials.append(completed(index, found.params, spread(found.params)))


def test_the_replay_finds_them_by_name() -> None:
    """The replay command takes a variant as NAME=MODULE:FUNCTION."""
    assert callable(method("hyperbo=foretune.search.variants:hyperbo"))
