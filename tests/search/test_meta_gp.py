"""The designer that learns from past tasks: what it gains, and what a bad history can't take."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from tests.support.designs import (
    MIXED,
    SMALL,
    WITH_DEFAULT,
    ask,
    completed,
    failed,
    problem,
    run,
    running,
    spread,
)
from tests.support.sources import source

from foretune.domain.job import Goal
from foretune.domain.space import Float, Scale, Space
from foretune.errors import SpaceExhaustedError
from foretune.optimizer import Observation, Optimizer, TaskHistory
from foretune.search import meta_gp
from foretune.search.basis import Basis
from foretune.search.conditioning import ALL, NOISES, Mixed, Rows, beliefs, nothing_known
from foretune.search.designer import designer_for
from foretune.search.encode import Encoding
from foretune.search.fit import matern
from foretune.search.meta_gp import GRACE, MetaGP
from foretune.search.posterior import NotFiniteError
from foretune.search.tasks import read

if TYPE_CHECKING:
    from foretune.domain.space import Params
    from foretune.search.designer import SourceTask

PLANE = Space(
    (
        Float(name="lr", low=1e-5, high=1e-1, scale=Scale.LOG),
        Float(name="x", low=0.0, high=1.0),
        Float(name="y", low=0.0, high=1.0),
    )
)


def hill(shift: float, sign: float = 1.0) -> object:
    """A smooth objective over `PLANE`, its top at lr = 10^-3.2 and near (0.3, 0.7)."""

    def value(params: Params) -> float:
        lr, x, y = math.log10(float(params["lr"])), float(params["x"]), float(params["y"])
        away = (lr + 3.2) ** 2 / 4 + 3 * (x - 0.3 - shift) ** 2 + 3 * (y - 0.7 + shift) ** 2
        return sign * math.exp(-away)

    return value


def hills(sign: float = 1.0, count: int = 4) -> tuple[SourceTask, ...]:
    """Past tasks whose tops lie a little apart."""
    return tuple(
        source(f"h{i}", PLANE, hill(0.05 * (i - 1), sign), count=50, seed=i) for i in range(count)
    )


def regret(trials: list[object]) -> float:
    """How far the best trial is from the top of `hill(0)`."""
    return 1 - max(t.value for t in trials)


# ------------------------------------------------------------------ what it gains
@pytest.mark.slow
def test_close_relatives_pay_from_the_first_trial() -> None:
    """After three trials the regret is below that of the plain expert after nine."""
    auto = designer_for("auto")
    with_history = run(auto, problem(PLANE, history=hills()), 6, hill(0.0))
    alone = run(auto, problem(PLANE), 9, hill(0.0))
    assert regret(with_history[:3]) < 0.05
    assert regret(with_history[:3]) < regret(alone)
    assert with_history[0].params in [t.params for h in hills() for t in h.trials]


@pytest.mark.slow
def test_a_negated_history_costs_little() -> None:
    """When past tasks say the opposite of the truth, the job still comes near the top."""
    asked, trials = problem(PLANE, history=hills(-1.0)), []
    for index in range(24):
        suggestion = ask(designer_for("auto"), asked, trials)
        ended = completed(index, suggestion.params, hill(0.0)(suggestion.params))
        trials.append(replace(ended, proposer=suggestion.proposer))
    assert sum(t.proposer in {"gp", "sobol"} for t in trials) >= (24 - GRACE) // 2
    assert regret(trials) < 0.15


@pytest.mark.slow
def test_evidence_tells_a_good_history_from_a_misleading_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Predictions that come true lower the odds of the plain expert; past the limit the prior is off."""
    points = [t.params for t in source("p", PLANE, hill(0.0), count=12, seed=5).trials]
    trials = [completed(i, p, hill(0.0)(p)) for i, p in enumerate(points)]
    good = ask(designer_for("auto"), problem(PLANE, history=hills()), trials).detail
    bad_history = problem(PLANE, history=hills(-1.0))
    bad = ask(designer_for("auto"), bad_history, trials).detail
    assert good["log_odds_plain"] < 0
    assert good["log_odds_plain"] < bad["log_odds_plain"] - 1
    assert good["weights"]["plain"] <= bad["weights"]["plain"]
    monkeypatch.setattr(meta_gp, "TRIP", bad["log_odds_plain"] - 0.1)
    tripped = ask(designer_for("auto"), bad_history, trials).detail
    assert tripped["prior"] == "rejected"
    assert "not what past tasks predicted" in tripped["reason"]
    assert tripped["expert"] == "plain"
    assert ask(designer_for("auto"), bad_history, trials[:4]).detail["prior"] == "used"


