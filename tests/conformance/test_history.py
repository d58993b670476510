"""The suite of `ports.History`: what every store must do, whatever it is made of."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.histories import (
    a_batch,
    a_job,
    a_proposal,
    an_attempt,
    an_outcome,
    epochs,
    running_trial,
    tuned,
)

from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.trial import AttemptPhase, EndReason, Forecast, TrialState
from foretune.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune.ports import History


def test_a_job_comes_back_as_it_was_put(history: History) -> None:
    """Every field of a job survives, its objective and the manifest's numbers included."""
    objective = Objective(metric="loss", goal=Goal.MINIMIZE, target=0.1, reduce=Reduce.LAST)
    job = a_job(objective=objective, context={"model": "cnn", "name": "größer"})
    history.put_job(job)
    assert history.job("job-1") == job


def test_a_job_is_updated_by_uid(history: History) -> None:
    """A second put changes the manifest and keeps when the job was made."""
    history.put_job(a_job())
    history.put_job(a_job(manifest={"budget": {"trials": 9}}, created_at=5000.0))
    assert history.job("job-1").manifest == {"budget": {"trials": 9}}
    assert history.job("job-1").created_at == 1000.0


def test_jobs_are_found_newest_first(history: History) -> None:
    """Jobs of one name in one namespace are listed newest first, others are left out."""
    history.put_job(a_job("old", created_at=1.0))
    history.put_job(a_job("new", created_at=3.0))
    history.put_job(a_job("other-name", name="another", created_at=2.0))
    history.put_job(a_job("other-namespace", namespace="team-b", created_at=4.0))
    found = history.find_jobs(namespace="team-a", name="demo")
    assert [job.uid for job in found] == ["new", "old"]
    assert [job.uid for job in history.find_jobs(name="demo")] == ["other-namespace", "new", "old"]
    assert len(history.find_jobs()) == 4
    assert history.find_jobs(namespace="nobody") == []


ASKED: dict[str, Callable[[Any], Any]] = {
    "job": lambda h: h.job("nobody"),
    "trials": lambda h: h.trials("nobody"),
    "proposals": lambda h: h.proposals("nobody"),
    "lessons": lambda h: h.lessons("nobody", limit=9),
    "put_proposal": lambda h: h.put_proposal(a_proposal("nobody")),
    "close_job": lambda h: h.close_job("nobody", phase="Failed", reason="", message="", at=1.0),
    "trial": lambda h: h.trial("job-1", 9),
    "curve": lambda h: h.curve("job-1", 9),
    "pods": lambda h: h.pods("job-1", 9),
    "put_attempt": lambda h: h.put_attempt("job-1", 9, an_attempt()),
    "add_reports": lambda h: h.add_reports(a_batch(epochs(0.1), index=9)),
    "commit": lambda h: h.commit("job-1", an_outcome(9), at=1.0),
    "request_stop": lambda h: h.request_stop("job-1", 9, rule="user"),
}


@pytest.mark.parametrize("method", ASKED)
def test_what_is_not_there_is_not_found(history: History, method: str) -> None:
    """A job or trial that nobody recorded is `NotFoundError`, never an empty answer."""
    running_trial(history)
    with pytest.raises(NotFoundError):
        ASKED[method](history)


def test_a_proposal_keeps_the_types_of_its_values(history: History) -> None:
    """True, 1, 1.0 and "1" stay apart, and small numbers keep their digits."""
    params: dict[str, Any] = {"a": True, "b": 1, "c": 1.0, "d": "1", "e": 1.2345678901e-05}
    history.put_job(a_job())
    put = history.put_proposal(a_proposal(params=params, detail={"mean": 0.5}))
    got = history.proposal("job-1", 0)
    assert got == put
    assert got is not None
    assert [type(v) for v in got.params.values()] == [bool, int, float, str, float]
    assert [type(v) for v in history.trial("job-1", 0).params.values()] == [
        bool,
        int,
        float,
        str,
        float,
    ]


def test_the_first_proposal_of_an_index_stays(history: History) -> None:
    """A second proposal of one (job, index) returns the first."""
    history.put_job(a_job())
    first = history.put_proposal(a_proposal(proposer="gp"))
    second = history.put_proposal(a_proposal(proposer="random", params={"lr": 0.5, "layers": 4}))
    assert second == first
    assert history.proposal("job-1", 1) is None


