"""When a job is over because nothing better is to be had; a predicted value is never the best."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support.world import make_job

from foretune.constants import Condition, Reason
from foretune.domain.job import Goal, Objective, Search
from foretune.domain.trial import Forecast, Trial, TrialState
from foretune.planner import status
from foretune.planner.converge import expected_improvement, hope
from foretune.planner.finish import best, verdict
from foretune.planner.snapshot import Snapshot


def trial(index: int, value: float | None = 0.5, **changes: Any) -> Trial:
    """Return a trial that has ended."""
    values: dict[str, Any] = {"state": TrialState.COMPLETED, "ended_at": 100.0 + index}
    return Trial(
        job_uid="uid-demo",
        index=index,
        params={"lr": 0.001 * (index + 1), "layers": 2},
        config_hash="",
        value=value,
        **{**values, **changes},
    )


def snapshot(trials: list[Trial], **spec: Any) -> Snapshot:
    job = make_job(**{"trials": 100, **spec})
    return Snapshot(job=job, trials=trials, attempts=())


def stopped(index: int, value: float, sd: float = 0.1) -> Trial:
    return trial(index, value, state=TrialState.EARLY_STOPPED, value_sd=sd)


def test_a_predicted_value_is_never_the_best() -> None:
    """A stopped trial may be predicted above all: best, top and target go by what was reported."""
    trials = [trial(0, 0.5), stopped(1, 0.9), stopped(2, 0.6, sd=0.0)]
    found = best(Objective(metric="accuracy"), trials)
    assert found is not None
    assert found.index == 2
    seen = snapshot(trials, objective=Objective(metric="accuracy", target=0.8))
    assert verdict(seen, 0.0) is None
    page = status.build(seen, 1000.0)
    assert page["best"]["value"] == 0.6
    assert [row["trial"] for row in page["top"]] == [2, 0]
    assert page["counts"]["stopped"] == 2


def test_idle_trials_end_the_job() -> None:
    """Three trials in a row without an improvement are three too many; failures count, too."""
    trials = [trial(0, 0.5), trial(1, 0.7), trial(2, 0.6), trial(3, 0.7)]
    assert verdict(snapshot(trials, idle_trials=3), 0.0) is None
    failed = trial(4, None, state=TrialState.FAILED)
    found = verdict(snapshot([*trials, failed], idle_trials=3), 0.0)
    assert found is not None
    assert (found.condition, found.reason) == (Condition.COMPLETE, Reason.CONVERGED)
    assert "the last 3 trials" in found.message
    assert "0.7" in found.message
    better = snapshot([*trials, failed, trial(5, 0.71)], idle_trials=3)
    assert verdict(better, 0.0) is None
    assert verdict(snapshot([*trials, failed]), 0.0) is None


def test_idle_goes_by_when_trials_ended() -> None:
    """The order in which trials ended counts, and while nothing has a value nothing is idle."""
    late = [trial(0, 0.9, ended_at=500.0), trial(1, 0.5), trial(2, 0.4), trial(3, 0.3)]
    assert verdict(snapshot(late, idle_trials=2), 0.0) is None
    nothing = [trial(i, None, state=TrialState.INFEASIBLE) for i in range(3)]
    assert verdict(snapshot(nothing, idle_trials=2), 0.0) is None


SURE = Forecast(mean=0.69, sd=0.001, incumbent=0.7, noise_sd=0.01)
OPEN = Forecast(mean=0.69, sd=0.1, incumbent=0.7, noise_sd=0.01)


def searched(last: list[Forecast | None], running: list[Forecast | None] = ()) -> list[Trial]:
    """Return nine trials that ended, the last with these forecasts, and some that run."""
    count = 9 - len(last)
    ended = [trial(i, 0.5 + 0.01 * i, forecast=f) for i, f in enumerate([*[OPEN] * count, *last])]
    live = [trial(9 + i, None, state=TrialState.RUNNING, forecast=f) for i, f in enumerate(running)]
    return [*ended, *live]


@pytest.mark.parametrize(
    ("last", "running", "over"),
    [
        ([SURE, SURE, SURE], [], True),
        ([SURE, OPEN, SURE], [], False),
        ([SURE, SURE], [], False),
        ([SURE, SURE, None], [], False),
        ([SURE, SURE, SURE], [SURE], True),
        ([SURE, SURE, SURE], [OPEN], False),
        ([SURE, SURE, SURE], [None], False),
        ([OPEN, SURE, SURE, SURE], [SURE, SURE], True),
    ],
)
def test_a_job_whose_models_expect_nothing_is_over(
    last: list[Forecast | None], running: list[Forecast | None], over: bool
) -> None:
    """The latest three proposals must promise nothing, and no running trial may have a chance."""
    search = Search(stop_when_converged=True)
    found = verdict(snapshot(searched(last, running), search=search), 0.0)
    assert (found is not None) == over
    if found is not None:
        assert found.reason is Reason.CONVERGED
        assert "expect an improvement" in found.message


def test_convergence_is_asked_for() -> None:
    """Without `stopWhenConverged`, or before eight trials, the job goes on; a tolerance ends it sooner."""
    sure, hopeful = [SURE] * 3, [OPEN] * 3
    assert verdict(snapshot(searched(sure)), 0.0) is None
    asked = Search(stop_when_converged=True)
    assert verdict(snapshot(searched(sure)[2:], search=asked), 0.0) is None
    tolerant = replace(asked, tolerance=0.05)
    assert verdict(snapshot(searched(hopeful), search=asked), 0.0) is None
    assert verdict(snapshot(searched(hopeful), search=tolerant), 0.0) is not None


def test_improvement_has_the_direction_of_the_goal() -> None:
    """Expected improvement and chance agree with their definitions, for both directions."""
    up = Forecast(mean=0.8, sd=0.0, incumbent=0.7)
    assert expected_improvement(up, Goal.MAXIMIZE) == pytest.approx(0.1)
    assert expected_improvement(up, Goal.MINIMIZE) == 0.0
    assert (hope(up, Goal.MAXIMIZE), hope(up, Goal.MINIMIZE)) == (1.0, 0.0)
    even = Forecast(mean=0.7, sd=0.1, incumbent=0.7)
    assert expected_improvement(even, Goal.MAXIMIZE) == pytest.approx(0.1 * 0.398942, rel=1e-5)
    assert hope(even, Goal.MINIMIZE) == pytest.approx(0.5)
