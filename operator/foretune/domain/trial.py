"""Trials, their attempts, and how they end.

A trial is one configuration of a job; an attempt is one run of it (one Kubernetes Job, or one local
process). Preemption makes a new attempt of the same trial, never a new trial.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from foretune.domain.space import Params

PUSH: Final = "push"
"""Carrier of reports that a trial sends in Foretune's own form."""

KUBEFLOW: Final = "kubeflow"
"""Carrier of what a trial posts as to Kubeflow Trainer: at full precision, but not every epoch."""


class TrialState(enum.StrEnum):
    """Where a trial stands in the history."""

    PROPOSED = "Proposed"
    """A configuration is recorded; nothing was started."""
    PENDING = "Pending"
    """An attempt was created; no container runs yet."""
    RUNNING = "Running"
    """An attempt's container runs."""
    RETRYING = "Retrying"
    """An attempt ended for reasons outside the trial; another will be made."""
    COMPLETED = "Completed"
    EARLY_STOPPED = "EarlyStopped"
    INFEASIBLE = "Infeasible"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"
    CANCELLED = "Cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the trial has ended for good."""
        return self in _TERMINAL

    @property
    def succeeded(self) -> bool:
        """Whether the trial gave a value the objective can be read from."""
        return self in {TrialState.COMPLETED, TrialState.EARLY_STOPPED}


_TERMINAL = frozenset(
    {
        TrialState.COMPLETED,
        TrialState.EARLY_STOPPED,
        TrialState.INFEASIBLE,
        TrialState.FAILED,
        TrialState.TIMED_OUT,
        TrialState.CANCELLED,
    }
)


class EndReason(enum.StrEnum):
    """Why an attempt or trial ended; `planner.outcomes` decides, the history keeps it."""

    DONE = "Done"
    STOPPED_BY_RULE = "StoppedByRule"
    METRICS_MISSING = "MetricsMissing"
    OUT_OF_MEMORY = "OutOfMemory"
    DIVERGED = "Diverged"
    CONFIG_BUG = "ConfigBug"
    PREEMPTED = "Preempted"
    NODE_LOST = "NodeLost"
    PROCESS_LOST = "ProcessLost"
    IMAGE_UNPULLABLE = "ImageUnpullable"
    TIMED_OUT = "TimedOut"
    DATA_UNREACHABLE = "DataUnreachable"
    ERROR = "Error"
    DELETED = "Deleted"


class AttemptPhase(enum.StrEnum):
    """What the cluster (or the operating system) says of one attempt now."""

    QUEUED = "Queued"
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    GONE = "Gone"
    """It was created, and is no longer there."""

    @property
    def ended(self) -> bool:
        """Whether the attempt will change no more."""
        return self in {AttemptPhase.SUCCEEDED, AttemptPhase.FAILED, AttemptPhase.GONE}


