"""The table of ends of the architecture, row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest
from tests.support.world import make_job

from foretune.domain.job import Builtin, Image
from foretune.domain.trial import (
    AttemptPhase,
    AttemptRecord,
    EndReason,
    ObservedAttempt,
    Trial,
    TrialState,
)
from foretune.planner.outcomes import classify, held_gpu_s
from foretune.planner.snapshot import Recovered

SPEC = make_job().spec


def attempt(**changes: Any) -> ObservedAttempt:
    base = ObservedAttempt(
        name="demo-t0000-a0",
        index=0,
        number=0,
        config_hash="h",
        phase=AttemptPhase.FAILED,
        bound_at=100.0,
        started_at=110.0,
        ended_at=160.0,
        exit_code=1,
        gpus=2,
    )
    return replace(base, **changes)


def trial(**changes: Any) -> Trial:
    base = Trial(job_uid="u", index=0, params={}, state=TrialState.RUNNING, config_hash="h")
    return replace(base, **changes)


def lost(reason: EndReason, count: int) -> tuple[AttemptRecord, ...]:
    return tuple(
        AttemptRecord(number=n, state=AttemptPhase.FAILED, reason=reason) for n in range(count)
    )


SUCCEEDED = {"phase": AttemptPhase.SUCCEEDED, "exit_code": 0}
CASES = [
    # name, attempt, trial, log, state, reason, counts as failure
    ("value and exit 0", SUCCEEDED, {"value": 0.9}, "", "Completed", "Done", False),
    ("exit 0 after a stop request", SUCCEEDED, {"value": 0.9, "stop_requested": "median"}, "",
     "EarlyStopped", "StoppedByRule", False),
    ("exit 0 without the objective", SUCCEEDED, {}, "", "Failed", "MetricsMissing", True),
    ("exit 0, objective only NaN", SUCCEEDED, {"nonfinite": True}, "", "Infeasible", "Diverged", False),
    ("host out of memory", {"exit_code": 137, "container_reason": "OOMKilled"}, {}, "",
     "Infeasible", "OutOfMemory", False),
    ("device out of memory by code", {"exit_code": 80}, {}, "", "Infeasible", "OutOfMemory", False),
    ("device out of memory by text", {"exit_code": 1}, {},
     "torch.OutOfMemoryError: CUDA out of memory. Tried", "Infeasible", "OutOfMemory", False),
    ("diverged", {"exit_code": 79}, {}, "", "Infeasible", "Diverged", False),
    ("wrong configuration", {"exit_code": 64}, {}, "", "Failed", "ConfigBug", False),
    ("unknown extra", {"exit_code": 78}, {}, "", "Failed", "ConfigBug", False),
    ("disrupted", {"exit_code": 137, "disruption": "PreemptionByScheduler"}, {}, "",
     "Retrying", "Preempted", False),
    ("OOMKilled while evicted is a disruption",
     {"exit_code": 137, "container_reason": "OOMKilled", "disruption": "TerminationByKubelet"}, {}, "",
     "Retrying", "Preempted", False),
    ("checkpoint written", {"exit_code": 75}, {}, "", "Retrying", "Preempted", False),
    ("SIGTERM of our own", {"exit_code": 143, "deleting": True}, {}, "", "Retrying", "Preempted", False),
    ("SIGTERM of the script's own making", {"exit_code": 143}, {}, "", "Retrying", "Error", False),
    ("process lost", {"phase": AttemptPhase.GONE, "exit_code": None}, {}, "", "Retrying", "ProcessLost", False),
    ("lost for the sixth time", {"exit_code": 75}, {"attempts": lost(EndReason.PREEMPTED, 5)}, "",
     "Failed", "Preempted", False),
    ("deadline", {"exit_code": 143, "deadline_exceeded": True}, {}, "", "TimedOut", "TimedOut", False),
    ("first error is retried", {"exit_code": 1}, {}, "boom", "Retrying", "Error", False),
    ("second error is final", {"exit_code": 1}, {"attempts": lost(EndReason.ERROR, 1)}, "boom",
     "Failed", "Error", True),
    ("data unreachable is retried", {"exit_code": 74}, {}, "", "Retrying", "DataUnreachable", False),
    ("asked to stop, killed, with a value", {"exit_code": 143}, {"value": 0.5, "stop_requested": "user"},
     "", "EarlyStopped", "StoppedByRule", False),
    ("asked to stop, killed, without a value", {"exit_code": 143}, {"stop_requested": "user"},
     "", "Cancelled", "StoppedByRule", False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "known", "text", "state", "reason", "failure"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_the_table(seen, known, text, state, reason, failure):
    """Each kind of end gives its state, its reason, and counts as a failure or not."""
    outcome = classify(attempt(**seen), trial(**known), SPEC, Recovered(text=text), 200.0)
    assert (outcome.state, outcome.reason) == (state, reason)
    assert outcome.counts_as_failure is failure


def test_missing_metrics_name_what_was_seen_and_the_closest():
    """A misspelt metric is named with the one that was probably meant."""
    outcome = classify(
        attempt(**SUCCEEDED), trial(metrics_seen=("acuraccy", "loss")), SPEC, Recovered(), 200.0
    )
    assert "seen: acuraccy, loss; did you mean 'acuraccy'?" in outcome.message


def test_a_value_in_the_log_completes_the_trial():
    """An unmodified program that printed the objective is Completed, and the carrier is kept."""
    recovered = Recovered(
        records=({"seq": 0, "epoch": 1.0, "metrics": {"accuracy": 0.7}},), source="log_tail"
    )
    outcome = classify(attempt(**SUCCEEDED), trial(), SPEC, recovered, 200.0)
    assert (outcome.state, outcome.source) == (TrialState.COMPLETED, "log_tail")


def test_held_time_runs_from_binding_to_the_end():
    """GPU time is held from the moment of binding, image pull included."""
    assert held_gpu_s(attempt(), 500.0) == 2 * 60.0
    assert held_gpu_s(attempt(ended_at=None), 200.0) == 2 * 100.0
    assert held_gpu_s(attempt(bound_at=None, started_at=None), 200.0) == 0.0


def test_a_failures_message_is_its_last_telling_line():
    """The message is the last line of the traceback, not a report."""
    log = 'Traceback\nValueError: bad shape\nFORETUNE {"v":1}\n'
    outcome = classify(attempt(), trial(), SPEC, Recovered(text=log), 200.0)
    assert outcome.message == "exit code 1: ValueError: bad shape"


FOLDER: Final = Builtin(model="bert", dataset="sst2", data_path="/data/sst2")
WORDS = [
    # exit code, workload, the trainer's line, the message
    (74, FOLDER, "/data/sst2 is no folder: tried train.parquet",
     "spec.trial.builtin.path: /data/sst2 is no folder: tried train.parquet"),
    (64, FOLDER, "/data/sst2/train.parquet: is no parquet file: too short",
     "spec.trial.builtin.path: /data/sst2/train.parquet: is no parquet file: too short"),
    (74, Builtin(model="bert", dataset="sst2"), "stanfordnlp/sst2: neither in the cache nor on the hub",
     "spec.trial.builtin.dataset: stanfordnlp/sst2: neither in the cache nor on the hub"),
    (64, FOLDER, "foretune_trainer: workload.model: must be one of cnn, bert, not 'bret'",
     "spec.trial.builtin.model: must be one of cnn, bert, not 'bret'"),
    (78, FOLDER, "workload.extras.widht: is not known to this trainer; did you mean width?",
     "spec.trial.builtin.extras.widht: is not known to this trainer; did you mean width?"),
    (64, FOLDER, "params.layers: must be a whole number >= 1, not 0",
     "spec.space.layers: must be a whole number >= 1, not 0"),
    (64, FOLDER, "version: this trainer speaks 1, not 2", "version: this trainer speaks 1, not 2"),
    (64, Image(image="mine"), "workload.model: mine", "workload.model: mine"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "workload", "line", "message"), WORDS)
def test_the_trainers_line_names_the_manifests_field(code, workload, line, message):
    """What the built-in trainer can't run is told with the path of the field; other images speak for themselves."""
    spec = replace(SPEC, trial=replace(SPEC.trial, workload=workload))
    ended = attempt(exit_code=code, termination_message=line)
    assert classify(ended, trial(), spec, Recovered(), 200.0).message == message
