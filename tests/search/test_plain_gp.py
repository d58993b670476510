"""The plain expert as a whole: it learns, it takes failures in, and its breakdowns reach nobody."""

from __future__ import annotations

import logging
import math
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from linear_operator.utils.errors import NanError, NotPSDError
from tests.support.designs import (
    MIXED,
    SMALL,
    ask,
    completed,
    failed,
    problem,
    run,
    running,
    spread,
    valley,
)

from foretune.domain.job import Goal, Objective
from foretune.domain.space import Choice, Float, Ordinal, Scale, Space
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import InvalidInputError, SpaceExhaustedError
from foretune.search.designer import Completed, Deadline, Pending, Problem, designer_for
from foretune.search.fit import Fit, fit_single_task_gp
from foretune.search.kept import KEPT, kept
from foretune.search.ladder import Ladder
from foretune.search.plain_gp import PlainGP, initial_trials
from foretune.search.simple import SobolDesigner

if TYPE_CHECKING:
    from collections.abc import Callable


def ladder(fit: Callable[[torch.Tensor, torch.Tensor, Deadline], Fit]) -> Ladder:
    """Return the registered ladder with another fit."""
    return Ladder((PlainGP(fit=fit), SobolDesigner()))


@pytest.mark.slow
def test_it_beats_random_search_on_a_mixed_space() -> None:
    """After 25 trials the median regret is at most a quarter of random search's, over five seeds."""
    regret = {"gp": list[float](), "random": list[float]()}
    for seed in range(5):
        for name, found in regret.items():
            trials = run(designer_for(name), problem(MIXED, seed=seed), 25, valley)
            found.append(0.3 - max(t.value for t in trials if t.value is not None))
    assert statistics.median(regret["gp"]) < 0.25 * statistics.median(regret["random"])
    better = sum(a < b for a, b in zip(regret["gp"], regret["random"], strict=True))
    assert better >= 4


@pytest.mark.slow
def test_it_finds_the_optimum_of_a_smooth_function() -> None:
    """Twenty trials come within 1 % of the range of the optimum of a two-dimensional valley."""
    space = Space(
        (Float(name="lr", low=1e-5, high=1e-1, scale=Scale.LOG), Float(name="x", low=0.0, high=1.0))
    )

    def loss(params: dict[str, object]) -> float:
        return (math.log10(float(params["lr"])) + 3.2) ** 2 / 4 + (float(params["x"]) - 0.37) ** 2

    trials = run(designer_for("gp"), problem(space, goal=Goal.MINIMIZE), 20, loss)
    assert min(t.value for t in trials if t.value is not None) < 0.01


@pytest.mark.slow
def test_the_start_is_sobol_and_its_length_follows_the_space() -> None:
    """Three to six Sobol points by dimension, or as many as the job says; then the model."""
    assert initial_trials(problem(MIXED)) == 6
    assert initial_trials(problem(SMALL)) == 3
    assert initial_trials(problem(Space((Float(name="x", low=0, high=1),)))) == 3
    assert initial_trials(problem(MIXED, initial=2)) == 2
    for initial, wanted in ((None, 6), (2, 2), (9, 9)):
        given = problem(MIXED, initial=initial)
        trials: list[Trial] = []
        proposers = []
        for index in range(wanted + 2):
            suggestion = ask(designer_for("gp"), given, trials)
            proposers.append(suggestion.proposer)
            trials.append(completed(index, suggestion.params, valley(suggestion.params)))
        assert proposers == ["sobol"] * wanted + ["gp"] * 2


def test_the_start_is_that_of_the_sobol_designer() -> None:
    """The first points are those of algorithm sobol with the same seed."""
    ours = run(designer_for("gp"), problem(MIXED, seed=4), 6)
    theirs = run(designer_for("sobol"), problem(MIXED, seed=4), 6)
    assert [t.params for t in ours] == [t.params for t in theirs]


@pytest.mark.slow
def test_the_audit_is_in_the_metrics_unit() -> None:
    """Predicted mean, deviation and incumbent are plain JSON in the unit of the objective."""
    trials = run(designer_for("gp"), problem(MIXED), 12, lambda p: 1000 + valley(p))
    suggestion = ask(designer_for("gp"), problem(MIXED), trials)
    detail = suggestion.detail
    assert 985 < detail["mean"] < 1001
    assert 0 < detail["sd"] < 10
    assert max(t.value for t in trials) - 1 < detail["incumbent"] < 1001
    assert (detail["observations"], detail["failures"], detail["pending"]) == (12, 0, 0)
    assert set(detail["lengthscales"]) == set(MIXED.names) - {"dataset"}
    assert set(suggestion.timings) == {"fit", "acquire"}


