"""The TuningJobs as the watch has shown them, and what one look at a job does.

A body is kept as it came and parsed when its job is looked at: what can't be parsed is told in its
status, not in a log.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from foretune.api.v1alpha1 import parse
from foretune.constants import API_VERSION, KIND, Condition
from foretune.controller.queue import Done
from foretune.domain.job import JobKey
from foretune.errors import InvalidJobError, Problem
from foretune.planner import status as status_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foretune.app.loop import Turn
    from foretune.domain.job import Job
    from foretune.domain.trial import ObservedAttempt
    from foretune.ports import Clock

log = logging.getLogger(__name__)

SETTLE_S: Final = 6.0
"""Seconds after which an ended Job whose pod's end was not seen is looked at again."""

_HEAVY: Final = ("managedFields",)
"""Metadata that is not kept; the API server's account of owners is larger than the rest."""

Body = dict[str, Any]


class JobStore:
    """Bodies by key, and the uids that have gone and are not forgotten yet. Thread-safe."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._bodies: dict[JobKey, Body] = {}
        self._gone: dict[JobKey, set[str]] = defaultdict(set)

    def put(self, body: Mapping[str, Any]) -> JobKey | None:
        """Take in a TuningJob as it is now; return its key if there is something to do about it.

        Nothing is to be done about a change of the status alone: we wrote it. A uid that differs from the
        known one means that the old object has gone, though nobody said so.
        """
        meta = body["metadata"]
        key = JobKey(meta["namespace"], meta["name"])
        with self._lock:
            before = self._bodies.get(key)
            if before is not None and _older(meta, before["metadata"]):
                return None
            if before is not None and before["metadata"]["uid"] != meta["uid"]:
                self._gone[key].add(before["metadata"]["uid"])
            kept = {name: value for name, value in meta.items() if name not in _HEAVY}
            self._bodies[key] = {
                "apiVersion": API_VERSION,
                "kind": KIND,
                **body,
                "metadata": kept,
            }
            same = before is not None and _wanted(before["metadata"]) == _wanted(meta)
        return None if same else key

    def drop(self, body: Mapping[str, Any]) -> JobKey:
        """Take in that a TuningJob is gone; return its key."""
        meta = body["metadata"]
        return self.vanished(JobKey(meta["namespace"], meta["name"]), meta["uid"])

    def vanished(self, key: JobKey, uid: str) -> JobKey:
        """Take in that the TuningJob of this uid is gone; return its key."""
        with self._lock:
            known = self._bodies.get(key)
            if known is not None and known["metadata"]["uid"] == uid:
                del self._bodies[key]
            self._gone[key].add(uid)
        return key

    def get(self, key: JobKey) -> Body | None:
        """Return a TuningJob, or None."""
        with self._lock:
            return self._bodies.get(key)

    def gone(self, key: JobKey) -> tuple[str, ...]:
        """Return the uids of this name that have gone and are not forgotten yet."""
        with self._lock:
            return tuple(self._gone.get(key, ()))

    def forgotten(self, key: JobKey, uid: str) -> None:
        """Take in that all is done about a uid that has gone."""
        with self._lock:
            left = self._gone[key]
            left.discard(uid)
            if not left:
                del self._gone[key]

    def keys(self) -> list[JobKey]:
        """Return every key about which there may be something to do."""
        with self._lock:
            return [*self._bodies, *(key for key in self._gone if key not in self._bodies)]

    def versions(self) -> dict[str, str]:
        """Return the resource version of each TuningJob, by uid."""
        with self._lock:
            metas = [body["metadata"] for body in self._bodies.values()]
            return {meta["uid"]: meta.get("resourceVersion", "") for meta in metas}

    def by_uid(self) -> dict[str, JobKey]:
        """Return the key of each TuningJob, by uid."""
        with self._lock:
            return {body["metadata"]["uid"]: key for key, body in self._bodies.items()}


def _wanted(meta: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what of the metadata asks for a look: what the user wants, of which object."""
    return meta["uid"], meta.get("generation"), meta.get("deletionTimestamp")


