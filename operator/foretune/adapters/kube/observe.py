"""What a trial's Job and its pods say, as an `ObservedAttempt`: pure, and in no more than is needed.

Jobs and pods come in two streams, in any order. So an attempt has ended only when its Job says so *and*
the end of its newest pod is known, or it is known that no pod is there; until then it counts as running.
A pod that was seen and then removed is kept, with its last state, as long as its Job is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from foretune import constants
from foretune.contract import ExitCode
from foretune.domain.job import JobKey
from foretune.domain.trial import AttemptPhase, ObservedAttempt
from foretune.planner.outcomes import SIGTERM_EXIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
"""Annotation of a pod that names its primary container; `kubectl logs` reads it too."""

BUILTIN: Final = "builtin"
"""Value of the annotation `foretune.io/workload` of a trial of the built-in trainer."""

POD_LOST: Final = "PodLost"
"""Disruption of an attempt whose Job failed, and whose pod is gone without having told its end."""

POD_DELETED: Final = "PodDeleted"
"""Disruption of a pod that somebody deleted while it ran."""

UNKNOWN_END: Final = "ContainerStatusUnknown"
"""Reason under which a kubelet reports a container of which it lost track."""

_DEADLINE: Final = "DeadlineExceeded"
_REPLACED: Final = frozenset({int(ExitCode.PREEMPTED), SIGTERM_EXIT})
_POLICY_MESSAGE: Final = re.compile(r"failed with exit code (\d+) matching")


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimJob:
    """What is kept of an attempt's Job. Times are Unix seconds."""

    uid: str
    name: str
    key: JobKey
    owner_uid: str
    """Uid of the TuningJob that controls it."""
    index: int
    number: int
    config_hash: str
    primary: str
    honest: bool
    """Whether exit code 0 always means that the program finished: so with the built-in trainer."""
    created_at: float | None
    suspended: bool
    ended: str | None
    """`Complete` or `Failed`, once the Job controller is through with all its pods."""
    ended_at: float | None
    reason: str
    message: str
    ttl_set: bool
    deleting: bool
    gpus: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimPod:
    """What is kept of a pod. Times are Unix seconds."""

    uid: str
    name: str
    job_uid: str
    """Uid of the Job that controls it."""
    created_at: float
    phase: str
    reason: str
    """`Evicted`, `DeadlineExceeded`, ...: why the kubelet ended the whole pod."""
    deleted_at: float | None
    """When its deletion was asked for."""
    bound_at: float | None
    node: str | None
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    container_reason: str | None
    message: str
    """Termination message, or what a waiting container waits for."""
    waiting: bool
    disruption: str | None
    """Reason of its DisruptionTarget condition."""
    gone: bool = False
    """Whether it was removed from the cluster."""

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.gone or self.phase in {"Succeeded", "Failed"}


def slim_job(body: Mapping[str, Any]) -> SlimJob | None:
    """Return what is needed of a Job; None for one that no TuningJob controls."""
    meta, spec = body["metadata"], body.get("spec") or {}
    labels, owner = meta.get("labels") or {}, _controller(meta, constants.KIND)
    numbers = _numbers(labels)
    if owner is None or numbers is None or constants.LABEL_JOB not in labels:
        return None
    annotations, template = meta.get("annotations") or {}, spec.get("template") or {}
    pod = template.get("spec") or {}
    end = _end_condition(body)
    return SlimJob(
        uid=meta["uid"],
        name=meta["name"],
        key=JobKey(meta["namespace"], labels[constants.LABEL_JOB]),
        owner_uid=owner,
        index=numbers[0],
        number=numbers[1],
        config_hash=annotations.get(constants.ANNOTATION_CONFIG_HASH, ""),
        primary=primary_of(template.get("metadata") or {}),
        honest=annotations.get(constants.ANNOTATION_WORKLOAD) == BUILTIN,
        created_at=unix(meta.get("creationTimestamp")),
        suspended=bool(spec.get("suspend")),
        ended=end.get("type"),
        ended_at=unix(end.get("lastTransitionTime")),
        reason=end.get("reason") or "",
        message=end.get("message") or "",
        ttl_set=spec.get("ttlSecondsAfterFinished") is not None,
        deleting=meta.get("deletionTimestamp") is not None,
        gpus=_gpus(pod),
    )


