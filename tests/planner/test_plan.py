"""The plan as a whole: what it may never do, whatever happens around it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.world import Crash, TrackerView, World, make_job

from foretune.app.loop import Reconciler
from foretune.domain.job import Builtin
from foretune.domain.trial import AttemptPhase, EndReason, TrialState
from foretune.errors import ConflictError, InvalidJobError, Problem, QuotaExceededError
from foretune.planner.naming import attempt_name


def loop(world: World) -> Reconciler:
    return Reconciler(tracker=TrackerView(world), runner=world, sink=world, clock=world)


def finish(world: World, job, *, limit: int = 200) -> None:
    """Let every attempt start and succeed until the job is done."""
    reconciler = loop(world)
    for _ in range(limit):
        if reconciler.reconcile(job).done:
            return
        world.now_s += 1
        for name in world.live():
            if world.runs[name].phase is AttemptPhase.PENDING:
                world.start(name)
            else:
                world.succeed(name, 0.5 + 0.01 * world.runs[name].index)
    raise AssertionError("the job does not end")


def test_a_job_runs_to_its_budget():
    """Six trials, two at a time, end Complete with the best value in the status."""
    world, job = World(), make_job()
    finish(world, job)
    status = world.statuses[-1]
    assert status["phase"] == "Complete"
    assert status["best"]["trial"] == 5
    assert status["counts"]["succeeded"] == 6
    assert len(world.launches) == len(set(world.launches)) == 6
    assert world.closed == "Complete"


def test_nothing_is_asked_twice():
    """A second turn in an unchanged world acts on nothing."""
    world, job = World(), make_job()
    reconciler = loop(world)
    reconciler.reconcile(job)
    calls, written = world.calls, len(world.statuses)
    reconciler.reconcile(job)
    assert (world.calls, len(world.statuses)) == (calls, written)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "turn",
                "turn",
                "start",
                "succeed",
                "error",
                "preempt",
                "oom",
                "lose",
                "delete",
                "crash",
                "wait",
            ]
        ),
        st.integers(0, 5),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS)
def test_whatever_happens_the_limits_hold(events):
    """Never more than `parallelism` at once, never a name twice, ended trials stay ended, and it ends."""
    world, job = World(), make_job(failure=replace(make_job().spec.failure, max_failed=100))
    reconciler = loop(world)
    ended: dict[int, TrialState] = {}
    for kind, pick in events:
        live = world.live()
        name = live[pick % len(live)] if live else None
        if kind == "turn":
            reconciler.reconcile(job)
        elif kind == "wait":
            world.now_s += 200
        elif kind == "crash":
            world.crash_at = world.calls + 1 + pick
            with contextlib.suppress(Crash):
                reconciler.reconcile(job)
            world.crash_at = None
            reconciler = loop(world)
        elif name is not None and world.runs[name].index in world.trials:
            if kind == "start" and world.runs[name].phase is AttemptPhase.PENDING:
                world.start(name)
            elif kind == "succeed":
                world.succeed(name, 0.5)
            elif kind == "error":
                world.end(name, code=1)
            elif kind == "preempt":
                world.end(name, code=143, disruption="PreemptionByScheduler")
            elif kind == "oom":
                world.end(name, code=137, container_reason="OOMKilled")
            elif kind == "lose":
                world.end(name, code=1, phase=AttemptPhase.GONE, exit_code=None)
            elif kind == "delete":
                run = world.runs.pop(name)
                if all(a.number != run.number for a in world.trials[run.index].attempts):
                    # Deleted before the history knew of it: its name is free again.
                    world.launches.remove(name)
        assert len(world.live()) <= job.spec.parallelism
        assert len(world.launches) == len(set(world.launches))
        assert sorted(world.trials) == list(range(len(world.trials)))
        assert len(world.trials) <= job.spec.trials
        for index, state in ended.items():
            assert world.trials[index].state is state
        ended = {i: t.state for i, t in world.trials.items() if t.state.terminal}
    if not any(t.state is TrialState.INFEASIBLE for t in world.trials.values()):
        finish(world, job)
        assert (
            world.statuses[-1]["counts"]["pending"] == world.statuses[-1]["counts"]["running"] == 0
        )


@pytest.mark.parametrize("at", range(1, 80))
def test_a_kill_between_any_two_calls_changes_nothing(at):
    """Killed before call k and started again, the job ends as if nothing had happened."""
    calm, job = World(), make_job()
    finish(calm, job)
    world = World(crash_at=at)
    for _ in range(3):
        try:
            finish(world, job)
            break
        except Crash:
            continue
    assert {i: (t.params, t.state) for i, t in world.trials.items()} == {
        i: (t.params, t.state) for i, t in calm.trials.items()
    }
    assert len(world.launches) == len(set(world.launches)) == 6


def test_preemption_is_retried_and_never_counted():
    """A preempted trial gets a new attempt with the same parameters and no new index."""
    world, job = World(), make_job(parallelism=1, trials=1)
    reconciler = loop(world)
    reconciler.reconcile(job)
    first = world.live()[0]
    world.start(first)
    world.end(first, code=143, disruption="EvictionByEvictionAPI")
    reconciler.reconcile(job)
    assert world.launches == [attempt_name(job, 0, 0), attempt_name(job, 0, 1)]
    assert world.statuses[-1]["counts"]["failed"] == 0
    finish(world, job)
    assert world.trials[0].state is TrialState.COMPLETED


def test_too_many_failures_fail_the_job():
    """One failed trial more than allowed, and the job is Failed, with the last error in its message."""
    world, job = World(), make_job(parallelism=1)
    reconciler = loop(world)
    for step in range(40):
        turn = reconciler.reconcile(job)
        if turn.done:
            break
        for name in world.live():
            world.start(name)
            world.logs[name] = f"ValueError: number {step}"
            world.end(name, code=1)
    status = world.statuses[-1]
    assert status["phase"] == "Failed"
    failed = next(c for c in status["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "MaxFailedTrials"
    assert "ValueError" in failed["message"]
    assert len(world.trials) == 3


def test_three_equal_failures_are_the_programs_fault():
    """The same error in the first three trials fails the job though more failures were allowed."""
    world = World()
    job = make_job(parallelism=1, failure=replace(make_job().spec.failure, max_failed=50))
    reconciler = loop(world)
    while not reconciler.reconcile(job).done:
        for name in world.live():
            world.start(name)
            world.logs[name] = "NameError: x"
            world.end(name, code=1)
    failed = next(c for c in world.statuses[-1]["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "ConfigBug"
    assert len(world.trials) == 3


def test_a_folder_without_the_data_fails_the_job_with_the_first_trial():
    """A data folder that is not there is tried again once; then one line in the status names the field."""
    workload = Builtin(model="cnn", dataset="mnist", data_path="/data/mnist")
    trial = replace(make_job().spec.trial, workload=workload)
    world, job = World(), make_job(parallelism=1, trial=trial)
    line = "/data/mnist is no folder: tried train.parquet, test.parquet"
    reconciler = loop(world)
    while not reconciler.reconcile(job).done:
        for name in world.live():
            world.start(name)
            world.end(name, code=74, termination_message=line)
    assert world.launches == [attempt_name(job, 0, 0), attempt_name(job, 0, 1)]
    failed = next(c for c in world.statuses[-1]["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "ConfigBug"
    assert failed["message"] == f"trial 0 can't read its data: spec.trial.builtin.path: {line}"


def test_a_hub_that_is_away_fails_the_job_after_three_trials():
    """A hub may come back: only when the first three trials found it away is the job given up."""
    trial = replace(make_job().spec.trial, workload=Builtin(model="bert", dataset="sst2"))
    failure = replace(make_job().spec.failure, max_failed=50)
    world, job = World(), make_job(parallelism=1, trial=trial, failure=failure)
    reconciler = loop(world)
    while not reconciler.reconcile(job).done:
        for name in world.live():
            world.start(name)
            world.end(name, code=74, termination_message="stanfordnlp/sst2: not on the hub")
    failed = next(c for c in world.statuses[-1]["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "ConfigBug"
    assert "spec.trial.builtin.dataset: stanfordnlp/sst2: not on the hub" in failed["message"]
    assert len(world.trials) == 3


def test_a_wrong_configuration_fails_the_job_at_once():
    """Exit 64 ends the job at the first trial: a retry would waste GPUs."""
    world, job = World(), make_job(parallelism=1)
    reconciler = loop(world)
    reconciler.reconcile(job)
    name = world.live()[0]
    world.start(name)
    world.end(name, code=64, termination_message="spec.trial.builtin.model: no model 'cnm'")
    assert reconciler.reconcile(job).done
    failed = next(c for c in world.statuses[-1]["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "ConfigBug"
    assert "cnm" in failed["message"]
    assert world.trials[0].reason is EndReason.CONFIG_BUG


def test_reaching_the_target_stops_what_still_runs():
    """The other trials are asked to stop, and deleted when they do not within the grace."""
    objective = replace(make_job().spec.objective, target=0.9)
    world, job = World(), make_job(objective=objective)
    reconciler = loop(world)
    reconciler.reconcile(job)
    for name in world.live():
        world.start(name)
    reconciler.reconcile(job)
    first, second = world.live()
    world.succeed(first, 0.95)
    turn = reconciler.reconcile(job)
    assert not turn.done
    assert world.trials[1].stop_requested == "target"
    assert turn.requeue_after_s is not None
    world.now_s += 100
    turn = reconciler.reconcile(job)
    assert turn.done
    assert second not in world.runs
    assert world.statuses[-1]["phase"] == "Complete"
    assert world.trials[1].state is TrialState.CANCELLED


def test_a_finite_space_ends_when_it_is_exhausted():
    """The job is Complete with SpaceExhausted, though the budget had room."""
    world, job = World(capacity=3), make_job()
    finish(world, job)
    complete = next(c for c in world.statuses[-1]["conditions"] if c["type"] == "Complete")
    assert complete["reason"] == "SpaceExhausted"
    assert len(world.trials) == 3


def test_suspend_lets_running_trials_finish_and_starts_none():
    """While suspended nothing new starts; resumed, the job goes on to its budget."""
    world, job = World(), make_job()
    reconciler = loop(world)
    reconciler.reconcile(job)
    paused = replace(job, spec=replace(job.spec, suspend=True), generation=2)
    for name in world.live():
        world.start(name)
        world.succeed(name, 0.5)
    reconciler.reconcile(paused)
    assert world.live() == []
    assert world.statuses[-1]["phase"] == "Suspended"
    finish(world, replace(job, generation=3))
    assert len(world.trials) == 6


def test_raising_the_budget_of_a_finished_job_resumes_it():
    """A new generation with more trials goes on behind the last index."""
    world, job = World(), make_job(trials=2)
    finish(world, job)
    more = replace(job, spec=replace(job.spec, trials=4), generation=2, status=world.statuses[-1])
    finish(world, more)
    assert sorted(world.trials) == [0, 1, 2, 3]


def test_lowering_parallelism_deletes_nothing():
    """Running trials above a lowered limit finish by themselves."""
    world, job = World(), make_job()
    reconciler = loop(world)
    reconciler.reconcile(job)
    assert len(world.live()) == 2
    reconciler.reconcile(replace(job, spec=replace(job.spec, parallelism=1), generation=2))
    assert len(world.live()) == 2


def test_an_ended_job_asks_nobody_after_a_restart():
    """A new loop over an ended job makes no call but to register and close it."""
    world, job = World(), make_job()
    finish(world, job)
    calls = world.calls
    loop(world).reconcile(replace(job, status=world.statuses[-1]))
    assert world.calls - calls == 2


@pytest.mark.parametrize(
    ("error", "condition", "value", "reason"),
    [
        (QuotaExceededError("exceeded quota: gpus"), "Progressing", "True", "WaitingForQuota"),
        (
            InvalidJobError([Problem("", "violates PodSecurity")]),
            "Accepted",
            "False",
            "TemplateRejected",
        ),
        (ConflictError("somebody else's"), "Degraded", "True", "NameCollision"),
    ],
)
def test_refusals_at_creation_are_told(error, condition, value, reason):
    """What the cluster said at creation stands in the status, and no second trial is tried meanwhile."""
    world, job = World(launch_error=error), make_job()
    turn = loop(world).reconcile(job)
    told = next(c for c in world.statuses[-1]["conditions"] if c["type"] == condition)
    assert (told["status"], told["reason"]) == (value, reason)
    assert not turn.done
    assert len(world.trials) == 1


def test_an_image_that_can_not_be_pulled_degrades_then_fails():
    """Degraded at once; after ten minutes Failed with the image's own message, and its Job is deleted."""
    world, job = World(), make_job(parallelism=1)
    reconciler = loop(world)
    reconciler.reconcile(job)
    name = world.live()[0]
    world.runs[name] = replace(
        world.runs[name],
        bound_at=world.now_s,
        container_reason="ErrImagePull",
        waiting_message="no such image",
    )
    turn = reconciler.reconcile(job)
    degraded = next(c for c in world.statuses[-1]["conditions"] if c["type"] == "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "ImagePull")
    assert turn.requeue_after_s == pytest.approx(600)
    world.now_s += 601
    assert reconciler.reconcile(job).done
    assert world.statuses[-1]["phase"] == "Failed"
    assert name not in world.runs


def refuse_pod(world: World, message: str) -> str:
    """Let the cluster refuse the pod of the live attempt, and return its name."""
    (name,) = world.live()
    world.runs[name] = replace(
        world.runs[name], container_reason="FailedCreate", waiting_message=message
    )
    return name


def condition(world: World, kind: str) -> dict[str, Any]:
    """Return a condition of the status written last."""
    return next(c for c in world.statuses[-1]["conditions"] if c["type"] == kind)


def test_a_pod_that_the_cluster_refuses_degrades_then_fails():
    """Pod Security against a trial's pod: told at once, and the job fails after ten minutes, not never."""
    world, job = World(), make_job(parallelism=1)
    reconciler = loop(world)
    assert (
        reconciler.reconcile(job).requeue_after_s == 15
    )  # nothing is heard of a pod that is not there
    name = refuse_pod(world, "violates PodSecurity")
    assert not reconciler.reconcile(job).done
    told = condition(world, "Degraded")
    assert (told["status"], told["reason"]) == ("True", "PodRefused")
    assert told["message"] == "trial 0 gets no pod: violates PodSecurity"
    world.now_s += 601
    assert reconciler.reconcile(job).done
    failed = condition(world, "Failed")
    assert failed["reason"] == "ConfigBug"
    assert "violates PodSecurity" in failed["message"]
    assert name not in world.runs


def test_a_pod_that_a_quota_refuses_is_waited_for():
    """A quota against a trial's pod: WaitingForQuota however long it takes, and no further trials meanwhile."""
    world, job = World(), make_job(parallelism=2)
    reconciler = loop(world)
    reconciler.reconcile(make_job(parallelism=1))
    name = refuse_pod(world, 'pods "x" is forbidden: exceeded quota: gpus')
    for _ in range(3):
        reconciler.reconcile(job)
        told = condition(world, "Progressing")
        assert (told["reason"], told["message"]) == (
            "WaitingForQuota",
            'pods "x" is forbidden: exceeded quota: gpus',
        )
        assert world.live() == [name]
        world.now_s += 3600
    world.start(name)
    world.runs[name] = replace(world.runs[name], container_reason=None, waiting_message="")
    reconciler.reconcile(job)
    assert condition(world, "Progressing")["reason"] == "TrialsRunning"
    assert len(world.live()) == 2


def test_gpu_hours_end_the_job():
    """Once the hours are spent no new trial starts; running ones finish."""
    world, job = World(), make_job(parallelism=1, gpu_hours=1.0)
    reconciler = loop(world)
    reconciler.reconcile(job)
    name = world.live()[0]
    world.start(name)
    world.now_s += 3600
    world.succeed(name, 0.5)
    assert reconciler.reconcile(job).done
    complete = next(c for c in world.statuses[-1]["conditions"] if c["type"] == "Complete")
    assert complete["reason"] == "BudgetExhausted"
    assert world.statuses[-1]["spent"]["gpuHours"] == 1.0


def test_ended_attempts_get_their_ttl_only_after_the_outcome():
    """The TTL is set once, after the commit, and is the spec's."""
    world, job = World(), make_job(ttl_s=7)
    finish(world, job)
    assert all(run.ttl_set for run in world.runs.values())


def test_a_deleted_job_is_closed():
    """Forgetting a job closes it in the history."""
    world, job = World(), make_job()
    reconciler = loop(world)
    reconciler.reconcile(job)
    reconciler.forget(job.key, job.uid)
    assert world.closed == "Deleted"


def test_names_fit_in_a_label_and_depend_on_the_uid():
    """The longest job name gives at most 63 characters; a re-created job gets other names."""
    long = replace(make_job(), key=replace(make_job().key, name="x" * 63))
    assert len(attempt_name(long, 9999, 99)) <= 63
    other = replace(long, uid="another")
    assert attempt_name(long, 0, 0) != attempt_name(other, 0, 0)