# ------------------------------------------------------------------ conformance with a history
SPACES = {"mixed": MIXED, "small": SMALL, "default": WITH_DEFAULT}


def given(space: Space, *, seed: int = 0, goal: Goal = Goal.MAXIMIZE, sign: float = 1.0) -> object:
    """A problem with three past tasks."""
    tasks = [
        source(f"t{i}", space, lambda p: sign * spread(p), count=9 + i, seed=i, goal=goal)
        for i in range(3)
    ]
    return problem(space, seed=seed, goal=goal, history=tuple(tasks))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_every_suggestion_is_legal_and_new(name: str) -> None:
    """Bounds, steps and types are respected, and no configuration comes twice."""
    space = SPACES[name]
    count = min(11, space.cardinality or 11)
    trials = run(designer_for("auto"), given(space), count)
    assert all(space.problems(t.params) == [] for t in trials)
    assert all(list(t.params) == list(space.names) for t in trials)
    assert len({space.key(t.params) for t in trials}) == count


def test_a_finite_space_is_used_up_and_then_exhausted() -> None:
    """Every configuration is proposed once, then `SpaceExhaustedError`."""
    auto, asked = designer_for("auto"), given(SMALL)
    trials = run(auto, asked, 12)
    assert {SMALL.key(t.params) for t in trials} == {SMALL.key(p) for p in SMALL.grid()}
    with pytest.raises(SpaceExhaustedError):
        ask(auto, asked, trials)


def test_the_default_configuration_comes_first() -> None:
    """The user's own configuration is tried before those of past tasks."""
    suggestion = ask(designer_for("auto"), given(WITH_DEFAULT))
    assert suggestion.params == {"dropout": 0.3, "optimizer": "sgd"}
    assert suggestion.proposer == "default"


@pytest.mark.slow
def test_a_batch_without_outcomes_has_no_duplicates() -> None:
    """Proposals while nothing has ended are all different, before and after the first values."""
    auto, asked = designer_for("auto"), given(MIXED)
    trials = [running(i, p) for i, p in enumerate([])]
    for index in range(4):
        trials.append(running(index, ask(auto, asked, trials).params))
    trials = [completed(t.index, t.params, spread(t.params)) for t in trials]
    for index in range(4, 10):
        trials.append(running(index, ask(auto, asked, trials).params))
    assert len({MIXED.key(t.params) for t in trials}) == 10


@pytest.mark.slow
def test_permutations_and_repetitions_give_the_same_answer() -> None:
    """The order of tasks, of their trials and of this job's trials changes nothing; nor does a new start."""
    asked = given(MIXED, seed=3)
    trials = run(designer_for("auto"), asked, 7)
    trials += [failed(7, next(iter(SMALL_MIXED)))]
    wanted = ask(designer_for("auto"), asked, trials)
    for seed in range(2):
        rng = random.Random(seed)
        tasks = [
            source(t.name, MIXED, spread, trials=rng.sample(t.trials, len(t.trials)))
            for t in rng.sample(asked.history, 3)
        ]
        other = problem(MIXED, seed=3, history=tuple(tasks))
        meta_gp._ready.clear()
        assert ask(designer_for("auto"), other, rng.sample(trials, len(trials))) == wanted


SMALL_MIXED = [
    {
        "lr": 0.1,
        "batch_size": 256,
        "layers": 8,
        "dropout": 0.6,
        "optimizer": "sgd",
        "epochs": 30,
        "dataset": "digits",
    }
]