def test_trials_come_by_index(history: History) -> None:
    """Trials are listed by index, in whatever order they were proposed."""
    history.put_job(a_job())
    for index in (10, 2, 0):
        history.put_proposal(a_proposal(index=index))
    found = history.trials("job-1")
    assert [t.index for t in found] == [0, 2, 10]
    assert {t.state for t in found} == {TrialState.PROPOSED}
    assert history.trial("job-1", 2) == found[1]


def test_an_attempt_moves_its_trial(history: History) -> None:
    """A trial is Pending with its attempt, Running once that runs, and knows the attempt's facts."""
    uid = running_trial(history)
    assert history.trial(uid, 0).state is TrialState.RUNNING
    record = an_attempt(
        state=AttemptPhase.PENDING, created_at=1.5, bound_at=2.5, node="node-1", gpus=2
    )
    history.put_attempt(uid, 0, record)
    trial = history.trial(uid, 0)
    assert trial.state is TrialState.PENDING
    assert trial.attempts == (record,)


def test_news_of_an_older_attempt_do_not_move_the_trial(history: History) -> None:
    """Late news of attempt 0 leave a trial alone whose attempt 1 runs."""
    uid = running_trial(history)
    history.put_attempt(uid, 0, an_attempt(1))
    history.put_attempt(uid, 0, an_attempt(0, state=AttemptPhase.PENDING))
    assert history.trial(uid, 0).state is TrialState.RUNNING


def test_an_ended_attempt_is_not_recorded_again(history: History) -> None:
    """Once an attempt's end is committed, late news of it are passed over."""
    uid = running_trial(history)
    lost = an_outcome(state=TrialState.RETRYING, reason=EndReason.PREEMPTED)
    history.commit(uid, lost, at=10.0)
    history.put_attempt(uid, 0, an_attempt(0))
    trial = history.trial(uid, 0)
    assert trial.state is TrialState.RETRYING
    assert trial.attempts[0].reason is EndReason.PREEMPTED


def test_pods_are_remembered_in_order(history: History) -> None:
    """Each pod of a trial is known with its attempt, oldest first, also once another took its place."""
    uid = running_trial(history)
    history.put_attempt(uid, 0, an_attempt(0, pod_uid="pod-b"))
    history.put_attempt(uid, 0, an_attempt(0, pod_uid=None))
    history.put_attempt(uid, 0, an_attempt(1, pod_uid="pod-c"))
    assert list(history.pods(uid, 0)) == [(0, "pod-0"), (0, "pod-b"), (1, "pod-c")]


@pytest.mark.parametrize(
    ("goal", "reduce", "value"),
    [
        (Goal.MAXIMIZE, Reduce.BEST, 0.9),
        (Goal.MINIMIZE, Reduce.BEST, 0.1),
        (Goal.MAXIMIZE, Reduce.LAST, 0.5),
        (Goal.MAXIMIZE, Reduce.MEAN, 0.5),
    ],
)
def test_the_value_is_the_objective_over_the_curve(
    history: History, goal: Goal, reduce: Reduce, value: float
) -> None:
    """A trial's value is its curve, reduced as the job's objective says."""
    objective = Objective(metric="accuracy", goal=goal, reduce=reduce)
    uid = running_trial(history, job=a_job(objective=objective))
    assert history.trial(uid, 0).value is None
    assert history.add_reports(a_batch(epochs(0.1, 0.9, 0.5))) == 3
    trial = history.trial(uid, 0)
    assert trial.value == pytest.approx(value)
    assert (trial.epochs, trial.reports, trial.source) == (3.0, 3, "push")


def test_a_report_sent_twice_is_stored_once(history: History) -> None:
    """The identity (trial, attempt, pod uid, seq) decides; the first content stays."""
    uid = running_trial(history)
    assert history.add_reports(a_batch(epochs(0.1, 0.2))) == 2
    assert history.add_reports(a_batch(epochs(0.7, 0.2, 0.3))) == 1
    assert history.add_reports(a_batch(epochs(0.4, 0.4), pod_uid="pod-other")) == 2
    doubled = [*epochs(0.5), *epochs(0.6)]
    assert history.add_reports(a_batch(doubled, pod_uid="pod-third")) == 1
    assert history.trial(uid, 0).reports == 6