def _older(meta: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether an event is older than what is known: a list and a watch may cross."""
    version, newest = meta.get("resourceVersion", ""), known.get("resourceVersion", "")
    return version.isdecimal() and newest.isdecimal() and int(version) < int(newest)


class Loop(Protocol):
    """`app.loop.Reconciler`, as far as it is used here."""

    def reconcile(self, job: Job) -> Turn:
        """Run one turn."""

    def forget(self, key: JobKey, uid: str) -> None:
        """Close a deleted job."""


class Sink(Protocol):
    """Where the status of a job goes that can't be parsed, and what is kept of deleted ones ends."""

    def reject(
        self,
        key: JobKey,
        status: Mapping[str, Any],
        *,
        uid: str,
        observed: Mapping[str, Any] | None,
    ) -> None:
        """Write it."""

    def forget(self, key: JobKey) -> None:
        """Drop what is kept of a deleted job."""


class Attempts(Protocol):
    """What the watches have shown of a job's attempts."""

    def attempts(self, job_uid: str) -> Sequence[ObservedAttempt]:
        """Return them all."""

    def unsettled(self, job_uid: str) -> Sequence[Any]:
        """Return the ended Jobs whose pod's end was not seen."""


class Metrics(Protocol):
    """What is counted here; must not raise."""

    def job_gone(self, key: JobKey) -> None:
        """A job was deleted."""

    def job_rejected(self, key: JobKey, *, uid: str, created_at: float) -> None:
        """A job can't be run as it stands."""

    def job_settled(self, job: Job, status: Mapping[str, Any]) -> None:
        """A job had ended before this process began."""


class Controller:
    """Looks at a job: what a worker of the queue does with a key."""

    def __init__(
        self,
        *,
        store: JobStore,
        loop: Loop,
        sink: Sink,
        attempts: Attempts,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """Take what is looked at and what is acted through."""
        self._store = store
        self._loop = loop
        self._sink = sink
        self._attempts = attempts
        self._metrics = metrics
        self._clock = clock

    def look(self, key: JobKey) -> Done:
        """Forget what has gone under this key, then run one turn of what is there.

        Raises `UnavailableError` when it should be tried again.
        """
        ended = Done(handler="forget")
        for uid in self._store.gone(key):
            self._forget(key, uid)
        body = self._store.get(key)
        if body is None:
            return ended
        if body["metadata"].get("deletionTimestamp"):
            return ended  # its Jobs are the garbage collector's; it is closed when it is gone
        try:
            job = parse(body).to_domain()
        except InvalidJobError as error:
            self._reject(key, body, error.problems)
            return Done(handler="reject")
        if settled(job) and not self._busy(job.uid):
            self._metrics.job_settled(job, job.status)
            return Done(handler="reconcile")
        turn = self._loop.reconcile(job)
        waits = [turn.requeue_after_s, SETTLE_S if self._attempts.unsettled(job.uid) else None]
        known = [wait for wait in waits if wait is not None]
        return Done(handler="reconcile", after_s=min(known, default=None))

    def _forget(self, key: JobKey, uid: str) -> None:
        self._loop.forget(key, uid)
        body = self._store.get(key)
        if body is None:
            self._sink.forget(key)
            self._metrics.job_gone(key)
        self._store.forgotten(key, uid)
        log.info("job %s (%s) was deleted", key, uid)

    def _reject(self, key: JobKey, body: Body, problems: Sequence[Problem]) -> None:
        meta, observed = body["metadata"], body.get("status") or {}
        generation = int(meta.get("generation") or 1)
        status = status_page.rejected(problems, generation, self._clock.now(), observed)
        self._sink.reject(key, status, uid=meta["uid"], observed=observed)
        created = _unix(meta.get("creationTimestamp"))
        self._metrics.job_rejected(key, uid=meta["uid"], created_at=created)
        log.info("job %s can't be run: %s", key, "; ".join(map(str, problems)))

    def _busy(self, uid: str) -> bool:
        """Whether something of an ended job still runs, or keeps its Job for want of a TTL."""
        return any(
            not attempt.deleting and not attempt.ttl_set for attempt in self._attempts.attempts(uid)
        )


def settled(job: Job) -> bool:
    """Whether the status says, for this generation, that the job is Complete or Failed for good."""
    ends = {Condition.COMPLETE.value, Condition.FAILED.value}
    return job.status.get("observedGeneration") == job.generation and any(
        condition.get("type") in ends and condition.get("status") == "True"
        for condition in job.status.get("conditions") or ()
    )


def _unix(timestamp: str | None) -> float:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0


__all__ = ["Body", "Controller", "JobStore", "settled"]