@pytest.mark.slow
def test_minimising_is_maximising_the_negation() -> None:
    """The direction is a sign, in the history as in the job."""
    up = run(designer_for("auto"), given(MIXED), 7)
    down = given(MIXED, goal=Goal.MINIMIZE, sign=-1.0)
    other = run(designer_for("auto"), down, 7, lambda p: -spread(p))
    assert [t.params for t in up] == [t.params for t in other]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0.5] * 6, id="constant"),
        pytest.param([0.5], id="one"),
        pytest.param([0.1, 0.2, 0.3, 0.2, 1e6], id="outlier"),
        pytest.param([0.1, 0.2, 0.3, 0.2, -1e6], id="bad outlier"),
        pytest.param([1e300, -1e300, 1e300, 0.0], id="huge"),
        pytest.param([1e-300, 2e-300, 3e-300, 4e-300], id="tiny"),
    ],
)
@pytest.mark.parametrize("odd", [False, True])
def test_odd_values_get_an_answer(values: list[float], odd: bool) -> None:
    """Whatever the values, in the job or in the history, there is an answer of the model."""
    points = [t.params for t in source("p", MIXED, spread, count=6, seed=9).trials]
    trials = [completed(i, p, v) for i, (p, v) in enumerate(zip(points, values, strict=False))]
    tasks = given(MIXED).history
    if odd:
        more = [completed(10 + t.index, t.params, t.value or 0) for t in tasks[0].trials]
        tasks = (source("odd", MIXED, spread, trials=[*trials, *more]), tasks[1])
    suggestion = ask(designer_for("auto"), problem(MIXED, history=tasks), trials)
    assert MIXED.problems(suggestion.params) == []
    assert not suggestion.fallbacks


def test_failures_alone_get_an_answer() -> None:
    """While everything fails, further past bests are tried, each once."""
    asked, trials = given(MIXED), []
    for index in range(6):
        trials.append(failed(index, ask(designer_for("auto"), asked, trials).params))
    assert len({MIXED.key(t.params) for t in trials}) == 6


def test_only_candidates_are_proposed_where_there_are_some() -> None:
    """A table's rows are the only proposals, those of the past tasks included."""
    rows = tuple(t.params for t in source("c", PLANE, hill(0.0), count=30, seed=77).trials)
    best = max(hill(0.0)(p) for p in rows)
    opt = Optimizer(PLANE, goal="maximize", history=histories(hills()), candidates=list(rows))
    for _ in range(5):
        suggestion = opt.suggest()[0]
        assert suggestion.params in rows
        opt.observe(suggestion.id, value=hill(0.0)(suggestion.params))
    assert opt.best is not None
    assert opt.best.value == best


def histories(tasks: tuple[SourceTask, ...]) -> list[TaskHistory]:
    """The same tasks through the public API."""
    return [
        TaskHistory(
            name=t.name,
            goal=t.objective.goal.value,
            observations=[Observation(params=x.params, value=x.value) for x in t.trials],
        )
        for t in tasks
    ]


# ------------------------------------------------------------------ the guard and the ladder
def test_the_plain_expert_has_its_share_of_the_turns() -> None:
    """Turns follow the share, counted over all proposals after the first ones."""
    trials = []
    for index in range(30):
        turn = meta_gp._plain_turn(trials, 1 / 3)
        trials.append(replace(running(index, {}), proposer="gp" if turn else "meta-gp"))
    plain = [t.index for t in trials if t.proposer == "gp"]
    assert plain[0] >= GRACE
    assert len(plain) == (30 - GRACE) // 3


def test_the_plain_expert_begins_away_from_past_bests() -> None:
    """Its first proposal is a start point for comparison, told with what past tasks expect there."""
    asked, trials = problem(PLANE, history=hills()), []
    for index in range(GRACE + 2):
        suggestion = ask(designer_for("auto"), asked, trials)
        ended = completed(index, suggestion.params, hill(0.0)(suggestion.params))
        trials.append(replace(ended, proposer=suggestion.proposer))
    assert [t.proposer for t in trials] == ["meta-gp"] * (GRACE + 1) + ["sobol"]
    assert suggestion.detail["expert"] == "plain"
    assert suggestion.detail["sd"] > 0
    assert suggestion.detail["mean"] < max(t.value for t in trials)


def test_a_history_that_fits_nothing_leaves_the_plain_expert() -> None:
    """Past tasks with other parameters are named in the audit, and the job runs as without them."""
    other = source("z", Space((Float(name="z", low=0, high=1),)), lambda p: float(p["z"]))
    suggestion = ask(designer_for("auto"), problem(PLANE, history=(other,)))
    alone = ask(designer_for("auto"), problem(PLANE))
    assert suggestion.params == alone.params
    assert suggestion.detail["prior"] == "none"
    assert suggestion.detail["rejected"] == {"z": "no parameter in common"}