def slim_pod(body: Mapping[str, Any]) -> SlimPod | None:
    """Return what is needed of a pod; None for one that no Job controls."""
    meta, status = body["metadata"], body.get("status") or {}
    owner = _controller(meta, "Job")
    if owner is None:
        return None
    main = _named(status.get("containerStatuses"), primary_of(meta))
    state = main.get("state") or {}
    waiting = state.get("waiting")
    end = _terminated(main) or _failed_init(status)
    deleted_at = unix(meta.get("deletionTimestamp"))
    if deleted_at is not None:
        deleted_at -= float(meta.get("deletionGracePeriodSeconds") or 0)
    shown = end if end is not None else (waiting or {})
    running = state.get("running") or end or {}
    created_at = unix(meta.get("creationTimestamp"))
    return SlimPod(
        uid=meta["uid"],
        name=meta["name"],
        job_uid=owner,
        created_at=created_at if created_at is not None else 0.0,
        phase=status.get("phase") or "Pending",
        reason=status.get("reason") or "",
        deleted_at=deleted_at,
        bound_at=unix(_condition(status, "PodScheduled").get("lastTransitionTime")),
        node=(body.get("spec") or {}).get("nodeName"),
        started_at=unix(running.get("startedAt")),
        ended_at=unix(end.get("finishedAt")) if end is not None else None,
        exit_code=end.get("exitCode") if end is not None else None,
        container_reason=shown.get("reason"),
        message=shown.get("message") or "",
        waiting=end is None and waiting is not None,
        disruption=_condition(status, "DisruptionTarget").get("reason"),
    )


def newest(pods: Iterable[SlimPod]) -> SlimPod | None:
    """Return the pod that was made last; of those made in one second, the one that still runs."""
    return max(pods, key=lambda p: (p.created_at, not p.ended, not p.gone, p.name), default=None)


def settled(job: SlimJob, pods: Sequence[SlimPod], *, listed: bool = False) -> bool:
    """Whether everything about the end of an ended Job has been seen.

    `listed` says that the cluster itself was asked for its pods after the end: then none is none.
    """
    if job.ended is None:
        return True
    last = newest(pods)
    if last is None:
        return listed
    return last.ended and (listed or _fits(job, last))


def _fits(job: SlimJob, pod: SlimPod) -> bool:
    """Whether an ended Job can have ended with this pod, rather than with one made after it."""
    if job.ended == "Complete":
        return pod.phase == "Succeeded"
    if job.reason == _DEADLINE:
        return True
    replaced = pod.disruption is not None or pod.exit_code in _REPLACED
    return pod.phase != "Succeeded" and not replaced


def observe(job: SlimJob, pods: Sequence[SlimPod], *, listed: bool = False) -> ObservedAttempt:
    """Return the attempt; see `settled` for `listed`."""
    last = newest(pods)
    over = job.ended is not None and settled(job, pods, listed=listed)
    if last is not None and last.gone and not (over and _fits(job, last)):
        last = None  # the Job controller has made another one, or is about to
    timed_out = job.reason == _DEADLINE or (last is not None and last.reason == _DEADLINE)
    code = _exit_code(job, last) if over else (last.exit_code if last else None)
    disruption = _disruption(job, last, code, over=over, timed_out=timed_out)
    done = job.ended == "Complete" and not timed_out and disruption is None
    return ObservedAttempt(
        name=job.name,
        index=job.index,
        number=job.number,
        config_hash=job.config_hash,
        phase=(AttemptPhase.SUCCEEDED if done else AttemptPhase.FAILED)
        if over
        else _live(job, last),
        created_at=job.created_at,
        bound_at=last.bound_at if last else None,
        started_at=last.started_at if last else None,
        ended_at=_ended_at(job, last) if over else (last.ended_at if last else None),
        exit_code=code,
        container_reason=last.container_reason if last else None,
        disruption=disruption,
        deadline_exceeded=timed_out,
        termination_message=last.message if last and not last.waiting else "",
        pod_name=last.name if last else None,
        pod_uid=last.uid if last else None,
        node=last.node if last else None,
        gpus=job.gpus,
        waiting_message=last.message if last and last.waiting else "",
        ttl_set=job.ttl_set,
        deleting=job.deleting,
        replaced_s=sum(_held_s(pod) for pod in pods if last is None or pod.uid != last.uid),
        ignored_pods=sum(_ignored(pod) for pod in pods),
    )


def _live(job: SlimJob, last: SlimPod | None) -> AttemptPhase:
    if job.suspended:
        return AttemptPhase.QUEUED
    started = last is not None and last.started_at is not None
    return AttemptPhase.RUNNING if started else AttemptPhase.PENDING


