"""What the operator counts, driven by the real loop over a small world."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.world import TrackerView, World, make_job

from foretune.adapters.telemetry.recorder import (
    HANDLERS,
    OUTCOMES,
    RESOURCES,
    RESULTS,
    VERBS,
    OperatorMetrics,
    outcome_label,
)
from foretune.app.loop import Reconciler
from foretune.domain.job import JobKey
from foretune.domain.trial import AttemptPhase, EndReason, Outcome, Trial, TrialState
from foretune.planner import status as status_page
from foretune.planner.snapshot import Snapshot


def samples(metrics: OperatorMetrics, name: str) -> dict[tuple[str, ...], float]:
    """Return value by label values (in the table's order) of the samples of that name."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def series(metrics: OperatorMetrics) -> int:
    """Return the number of our series."""
    return sum(
        len(family.samples)
        for family in metrics.registry.collect()
        if family.name.startswith("foretune_")
    )


def run(world: World, job, metrics: OperatorMetrics, *, code: int = 0) -> None:
    """Run a job to its end; with a `code`, every first attempt fails with it."""
    loop = Reconciler(
        tracker=TrackerView(world), runner=world, sink=world, clock=world, telemetry=metrics
    )
    for _ in range(200):
        if loop.reconcile(job).done:
            return
        world.now_s += 2
        for name in world.live():
            attempt = world.runs[name]
            if attempt.phase is AttemptPhase.PENDING:
                world.start(name)
                bound = world.runs[name].created_at + 1
                world.runs[name] = replace(world.runs[name], bound_at=bound)
            elif code and attempt.number == 0:
                world.end(name, code=code)
            else:
                world.succeed(name, 0.9 - 0.01 * attempt.index)
    raise AssertionError("the job does not end")


def test_a_whole_job_is_counted():
    """Six trials of one GPU: created, ended, waited, started up, and their GPU time booked."""
    metrics, world = OperatorMetrics(), World()
    job = make_job()
    run(world, job, metrics)
    assert samples(metrics, "foretune_trials_created_total") == {("default", "auto"): 6}
    finished = samples(metrics, "foretune_trials_finished_total")
    assert finished == {("default", "auto", "succeeded"): 6}
    assert samples(metrics, "foretune_trial_duration_seconds_count") == {("succeeded",): 6}
    assert samples(metrics, "foretune_trial_queue_wait_seconds_sum") == {("default",): 6.0}
    assert samples(metrics, "foretune_trial_startup_seconds_sum") == {("default",): 6.0}
    booked = samples(metrics, "foretune_gpu_seconds_by_outcome_total")
    held = sum(trial.gpu_s for trial in world.list_trials())
    assert booked == {("default", "succeeded"): held}
    assert samples(metrics, "foretune_job_gpu_seconds") == {("default", "demo"): held}


def test_the_gauges_of_a_job_agree_with_its_status():
    """Phase, counts, best value, and when it was found are those of the status."""
    metrics, world = OperatorMetrics(), World()
    run(world, make_job(), metrics)
    status = world.statuses[-1]
    phases = samples(metrics, "foretune_job_status_phase")
    assert [key[-1] for key, value in phases.items() if value] == [status["phase"]] == ["Complete"]
    assert len(phases) == 5
    counts = samples(metrics, "foretune_job_trials")
    assert {k[-1]: v for k, v in counts.items()} == {
        name[0].upper() + name[1:]: count for name, count in status["counts"].items()
    }
    job = ("default", "demo")
    assert samples(metrics, "foretune_job_best_objective") == {job: status["best"]["value"]}
    best = world.trials[status["best"]["trial"]]
    improved = samples(metrics, "foretune_job_last_improvement_timestamp_seconds")
    assert improved == {job: best.ended_at}
    assert samples(metrics, "foretune_job_evaluations_to_best") == {job: 1}
    assert samples(metrics, "foretune_job_trials_max") == {job: 6}
    assert samples(metrics, "foretune_jobs")["default", "Complete"] == 1
    assert sum(samples(metrics, "foretune_trials").values()) == 0


def test_a_best_trial_is_ranked_by_when_it_ended():
    """The best of three, second to end, took two evaluations, whatever its index."""
    metrics, job = OperatorMetrics(), make_job()
    trials = [
        Trial(
            job_uid=job.uid,
            index=index,
            params={},
            state=TrialState.COMPLETED,
            config_hash="",
            value=value,
            ended_at=end,
        )
        for index, value, end in ((0, 0.5, 30.0), (1, 0.4, 10.0), (2, 0.9, 20.0))
    ]
    page = status_page.build(Snapshot(job=job, trials=trials, attempts=[]), 40.0)
    metrics.job_seen(job, trials, page)
    assert samples(metrics, "foretune_job_evaluations_to_best") == {("default", "demo"): 2}


def test_what_is_not_known_is_absent():
    """A job without a value exports no best one, rather than 0."""
    metrics, job = OperatorMetrics(), make_job()
    metrics.job_seen(job, [], status_page.build(Snapshot(job=job, trials=[], attempts=[]), 1.0))
    assert samples(metrics, "foretune_job_best_objective") == {}
    assert samples(metrics, "foretune_job_last_improvement_timestamp_seconds") == {}
    assert samples(metrics, "foretune_job_oldest_pending_trial_timestamp_seconds") == {}


def test_live_trials_are_told_apart():
    """A trial waits, starts up (holding its GPUs) and runs; each is another phase."""
    metrics, world, job = OperatorMetrics(), World(), make_job()
    loop = Reconciler(
        tracker=TrackerView(world), runner=world, sink=world, clock=world, telemetry=metrics
    )
    loop.reconcile(job)
    live = samples(metrics, "foretune_trials")
    assert live["default", "Pending"] == 2
    first, second = world.live()
    world.runs[first] = replace(world.runs[first], bound_at=world.now_s)
    world.start(second)
    loop.reconcile(job)
    live = samples(metrics, "foretune_trials")
    assert (live["default", "Pending"], live["default", "Starting"]) == (0, 1)
    assert live["default", "Running"] == 1


def test_retries_are_counted_apart_from_ends():
    """A trial lost to preemption and run again ended once, was retried once, and its GPU time shows."""
    metrics, world = OperatorMetrics(), World()
    job = make_job(trials=2)
    loop = Reconciler(
        tracker=TrackerView(world), runner=world, sink=world, clock=world, telemetry=metrics
    )
    loop.reconcile(job)
    name = world.live()[0]
    world.start(name)
    world.now_s += 10
    world.end(name, code=137, disruption="PreemptionByScheduler")
    run(world, job, metrics)
    retries = samples(metrics, "foretune_trial_retries_total")
    assert retries == {("default", "preemption"): 1}
    finished = samples(metrics, "foretune_trials_finished_total")
    assert finished == {("default", "auto", "succeeded"): 2}
    booked = samples(metrics, "foretune_gpu_seconds_by_outcome_total")
    assert booked["default", "preempted"] == 10.0


def test_a_deleted_job_leaves_no_series():
    """All series of a job end when it is deleted."""
    metrics, world, job = OperatorMetrics(), World(), make_job()
    before = series(metrics)
    loop = Reconciler(
        tracker=TrackerView(world), runner=world, sink=world, clock=world, telemetry=metrics
    )
    loop.reconcile(job)
    loop.forget(job.key, job.uid)
    left = series(metrics) - before
    created = samples(metrics, "foretune_trials_created_total")
    assert left == len(created) == 1


def test_many_jobs_stay_within_the_series_budget():
    """600 jobs: 500 have series, 100 are counted as dropped, at most 32 series a job."""
    metrics, job = OperatorMetrics(), make_job()
    before = series(metrics)
    trial = Trial(
        job_uid=job.uid,
        index=0,
        params={},
        state=TrialState.COMPLETED,
        config_hash="",
        value=0.5,
        ended_at=2.0,
    )
    page = status_page.build(Snapshot(job=job, trials=[trial], attempts=[]), 3.0)
    for number in range(600):
        one = replace(job, key=JobKey(f"ns-{number % 10}", f"job-{number}"), created_at=number)
        metrics.job_seen(one, [trial], page)
    shown = samples(metrics, "foretune_job_info")
    assert len(shown) == 500
    assert {key[1] for key in shown} == {f"job-{number}" for number in range(100, 600)}
    assert samples(metrics, "foretune_metrics_dropped_objects") == {("max_jobs",): 100}
    assert sum(samples(metrics, "foretune_jobs").values()) == 600
    fixed = 10 * (5 + 4)
    assert series(metrics) - before - fixed <= 32 * 500


def test_running_jobs_are_shown_before_ended_ones():
    """When the limit bites, it is ended jobs that lose their series."""
    metrics, job = OperatorMetrics(max_jobs=1), make_job()
    for name, phase, created in (("old-running", "Running", 1), ("new-done", "Complete", 9)):
        one = replace(job, key=JobKey("default", name), created_at=created)
        metrics.job_seen(one, [], {"phase": phase})
    assert [key[1] for key in samples(metrics, "foretune_job_info")] == ["old-running"]


def test_counters_stay_bounded_whatever_they_hear():
    """Every combination of labels, and words nobody knows, give a fixed number of series."""
    metrics = OperatorMetrics()
    for number in range(50):
        for code in ("200", "error", f"weird-{number}"):
            metrics.api_request(f"verb-{number}", f"resource-{number}", code, 0.1)
        metrics.reconciled(f"handler-{number}", f"result-{number}", 0.1)
    requests = samples(metrics, "foretune_kube_api_requests_total")
    assert requests == {("other", "other", "200"): 50, ("other", "other", "error"): 100}
    assert samples(metrics, "foretune_reconcile_total") == {("other", "other"): 50}
    for verb in VERBS:
        for resource in RESOURCES:
            metrics.api_request(verb, resource, "200", 0.1)
    for handler in HANDLERS:
        for result in RESULTS:
            metrics.reconciled(handler, result, 0.1)
    assert series(metrics) <= 1800


def test_only_a_success_moves_the_last_success():
    """The stall alert reads when a handler last ran well, not when it last ran."""
    metrics = OperatorMetrics(wall_clock=lambda: 77.0)
    name = "foretune_reconcile_last_success_timestamp_seconds"
    metrics.reconciled("reconcile", "temporary_error", 0.1)
    assert samples(metrics, name) == {(): 0.0}
    metrics.reconciled("reconcile", "success", 0.1)
    assert samples(metrics, name) == {(): 77.0}


def test_a_standby_shows_no_jobs():
    """After the lease is lost the jobs are another replica's to show."""
    metrics, job = OperatorMetrics(), make_job()
    metrics.leading(True)
    metrics.job_seen(job, [], {"phase": "Running"})
    assert samples(metrics, "foretune_operator_leader") == {(): 1.0}
    metrics.leading(False)
    assert samples(metrics, "foretune_operator_leader") == {(): 0.0}
    assert samples(metrics, "foretune_job_info") == {}


def test_a_rejected_job_counts_as_failed():
    """A spec that can't be run is a Failed job, without series of trials."""
    metrics = OperatorMetrics()
    metrics.job_rejected(JobKey("default", "bad"), uid="u", created_at=5.0)
    assert samples(metrics, "foretune_jobs")["default", "Failed"] == 1
    assert samples(metrics, "foretune_job_trials") == {}


def test_counting_never_fails_what_is_counted(caplog):
    """An error of the metrics is logged and does not reach the loop."""
    OperatorMetrics().trial_created(None, 0)  # type: ignore[arg-type]
    assert "a metric is not counted" in caplog.text


@pytest.mark.parametrize("state", [s for s in TrialState if s.terminal])
@pytest.mark.parametrize("reason", EndReason)
def test_every_end_has_a_bounded_outcome(state, reason):
    """No end of a trial makes a label value outside the documented set."""
    assert outcome_label(Outcome(index=0, attempt=0, state=state, reason=reason)) in OUTCOMES


def test_a_job_that_ended_before_the_start_is_shown_by_its_status():
    """Phase, counts, best value and GPU time are there without asking the history; what is known stays."""
    metrics, world, job = OperatorMetrics(), World(), make_job()
    run(world, job, metrics)
    status = {**world.statuses[-1], "spent": {"gpuHours": 0.5}}
    again = OperatorMetrics()
    again.job_settled(job, status)
    assert samples(again, "foretune_jobs")["default", "Complete"] == 1
    shown = ("foretune_job_trials", "foretune_job_best_objective", "foretune_job_trials_max")
    for name in shown:
        assert samples(again, name) == samples(metrics, name), name
    assert samples(again, "foretune_job_gpu_seconds") == {("default", "demo"): 1800.0}
    before = samples(metrics, "foretune_job_gpu_seconds")
    metrics.job_settled(job, status)
    assert samples(metrics, "foretune_job_gpu_seconds") == before