def test_reports_in_any_order_give_one_curve(history: History) -> None:
    """Reports that arrive late or out of order give the curve they were written as."""
    uid = running_trial(history)
    reports = epochs(*(i / 10 for i in range(9)))
    # An epoch reported twice: of two reports the one with the higher seq counts, late as the other is.
    reports.append({**reports[4], "seq": 20, "metrics": {"accuracy": 0.77}})
    random.Random(3).shuffle(reports)
    reports.sort(key=lambda r: r["epoch"] == 5.0 and r["seq"] == 4)
    for at, report in enumerate(reports):
        history.add_reports(a_batch([report], received_at=2000.0 + at))
    curve = history.curve(uid, 0)
    assert [point.epoch for point in curve] == [float(e) for e in range(1, 10)]
    assert curve[4].metrics == {"accuracy": 0.77}
    assert history.trial(uid, 0).value == 0.8


def test_metrics_of_one_epoch_are_merged(history: History) -> None:
    """Metrics that come in separate reports of one epoch make one point."""
    uid = running_trial(history)
    first = {"seq": 0, "kind": "epoch", "epoch": 1.0, "metrics": {"accuracy": 0.5}}
    second = {"seq": 1, "kind": "epoch", "epoch": 1.0, "metrics": {"val_loss": 0.3}}
    history.add_reports(a_batch([first, second]))
    (point,) = history.curve(uid, 0)
    assert point.metrics == {"accuracy": 0.5, "val_loss": 0.3}
    assert history.trial(uid, 0).metrics_seen == ("accuracy", "val_loss")


def test_steps_within_an_epoch_are_not_epochs(history: History) -> None:
    """A step's report says nothing of its epoch, which has not ended."""
    uid = running_trial(history)
    step = {"seq": 9, "kind": "step", "epoch": 3.0, "step": 7, "metrics": {"train_loss": 0.4}}
    history.add_reports(a_batch([*epochs(0.1, 0.2), step]))
    assert history.trial(uid, 0).epochs == 2.0
    assert [point.epoch for point in history.curve(uid, 0)] == [1.0, 2.0]


def test_a_trial_may_name_no_epochs(history: History) -> None:
    """The objective counts also when reports name no epoch; points are numbered, or by step."""
    uid = running_trial(history)
    history.add_reports(a_batch([{"seq": 0, "kind": "event", "metrics": {"accuracy": 0.6}}]))
    assert [point.epoch for point in history.curve(uid, 0)] == [1.0]
    running_trial(history, 1)
    steps = [
        {"seq": i, "kind": "step", "step": 100 * i, "metrics": {"accuracy": i / 10}} for i in (1, 2)
    ]
    history.add_reports(a_batch(steps, index=1))
    assert [point.epoch for point in history.curve(uid, 1)] == [100.0, 200.0]
    assert [trial.value for trial in history.trials(uid)] == [0.6, 0.2]


def test_a_new_pod_goes_on_from_where_it_starts(history: History) -> None:
    """What a lost pod reached beyond its successor's first epoch is not part of the run."""
    uid = running_trial(history)
    history.add_reports(a_batch(epochs(0.1, 0.2, 0.3, 0.9)))
    resumed = {"seq": 0, "kind": "epoch", "epoch": 3.0, "metrics": {"accuracy": 0.35}}
    history.add_reports(a_batch([resumed], attempt=1, pod_uid="pod-1"))
    assert [p.metrics["accuracy"] for p in history.curve(uid, 0)] == [0.1, 0.2, 0.35]
    trial = history.trial(uid, 0)
    assert (trial.value, trial.epochs, trial.reports) == (0.35, 3.0, 5)


def test_two_reports_without_finite_loss_are_a_divergence(history: History) -> None:
    """The objective or the training loss must be non-finite in the last two reports."""
    uid = running_trial(history)
    bad = {"kind": "epoch", "metrics": {"val_loss": 1.0}, "nonfinite": ["train_loss"]}
    worse = {"kind": "epoch", "metrics": {}, "nonfinite": ["accuracy"]}
    history.add_reports(a_batch([{**bad, "seq": 0, "epoch": 1.0}]))
    assert not history.trial(uid, 0).nonfinite
    history.add_reports(a_batch([{**worse, "seq": 1, "epoch": 2.0}]))
    assert history.trial(uid, 0).nonfinite
    history.add_reports(a_batch([{**epochs(0.5)[0], "seq": 2, "epoch": 3.0}]))
    trial = history.trial(uid, 0)
    assert (trial.nonfinite, trial.value) == (False, 0.5)
    assert trial.metrics_seen == ("accuracy", "train_loss", "val_loss")