def _exit_code(job: SlimJob, last: SlimPod | None) -> int | None:
    """Return how the program ended; where no pod tells, what the Job controller wrote of it."""
    if last is not None and last.exit_code is not None:
        return last.exit_code
    if job.ended == "Complete":
        return 0
    match = _POLICY_MESSAGE.search(job.message)
    return int(match[1]) if match else None


def _ended_at(job: SlimJob, last: SlimPod | None) -> float | None:
    if last is not None and last.ended_at is not None:
        return last.ended_at
    return job.ended_at


def _disruption(
    job: SlimJob, last: SlimPod | None, code: int | None, *, over: bool, timed_out: bool
) -> str | None:
    """Return what outside the program ended the attempt's newest pod, or None."""
    if last is None:
        return POD_LOST if over and code is None and not timed_out else None
    found = last.disruption
    if found is None and last.ended and not timed_out:
        if last.container_reason == UNKNOWN_END:
            found = UNKNOWN_END
        elif code is None:  # the kubelet refused or ended it before the program could end
            found = last.reason or POD_LOST
        elif last.deleted_at is not None and (last.ended_at or 0.0) >= last.deleted_at:
            found = POD_DELETED
    # The trainer says 75 when it is cut short; a program that knows nothing of us may say 0.
    return None if code == ExitCode.DONE and job.honest and over else found


def _ignored(pod: SlimPod) -> bool:
    """Whether a pod left with 75 or 143 and nothing outside it was the cause."""
    untouched = pod.disruption is None and pod.deleted_at is None
    return pod.ended and untouched and pod.exit_code in _REPLACED


def _held_s(pod: SlimPod) -> float:
    """Return how long a pod that was replaced held its node's GPUs."""
    end = pod.ended_at if pod.ended_at is not None else pod.deleted_at
    return max(0.0, end - pod.bound_at) if end is not None and pod.bound_at is not None else 0.0


def unix(text: str | None) -> float | None:
    """Return the Unix seconds of a Kubernetes timestamp."""
    return datetime.fromisoformat(text).timestamp() if text else None


def primary_of(metadata: Mapping[str, Any]) -> str:
    """Return the name of the container that trains, from a pod's or a pod template's metadata."""
    annotations = metadata.get("annotations") or {}
    return str(annotations.get(DEFAULT_CONTAINER, constants.MAIN_CONTAINER))


def controller_uid(body: Mapping[str, Any]) -> str | None:
    """Return the uid of the TuningJob that controls an object, or None."""
    return _controller(body["metadata"], constants.KIND)


def _controller(metadata: Mapping[str, Any], kind: str) -> str | None:
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") == kind:
            return str(owner["uid"])
    return None


def _numbers(labels: Mapping[str, str]) -> tuple[int, int] | None:
    """Return index and attempt, or None when somebody wrote something else there."""
    texts = labels.get(constants.LABEL_TRIAL, ""), labels.get(constants.LABEL_ATTEMPT, "")
    if not all(text.isdecimal() and text.isascii() for text in texts):
        return None
    return int(texts[0]), int(texts[1])


def _end_condition(body: Mapping[str, Any]) -> Mapping[str, Any]:
    for condition in _conditions(body.get("status") or {}):
        if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
            return condition
    return {}


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return the condition if it is true, else nothing."""
    for condition in _conditions(status):
        if condition["type"] == kind and condition["status"] == "True":
            return condition
    return {}


def _conditions(status: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from status.get("conditions") or ()


def _named(statuses: Sequence[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    return next((status for status in statuses or () if status.get("name") == name), {})


def _terminated(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for state in ("state", "lastState"):
        end: Mapping[str, Any] | None = (status.get(state) or {}).get("terminated")
        if end is not None:
            return end
    return None


def _failed_init(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the end of an init container that failed: then the primary one never starts."""
    if status.get("phase") != "Failed":
        return None
    for one in status.get("initContainerStatuses") or ():
        end = _terminated(one)
        if end is not None and end.get("exitCode"):
            return end
    return None


def _gpus(pod: Mapping[str, Any]) -> int:
    """Return the GPUs that a pod holds: those of all containers, or of the hungriest init container."""

    def of(container: Mapping[str, Any]) -> int:
        limits = (container.get("resources") or {}).get("limits") or {}
        text = str(limits.get(constants.GPU_RESOURCE, 0))
        return int(text) if text.isdecimal() else 0

    mains = sum(of(container) for container in pod.get("containers") or ())
    return max([mains, *(of(container) for container in pod.get("initContainers") or ())])
