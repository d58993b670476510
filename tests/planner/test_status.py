"""The status page: bounded, stable, and changed only when something happened."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.support.world import make_job

from foretune.constants import STATUS_LIMIT
from foretune.domain.job import Goal
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import Problem
from foretune.planner import status
from foretune.planner.reconcile import plan
from foretune.planner.snapshot import Propose, Snapshot


def ended(index: int, **changes) -> Trial:
    base = Trial(
        job_uid="u",
        index=index,
        params={"lr": 0.00123456789012, "layers": 3, "optimizer": "x" * 60},
        state=TrialState.COMPLETED,
        config_hash="h",
        value=index / 1e5,
        created_at=1.0,
        ended_at=2.0 + index,
    )
    return replace(base, **changes)


def test_the_status_of_ten_thousand_trials_fits():
    """Every list full of the longest entries stays under the limit."""
    trials = [ended(i) for i in range(9000)]
    trials += [
        ended(9000 + i, state=TrialState.FAILED, message="x" * 4000, reason=EndReason.ERROR)
        for i in range(500)
    ]
    trials += [ended(9500 + i, state=TrialState.RUNNING, ended_at=None) for i in range(500)]
    page = status.build(Snapshot(job=make_job(trials=20000), trials=trials, attempts=[]), 50.0)
    assert len(json.dumps(page)) < STATUS_LIMIT
    assert page["best"]["trial"] == 8999
    assert [row["trial"] for row in page["top"]][:2] == [8999, 8998]
    assert page["counts"]["running"] == 500


def test_long_texts_as_parameters_fit():
    """Sixty-four parameters whose texts are pages long leave a status that can be written."""
    params = {f"p{i}": "x" * 3000 for i in range(64)}
    trials = [ended(i, params=params) for i in range(20)]
    audit = {
        "prior": "rejected",
        "reason": "y" * 999,
        "sources": {f"{i}" * 900: 0.1 for i in range(12)},
    }
    seen = Snapshot(job=make_job(trials=30), trials=trials, attempts=[], audit=audit)
    page = status.build(seen, 50.0)
    assert len(json.dumps(page)) < STATUS_LIMIT
    assert len(page["prior"]["tasks"]) == 10
    assert (page["best"]["trial"], set(page["best"]["params"])) == (19, set(params))


def test_a_hundred_problems_fit():
    """A spec with many long problems gives a status that can be written."""
    page = status.rejected([Problem(f"spec.space.p{i}", "y" * 500) for i in range(100)], 3, 9.0)
    assert len(json.dumps(page)) < STATUS_LIMIT
    assert page["observedGeneration"] == 3
    assert page["conditions"][0]["type"] == "Accepted"
    assert "spec.space.p0" in page["conditions"][0]["message"]


def test_transition_times_move_only_on_flips():
    """A condition that stays as it is keeps its time; one that flips gets the present."""
    job = make_job(trials=2)
    first = status.build(Snapshot(job=job, trials=[ended(0)], attempts=[]), 100.0)
    again = status.build(
        Snapshot(job=replace(job, status=first), trials=[ended(0)], attempts=[]), 200.0
    )
    assert again == first
    last = status.build(
        Snapshot(job=replace(job, status=first), trials=[ended(0), ended(1)], attempts=[]), 300.0
    )
    times = {c["type"]: c["lastTransitionTime"] for c in last["conditions"]}
    assert times["Accepted"] == first["conditions"][0]["lastTransitionTime"]
    assert times["Complete"] == "1970-01-01T00:05:00Z"


def test_minimised_jobs_rank_small_values_first():
    """The best of a minimised job is its smallest value."""
    objective = replace(make_job().spec.objective, goal=Goal.MINIMIZE)
    page = status.build(
        Snapshot(job=make_job(objective=objective), trials=[ended(3), ended(1)], attempts=[]), 9.0
    )
    assert page["best"]["trial"] == 1
    assert [row["trial"] for row in page["top"]] == [1, 3]


def test_a_proposal_by_fallback_degrades():
    """While Sobol stands in for the surrogate, the job says so."""
    trial = ended(0, state=TrialState.RUNNING, proposer="sobol/fallback", ended_at=None)
    page = status.build(Snapshot(job=make_job(), trials=[trial], attempts=[]), 9.0)
    degraded = next(c for c in page["conditions"] if c["type"] == "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "SurrogateUnavailable")
    assert page["optimizer"]["fallbacks"] == 1


def test_a_job_whose_template_was_refused_is_tried_again():
    """Its phase is Failed, but once the refusal is forgotten the same generation starts a trial."""
    job = make_job(trials=2)
    refused = Snapshot(job=job, trials=[], attempts=[], rejected="spec.trial: no such volume")
    page = status.build(refused, 100.0)
    assert (page["phase"], plan(refused, 100.0)) == ("Failed", [])
    later = Snapshot(job=replace(job, status=page), trials=[], attempts=[])
    assert plan(later, 500.0) == [Propose(index=0)]
    assert status.build(later, 500.0)["phase"] == "Running"


def test_the_status_says_what_past_jobs_were_good_for():
    """Decision, reason and sources are the newest audit's, the largest share first; a restart keeps them."""
    sources = {"team-a/one": 0.2, "team-a/two": -0.7}
    audit = {"prior": "used", "expert": "meta", "sources": sources}
    job = make_job()
    page = status.build(Snapshot(job=job, trials=[], attempts=[], audit=audit), 9.0)
    two, one = {"ref": "team-a/two", "weight": -0.7}, {"ref": "team-a/one", "weight": 0.2}
    assert page["prior"] == {"decision": "used", "reason": "", "tasks": [two, one]}
    later = Snapshot(job=replace(job, status=page), trials=[], attempts=[])
    assert status.build(later, 9.0)["prior"] == page["prior"]
    none = {"prior": "none", "reason": "spec.prior.mode is off"}
    page = status.build(replace(later, audit=none), 9.0)
    assert page["prior"] == {"decision": "none", "reason": "spec.prior.mode is off", "tasks": []}
    assert "prior" not in status.build(Snapshot(job=job, trials=[], attempts=[]), 9.0)