@pytest.mark.slow
def test_pending_trials_spread_a_batch() -> None:
    """A batch of four proposals is not four times nearly the same point."""
    space = Space((Float(name="x", low=0.0, high=1.0), Float(name="y", low=0.0, high=1.0)))
    trials = run(designer_for("gp"), problem(space), 8, spread)
    for index in range(8, 12):
        trials.append(running(index, ask(designer_for("gp"), problem(space), trials).params))
    batch = [t.params for t in trials[8:]]
    distances = [
        math.dist(tuple(a.values()), tuple(b.values()))
        for i, a in enumerate(batch)
        for b in batch[i + 1 :]
    ]
    assert min(distances) > 0.02


MEMORY = Space(
    (
        Ordinal(name="batch_size", options=(8, 16, 32, 64, 128, 256, 512, 1024)),
        Ordinal(name="layers", options=(1, 2, 3, 4, 5, 6, 7, 8)),
        Float(name="lr", low=1e-4, high=1e-1, scale=Scale.LOG),
    )
)


def memory_run(reason: EndReason, count: int) -> list[Trial]:
    """Run a job in which larger models are better until memory ends."""
    trials: list[Trial] = []
    for index in range(count):
        params = ask(designer_for("gp"), problem(MEMORY), trials).params
        size = float(params["batch_size"]) * float(params["layers"])
        if size > 600:
            trials.append(failed(index, params, reason))
            continue
        value = math.log(size) - (math.log10(float(params["lr"])) + 2.5) ** 2
        trials.append(completed(index, params, value))
    return trials


@pytest.mark.slow
@pytest.mark.parametrize("reason", [EndReason.OUT_OF_MEMORY, EndReason.DIVERGED, EndReason.ERROR])
def test_failures_teach_where_not_to_go(reason: EndReason) -> None:
    """Although the limit is where the best configurations are, few trials run into it after the start."""
    trials = memory_run(reason, 22)
    failures = sum(t.value is None for t in trials[6:])
    assert failures <= 5
    best = max(t.value for t in trials if t.value is not None)
    assert best > math.log(600) - 0.6


def test_failures_alone_lead_away_from_them() -> None:
    """When everything so far ran out of memory, the next configuration is smaller than they were."""
    large = [{"batch_size": b, "layers": 8, "lr": 0.001} for b in (128, 256, 512, 1024)]
    trials = [failed(i, dict(p)) for i, p in enumerate(large)]
    suggestion = ask(designer_for("gp"), problem(MEMORY), trials)
    assert suggestion.params["batch_size"] * suggestion.params["layers"] < 1024
    assert suggestion.detail["failures"] == 4


@pytest.mark.slow
def test_what_says_nothing_about_a_configuration_enters_no_model() -> None:
    """A lost node, a deleted job and a missing metric change no prediction; their points stay used."""
    trials = run(designer_for("gp"), problem(MIXED), 8, valley)
    plain = ask(designer_for("gp"), problem(MIXED), trials)
    again = [
        failed(8, plain.params, EndReason.METRICS_MISSING),
        failed(9, trials[0].params, EndReason.NODE_LOST),
    ]
    after = ask(designer_for("gp"), problem(MIXED), [*trials, *again])
    assert after.detail["failures"] == 0
    assert after.detail["observations"] == 8
    assert after.params != plain.params


@pytest.mark.slow
def test_values_of_a_curve_that_left_the_finite_numbers_are_no_values() -> None:
    """A trial marked as not finite counts as no value, whatever number it still carries."""
    trials = run(designer_for("gp"), problem(MIXED), 8, valley)
    broken = Trial(
        job_uid="job",
        index=8,
        params=ask(designer_for("gp"), problem(MIXED), trials).params,
        state=TrialState.INFEASIBLE,
        config_hash="",
        value=1e9,
        nonfinite=True,
        reason=EndReason.DIVERGED,
    )
    detail = ask(designer_for("gp"), problem(MIXED), [*trials, broken]).detail
    assert (detail["observations"], detail["failures"]) == (8, 1)


def test_a_long_job_keeps_its_best_and_latest_trials() -> None:
    """Beyond 300 values the model sees the 150 best of the older ones and the 150 latest."""
    trials = [completed(i, {"x": i}, float(-i)) for i in range(400)]
    chosen = [t.index for t in kept(trials, problem(SMALL))]
    assert chosen == [*range(KEPT), *range(400 - KEPT, 400)]
    worst_first = [t.index for t in kept(trials, problem(SMALL, goal=Goal.MINIMIZE))]
    assert worst_first == [*range(100, 250), *range(250, 400)]


