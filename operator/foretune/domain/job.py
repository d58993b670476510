"""A tuning job as the planner sees it: what is wanted, within which limits."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from foretune.domain.space import Space

MAX_INFRA_RETRIES: Final = 5
"""Attempts lost to preemption or a lost node before the trial is given up as Failed."""

DEFAULT_TRIALS: Final = 20
"""`budget.trials` when the manifest is silent."""


class Goal(enum.StrEnum):
    """Direction of the objective."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class Reduce(enum.StrEnum):
    """How a curve becomes one value."""

    BEST = "best"
    LAST = "last"
    MEAN = "mean"


class Algorithm(enum.StrEnum):
    """Who proposes configurations; `auto` is the best that is available."""

    AUTO = "auto"
    GP = "gp"
    RANDOM = "random"
    SOBOL = "sobol"
    GRID = "grid"


class PriorMode(enum.StrEnum):
    """What a job learns from besides its own trials."""

    AUTO = "auto"
    """Whatever past jobs are relevant."""
    OFF = "off"
    """Nothing."""
    NAMED = "named"
    """The jobs that the spec names."""


class Scope(enum.StrEnum):
    """Whose jobs are meant, or who may learn from a job."""

    NAMESPACE = "namespace"
    """The job's own namespace."""
    CLUSTER = "cluster"
    """All namespaces: of a job, where its namespace may publish so far."""


@dataclass(frozen=True, kw_only=True)
class PriorSpec:
    """Which past jobs a job learns from."""

    mode: PriorMode = PriorMode.AUTO
    names: tuple[str, ...] = ()
    """Jobs of the namespace, under `named`."""
    scope: Scope | None = None
    """None is what the tracker is set to."""
    max_tasks: int = 32


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The metric to optimise."""

    metric: str
    goal: Goal = Goal.MAXIMIZE
    target: float | None = None
    reduce: Reduce = Reduce.BEST

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`."""
        return a > b if self.goal is Goal.MAXIMIZE else a < b

    def reached(self, value: float) -> bool:
        """Whether `value` meets the target; False without one."""
        return self.target is not None and not self.better(self.target, value)

    def reduced(self, values: Sequence[float]) -> float | None:
        """Return one value for a curve (finite values in order), or None for an empty one."""
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return None
        if self.reduce is Reduce.LAST:
            return finite[-1]
        if self.reduce is Reduce.MEAN:
            return math.fsum(finite) / len(finite)
        return max(finite) if self.goal is Goal.MAXIMIZE else min(finite)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How configurations are proposed."""

    algorithm: Algorithm = Algorithm.AUTO
    seed: int = 0
    initial: int | None = None
    timeout_s: float = 30.0
    stop_when_converged: bool = False
    tolerance: float = 0.0
    """Expected improvement, in the metric's unit, below which no further trial is worth it."""


class StopMethod(enum.StrEnum):
    """Rules that stop running trials; `auto` is `curve` once past jobs have taught what curves do."""

    AUTO = "auto"
    NONE = "none"
    MEDIAN = "median"
    ASHA = "asha"
    CURVE = "curve"


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """When running trials are stopped."""

    method: StopMethod = StopMethod.AUTO
    min: float | None = None
    """Epochs before which none is stopped; None is a tenth of its training."""
    max: float | None = None
    """Epochs of a whole training; None reads them from the parameters or from trials that ended."""
    eta: int = 3
    """Of so many trials `asha` lets one go on."""
    grace_trials: int = 4
    """Trials that must have run to their end before any is stopped."""


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """A trial of the trainer that ships with Foretune."""

    model: str
    dataset: str
    data_path: str | None = None
    """Folder of the data set inside the pod, or on this machine in local mode."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Typed extras of the trainer (width, weight decay, valid fraction, ...)."""
    env: tuple[Mapping[str, Any], ...] = ()
    """Kubernetes EnvVar objects, in order."""
    env_from: tuple[Mapping[str, Any], ...] = ()
    volumes: tuple[Mapping[str, Any], ...] = ()
    volume_mounts: tuple[Mapping[str, Any], ...] = ()
    """Where the data set is, for instance."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A trial of the user's own image; `$(params.x)` is replaced in command, args and env."""

    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[Mapping[str, Any], ...] = ()
    """Kubernetes EnvVar objects, in order."""
    env_from: tuple[Mapping[str, Any], ...] = ()
    volumes: tuple[Mapping[str, Any], ...] = ()
    volume_mounts: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Template:
    """A trial described by a whole batch/v1 Job."""

    job: Mapping[str, Any]
    primary_container: str


Workload = Builtin | Image | Template


class Inject(enum.StrEnum):
    """What is brought into images that don't have it."""

    SDK = "sdk"
    """The reporting SDK, on PYTHONPATH; Lightning finds its callback there."""
    SHIMS = "shims"
    """Stand-ins for reporting functions of other tools; the SDK comes with them."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """What one trial runs, and on which resources."""

    workload: Workload
    gpu: int = 0
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Kubernetes `requests` and `limits`."""
    inject: frozenset[Inject] = frozenset()
    """Of `Image` and `Template`."""
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """When failed trials fail the job."""

    max_failed: int | None = None
    """Absolute limit; None means `max_failed_percent` of `budget.trials`."""
    max_failed_percent: float = 20.0
    on_error_retries: int = 1

    def limit(self, trials: int) -> int:
        """Number of failed trials that a job of `trials` may have; one more fails it.

        A share is rounded up, so that a small job survives one failure; 0 % allows none.
        """
        if self.max_failed is not None:
            return self.max_failed
        share = math.ceil(trials * self.max_failed_percent / 100)
        return max(1, share) if self.max_failed_percent else 0


@dataclass(frozen=True, order=True)
class JobKey:
    """Namespace and name: the key of the work queue."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """An accepted TuningJob, with every default filled in."""

    objective: Objective
    space: Space
    search: Search
    trial: TrialSpec
    parallelism: int = 1
    trials: int = DEFAULT_TRIALS
    gpu_hours: float | None = None
    """Held GPU hours after which no further trial is started; None is without limit."""
    idle_trials: int | None = None
    """Trials without an improvement after which the job is over; None is without limit."""
    failure: FailurePolicy = FailurePolicy()
    early_stopping: EarlyStopping = EarlyStopping()
    suspend: bool = False
    ttl_s: int | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    """What the job is about (model, dataset, ...): makes tasks comparable, never required."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """The spec as given (camelCase JSON), which the history keeps."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A TuningJob of a cluster or of local mode."""

    key: JobKey
    uid: str
    spec: JobSpec
    generation: int = 1
    created_at: float = 0.0
    """Unix seconds."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """The status last written, as observed (camelCase); conditions keep their transition times."""