def test_cpu_seconds_are_summed_over_processes(history: History) -> None:
    """Each process's CPU seconds are cumulative: its largest counts, once."""
    uid = running_trial(history)
    reports = [{**r, "resources": {"cpu_s": 10.0 * r["epoch"]}} for r in epochs(0.1, 0.2)]
    history.add_reports(a_batch(reports))
    final = {"seq": 0, "kind": "final", "metrics": {}, "resources": {"cpu_s": 5.0}}
    history.add_reports(a_batch([final], attempt=1, pod_uid="pod-1"))
    trial = history.trial(uid, 0)
    assert trial.cpu_s == 25.0
    assert trial.value == 0.2


def test_resources_are_added_up_over_processes(history: History) -> None:
    """What a trial used is kept with it: each process's last report has all that this process used."""
    uid = running_trial(history)
    used = {"cpu_s": 1.5, "energy_j": 10.0, "energy_scope": "device", "rss_peak_bytes": 100}
    reports = [
        {**r, "resources": {**used, "cpu_s": r["epoch"], "phase_s": {"train": 2.0}}}
        for r in epochs(0.1, 0.2)
    ]
    history.add_reports(a_batch(reports))
    other = {"seq": 0, "kind": "final", "metrics": {}, "resources": {**used, "rss_peak_bytes": 300}}
    history.add_reports(a_batch([other], attempt=1, pod_uid="pod-1"))
    assert history.trial(uid, 0).resources == {
        "cpu_s": 3.5,
        "energy_j": 20.0,
        "energy_scope": "device",
        "rss_peak_bytes": 300,
    }


def test_an_outcome_ends_the_trial_once(history: History) -> None:
    """Terminal stays terminal: a second outcome changes nothing and costs nothing."""
    uid = running_trial(history)
    history.add_reports(a_batch(epochs(0.4)))
    first = history.commit(uid, an_outcome(message="fine"), at=50.0)
    assert (first.state, first.reason, first.ended_at) == (
        TrialState.COMPLETED,
        EndReason.DONE,
        50.0,
    )
    assert (first.gpu_s, first.value, first.message) == (120.0, 0.4, "fine")
    assert history.commit(uid, an_outcome(message="fine"), at=60.0) == first
    failed = an_outcome(state=TrialState.FAILED, reason=EndReason.ERROR)
    assert history.commit(uid, failed, at=70.0) == first
    history.put_attempt(uid, 0, an_attempt(1))
    history.request_stop(uid, 0, rule="user")
    assert history.trial(uid, 0) == first


def test_a_lost_attempt_leaves_the_trial_open(history: History) -> None:
    """A trial that is Retrying goes on with its next attempt; the GPU time of both is booked."""
    uid = running_trial(history)
    lost = an_outcome(state=TrialState.RETRYING, reason=EndReason.NODE_LOST)
    assert history.commit(uid, lost, at=50.0).ended_at is None
    assert history.commit(uid, lost, at=51.0).gpu_s == 120.0
    history.put_attempt(uid, 0, an_attempt(1))
    ended = history.commit(uid, an_outcome(attempt=1), at=60.0)
    assert ended.gpu_s == 240.0
    assert [a.reason for a in ended.attempts] == [EndReason.NODE_LOST, EndReason.DONE]


def test_recovered_records_that_were_received_are_not_doubled(history: History) -> None:
    """A report read from the log again has its identity, and the pushed value stays."""
    uid = running_trial(history)
    history.add_reports(a_batch(epochs(0.111, 0.222)))
    again = [{**r, "pod": "pod-0", "trial": "job-1/0", "ts": 1.0} for r in epochs(0.1, 0.2, 0.333)]
    trial = history.commit(uid, an_outcome(records=tuple(again), source="log_tail"), at=9.0)
    assert trial.reports == 3
    assert [p.metrics["accuracy"] for p in history.curve(uid, 0)] == [0.111, 0.222, 0.333]
    assert trial.source == "log_tail"


