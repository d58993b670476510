"""What a choice weighs besides the promised improvement: costs and failures, the job's and the past's."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Objective
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.search.costmodel import ENOUGH
from foretune.search.designer import Completed, Deadline, Pending, Problem, SourceTask
from foretune.search.economy import FAILING, ROWS, Economy
from foretune.search.encode import Encoding
from foretune.search.meta_gp import MetaGP
from foretune.search.plain_gp import PlainGP

SPACE = parse_space(
    {
        "lr": {"type": "float", "min": 1e-4, "max": 1.0, "scale": "log"},
        "batch": {"type": "int", "min": 8, "max": 512, "scale": "log"},
    },
    "space",
)
ENCODING = Encoding(SPACE)
GOAL = Objective(metric="loss", goal=Goal.MINIMIZE)
PROBLEM = Problem(space=SPACE, objective=GOAL)
LARGE = {"lr": 0.01, "batch": 500}
SMALL = {"lr": 0.01, "batch": 9}


def loss(params) -> float:
    """Return a loss that a large batch and a middling learning rate make small."""
    return (math.log10(params["lr"]) + 2) ** 2 - 0.2 * math.log(params["batch"])


def a_trial(index, params, *, fails=False, cost=None, reason=EndReason.OUT_OF_MEMORY) -> Trial:
    """Return a trial that has ended."""
    return Trial(
        job_uid="job",
        index=index,
        params=params,
        state=TrialState.INFEASIBLE if fails else TrialState.COMPLETED,
        reason=reason if fails else EndReason.DONE,
        config_hash="",
        value=None if fails else loss(params),
        cost=cost,
    )


def drawn(count, seed):
    """Return configurations at random."""
    rng = random.Random(seed)
    return [
        {"lr": 10 ** rng.uniform(-4, 0), "batch": round(2 ** rng.uniform(3, 9))}
        for _ in range(count)
    ]


def a_task(name, fails, *, count=40, seed=0, cost=None) -> SourceTask:
    """Return a past task whose trials fail where `fails` says so."""
    trials = tuple(
        a_trial(i, p, fails=fails(p), cost=cost(p) if cost else None)
        for i, p in enumerate(drawn(count, f"{name}/{seed}"))
    )
    return SourceTask(name, GOAL, trials, SPACE)


def out_of_memory(params) -> bool:
    """Return whether the batch is too large for the device."""
    return params["batch"] > 128


def seconds(params) -> float:
    """Return what a trial costs: twice the batch, half the steps and a bit."""
    return 100.0 / params["batch"] ** 0.8


def chance(economy, *configurations) -> list[float]:
    """Return what is added to the score of configurations, as a probability."""
    return economy.adjust(ENCODING.encode(configurations)).exp().tolist()


def with_history(*tasks, budget=None) -> Problem:
    """Return the problem with past tasks."""
    return replace(PROBLEM, history=tasks, budget=budget)


def test_without_failures_and_budget_nothing_is_weighed():
    """Costs alone change no score, not by a bit."""
    done = Completed([a_trial(i, p, cost=seconds(p)) for i, p in enumerate(drawn(20, 1))])
    past = [a_task(f"t{i}", lambda _: False, cost=seconds) for i in range(3)]
    X = ENCODING.encode(drawn(50, 2))
    score = torch.randn(50, dtype=torch.float64)
    for problem in (PROBLEM, with_history(*past)):
        economy = Economy.of(problem, ENCODING, done)
        assert torch.equal(score + economy.adjust(X), score)


@pytest.mark.parametrize("designer", [PlainGP(lessons=True), MetaGP()], ids=lambda d: d.name)
def test_costs_without_a_budget_change_no_suggestion(designer):
    """The number of evaluations counts unless there is a budget of cost: the same choice, bit for bit."""
    points = drawn(ENOUGH + 1, 4)
    past = a_task("past", lambda _: False, cost=seconds)
    free = a_task("past", lambda _: False)
    paid = Completed([a_trial(i, p, cost=seconds(p)) for i, p in enumerate(points)])
    unpaid = Completed([a_trial(i, p) for i, p in enumerate(points)])
    one, other = (
        designer.suggest(with_history(task), done, Pending(), Deadline(math.inf))
        for task, done in ((past, paid), (free, unpaid))
    )
    assert one.params == other.params
    assert {k: v for k, v in one.detail.items() if k not in ("expected_cost", "cost_weight")} == (
        other.detail
    )
    assert one.detail["expected_cost"] > 0


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_cost_counts_as_much_as_budget_is_left(share):
    """The score loses log cost times the share that is left."""
    done = Completed([a_trial(i, p, cost=seconds(p)) for i, p in enumerate(drawn(20, 1))])
    economy = Economy.of(replace(PROBLEM, budget=share), ENCODING, done)
    cheap, dear = economy.adjust(ENCODING.encode([LARGE, SMALL])).tolist()
    assert cheap - dear == pytest.approx(share * math.log(seconds(SMALL) / seconds(LARGE)), rel=0.1)
    audit = economy.audit(ENCODING.encode([SMALL]))
    assert audit["expected_cost"] == pytest.approx(seconds(SMALL), rel=0.2)
    assert audit["cost_weight"] == share


def test_cost_is_not_weighed_while_it_is_not_understood():
    """Few trials, or costs that follow nothing, leave the choice to its promise."""
    few = Completed([a_trial(i, p, cost=seconds(p)) for i, p in enumerate(drawn(ENOUGH - 1, 1))])
    rng = random.Random(3)
    odd = Completed([a_trial(i, p, cost=rng.uniform(1, 9)) for i, p in enumerate(drawn(30, 1))])
    for done in (few, odd):
        economy = Economy.of(replace(PROBLEM, budget=1.0), ENCODING, done)
        assert economy.adjust(ENCODING.encode([LARGE, SMALL])).tolist() == [0.0, 0.0]
        assert economy.audit(ENCODING.encode([SMALL])) == {}


def test_a_trial_that_was_stopped_early_tells_no_cost():
    """What a part of a training cost is not what its configuration costs."""
    trials = [a_trial(i, p, cost=seconds(p)) for i, p in enumerate(drawn(20, 1))]
    cut = [
        replace(a_trial(20 + i, p, cost=0.01), state=TrialState.EARLY_STOPPED)
        for i, p in enumerate(drawn(20, 2))
    ]
    one, other = (
        Economy.of(replace(PROBLEM, budget=1.0), ENCODING, Completed(done)).audit(
            ENCODING.encode([SMALL])
        )
        for done in (trials, [*trials, *cut])
    )
    assert one == other
    assert one["expected_cost"] > 0


def test_past_tasks_tell_costs_before_the_first_trial():
    """Ratios of costs are known from two past tasks in other units; the cost itself is not told."""
    past = [
        a_task("a", lambda _: False, cost=seconds),
        a_task("b", lambda _: False, cost=lambda p: 3600 * seconds(p)),
    ]
    economy = Economy.of(with_history(*past, budget=1.0), ENCODING, Completed())
    cheap, dear = economy.adjust(ENCODING.encode([LARGE, SMALL])).tolist()
    assert cheap - dear == pytest.approx(math.log(seconds(SMALL) / seconds(LARGE)), rel=0.1)
    assert "expected_cost" not in economy.audit(ENCODING.encode([SMALL]))


def test_failures_that_repeat_in_past_tasks_are_expected_again():
    """Where three tasks ran out of memory, the fourth expects to before its first trial."""
    past = [a_task(f"t{i}", out_of_memory, seed=i) for i in range(3)]
    economy = Economy.of(with_history(*past), ENCODING, Completed())
    large, small = chance(economy, LARGE, SMALL)
    assert large < 0.35
    assert small > 0.85


def test_own_trials_overrule_the_past():
    """A device with more memory: what worked here is believed against what failed elsewhere."""
    past = [a_task(f"t{i}", out_of_memory, seed=i) for i in range(3)]
    before = chance(Economy.of(with_history(*past), ENCODING, Completed()), LARGE)[0]
    done = Completed([a_trial(i, p) for i, p in enumerate(drawn(25, 9))])
    after = chance(Economy.of(with_history(*past), ENCODING, done), LARGE, SMALL)
    assert before < 0.35
    assert after[0] > 0.5
    assert after[1] > 0.9


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_failures_without_a_pattern_punish_no_region(seed):
    """Failures that have nothing in common move the score by less than failures that repeat do."""

    def by_chance(params) -> bool:
        return random.Random(f"{seed}/{params}").random() < 0.2

    past = [a_task(f"t{i}", by_chance, seed=seed + i) for i in range(4)]
    grid = [{"lr": lr, "batch": b} for lr in (1e-4, 0.01, 1.0) for b in (8, 64, 512)]
    added = Economy.of(with_history(*past), ENCODING, Completed()).adjust(ENCODING.encode(grid))
    assert float(added.max() - added.min()) < 0.35


def test_infrastructure_teaches_nothing():
    """Lost nodes and preemptions of past tasks enter no model of failures."""
    lost = [
        replace(a_trial(i, p, fails=out_of_memory(p)), state=TrialState.FAILED)
        for i, p in enumerate(drawn(40, 0))
    ]
    for reason in (EndReason.NODE_LOST, EndReason.PREEMPTED, EndReason.DATA_UNREACHABLE):
        trials = tuple(replace(t, reason=reason) if t.value is None else t for t in lost)
        ended = tuple(
            replace(t, state=TrialState.COMPLETED, reason=EndReason.DONE)
            if t.value is not None
            else t
            for t in trials
        )
        problem = with_history(SourceTask("past", GOAL, ended, SPACE))
        economy = Economy.of(problem, ENCODING, Completed())
        assert economy.adjust(ENCODING.encode([LARGE, SMALL])).tolist() == [0.0, 0.0]


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_tasks_and_trials_changes_nothing(seed):
    """A history is a set."""
    rng = random.Random(seed)
    past = [a_task(f"t{i}", out_of_memory, seed=i, cost=seconds, count=130) for i in range(3)]
    shuffled = [replace(t, trials=tuple(rng.sample(t.trials, len(t.trials)))) for t in past]
    rng.shuffle(shuffled)
    X = ENCODING.encode(drawn(20, 5))
    one, other = (
        Economy.of(with_history(*tasks, budget=0.5), ENCODING, Completed()).adjust(X)
        for tasks in (past, shuffled)
    )
    assert torch.allclose(one, other, rtol=0, atol=1e-9)


def test_what_is_kept_of_a_history_is_bounded():
    """Past tasks of any size and number enter with few rows."""
    past = tuple(a_task(f"t{i}", out_of_memory, seed=i, count=3 * ROWS) for i in range(20))
    economy = Economy.of(with_history(*past), ENCODING, Completed())
    assert len(economy._feasibility._X) <= FAILING
    assert chance(economy, LARGE)[0] < 0.35


@pytest.mark.parametrize("fails", [lambda _: True, lambda _: False], ids=["all", "none"])
def test_a_past_task_that_always_ends_alike_is_no_pattern(fails):
    """A task in which everything failed, as by a bug in its code, says nothing about configurations."""
    economy = Economy.of(with_history(a_task("past", fails)), ENCODING, Completed())
    assert economy.adjust(ENCODING.encode([LARGE, SMALL])).tolist() == [0.0, 0.0]


def test_foreign_parameters_teach_nothing():
    """A past task that shares no parameter is passed over."""
    trials = tuple(
        replace(t, params={"depth": t.params["batch"]})
        for t in a_task("past", out_of_memory, cost=seconds).trials
    )
    problem = with_history(SourceTask("past", GOAL, trials), budget=1.0)
    economy = Economy.of(problem, ENCODING, Completed())
    assert economy.adjust(ENCODING.encode([LARGE, SMALL])).tolist() == [0.0, 0.0]


def test_the_score_is_differentiable():
    """The polish needs the gradient of both parts."""
    past = [a_task(f"t{i}", out_of_memory, seed=i, cost=seconds) for i in range(3)]
    economy = Economy.of(with_history(*past, budget=1.0), ENCODING, Completed())
    X = ENCODING.encode(drawn(5, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(economy.adjust(X).sum(), X)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
