"""Attempts as Jobs of a cluster: `KubeRunner` implements `ports.Runner`.

At most two writes an attempt: its creation, and its TTL once its outcome is committed (a third, if it is
stopped). What is read comes from the cache, but for logs and what the watches left open.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from foretune import constants
from foretune.adapters.kube.observe import controller_uid
from foretune.adapters.kube.resources import EVENTS, JOBS, PODS
from foretune.adapters.kube.template import build_job, primary_container
from foretune.domain.trial import AttemptPhase
from foretune.errors import (
    ClusterUnavailableError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from foretune.planner.prune import POD_REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foretune.adapters.kube.cache import Cache
    from foretune.adapters.kube.client import Json, KubeApi
    from foretune.adapters.kube.observe import SlimJob
    from foretune.domain.job import Job
    from foretune.domain.trial import ObservedAttempt
    from foretune.ports import LaunchRequest

log = logging.getLogger(__name__)

ASK_AGAIN_S: Final = 5.0
"""Seconds that a Job may be without its pod, or its pod's end, before the cluster is asked why."""

REFUSALS: Final = 1000
"""Refusals of pods that are remembered between two questions."""

FORGET_S: Final = 600.0
"""Seconds after which a question about a pod is forgotten: its Job is settled, or gone."""

LOG_LINES: Final = (2000, 200, 20, 1)
"""Lines asked of a log, fewer each time that they are more than fits."""


