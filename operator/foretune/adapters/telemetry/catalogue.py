"""Every metric that Foretune exports, once: the registries, the reference page and the tests read it.

Names follow Prometheus: base units, `_total` for counters only, a sum over all labels means something.
Counters and histograms have bounded labels only, never the name of a job, a trial or a pod; gauges of
single jobs are capped (`jobs.MAX_JOBS`) and end with the job.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.StrEnum):
    """Prometheus' type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Process(enum.StrEnum):
    """The process whose /metrics shows it."""

    OPERATOR = "operator"
    TRACKER = "tracker"
    SUGGESTION = "suggestion"


FAST_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds, in seconds, of what usually takes milliseconds: turns of the loop, requests to an API server."""

SUGGEST_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Bounds, in seconds, of computing a proposal."""

WAIT_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)
"""Bounds, in seconds, of waiting for a node and for an image."""

TRIAL_S: Final = (
    1.0,
    5.0,
    15.0,
    60.0,
    300.0,
    900.0,
    1800.0,
    3600.0,
    7200.0,
    14400.0,
    43200.0,
    86400.0,
)
"""Bounds, in seconds, of a whole trial."""


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    process: Process
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram; +Inf is added."""
    collected: bool = False
    """Read from the state of the jobs at each scrape, rather than counted as things happen."""

    @property
    def per_job(self) -> bool:
        """Whether each job has series of its own."""
        return "tuningjob" in self.labels


_JOB = ("namespace", "tuningjob")


def _state(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(name, Kind.GAUGE, labels, text, Process.OPERATOR, collected=True)


def _counter(name: str, labels: tuple[str, ...], text: str, process: Process) -> Metric:
    return Metric(name, Kind.COUNTER, labels, text, process)


def _gauge(name: str, labels: tuple[str, ...], text: str, process: Process) -> Metric:
    return Metric(name, Kind.GAUGE, labels, text, process)


def _histogram(
    name: str, labels: tuple[str, ...], text: str, process: Process, buckets: tuple[float, ...]
) -> Metric:
    return Metric(name, Kind.HISTOGRAM, labels, text, process, buckets)


METRICS: Final = (
    # State of the jobs, read at each scrape: a deleted job's series end with it.
    _state("foretune_jobs", ("namespace", "phase"), "Number of TuningJobs by phase."),
    _state(
        "foretune_trials",
        ("namespace", "phase"),
        "Number of trials that have not ended, by phase: Pending, Suspended, Starting, Running.",
    ),
    _state(
        "foretune_job_info",
        (*_JOB, "uid", "task", "model_family", "algorithm", "objective"),
        "Static facts of a TuningJob. Always 1.",
    ),
    _state(
        "foretune_job_status_phase",
        (*_JOB, "phase"),
        "State set: 1 for the current phase of the TuningJob, 0 for the others.",
    ),
    _state(
        "foretune_job_created_timestamp_seconds",
        _JOB,
        "Creation time of the TuningJob, Unix epoch.",
    ),
    _state("foretune_job_trials", (*_JOB, "phase"), "Trials of the job by phase, ended ones too."),
    _state("foretune_job_trials_max", _JOB, "spec.budget.trials."),
    _state(
        "foretune_job_best_objective",
        _JOB,
        "Best objective value of a trial that has ended, in the objective's own unit.",
    ),
    _state(
        "foretune_job_evaluations_to_best",
        _JOB,
        "How many trials with a value had ended when the best one did, itself included.",
    ),
    _state(
        "foretune_job_last_improvement_timestamp_seconds",
        _JOB,
        "When the best trial ended, Unix epoch.",
    ),
    _state(
        "foretune_job_oldest_pending_trial_timestamp_seconds",
        _JOB,
        "Creation time of the oldest attempt not yet bound to a node; absent when none waits.",
    ),
    _state(
        "foretune_job_gpu_seconds",
        _JOB,
        "GPU seconds held by ended attempts; read from the history, so it survives restarts.",
    ),
    _state(
        "foretune_metrics_dropped_objects",
        ("reason",),
        "Jobs without series of their own because of the limit on series.",
    ),
    # What happens to trials: counted by the operator that acts.
    _counter(
        "foretune_trials_created_total",
        ("namespace", "algorithm"),
        "Trials whose first attempt was started.",
        Process.OPERATOR,
    ),
    _counter(
        "foretune_trials_finished_total",
        ("namespace", "algorithm", "outcome"),
        "Trials ended: succeeded, early_stopped, failed, infeasible, timed_out, metrics_missing, preempted, cancelled.",
        Process.OPERATOR,
    ),
    _histogram(
        "foretune_trial_duration_seconds",
        ("outcome",),
        "From the first start of a trial's container to its end.",
        Process.OPERATOR,
        TRIAL_S,
    ),
    _histogram(
        "foretune_trial_queue_wait_seconds",
        ("namespace",),
        "From the creation of an attempt to its binding to a node (no GPU held).",
        Process.OPERATOR,
        WAIT_S,
    ),
    _histogram(
        "foretune_trial_startup_seconds",
        ("namespace",),
        "From binding to the container's start (GPU held, nothing trained).",
        Process.OPERATOR,
        WAIT_S,
    ),
    _counter(
        "foretune_trial_retries_total",
        ("namespace", "reason"),
        "Attempts after which their trial is run again: preemption, node_lost, process_lost, data_unreachable, error.",
        Process.OPERATOR,
    ),
    _counter(
        "foretune_trial_metric_source_total",
        ("source",),
        "Ended trials by the carrier that gave the objective: push, kubeflow, termination_message, log_tail.",
        Process.OPERATOR,
    ),
    _counter(
        "foretune_gpu_seconds_by_outcome_total",
        ("namespace", "outcome"),
        "GPU seconds held, booked when an attempt ends, by its outcome; retried ones are what was wasted.",
        Process.OPERATOR,
    ),
    # The operator itself.
    _gauge(
        "foretune_operator_build_info",
        ("version", "revision", "python_version", "kopf_version"),
        "Build information. Always 1.",
        Process.OPERATOR,
    ),
    _gauge("foretune_operator_leader", (), "1 on the replica that acts, else 0.", Process.OPERATOR),
    _counter(
        "foretune_reconcile_total",
        ("handler", "result"),
        "Runs of a queue handler (reconcile, forget, reject): success, temporary_error, error.",
        Process.OPERATOR,
    ),
    _histogram(
        "foretune_reconcile_duration_seconds",
        ("handler",),
        "Run time of a queue handler.",
        Process.OPERATOR,
        FAST_S,
    ),
    _gauge(
        "foretune_reconcile_last_success_timestamp_seconds",
        (),
        "Last successful run of a queue handler, Unix epoch.",
        Process.OPERATOR,
    ),
    _counter(
        "foretune_kube_api_requests_total",
        ("verb", "resource", "code"),
        "Requests to the Kubernetes API; code is error when there was no answer.",
        Process.OPERATOR,
    ),
    _histogram(
        "foretune_kube_api_request_duration_seconds",
        ("verb",),
        "Duration of requests to the Kubernetes API.",
        Process.OPERATOR,
        FAST_S,
    ),
    # The tracker.
    Metric(
        "foretune_history_observations",
        Kind.GAUGE,
        (),
        "Ended trials with a value in the history; absent while its database does not answer.",
        Process.TRACKER,
        collected=True,
    ),
    _counter(
        "foretune_history_writes_total",
        ("result",),
        "Writes to the history: ok, error.",
        Process.TRACKER,
    ),
    _counter(
        "foretune_duplicate_suggestions_total",
        ("algorithm",),
        "Suggestions refused as equal to an earlier one (no GPU spent).",
        Process.TRACKER,
    ),
    _counter(
        "foretune_transfer_proposals_total",
        ("expert", "prior"),
        "Proposals recorded, by who made them (meta, plain, starter, none) and what past jobs were good for (used, rejected, none).",
        Process.TRACKER,
    ),
    _counter(
        "foretune_transfer_guard_trips_total",
        (),
        "Times that the guard switched what was learned from past jobs off for a job.",
        Process.TRACKER,
    ),
    _counter(
        "foretune_trials_stopped_total",
        ("rule",),
        "Trials that were stopped before their time, by rule: curve, median, asha, other.",
        Process.TRACKER,
    ),
    _counter(
        "foretune_epochs_spared_total",
        ("rule",),
        "Epochs that such trials did not train, where the length of a whole training is known.",
        Process.TRACKER,
    ),
    *(
        Metric(name, Kind.GAUGE, labels, text, Process.TRACKER, collected=True)
        for name, labels, text in (
            (
                "foretune_surrogate_scored_predictions",
                ("model",),
                "Completed trials since the start whose value was predicted when they were proposed, the last 200.",
            ),
            (
                "foretune_surrogate_interval_coverage_ratio",
                ("model", "level"),
                "Share of these whose value lies in the predicted interval.",
            ),
        )
    ),
    # The suggestion service.
    _histogram(
        "foretune_suggestion_duration_seconds",
        ("algorithm",),
        "Time to answer a request for a proposal, fallbacks included.",
        Process.SUGGESTION,
        SUGGEST_S,
    ),
    _counter(
        "foretune_suggestion_errors_total",
        ("algorithm", "reason"),
        "Requests that the designer did not answer: timeout, error, exhausted, invalid.",
        Process.SUGGESTION,
    ),
    _histogram(
        "foretune_surrogate_fit_duration_seconds",
        ("model",),
        "Time to fit the surrogate.",
        Process.SUGGESTION,
        SUGGEST_S,
    ),
    _counter(
        "foretune_surrogate_fallbacks_total",
        ("from_model", "to_model", "reason"),
        "Designers that another stood in for.",
        Process.SUGGESTION,
    ),
)
"""The table."""

BY_NAME: Final = {metric.name: metric for metric in METRICS}
"""Rows by name."""
