"""What the watches have shown of trials' Jobs and pods, in about 1.5 KB an object.

Thread-safe: the watches write, the loop's workers read. Answers to our own requests are put in too, so
that what was just created is seen at once; an older version never replaces a newer one, and what was
removed does not come back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from foretune import constants
from foretune.adapters.kube.observe import SlimJob, SlimPod, observe, settled, slim_job, slim_pod
from foretune.adapters.kube.resources import JOBS, PODS
from foretune.domain.job import JobKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foretune.adapters.kube.resources import Resource
    from foretune.domain.trial import ObservedAttempt

REMEMBERED: Final = 20_000
"""Uids of removed objects that are remembered, so that a late event does not bring them back."""


class Cache:
    """Jobs and pods of trials; `put` and `drop` take the objects of a watch or of an answer."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.RLock()
        self._jobs: dict[str, SlimJob] = {}
        self._pods: dict[str, SlimPod] = {}
        self._jobs_of: dict[str, set[str]] = defaultdict(set)
        """Uids of Jobs by the uid of their TuningJob."""
        self._pods_of: dict[str, set[str]] = defaultdict(set)
        """Uids of pods by the uid of their Job."""
        self._listed: set[str] = set()
        """Uids of ended Jobs of whose pods the cluster itself was asked."""
        self._versions: dict[str, dict[str, str]] = {JOBS.plural: {}, PODS.plural: {}}
        self._removed: OrderedDict[str, None] = OrderedDict()

    def put(self, resource: Resource, body: Mapping[str, Any]) -> JobKey | None:
        """Take in an object as it is now; return the key of the TuningJob it belongs to, or None."""
        meta = body["metadata"]
        uid, version = meta["uid"], meta.get("resourceVersion", "")
        with self._lock:
            versions = self._versions[resource.plural]
            if uid in self._removed or _older(version, versions.get(uid)):
                return key_of(body)
            versions[uid] = version
            if resource == JOBS:
                self._put_job(uid, slim_job(body))
            else:
                self._put_pod(uid, slim_pod(body))
        return key_of(body)

    def drop(self, resource: Resource, body: Mapping[str, Any]) -> JobKey | None:
        """Take in that an object is gone; return the key of the TuningJob it belonged to, or None."""
        uid = body["metadata"]["uid"]
        with self._lock:
            self._versions[resource.plural].pop(uid, None)
            self._removed[uid] = None
            while len(self._removed) > REMEMBERED:
                self._removed.popitem(last=False)
            if resource == JOBS:
                self._drop_job(uid)
            else:
                self._drop_pod(uid, slim_pod(body))
        return key_of(body)

    def attempts(self, job_uid: str) -> list[ObservedAttempt]:
        """Return the attempts of a TuningJob, by trial and number."""
        with self._lock:
            found = [
                observe(job, self._pods_for(job), listed=job.uid in self._listed)
                for job in self._of(job_uid)
            ]
        return sorted(found, key=lambda attempt: (attempt.index, attempt.number))

    def unsettled(self, job_uid: str) -> list[tuple[SlimJob, bool]]:
        """Return the TuningJob's ended Jobs whose pod's end was not seen, and whether a pod was."""
        with self._lock:
            return [
                (job, bool(self._pods_for(job)))
                for job in self._of(job_uid)
                if not settled(job, self._pods_for(job), listed=job.uid in self._listed)
            ]

    def settle(self, job: SlimJob, pods: Sequence[Mapping[str, Any]]) -> None:
        """Take in that `pods` are all that an ended Job has: the cluster itself was asked."""
        with self._lock:
            for body in pods:
                self.put(PODS, body)
            there = {body["metadata"]["uid"] for body in pods}
            for uid in self._pods_of.get(job.uid, set()) - there:
                self._pods[uid] = replace(self._pods[uid], gone=True)
                self._versions[PODS.plural].pop(uid, None)
            if job.uid in self._jobs:
                self._listed.add(job.uid)

    def job(self, job_uid: str, name: str) -> SlimJob | None:
        """Return the TuningJob's Job of this name, or None."""
        with self._lock:
            return next((job for job in self._of(job_uid) if job.name == name), None)

    def versions(self, resource: Resource) -> dict[str, str]:
        """Return the resource version of each object, by uid."""
        with self._lock:
            return dict(self._versions[resource.plural])

    def _of(self, job_uid: str) -> list[SlimJob]:
        return [self._jobs[uid] for uid in self._jobs_of.get(job_uid, ())]

    def _pods_for(self, job: SlimJob) -> list[SlimPod]:
        return [self._pods[uid] for uid in self._pods_of.get(job.uid, ())]

    def _put_job(self, uid: str, job: SlimJob | None) -> None:
        before = self._jobs.get(uid)
        if before is not None and (job is None or job.owner_uid != before.owner_uid):
            self._drop_job(uid)  # orphaned, or its labels were changed: ours no more
        if job is not None:
            self._jobs[uid] = job
            self._jobs_of[job.owner_uid].add(uid)

    def _put_pod(self, uid: str, pod: SlimPod | None) -> None:
        if pod is None:
            return
        known = self._pods.get(uid)
        if known is not None and known.deleted_at is not None and pod.deleted_at is not None:
            # The kubelet's own deletion, once nothing runs any more, moves the time to then.
            pod = replace(pod, deleted_at=min(known.deleted_at, pod.deleted_at))
        self._pods[uid] = pod
        self._pods_of[pod.job_uid].add(uid)

    def _drop_job(self, uid: str) -> None:
        self._listed.discard(uid)
        job = self._jobs.pop(uid, None)
        if job is not None:
            _discard(self._jobs_of, job.owner_uid, uid)
        for pod in list(self._pods_of.get(uid, ())):
            if self._pods[pod].gone:
                self._forget_pod(pod)

    def _drop_pod(self, uid: str, last: SlimPod | None) -> None:
        pod = last if last is not None else self._pods.get(uid)
        if pod is not None and pod.job_uid in self._jobs:
            self._put_pod(uid, replace(pod, gone=True))
        else:
            self._forget_pod(uid)

    def _forget_pod(self, uid: str) -> None:
        pod = self._pods.pop(uid, None)
        if pod is not None:
            _discard(self._pods_of, pod.job_uid, uid)


def key_of(body: Mapping[str, Any]) -> JobKey | None:
    """Return the key of the TuningJob that an object's label names, or None."""
    meta = body["metadata"]
    name = (meta.get("labels") or {}).get(constants.LABEL_JOB)
    return JobKey(meta["namespace"], name) if name else None


def _discard(index: dict[str, set[str]], key: str, uid: str) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(uid)
        if not members:
            del index[key]


def _older(version: str, known: str | None) -> bool:
    """Whether `version` comes before the known one. Both are an etcd revision: whole numbers that grow."""
    if known is None or not (version.isdecimal() and known.isdecimal()):
        return False
    return int(version) < int(known)