@pytest.mark.slow
def test_shuffled_values_are_no_history() -> None:
    """Where no past value follows from its parameters, the plain expert works alone and the audit says why."""
    rng = random.Random(0)
    noise = tuple(
        source(f"n{i}", PLANE, lambda _: rng.random(), count=60, seed=i) for i in range(4)
    )
    suggestion = ask(designer_for("auto"), problem(PLANE, history=noise))
    assert suggestion.params == ask(designer_for("auto"), problem(PLANE)).params
    assert suggestion.detail["prior"] == "none"
    assert set(suggestion.detail["rejected"].values()) == {"no task's values follow its parameters"}
    mixed = ask(designer_for("auto"), problem(PLANE, history=(*noise, *hills())))
    assert mixed.detail["prior"] == "used"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(torch.linalg.LinAlgError("not positive definite"), "cholesky", id="cholesky"),
        pytest.param(NotFiniteError("nan"), "nan", id="nan"),
        pytest.param(RuntimeError("bug"), "error", id="bug"),
    ],
)
def test_a_failing_model_ends_one_level_lower(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    """Whatever breaks in the numerics, the plain expert answers, and the audit says so."""

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(meta_gp, "Mixed", broken)
    trials = run(designer_for("sobol"), problem(PLANE), 5, hill(0.0))
    suggestion = ask(designer_for("auto"), problem(PLANE, history=hills()), trials)
    assert [(f.source, f.target, f.reason) for f in suggestion.fallbacks] == [
        ("meta-gp", "gp", reason)
    ]
    assert suggestion.proposer == "gp/fallback"
    assert PLANE.problems(suggestion.params) == []


def test_the_audit_says_who_proposed_and_why() -> None:
    """Expert, weights, the three past tasks that count most, prediction and the fate of the prior."""
    asked = problem(PLANE, history=hills())
    trials = run(MetaGP(), asked, 3, hill(0.0))
    detail = ask(MetaGP(), asked, trials).detail
    assert detail["expert"] == "meta"
    assert detail["prior"] == "used"
    assert detail["tasks"] == 4
    assert sum(detail["weights"].values()) == pytest.approx(1)
    assert len(detail["sources"]) == 3
    assert set(detail["sources"]) < {"h0", "h1", "h2", "h3"}
    assert detail["sd"] > 0
    assert abs(detail["mean"] - detail["incumbent"]) < 1


# ------------------------------------------------------------------ the numbers
def rows(n: int, seed: int) -> Rows:
    """Return `n` random rows with the values of two past tasks."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    return Rows(X, torch.stack([torch.sin(3 * X[:, 0]), X[:, 1]], dim=1))


def kernel(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """A Matern kernel of length 0.4."""
    return matern(A / 0.4, B / 0.4)


@pytest.mark.parametrize("past", [False, True])
def test_the_evidence_is_that_of_the_dense_model(past: bool) -> None:
    """Location and scale integrated in closed form agree with brute force over both."""
    seen = rows(6, 0)
    y = seen.values @ torch.tensor([0.8, 0.3], dtype=torch.float64) + 0.1 * seen.X[:, 0] ** 2
    own = torch.tensor([0.0, 0.0, 0.2, 0.0, 0.0, 0.0], dtype=torch.float64)
    model = Mixed(seen, y, kernel=kernel, past=past, noise=own)
    logs = torch.linspace(-8, 5, 261, dtype=torch.float64)
    b = logs.exp().unsqueeze(1)
    places = torch.linspace(-15, 15, 1201, dtype=torch.float64)
    cell = math.log(float(logs[1] - logs[0])) + math.log(float(places[1] - places[0]))
    totals = []
    for belief in beliefs(seen.values, y, ALL) if past else [nothing_known(2)]:
        mean, factors = seen.values @ belief.mean, seen.values @ belief.factors
        columns = torch.stack([y, mean, torch.ones_like(y)], dim=1)
        grid = [(s, v) for s in belief.residuals for v in NOISES]
        for s, v in grid:
            K = factors @ factors.T + s * kernel(seen.X, seen.X) + v * torch.eye(6) + own.diag()
            L = torch.linalg.cholesky(K)
            G = columns.T @ torch.cholesky_solve(columns, L)
            # The location is b times `places`, so that its flat prior brings a factor b.
            fixed = G[0, 0] / b**2 - 2 * G[0, 1] / b + G[1, 1]
            quadratic = fixed - 2 * places * (G[0, 2] / b - G[1, 2]) + places**2 * G[2, 2]
            density = -0.5 * quadratic - 5 * b.log() - L.diagonal().log().sum()
            evidence = density.flatten().logsumexp(dim=0) + cell - math.log(len(grid))
            totals.append(evidence + belief.log_prior)
    brute = float(torch.stack(totals).logsumexp(dim=0))
    assert model.log_evidence == pytest.approx(brute - 0.5 * math.log(2 * math.pi), abs=0.02)


def test_location_and_scale_of_the_values_change_nothing() -> None:
    """The same values in another unit lead to the same evidence up to a constant and the same model."""
    seen, more = rows(8, 1), rows(5, 2)
    y = seen.values.sum(dim=1) + seen.X[:, 0] ** 2
    one = Mixed(seen, y, kernel=kernel)
    other = Mixed(seen, 7 + 100 * y, kernel=kernel)
    means, sds = one.at(more)
    others, other_sds = other.at(more)
    assert torch.allclose(7 + 100 * means, others, rtol=1e-6)
    assert torch.allclose(100 * sds, other_sds, rtol=1e-6)
    odds = one.log_evidence - Mixed(seen, y, kernel=kernel, past=False).log_evidence
    alone = Mixed(seen, 7 + 100 * y, kernel=kernel, past=False).log_evidence
    assert other.log_evidence - alone == pytest.approx(odds, abs=1e-6)


def test_the_prediction_leans_on_the_task_that_is_like_the_target() -> None:
    """After a few values one of three past tasks stands for nearly all of the prediction."""
    seen = rows(6, 3)
    other = torch.rand(6, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    seen = Rows(seen.X, torch.cat([seen.values, other], dim=1))
    shares = Mixed(seen, 5 * seen.values[:, 0] - 2, kernel=kernel).shares()
    assert int(shares.argmax()) == 0
    assert float(shares[1:].abs().max()) < 0.3 * float(shares[0])


def test_a_negated_past_is_understood() -> None:
    """Where every past task says the opposite, its functions are used with a negative sign."""
    seen, more = rows(10, 5), rows(20, 6)
    model = Mixed(seen, -seen.values.sum(dim=1), kernel=kernel)
    mean, _ = model.summary(more)
    assert float(model.shares().sum()) < 0
    assert float((mean + more.values.sum(dim=1)).abs().mean()) < 0.1


def test_a_value_known_to_be_uncertain_moves_the_model_less() -> None:
    """The same outlier pulls the prediction at its place less when it is a prediction itself."""
    seen = rows(8, 7)
    y = seen.values.sum(dim=1)
    y[3] += 3.0
    doubt = torch.zeros(8, dtype=torch.float64)
    doubt[3] = 4.0
    sure, unsure = (
        Mixed(seen, y, kernel=kernel, noise=noise).summary(seen)[0][3] for noise in (None, doubt)
    )
    assert float(unsure) < float(sure) - 0.2


def test_the_basis_says_what_the_tasks_said() -> None:
    """At rows of a task its function is near the task's scores; a parameter it lacks changes nothing."""
    asked = problem(PLANE, history=(*hills(count=1), lacking()))
    library = read(asked, Encoding(PLANE))
    basis = Basis(library.tasks)
    whole, partial = library.tasks
    told = basis.at(whole.rows).values[:, 0]
    assert float((told - whole.z).abs().mean()) < 0.3
    moved = partial.rows.clone()
    moved[:, 2] = 0.9
    assert torch.allclose(basis.at(partial.rows).values[:, 1], basis.at(moved).values[:, 1])


def lacking() -> SourceTask:
    """A past task without the parameter y."""
    space = Space(PLANE.parameters[:2])
    return source("lacks-y", space, lambda p: float(p["x"]), count=30)


@pytest.mark.slow
def test_a_large_history_does_not_slow_suggestions_down() -> None:
    """Twenty thousand rows are read once; a later suggestion costs what it costs with a few."""
    big = tuple(source(f"b{i}", PLANE, hill(0.1 * i), count=5_000, seed=i) for i in range(4))
    asked = problem(PLANE, history=big)
    trials = run(designer_for("sobol"), asked, 5, hill(0.0))
    ask(MetaGP(), asked, trials)
    began = time.process_time()
    ask(MetaGP(), asked, trials)
    assert time.process_time() - began < 2