def test_a_predicted_value_counts_as_its_deviation_says() -> None:
    """A stopped trial that is predicted far above all with a wide deviation is not believed."""
    values = [0.5, 0.52, 0.48, 0.51, 0.53, 0.9]

    def told(sd: float) -> dict[str, float]:
        trials = [
            Trial(
                job_uid="j",
                index=i,
                params={"x": i / 10, "y": 0.5},
                state=TrialState.EARLY_STOPPED if i == 5 else TrialState.COMPLETED,
                config_hash="",
                value=value,
                value_sd=sd if i == 5 else 0.0,
            )
            for i, value in enumerate(values)
        ]
        space = Space((Float(name="x", low=0.0, high=1.0), Float(name="y", low=0.0, high=1.0)))
        problem = Problem(space=space, objective=Objective(metric="accuracy"))
        gp = PlainGP()
        found = gp.suggest(problem, Completed(trials), Pending(), Deadline(math.inf))
        assert found.proposer == "gp"
        return {name: float(found.detail[name]) for name in ("incumbent", "noise_sd")}

    assert told(0.0)["incumbent"] > 0.7
    assert told(2.0)["incumbent"] < 0.65


def breaks(error: Exception) -> Callable[..., Fit]:
    """Return a fit that raises."""

    def fit(*_: object) -> Fit:
        raise error

    return fit


def nan_noise(X: torch.Tensor, z: torch.Tensor, deadline: Deadline) -> Fit:
    """A fit that ends with a noise variance that is not a number."""
    good = fit_single_task_gp(X, z, deadline)
    return Fit(good.kernel, good.constant, math.nan, good.lengthscales)


def indefinite(X: torch.Tensor, z: torch.Tensor, deadline: Deadline) -> Fit:
    """A fit whose kernel is not positive definite at all."""
    good = fit_single_task_gp(X, z, deadline)
    return Fit(lambda A, B: -good.kernel(A, B), good.constant, good.noise, good.lengthscales)


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        pytest.param(breaks(NotPSDError("not positive definite")), "cholesky", id="not psd"),
        pytest.param(breaks(NanError("nan in the kernel")), "nan", id="nan error"),
        pytest.param(breaks(MemoryError("no memory")), "error", id="memory"),
        pytest.param(nan_noise, "nan", id="nan noise"),
        pytest.param(indefinite, "cholesky", id="indefinite kernel"),
    ],
)
def test_a_numerical_breakdown_ends_one_level_lower(
    fit: Callable[[torch.Tensor, torch.Tensor, Deadline], Fit],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever breaks in the model, the user gets a new Sobol point, and the audit says why."""
    trials = run(designer_for("sobol"), problem(MIXED), 8, valley)
    with caplog.at_level(logging.WARNING):
        suggestion = ask(ladder(fit), problem(MIXED), trials)
    assert suggestion.proposer == "sobol/fallback"
    assert MIXED.problems(suggestion.params) == []
    assert MIXED.key(suggestion.params) not in {MIXED.key(t.params) for t in trials}
    (fallback,) = suggestion.fallbacks
    assert (fallback.source, fallback.target, fallback.reason) == ("gp", "sobol", reason)
    assert suggestion.detail["fallbacks"][0]["reason"] == reason
    assert "sobol stands in" in caplog.text


def test_a_broken_model_still_ends_with_exhaustion() -> None:
    """Exhaustion is no breakdown: it reaches the user as such, from the level below too."""
    designer = ladder(breaks(NotPSDError("no")))
    trials = [completed(i, p, float(i)) for i, p in enumerate(SMALL.grid())]
    assert ask(designer, problem(SMALL), trials[:-1]).params == trials[-1].params
    with pytest.raises(SpaceExhaustedError):
        ask(designer, problem(SMALL), trials)


def test_the_process_keeps_its_torch_settings() -> None:
    """Threads, default type and the global random stream are as before a suggestion."""
    trials = run(designer_for("sobol"), problem(MIXED), 8, valley)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        state = torch.get_rng_state()
        ask(designer_for("gp"), problem(MIXED), trials)
        assert torch.get_num_threads() == 3
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_num_threads(before)


def test_completed_and_pending_refuse_the_wrong_trials() -> None:
    """A running trial is not completed, an ended one is not pending."""
    with pytest.raises(InvalidInputError, match="trial 3 has not ended"):
        Completed([running(3, {})])
    with pytest.raises(InvalidInputError, match="trial 4 has ended"):
        Pending([completed(4, {}, 1.0)])


def test_an_unknown_algorithm_is_named_with_those_there_are() -> None:
    """The error says which algorithms exist."""
    with pytest.raises(InvalidInputError, match="auto, gp, random, sobol, grid, not 'tpe'"):
        designer_for("tpe")


def test_grid_names_the_parameter_that_has_no_end() -> None:
    """Grid search over a continuous parameter is refused with what would be right."""
    space = Space((Choice(name="c", options=("a",)), Float(name="lr", low=0.1, high=1.5)))
    with pytest.raises(InvalidInputError, match=r"space\.lr: .*step or a list of values"):
        ask(designer_for("grid"), problem(space))


def test_designers_without_a_model_do_not_import_torch() -> None:
    """Sobol, random and grid search work in an image without torch."""
    code = (
        "import sys\n"
        "from foretune.search.designer import designer_for\n"
        "[designer_for(a) for a in ('sobol', 'random', 'grid')]\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