def test_what_a_log_prints_fills_gaps_and_replaces_nothing(history: History) -> None:
    """Rounded values from plain text stand beside pushed ones, and the source names the value's carrier."""
    uid = running_trial(history)
    history.add_reports(a_batch([{**epochs(0.98765)[0], "metrics": {"accuracy": 0.98765}}]))
    printed = [{"seq": 0, "epoch": 1.0, "metrics": {"accuracy": 0.99, "val_loss": 0.5}}]
    trial = history.commit(uid, an_outcome(records=tuple(printed), source="log_tail"), at=9.0)
    assert (trial.value, trial.source) == (0.98765, "push")
    assert history.curve(uid, 0)[0].metrics == {"accuracy": 0.98765, "val_loss": 0.5}


def test_a_termination_message_alone_gives_the_value(history: History) -> None:
    """Without a single report received, recovered records are the curve."""
    uid = running_trial(history)
    records = tuple(epochs(0.3, 0.6))
    trial = history.commit(uid, an_outcome(records=records, source="termination_message"), at=9.0)
    assert (trial.value, trial.epochs, trial.source) == (0.6, 2.0, "termination_message")


def test_a_trial_stopped_early_has_the_value_it_would_have_had(history: History) -> None:
    """The predicted final value and its deviation are kept, not the truncated one; the curve stays."""
    uid = running_trial(history)
    history.add_reports(a_batch(epochs(0.5, 0.6)))
    stopped = replace(
        an_outcome(state=TrialState.EARLY_STOPPED, reason=EndReason.STOPPED_BY_RULE),
        predicted=(0.7, 0.05),
    )
    trial = history.commit(uid, stopped, at=2000.0)
    assert (trial.value, trial.value_sd, trial.epochs) == (0.7, 0.05, 2.0)
    history.add_reports(a_batch(epochs(0.5, 0.6, 0.65)))
    assert history.trial(uid, 0) == trial
    assert history.trials(uid) == [trial]
    assert [point.metrics["accuracy"] for point in history.curve(uid, 0)] == [0.5, 0.6, 0.65]


def test_a_truncated_value_is_no_value(history: History) -> None:
    """Where nothing can be said of what a stopped trial would have had it has no value; the curve stays."""
    uid = running_trial(history)
    history.add_reports(a_batch(epochs(0.5, 0.6)))
    stopped = an_outcome(state=TrialState.EARLY_STOPPED, reason=EndReason.STOPPED_BY_RULE)
    trial = history.commit(uid, stopped, at=2000.0)
    assert (trial.value, trial.value_sd, trial.epochs) == (None, 0.0, 2.0)
    assert len(history.curve(uid, 0)) == 2


def test_several_curves_are_read_at_once(history: History) -> None:
    """Of the trials asked for those with reports come, each as by itself."""
    uid = running_trial(history)
    for index in (0, 1, 2):
        running_trial(history, index)
        if index:
            history.add_reports(a_batch(epochs(0.1 * index, 0.2 * index), index=index))
    found = history.curves(uid, [0, 1, 2, 9])
    assert found == {index: history.curve(uid, index) for index in (1, 2)}
    assert list(history.curves(uid, [2])) == [2]
    assert history.curves(uid, []) == {}
    assert history.curves("nobody", [0]) == {}


def test_a_trial_knows_what_was_expected_of_it(history: History) -> None:
    """The audit of a proposal gives the trial's forecast; without a model's numbers there is none."""
    history.put_job(a_job())
    numbers = {"mean": 0.8, "sd": 0.1, "incumbent": 0.7, "noise_sd": 0.01}
    history.put_proposal(a_proposal(detail={**numbers, "expert": "plain"}))
    history.put_proposal(a_proposal(index=1, detail={"mean": 0.8}))
    assert history.trial("job-1", 0).forecast == Forecast(0.8, 0.1, 0.7, 0.01)
    assert history.trial("job-1", 1).forecast is None


def test_a_value_that_was_reported_is_certain(history: History) -> None:
    """Of a trial that ran to its end the deviation is 0."""
    uid = running_trial(history)
    history.add_reports(a_batch(epochs(0.5)))
    assert history.commit(uid, an_outcome(), at=2000.0).value_sd == 0.0


