"""Whatever breaks, the next level answers: past tasks, plain model, Sobol."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from tests.support.designs import STEPPED, ask, problem, run, spread
from tests.support.sources import source

from foretune.search import meta_gp
from foretune.search.designer import designer_for
from foretune.search.plain_gp import PlainGP
from foretune.search.posterior import NotFiniteError

if TYPE_CHECKING:
    from foretune.domain.trial import Trial
    from foretune.search.designer import Problem, SourceTask

pytestmark = pytest.mark.slow

BREAKS = {
    "cholesky": torch.linalg.LinAlgError("the matrix is not positive definite"),
    "nan": NotFiniteError("nan"),
    "error": OverflowError("int too large to convert to float"),
}
"""What goes wrong, by the reason that the audit gives."""


@pytest.fixture(scope="module")
def history() -> tuple[SourceTask, ...]:
    """Two past tasks."""
    return tuple(source(f"t{i}", STEPPED, spread, count=12, seed=i) for i in range(2))


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    """Trials after which models have the turn."""
    return run(designer_for("sobol"), problem(STEPPED), 6)


def broken(error: Exception) -> object:
    """Something that can't be made."""

    def raises(*_: object, **__: object) -> None:
        raise error

    return raises


def levels(given: Problem, trials: list[Trial]) -> tuple[str, list[tuple[str, str, str]]]:
    """Return who proposed, and every step down; the proposal is legal and new."""
    suggestion = ask(designer_for("auto"), given, trials)
    assert STEPPED.problems(suggestion.params) == []
    assert STEPPED.key(suggestion.params) not in {STEPPED.key(t.params) for t in trials}
    told = suggestion.detail.get("fallbacks", [])
    steps = [(f.source, f.target, f.reason) for f in suggestion.fallbacks]
    assert [(f["from"], f["to"], f["reason"]) for f in told] == steps
    return suggestion.proposer, steps


@pytest.mark.parametrize("part", ["Mixed", "Basis", "read"])
@pytest.mark.parametrize("reason", BREAKS)
def test_without_past_tasks_the_plain_model_answers(
    monkeypatch: pytest.MonkeyPatch,
    history: tuple[SourceTask, ...],
    trials: list[Trial],
    part: str,
    reason: str,
) -> None:
    """Reading a history, fitting it and conditioning on it may each break, for any reason."""
    monkeypatch.setattr(meta_gp, part, broken(BREAKS[reason]))
    monkeypatch.setattr(meta_gp, "_ready", [])
    proposer, steps = levels(problem(STEPPED, history=history), trials)
    assert proposer == "gp/fallback"
    assert steps == [("meta-gp", "gp", reason)]


@pytest.mark.parametrize("reason", BREAKS)
def test_without_any_model_sobol_answers(
    monkeypatch: pytest.MonkeyPatch,
    history: tuple[SourceTask, ...],
    trials: list[Trial],
    reason: str,
) -> None:
    """What breaks both models ends two levels lower, and the audit names both."""
    monkeypatch.setattr(meta_gp, "Mixed", broken(BREAKS[reason]))
    monkeypatch.setattr(PlainGP, "_by_model", broken(BREAKS[reason]))
    proposer, steps = levels(problem(STEPPED, history=history), trials)
    assert proposer == "sobol/fallback"
    assert steps == [("meta-gp", "gp", reason), ("gp", "sobol", reason)]


def test_a_history_without_numbers_breaks_nothing(trials: list[Trial]) -> None:
    """Tasks whose rows are all of no use leave the plain model, without a step down."""
    flat = source("flat", STEPPED, lambda p: 1.0, count=9)
    lost = source("lost", STEPPED, lambda p: math.nan, count=9)
    assert levels(problem(STEPPED, history=(flat, lost)), trials) == ("gp", [])


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_near_copies_of_one_point_need_no_step_down(
    history: tuple[SourceTask, ...], scale: float
) -> None:
    """Twelve neighbours of one point with nearly one value make a matrix that is hardly definite."""
    near = run(designer_for("grid"), problem(STEPPED), 12, lambda p: scale * (1 + 1e-13 * p["x"]))
    for given in (problem(STEPPED), problem(STEPPED, history=history)):
        assert levels(given, near)[1] == []
