"""What the operator tells Prometheus: the port `Telemetry`, and the operator's own health."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import platform
import time
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

import foretune
from foretune.adapters.telemetry.catalogue import Process
from foretune.adapters.telemetry.instruments import OTHER, Instruments, bounded
from foretune.adapters.telemetry.jobs import (
    MAX_JOBS,
    JobCollector,
    JobState,
    settled_state,
    state_of,
)
from foretune.constants import PLURAL, Phase
from foretune.domain.trial import EndReason, TrialState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foretune.domain.job import Job, JobKey
    from foretune.domain.trial import ObservedAttempt, Outcome, Trial

log = logging.getLogger(__name__)

ENV_REVISION: Final = "FORETUNE_REVISION"
"""Variable of the image that names the commit it was built from."""

HANDLERS: Final = ("reconcile", "forget", "reject", "resync")
"""What a worker of the queue may run."""

RESULTS: Final = ("success", "temporary_error", "error")
"""How a run of a handler may end."""

VERBS: Final = ("get", "list", "watch", "create", "patch", "update", "apply", "delete")
"""Verbs of requests to the Kubernetes API."""

RESOURCES: Final = (PLURAL, f"{PLURAL}/status", "jobs", "pods", "pods/log", "leases", "events")
"""Resources that the operator asks for."""

SOURCES: Final = ("push", "kubeflow", "termination_message", "log_tail")
"""Carriers of an objective."""

_OUTCOMES: Final = {
    TrialState.COMPLETED: "succeeded",
    TrialState.EARLY_STOPPED: "early_stopped",
    TrialState.INFEASIBLE: "infeasible",
    TrialState.TIMED_OUT: "timed_out",
    TrialState.CANCELLED: "cancelled",
}
_LOST: Final = frozenset({EndReason.PREEMPTED, EndReason.NODE_LOST, EndReason.PROCESS_LOST})
_RETRIES: Final = {
    EndReason.PREEMPTED: "preemption",
    EndReason.NODE_LOST: "node_lost",
    EndReason.PROCESS_LOST: "process_lost",
    EndReason.DATA_UNREACHABLE: "data_unreachable",
    EndReason.ERROR: "error",
}
OUTCOMES: Final = (*_OUTCOMES.values(), "failed", "metrics_missing", "preempted")
"""Every value of the label `outcome`."""

Arguments = ParamSpec("Arguments")


def _never_raises(
    method: Callable[Concatenate[OperatorMetrics, Arguments], None],
) -> Callable[Concatenate[OperatorMetrics, Arguments], None]:
    """Log what goes wrong: counting must not fail what is counted."""

    @functools.wraps(method)
    def guarded(
        self: OperatorMetrics, /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            log.exception("a metric is not counted")

    return guarded


class OperatorMetrics:
    """The operator's metrics; implements `ports.Telemetry`. Thread-safe, and never raises."""

    def __init__(
        self, *, max_jobs: int = MAX_JOBS, wall_clock: Callable[[], float] = time.time
    ) -> None:
        """Make the registry; jobs beyond `max_jobs` get no series of their own."""
        self._instruments = Instruments(Process.OPERATOR)
        self.registry = self._instruments.registry
        """What a `MetricsServer` shows."""
        self._wall_clock = wall_clock
        self._jobs = JobCollector(max_jobs)
        self.registry.register(self._jobs)
        build = (foretune.__version__, os.environ.get(ENV_REVISION, ""), platform.python_version())
        self._instruments.set(
            "foretune_operator_build_info", *build, _version_of("kopf"), value=1.0
        )
        self._instruments.set("foretune_operator_leader", value=0.0)

    # ------------------------------------------------------------- the loop
    @_never_raises
    def trial_created(self, job: Job, index: int) -> None:  # noqa: ARG002 - the port's signature
        """Count a trial whose first attempt was started."""
        labels = (job.key.namespace, job.spec.search.algorithm.value)
        self._instruments.count("foretune_trials_created_total", *labels)

    @_never_raises
    def attempt_ended(
        self, job: Job, attempt: ObservedAttempt, outcome: Outcome, trial: Trial
    ) -> None:
        """Count the end of an attempt, and of its trial if it ended with it."""
        namespace = job.key.namespace
        ended_as = outcome_label(outcome)
        if attempt.bound_at is not None and attempt.created_at is not None:
            wait = attempt.bound_at - attempt.created_at
            self._instruments.observe("foretune_trial_queue_wait_seconds", namespace, value=wait)
        if attempt.started_at is not None and attempt.bound_at is not None:
            startup = attempt.started_at - attempt.bound_at
            self._instruments.observe("foretune_trial_startup_seconds", namespace, value=startup)
        record = outcome.attempt_record
        if record is not None and record.held_gpu_s > 0:
            self._instruments.count(
                "foretune_gpu_seconds_by_outcome_total", namespace, ended_as, by=record.held_gpu_s
            )
        if outcome.final:
            self._trial_ended(job, trial, ended_as)
        else:
            reason = _RETRIES.get(outcome.reason, OTHER)
            self._instruments.count("foretune_trial_retries_total", namespace, reason)

    def _trial_ended(self, job: Job, trial: Trial, ended_as: str) -> None:
        labels = (job.key.namespace, job.spec.search.algorithm.value, ended_as)
        self._instruments.count("foretune_trials_finished_total", *labels)
        if trial.seconds is not None:
            name = "foretune_trial_duration_seconds"
            self._instruments.observe(name, ended_as, value=trial.seconds)
        if trial.value is not None and trial.source is not None:
            source = bounded(trial.source, SOURCES)
            self._instruments.count("foretune_trial_metric_source_total", source)

    @_never_raises
    def job_seen(self, job: Job, trials: Sequence[Trial], status: Mapping[str, Any]) -> None:
        """Show this state of the job from now on."""
        self._jobs.put(job.key, state_of(job, trials, status))

    @_never_raises
    def job_gone(self, key: JobKey) -> None:
        """End the series of a deleted job."""
        self._jobs.drop(key)

    @_never_raises
    def job_rejected(self, key: JobKey, *, uid: str, created_at: float) -> None:
        """Show a job whose spec can't be run: it counts as Failed and has no other series."""
        state = JobState(uid=uid, phase=Phase.FAILED.value, created_at=created_at)
        self._jobs.put(key, state)

    @_never_raises
    def job_settled(self, job: Job, status: Mapping[str, Any]) -> None:
        """Show a job that ended before this process began, by its status; what is known is left alone."""
        if not self._jobs.knows(job.key, job.uid):
            self._jobs.put(job.key, settled_state(job, status))

    # --------------------------------------------------------- the operator
    @_never_raises
    def leading(self, leads: bool) -> None:  # noqa: FBT001 - the one thing it says
        """Say whether this replica acts; one that does not shows no jobs, so that plain sums are right."""
        self._instruments.set("foretune_operator_leader", value=1.0 if leads else 0.0)
        if not leads:
            self._jobs.clear()

    @_never_raises
    def reconciled(self, handler: str, result: str, seconds: float) -> None:
        """Count a run of a queue handler: `HANDLERS`, `RESULTS`."""
        name, ended = bounded(handler, HANDLERS), bounded(result, RESULTS)
        self._instruments.count("foretune_reconcile_total", name, ended)
        self._instruments.observe("foretune_reconcile_duration_seconds", name, value=seconds)
        if ended == "success":
            last = "foretune_reconcile_last_success_timestamp_seconds"
            self._instruments.set(last, value=self._wall_clock())

    @_never_raises
    def api_request(self, verb: str, resource: str, code: str, seconds: float) -> None:
        """Count a request to the Kubernetes API; a `code` that is no HTTP status is `error`."""
        known, kind = bounded(verb, VERBS), bounded(resource, RESOURCES)
        status = code if len(code) == 3 and code.isdecimal() else "error"  # noqa: PLR2004
        self._instruments.count("foretune_kube_api_requests_total", known, kind, status)
        name = "foretune_kube_api_request_duration_seconds"
        self._instruments.observe(name, known, value=seconds)


def outcome_label(outcome: Outcome) -> str:
    """Return the label `outcome` of an attempt's end: one of `OUTCOMES`."""
    if outcome.reason in _LOST:
        return "preempted"
    if outcome.reason is EndReason.METRICS_MISSING:
        return "metrics_missing"
    return _OUTCOMES.get(outcome.state, "failed")


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