def test_late_reports_complete_the_curve_and_leave_the_value(history: History) -> None:
    """A report after the end is kept; the value that was decided upon stays."""
    uid = running_trial(history)
    history.add_reports(a_batch(epochs(0.4)))
    ended = history.commit(uid, an_outcome(), at=50.0)
    assert history.add_reports(a_batch(epochs(0.4, 0.9))) == 1
    assert history.trial(uid, 0) == ended
    assert len(history.curve(uid, 0)) == 2


def test_the_first_stop_rule_stays(history: History) -> None:
    """Who asked first for a trial to stop is remembered."""
    uid = running_trial(history)
    history.request_stop(uid, 0, rule="median")
    history.request_stop(uid, 0, rule="user")
    assert history.trial(uid, 0).stop_requested == "median"


def test_only_a_deleted_job_cancels_its_trials(history: History) -> None:
    """Closing a job keeps its trials; deleting it cancels the open ones and leaves the ended."""
    uid = running_trial(history)
    running_trial(history, 1)
    history.commit(uid, an_outcome(1), at=40.0)
    history.close_job(uid, phase="Complete", reason="MaxTrials", message="all done", at=50.0)
    job = history.job(uid)
    assert (job.phase, job.reason, job.message, job.closed_at) == (
        "Complete",
        "MaxTrials",
        "all done",
        50.0,
    )
    assert history.trial(uid, 0).state is TrialState.RUNNING
    history.close_job(uid, phase="Deleted", reason="Deleted", message="", at=60.0)
    trials = history.trials(uid)
    assert [t.state for t in trials] == [TrialState.CANCELLED, TrialState.COMPLETED]
    assert trials[0].ended_at == 60.0


def test_counts_add_up(history: History) -> None:
    """Totals count jobs, trials, reports, and as observations ended trials that have a value."""
    assert history.counts() == {"jobs": 0, "trials": 0, "reports": 0, "observations": 0}
    uid = running_trial(history)
    running_trial(history, 1)
    running_trial(history, 2)
    history.add_reports(a_batch(epochs(0.4, 0.5)))
    history.add_reports(a_batch(epochs(0.4), index=1))
    history.commit(uid, an_outcome(), at=50.0)
    history.commit(uid, an_outcome(2, state=TrialState.FAILED, reason=EndReason.ERROR), at=50.0)
    assert history.counts() == {"jobs": 1, "trials": 3, "reports": 3, "observations": 1}


def test_any_text_of_a_log_can_be_kept(history: History) -> None:
    """NUL, half a surrogate pair and other scripts in a message do not keep an outcome from storage."""
    uid = running_trial(history)
    message = "died: \0 \ud800 für 猫"
    record = replace(an_attempt(reason=EndReason.ERROR), message=message)
    outcome = an_outcome(
        state=TrialState.FAILED, reason=EndReason.ERROR, message=message, attempt_record=record
    )
    trial = history.commit(uid, outcome, at=50.0)
    assert trial.message.endswith("für 猫")
    assert trial.attempts[0].message == trial.message


def test_namesakes_do_not_mix(history: History) -> None:
    """Jobs of one name have trials of their own."""
    running_trial(history, job=a_job("job-1"))
    running_trial(history, job=a_job("job-2", namespace="team-b"))
    history.add_reports(a_batch(epochs(0.4)))
    assert history.trial("job-2", 0).reports == 0
    assert history.trial("job-1", 0).reports == 1


def test_proposals_come_with_their_audit(history: History) -> None:
    """Every proposal of a job is listed by index, each as it was recorded."""
    history.put_job(a_job())
    for index in (2, 0):
        history.put_proposal(a_proposal(index=index, detail={"mean": 0.5 + index, "prior": "used"}))
    assert history.proposals("job-1") == [history.proposal("job-1", i) for i in (0, 2)]


def past(history: History, **wanted: Any) -> list[str]:
    """Return the uids of past jobs; by default of team-a, as far as they are published at all."""
    values: dict[str, Any] = {
        "namespaces": ["team-a"],
        "published": ["namespace", "cluster"],
        "limit": 9,
    }
    return [job.uid for job in history.past_jobs(**{**values, **wanted})]