@dataclass(frozen=True, kw_only=True)
class ObservedAttempt:
    """One attempt as seen by a runner: a Job and its newest pod, or a process. Times are Unix seconds."""

    name: str
    index: int
    number: int
    config_hash: str
    phase: AttemptPhase
    created_at: float | None = None
    bound_at: float | None = None
    """When the pod was bound to a node: from here on it holds its GPUs."""
    started_at: float | None = None
    """When the first container started."""
    ended_at: float | None = None
    exit_code: int | None = None
    container_reason: str | None = None
    """`OOMKilled`, `Error`, `ErrImagePull`, ...: the container's own waiting or terminated reason."""
    disruption: str | None = None
    """Reason of the pod's DisruptionTarget condition (`PreemptionByScheduler`, ...)."""
    deadline_exceeded: bool = False
    termination_message: str = ""
    pod_name: str | None = None
    pod_uid: str | None = None
    node: str | None = None
    gpus: int = 0
    waiting_message: str = ""
    ttl_set: bool = False
    deleting: bool = False
    replaced_s: float = 0.0
    """Seconds that earlier pods of this attempt, which the Job controller replaced, held their GPUs."""
    ignored_pods: int = 0
    """Pods of this attempt that the Job controller replaced without counting a failure."""


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One attempt as the history keeps it."""

    number: int
    state: AttemptPhase
    pod_uid: str | None = None
    created_at: float | None = None
    bound_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    reason: EndReason | None = None
    message: str = ""
    node: str | None = None
    gpus: int = 0
    held_gpu_s: float = 0.0
    """GPUs x (bound to ended): the only GPU time that is priced."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the planner decided about an ended attempt; committed by the tracker before anything else.

    `final` tells whether the trial ends with it; else the trial is Retrying and gets attempt + 1.
    """

    index: int
    attempt: int
    state: TrialState
    reason: EndReason
    message: str = ""
    counts_as_failure: bool = False
    attempt_record: AttemptRecord | None = None
    records: tuple[Mapping[str, Any], ...] = ()
    """Reports recovered from the log tail or the termination message, merged with those received."""
    source: str | None = None
    """Carrier of those records: `log_tail` or `termination_message`."""
    predicted: tuple[float, float] | None = None
    """Final value that a trial stopped early would have had, and its standard deviation: what the history
    keeps in place of the truncated value. Without it such a trial has no value."""

    @property
    def final(self) -> bool:
        """Whether the trial ends with this attempt."""
        return self.state.terminal


@dataclass(frozen=True)
class Point:
    """One point of a learning curve."""

    epoch: float
    metrics: Mapping[str, float]
    at: float
    """Unix seconds, the tracker's clock."""
    resources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Forecast:
    """What the model that proposed a trial expected of it, in the metric's unit."""

    mean: float
    sd: float
    incumbent: float
    """The best value by the model's own account, noise taken off."""
    noise_sd: float = 0.0
    """What two trainings of one configuration differ by."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial as the history keeps it; `value` is in the objective's own unit and direction."""

    job_uid: str
    index: int
    params: Params
    state: TrialState
    config_hash: str
    value: float | None = None
    """The reduced objective: final once the state is terminal, so far while it runs."""
    value_sd: float = 0.0
    """Standard deviation of `value` where it is a prediction, as of a trial stopped early; 0 = observed."""
    epochs: float = 0.0
    """Highest epoch reported."""
    reports: int = 0
    attempts: tuple[AttemptRecord, ...] = ()
    reason: EndReason | None = None
    message: str = ""
    counts_as_failure: bool = False
    nonfinite: bool = False
    """Whether the objective or the training loss was not finite in the last two reports."""
    metrics_seen: tuple[str, ...] = ()
    proposer: str = ""
    """Who proposed it: `default`, `sobol`, `gp`, ...; with `fallback` behind a slash when it stood in."""
    forecast: Forecast | None = None
    """None where no model proposed it."""
    source: str | None = None
    """Carrier of the objective: `push`, `kubeflow`, `log_tail`, `termination_message`."""
    created_at: float = 0.0
    ended_at: float | None = None
    cpu_s: float | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    """What its processes reported to have used, added up (`domain/usage.py`)."""
    gpu_s: float = 0.0
    """Held GPU seconds of all attempts."""
    cost: float | None = None
    """What it cost: GPU seconds held where it has GPUs, else CPU seconds, else wall seconds; whatever the
    unit of an observation given to the optimizer is. One unit within a job; None while it is not known."""
    stop_requested: str | None = None
    """Rule that asked the trial to stop (`median`, `user`, ...), or None."""

    @property
    def seconds(self) -> float | None:
        """Wall seconds from the first attempt's start to its end (or None while it has none)."""
        starts = [a.started_at for a in self.attempts if a.started_at is not None]
        ends = [a.ended_at for a in self.attempts if a.ended_at is not None]
        return max(ends) - min(starts) if starts and ends else None
