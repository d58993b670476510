"""Gauges of single jobs, read from their state at each scrape.

No gauge is set for an object: what a job leaves when it is deleted would stay for ever. The collector
yields what the last turn of each job's loop saw, so a deleted job's series end at once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from foretune.adapters.telemetry.catalogue import METRICS, Process
from foretune.constants import Phase
from foretune.domain.trial import AttemptPhase, TrialState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foretune.domain.job import Job, JobKey
    from foretune.domain.trial import Trial

MAX_JOBS: Final = 500
"""Jobs with series of their own; the others are counted in `foretune_metrics_dropped_objects`."""

HOUR_S: Final = 3600.0
"""Seconds of an hour."""

LIVE_PHASES: Final = ("Pending", "Suspended", "Starting", "Running")
"""Phases of a trial that has not ended."""

_OVER: Final = frozenset({Phase.COMPLETE.value, Phase.FAILED.value})


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What the exporter keeps of a job."""

    uid: str
    phase: str
    created_at: float
    info: Mapping[str, str] = field(default_factory=dict)
    live: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Gauges that carry no label but the job's, by name; what is not known is not there."""


def state_of(job: Job, trials: Sequence[Trial], status: Mapping[str, Any]) -> JobState:
    """Return what is exported of a job after a turn of its loop."""
    live = Counter(_live_phase(trial) for trial in trials if not trial.state.terminal)
    return replace(_told(job, status), live=live, numbers=_numbers(job, trials, status))


def settled_state(job: Job, status: Mapping[str, Any]) -> JobState:
    """Return what is exported of an ended job whose trials nobody asks for: what its status holds."""
    numbers = {
        "foretune_job_created_timestamp_seconds": job.created_at,
        "foretune_job_trials_max": float(job.spec.trials),
    }
    spent, best = status.get("spent") or {}, status.get("best") or {}
    if "gpuHours" in spent:
        numbers["foretune_job_gpu_seconds"] = float(spent["gpuHours"]) * HOUR_S
    if best.get("value") is not None:
        numbers["foretune_job_best_objective"] = float(best["value"])
    return replace(_told(job, status), numbers=numbers)


def _told(job: Job, status: Mapping[str, Any]) -> JobState:
    spec = job.spec
    return JobState(
        uid=job.uid,
        phase=str(status.get("phase", Phase.PENDING.value)),
        created_at=job.created_at,
        info={
            "task": spec.context.get("dataset", ""),
            "model_family": spec.context.get("model", ""),
            "algorithm": spec.search.algorithm.value,
            "objective": spec.objective.metric,
        },
        counts={name: int(count) for name, count in status.get("counts", {}).items()},
    )


def _live_phase(trial: Trial) -> str:
    if trial.state is TrialState.RUNNING:
        return "Running"
    newest = max(trial.attempts, key=lambda attempt: attempt.number, default=None)
    if newest is None or trial.state is not TrialState.PENDING:
        return "Pending"
    if newest.state is AttemptPhase.QUEUED:
        return "Suspended"
    return "Starting" if newest.bound_at is not None else "Pending"


def _numbers(job: Job, trials: Sequence[Trial], status: Mapping[str, Any]) -> dict[str, float]:
    numbers = {
        "foretune_job_created_timestamp_seconds": job.created_at,
        "foretune_job_trials_max": float(job.spec.trials),
        "foretune_job_gpu_seconds": sum(trial.gpu_s for trial in trials),
    }
    waiting = [
        attempt.created_at
        for trial in trials
        if trial.state is TrialState.PENDING
        for attempt in trial.attempts
        if not attempt.state.ended and attempt.bound_at is None and attempt.created_at is not None
    ]
    if waiting:
        numbers["foretune_job_oldest_pending_trial_timestamp_seconds"] = min(waiting)
    best = status.get("best", {}).get("trial")
    winner = next((trial for trial in trials if trial.index == best), None)
    if winner is None or winner.value is None:
        return numbers
    numbers["foretune_job_best_objective"] = winner.value
    if winner.ended_at is not None:
        numbers["foretune_job_last_improvement_timestamp_seconds"] = winner.ended_at
        end = (winner.ended_at, winner.index)
        numbers["foretune_job_evaluations_to_best"] = float(
            sum(
                (trial.ended_at, trial.index) <= end
                for trial in trials
                if trial.state.succeeded and trial.value is not None and trial.ended_at is not None
            )
        )
    return numbers


class JobCollector(Collector):
    """Yields the gauges of all jobs. Thread-safe."""

    def __init__(self, max_jobs: int = MAX_JOBS) -> None:
        """Start without jobs; more than `max_jobs` get no series of their own."""
        self._max = max_jobs
        self._lock = threading.Lock()
        self._jobs: dict[JobKey, JobState] = {}

    def put(self, key: JobKey, state: JobState) -> None:
        """Replace what is known of a job."""
        with self._lock:
            self._jobs[key] = state

    def knows(self, key: JobKey, uid: str) -> bool:
        """Whether the state of this very object is shown."""
        with self._lock:
            known = self._jobs.get(key)
            return known is not None and known.uid == uid

    def drop(self, key: JobKey) -> None:
        """Forget a job; one that is not known is fine."""
        with self._lock:
            self._jobs.pop(key, None)

    def clear(self) -> None:
        """Forget all jobs: another replica shows them now."""
        with self._lock:
            self._jobs.clear()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the empty families, so that registration asks for no state."""
        return _families().values()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the families as they are now."""
        with self._lock:
            jobs = dict(self._jobs)
        families = _families()
        _fill_totals(families, jobs)
        shown = sorted(jobs, key=lambda key: (jobs[key].phase in _OVER, -jobs[key].created_at, key))
        for key in shown[: self._max]:
            _fill_job(families, key, jobs[key])
        dropped = max(0, len(jobs) - self._max)
        families["foretune_metrics_dropped_objects"].add_metric(["max_jobs"], dropped)
        return families.values()


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        metric.name: GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for metric in METRICS
        if metric.collected and metric.process is Process.OPERATOR
    }


def _fill_totals(
    families: Mapping[str, GaugeMetricFamily], jobs: Mapping[JobKey, JobState]
) -> None:
    for namespace in sorted({key.namespace for key in jobs}):
        states = [state for key, state in jobs.items() if key.namespace == namespace]
        phases = Counter(state.phase for state in states)
        for phase in Phase:
            families["foretune_jobs"].add_metric([namespace, phase.value], phases[phase.value])
        for live in LIVE_PHASES:
            total = sum(state.live.get(live, 0) for state in states)
            families["foretune_trials"].add_metric([namespace, live], total)


def _fill_job(families: Mapping[str, GaugeMetricFamily], key: JobKey, state: JobState) -> None:
    name = [key.namespace, key.name]
    facts = [
        state.uid,
        *(state.info.get(k, "") for k in ("task", "model_family", "algorithm", "objective")),
    ]
    families["foretune_job_info"].add_metric([*name, *facts], 1)
    for phase in Phase:
        value = 1.0 if phase.value == state.phase else 0.0
        families["foretune_job_status_phase"].add_metric([*name, phase.value], value)
    for counted, count in state.counts.items():
        phase_name = counted[:1].upper() + counted[1:]
        families["foretune_job_trials"].add_metric([*name, phase_name], count)
    for metric, number in state.numbers.items():
        families[metric].add_metric(name, number)


__all__ = ["LIVE_PHASES", "MAX_JOBS", "JobCollector", "JobState", "settled_state", "state_of"]