def test_past_jobs_are_found_by_scope_name_and_metric(history: History) -> None:
    """Newest first, of the namespaces that are asked for, without those that are kept back or have no end."""
    said: dict[str, dict[str, Any]] = {
        "kept": {"publish": False},
        "shared": {"scope": "cluster"},
        "old": {},
    }
    for number, (uid, history_field) in enumerate(said.items()):
        manifest = {"space": {"lr": {"min": 0, "max": 3}}, "history": history_field}
        tuned(history, a_job(uid, name=uid, created_at=number, manifest=manifest), [0.5, 0.6])
    loss = Objective(metric="loss", goal=Goal.MINIMIZE)
    tuned(history, a_job("loss", created_at=9.0, objective=loss), [0.5])
    tuned(history, a_job("other", namespace="team-b", created_at=5.0), [0.5])
    running_trial(history, job=a_job("runs", created_at=99.0))
    assert past(history) == ["loss", "old", "shared"]
    assert past(history, limit=2) == ["loss", "old"]
    assert past(history, metric="accuracy") == ["old", "shared"]
    assert past(history, names=["demo", "shared"]) == ["loss", "shared"]
    assert past(history, published=["cluster"], namespaces=None) == ["shared"]
    assert past(history, namespaces=None) == ["loss", "other", "old", "shared"]
    assert past(history, least=2) == ["old", "shared"]
    (found,) = history.past_jobs(
        namespaces=["team-a"], published=["cluster"], names=["shared"], limit=9
    )
    assert (found.name, found.namespace, found.created_at) == ("shared", "team-a", 1.0)
    assert (found.closed, found.space) == (False, {"lr": {"min": 0, "max": 3}})
    history.close_job("old", phase="Complete", reason="", message="", at=9.0)
    (found,) = history.past_jobs(namespaces=None, published=["namespace"], names=["old"], limit=9)
    assert found.closed
    assert history.ended(["loss", "old", "runs"]) == {"loss": 1, "old": 2}


def test_the_last_word_on_past_jobs_is_found(history: History) -> None:
    """Of each job what its last proposal said that said anything; a job that never did is left out."""
    said = {"turned": ["used", "rejected", None], "back": ["rejected", "used"], "silent": [None]}
    for uid, words in said.items():
        history.put_job(a_job(uid, name=uid))
        for index, word in enumerate(words):
            detail = {"prior": word} if word else {"mean": 0.5}
            history.put_proposal(a_proposal(uid, index, detail=detail))
    assert history.decisions([*said, "nobody"]) == {"turned": "rejected", "back": "used"}
    assert history.decisions(["back"]) == {"back": "used"}
    assert history.decisions([]) == {}


def test_a_job_may_change_its_mind(history: History) -> None:
    """What a job's manifest says last of its publication counts, for what it found before too."""
    job = a_job(manifest={"space": {}})
    tuned(history, job, [0.5])
    assert past(history) == ["job-1"]
    history.put_job(replace(job, manifest={"space": {}, "history": {"publish": False}}))
    assert past(history) == []
    history.put_job(replace(job, manifest={"space": {}, "history": {"scope": "cluster"}}))
    assert past(history, namespaces=None, published=["cluster"]) == ["job-1"]


@pytest.mark.slow
@pytest.mark.parametrize("goal", Goal)
def test_lessons_are_the_best_and_an_even_choice(history: History, goal: Goal) -> None:
    """Of 40 values 12 are kept: the 4 best and 8 at even distances; 3 of the failures, the newest."""
    values: list[float | None] = [float((7 * i) % 40) for i in range(40)]
    values[40:] = [None] * 5
    objective = Objective(metric="y", goal=goal)
    tuned(history, a_job(objective=objective), values)
    running_trial(history, 45, a_job(objective=objective))
    found = history.lessons("job-1", limit=12)
    assert [t.index for t in found] == sorted(t.index for t in found)
    assert [t.index for t in found if t.value is None] == [42, 43, 44]
    places = sorted(
        v if goal is Goal.MINIMIZE else 39 - v for v in (t.value for t in found) if v is not None
    )
    assert places[:4] == [0, 1, 2, 3]
    steps = [b - a for a, b in itertools.pairwise(places[3:])]
    assert (len(places), places[-1]) == (12, 39)
    assert set(steps) <= {4, 5}


def test_lessons_of_a_small_job_are_all_it_has(history: History) -> None:
    """Fewer values than the limit are all kept, with all that is known of each trial."""
    tuned(history, a_job(), [0.5, 0.1, None, 0.9])
    assert history.lessons("job-1", limit=12) == history.trials("job-1")
    assert history.lessons("job-1", limit=3) != history.trials("job-1")
