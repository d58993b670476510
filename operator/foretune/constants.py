"""Names that appear in Kubernetes objects, in the API and in the history."""

from __future__ import annotations

import enum
from typing import Final

GROUP: Final = "foretune.io"
"""API group of the custom resource."""

VERSION: Final = "v1alpha1"
"""Served and stored version of the custom resource."""

API_VERSION: Final = f"{GROUP}/{VERSION}"
"""`apiVersion` of a TuningJob."""

KIND: Final = "TuningJob"
"""The only kind."""

PLURAL: Final = "tuningjobs"
"""Resource name in URLs and rights."""

FIELD_MANAGER: Final = "foretune-operator"
"""Field manager of every server-side apply."""

LABEL_JOB: Final = f"{GROUP}/job"
"""Label on Jobs and Pods: name of the TuningJob; the operator's watches select on it."""

LABEL_JOB_UID: Final = f"{GROUP}/job-uid"
"""Label on Jobs and Pods: uid of the TuningJob."""

LABEL_TRIAL: Final = f"{GROUP}/trial"
"""Label on Jobs and Pods: the trial's index."""

LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
"""Label on Jobs and Pods: the attempt's number, from 0."""

ANNOTATION_CONFIG_HASH: Final = f"{GROUP}/config-hash"
"""Annotation on a Job: hash of the parameters it runs, compared when a name is taken already."""

ANNOTATION_TRIAL_CONFIG: Final = f"{GROUP}/trial-config"
"""Annotation on a Pod: the text of `trial.json`, shown to the container as a file."""

ANNOTATION_WORKLOAD: Final = f"{GROUP}/workload"
"""Annotation on a Job: `builtin`, `image` or `template`; exit code 0 means most in the first."""

MAIN_CONTAINER: Final = "trainer"
"""Name of the container of a trial pod that Foretune builds itself."""

GPU_RESOURCE: Final = "nvidia.com/gpu"
"""Extended resource that `trial.gpu` counts."""

TRIAL_METRICS: Final = "ft-metrics"
"""Name of the port at which a trial's pod shows live figures; the chart's PodMonitor knows it."""

LOCAL_NAMESPACE: Final = "local"
"""Namespace under which jobs of `foretune run` stand in the history."""

STATUS_LIMIT: Final = 32 * 1024
"""Bytes; the status writer refuses more, so that etcd stays small whatever the number of trials."""


class Phase(enum.StrEnum):
    """`status.phase`: derived from the conditions, for printing only."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Condition(enum.StrEnum):
    """Types of `status.conditions`."""

    ACCEPTED = "Accepted"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Reason(enum.StrEnum):
    """Reasons of conditions; each belongs to the condition named in its sentence."""

    VALID = "Valid"
    """Accepted: the spec can be run."""
    INVALID_SPEC = "InvalidSpec"
    """Accepted=False: the message names the field and what would be right."""
    TEMPLATE_REJECTED = "TemplateRejected"
    """Accepted=False or Failed: the cluster refuses to create the trial's Job."""
    TRIALS_RUNNING = "TrialsRunning"
    """Progressing: trials are running or about to."""
    WAITING_FOR_QUOTA = "WaitingForQuota"
    """Progressing: a quota refuses new pods; tried again with back-off."""
    WAITING_FOR_SURROGATE = "WaitingForSurrogate"
    """Progressing: the next configuration is being computed."""
    SUSPENDED = "Suspended"
    """Progressing=False: `spec.suspend` is true."""
    DONE = "Done"
    """Progressing=False: the job is Complete or Failed."""
    SURROGATE_UNAVAILABLE = "SurrogateUnavailable"
    """Degraded: proposals come from the scrambled Sobol sequence."""
    HISTORY_UNAVAILABLE = "HistoryUnavailable"
    """Degraded: the tracker can't be reached; no new trials are started."""
    IMAGE_PULL = "ImagePull"
    """Degraded: a trial's image can't be pulled."""
    POD_REFUSED = "PodRefused"
    """Degraded: the cluster refuses to create a trial's pod; after ten minutes the job fails."""
    METRICS_LATE = "MetricsLate"
    """Degraded: running trials report less often than expected."""
    AS_EXPECTED = "AsExpected"
    """Degraded=False: nothing is wrong."""
    TARGET_REACHED = "TargetReached"
    """Complete: `objective.target` was met."""
    MAX_TRIALS = "MaxTrials"
    """Complete: `budget.trials` trials have ended."""
    BUDGET_EXHAUSTED = "BudgetExhausted"
    """Complete: the GPU hours of `budget.gpuHours` are spent."""
    CONVERGED = "Converged"
    """Complete: `budget.idleTrials` trials brought no improvement, or none is expected any more."""
    SPACE_EXHAUSTED = "SpaceExhausted"
    """Complete: every configuration of a finite space was tried."""
    STOPPING = "Stopping"
    """Progressing: the verdict is known; running trials are asked to stop."""
    MAX_FAILED_TRIALS = "MaxFailedTrials"
    """Failed: more trials failed than `failurePolicy.maxFailed` allows."""
    CONFIG_BUG = "ConfigBug"
    """Failed: the trial's program can't run as configured; retrying would waste GPUs."""
    IMAGE_UNPULLABLE = "ImageUnpullable"
    """Failed: a trial's image could not be pulled for ten minutes."""
    NAME_COLLISION = "NameCollision"
    """Degraded: a Job of the wanted name belongs to somebody else."""