class KubeRunner:
    """Starts and watches attempts of a cluster; may be called from several threads."""

    def __init__(
        self,
        api: KubeApi,
        cache: Cache,
        *,
        report_url: str,
        trainer_image: str,
        sdk_image: str,
        trial_metrics_port: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start Jobs whose pods report to `report_url`.

        `trainer_image` is that of `trial.builtin`, which shows live figures at `trial_metrics_port` (0: at
        none); `sdk_image` is that from which `trial.inject` copies.
        """
        self._api = api
        self._cache = cache
        self._report_url = report_url
        self._trainer_image = trainer_image
        self._sdk_image = sdk_image
        self._trial_metrics_port = trial_metrics_port
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._asked: dict[str, float] = {}
        """When a Job's pod was first missed, or asked for last; by the Job's uid."""
        self._refusals: dict[str, str] = {}
        """What the cluster said last against a Job's pod; by the Job's uid."""

    def observe(self, job: Job) -> Sequence[ObservedAttempt]:
        """Return every attempt of the job that is there, ended ones included.

        Raises `ClusterUnavailableError` only when the cluster must be asked for the pod of an ended Job.
        """
        for ended, seen in self._cache.unsettled(job.uid):
            if self._due(ended.uid, at_once=not seen):
                self._cache.settle(ended, self._pods(ended))
        found = self._cache.attempts(job.uid)
        return [self._explained(job, one) if _podless(one) else one for one in found]

    def lookup(self, job: Job, name: str) -> ObservedAttempt | None:
        """Ask the cluster itself for one attempt; None when it is gone, or not this job's."""
        body = self._get(job, name)
        if body is None or controller_uid(body) != job.uid:
            if (known := self._cache.job(job.uid, name)) is not None:
                self._forget(known)
            return None
        self._cache.put(JOBS, body)
        if (known := self._cache.job(job.uid, name)) is None:
            return None  # removed since, or its labels were taken away
        pods = self._pods(known)
        if known.ended is not None:
            self._cache.settle(known, pods)
        else:
            for pod in pods:
                self._cache.put(PODS, pod)
        seen = (attempt for attempt in self._cache.attempts(job.uid) if attempt.name == name)
        return next(seen, None)

    def launch(self, request: LaunchRequest) -> None:
        """Create the attempt's Job; one that is there with the same owner and hash is adopted.

        Raises `ConflictError` when the name belongs to somebody else, `InvalidJobError` when the template
        can't be built or is refused, `QuotaExceededError`, `ClusterUnavailableError`. Whether a request
        that was cut off succeeded, the next call finds out.
        """
        body = build_job(
            request,
            report_url=self._report_url,
            trainer_image=self._trainer_image,
            sdk_image=self._sdk_image,
            metrics_port=self._trial_metrics_port,
        )
        namespace = request.job.key.namespace
        try:
            made = self._api.create(JOBS, body, namespace=namespace, creates_job=True)
        except ConflictError:
            made = self._adopted(request)
        self._cache.put(JOBS, made)

    def delete(self, job: Job, name: str) -> None:
        """Remove the attempt's Job and, in the background, its pod; one that is gone is fine."""
        uid = self._uid(job, name)
        if uid is None:
            return
        try:
            answer = self._api.delete(JOBS, name, namespace=job.key.namespace, uid=uid)
        except (NotFoundError, ConflictError):
            answer = {}
        if answer.get("kind") == "Job":  # stays for somebody's finalizer
            self._cache.put(JOBS, answer)
        elif (known := self._cache.job(job.uid, name)) is not None:
            self._forget(known)

    def set_ttl(self, job: Job, name: str, seconds: int) -> None:
        """Let the ended Job be removed after `seconds`; one that is gone is fine."""
        uid = self._uid(job, name)
        if uid is None:
            return
        body = {"metadata": {"uid": uid}, "spec": {"ttlSecondsAfterFinished": seconds}}
        try:
            patched = self._api.patch(JOBS, name, body, namespace=job.key.namespace)
        except (NotFoundError, InvalidInputError):
            there = self._get(job, name)
            if there is not None and there["metadata"]["uid"] == uid:
                raise
            if (known := self._cache.job(job.uid, name)) is not None:
                self._forget(known)
        else:
            self._cache.put(JOBS, patched)

    def log_tail(self, job: Job, attempt: ObservedAttempt, *, limit_bytes: int = 65536) -> str:
        """Return the end of the attempt's log, whole lines; empty when there is none any more.

        The API server counts `limitBytes` from the first of the lines asked for, so they are made fewer
        until they fit.
        """
        if attempt.pod_name is None:
            return ""
        text = ""
        for lines in LOG_LINES:
            text = self._api.log_tail(
                PODS,
                attempt.pod_name,
                namespace=job.key.namespace,
                container=primary_container(job.spec.trial.workload),
                lines=lines,
                limit_bytes=limit_bytes,
            )
            if len(text.encode()) < limit_bytes:
                break
        return text

    def _adopted(self, request: LaunchRequest) -> Json:
        """Return the Job that has the name already, if it is this very attempt."""
        body = self._get(request.job, request.name)
        if body is None:
            raise ClusterUnavailableError(f"Job {request.name} was there and is gone; try again")
        annotations = body["metadata"].get("annotations") or {}
        found = annotations.get(constants.ANNOTATION_CONFIG_HASH)
        if controller_uid(body) != request.job.uid:
            raise ConflictError(f"Job {request.name} belongs to somebody else")
        if found != request.config_hash:
            message = f"Job {request.name} runs configuration {found}, not {request.config_hash}"
            raise ConflictError(message)
        return body

    def _get(self, job: Job, name: str) -> Json | None:
        try:
            return self._api.get(JOBS, name, namespace=job.key.namespace)
        except NotFoundError:
            return None

    def _uid(self, job: Job, name: str) -> str | None:
        """Return the uid of the attempt's Job; None when it is gone, or not this job's."""
        if (known := self._cache.job(job.uid, name)) is not None:
            return known.uid
        body = self._get(job, name)
        if body is None or controller_uid(body) != job.uid:
            return None
        return str(body["metadata"]["uid"])

    def _forget(self, job: SlimJob) -> None:
        labels = {constants.LABEL_JOB: job.key.name}
        meta = {"uid": job.uid, "namespace": job.key.namespace, "labels": labels}
        self._cache.drop(JOBS, {"metadata": meta})

    def _due(self, uid: str, *, at_once: bool) -> bool:
        """Whether to ask for the pod of an ended Job now; asked again only after a while."""
        now = self._monotonic()
        with self._lock:
            last = self._asked.get(uid)
            if last is None and not at_once:
                self._asked[uid] = now
                return False
            if last is not None and now - last < ASK_AGAIN_S:
                return False
            self._asked = {u: at for u, at in self._asked.items() if now - at < FORGET_S}
            self._asked[uid] = now
            return True

    def _explained(self, job: Job, attempt: ObservedAttempt) -> ObservedAttempt:
        """Say why an attempt gets no pod: the Job controller tells it in an event, and nowhere else."""
        known = self._cache.job(job.uid, attempt.name)
        if known is None or not self._due(known.uid, at_once=False):
            message = self._refusals.get(known.uid if known else "")
        else:
            message = self._refusal(known)
        if message is None:
            return attempt
        return replace(attempt, container_reason=POD_REFUSED, waiting_message=message)

    def _refusal(self, job: SlimJob) -> str | None:
        """Ask for the newest refusal of a Job's pod; None when there is none, or we may not ask."""
        fields = f"involvedObject.uid={job.uid},reason={POD_REFUSED}"
        try:
            found, _ = self._api.list(EVENTS, namespace=job.key.namespace, fields=fields)
        except ForbiddenError as error:
            log.warning("why %s has no pod can't be read: %s", job.name, error)
            found = []
        newest = max(found, key=_last, default=None)
        message = str(newest.get("message") or "") if newest is not None else None
        with self._lock:
            self._refusals.pop(job.uid, None)
            if message is not None:
                self._refusals[job.uid] = message
            while len(self._refusals) > REFUSALS:
                del self._refusals[next(iter(self._refusals))]
        return message

    def _pods(self, job: SlimJob) -> list[Json]:
        selector = f"{constants.LABEL_JOB_UID}={job.owner_uid},{constants.LABEL_TRIAL}={job.index}"
        found, _ = self._api.list(PODS, namespace=job.key.namespace, selector=selector)
        return [pod for pod in found if _owned(pod, job.uid)]


def _podless(attempt: ObservedAttempt) -> bool:
    return (
        attempt.phase is AttemptPhase.PENDING and attempt.pod_uid is None and not attempt.deleting
    )


def _last(event: Json) -> str:
    """Return when an event came last, as a text that sorts."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _owned(pod: Json, job_uid: str) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner.get("uid") == job_uid for owner in owners)
