"""Where moves are too small to matter."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.designs import ask, completed, problem

from foretune.domain.space import Float, Space
from foretune.search.designer import designer_for
from foretune.search.plateau import FARTHEST, radius, wasted


def line(*places: float) -> torch.Tensor:
    """Rows of one column."""
    return torch.tensor(places, dtype=torch.float64).unsqueeze(1)


def values(*numbers: float) -> torch.Tensor:
    """What came of them."""
    return torch.tensor(numbers, dtype=torch.float64)


def test_different_values_say_nothing_of_plateaus() -> None:
    """Without two equal values every distance may matter."""
    assert radius(line(0.1, 0.11, 0.5), values(1, 2, 3)) == 0
    assert radius(line(0.1), values(1)) == 0


def test_equal_values_of_neighbours_show_how_far_to_go() -> None:
    """Twice the distance that changed nothing, not as far as the next that changed something."""
    assert radius(line(0.5, 0.51), values(1, 1)) == 2 * float(line(0.51) - line(0.5))
    found = radius(line(0.5, 0.51, 0.525), values(1, 1, 2))
    assert 0.0149 < found < 0.015
    assert radius(line(0.5, 0.9), values(1, 1)) == FARTHEST


def test_a_value_met_again_far_away_is_no_plateau() -> None:
    """Most of the nearer trials were different, so that the equal value is taken for chance."""
    assert radius(line(0.1, 0.2, 0.3, 0.4, 0.6), values(1, 2, 3, 4, 4)) == 0


def test_what_is_near_to_a_trial_is_wasted() -> None:
    """Candidates within the distance lose all others' score; with no distance none does."""
    lost = wasted(line(0.5, 0.55, 0.8), line(0.5), 0.1)
    assert (lost < 0).tolist() == [True, True, False]
    assert not wasted(line(0.5), line(0.5), 0.0).any()


@pytest.mark.slow
def test_steps_are_not_tried_twice() -> None:
    """On a function of steps the plain expert sees more of them than its trials near the best would."""
    space = Space((Float(name="x", low=0.0, high=1.0), Float(name="y", low=0.0, high=1.0)))
    trials, seen = [], set()
    for index in range(14):
        params = ask(designer_for("gp"), problem(space), trials).params
        step = math.floor(8 * float(params["x"])), math.floor(8 * float(params["y"]))
        seen.add(step)
        value = -math.hypot(step[0] - 5, step[1] - 2)
        trials.append(completed(index, params, value))
    assert len(seen) >= 11
