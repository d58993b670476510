"""The cache: who owns what, late and repeated events, and many threads."""

from __future__ import annotations

import json
import threading
from typing import Any

from tests.kube.recording import bodies, recorded

from foretune.adapters.kube.cache import Cache
from foretune.adapters.kube.resources import JOBS, PODS
from foretune.domain.job import JobKey
from foretune.domain.trial import AttemptPhase

RECORDED = recorded()
KEY = JobKey("default", "demo")


def copied(body: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a copy of an object with changed metadata."""
    made: dict[str, Any] = json.loads(json.dumps(body))
    made["metadata"].update(metadata)
    return made


def test_events_name_the_tuning_job():
    """Whatever comes in, the key of the TuningJob to look at comes back; None for a stranger's."""
    cache = Cache()
    job, pod = bodies("complete", "jobs")[0], bodies("complete", "pods")[0]
    assert cache.put(JOBS, job) == cache.put(PODS, pod) == KEY
    assert cache.drop(PODS, pod) == cache.drop(JOBS, job) == KEY
    assert cache.put(PODS, copied(pod, labels={}, uid="other")) is None


def test_an_old_event_does_not_undo_a_newer_answer():
    """An answer to our own request is newer than what the watch still has to deliver."""
    cache = Cache()
    states = bodies("complete", "jobs")
    cache.put(JOBS, states[-1])
    for pod in bodies("complete", "pods"):
        cache.put(PODS, pod)
    cache.put(JOBS, states[0])
    (attempt,) = cache.attempts("uid-demo")
    assert attempt.phase is AttemptPhase.SUCCEEDED
    version = states[-1]["metadata"]["resourceVersion"]
    assert list(cache.versions(JOBS).values()) == [version]


def test_what_was_removed_does_not_come_back():
    """A late event of a Job that was deleted does not show an attempt again."""
    cache = Cache()
    first, *_, last = bodies("complete", "jobs")
    cache.put(JOBS, first)
    cache.drop(JOBS, first)
    cache.put(JOBS, last)
    assert cache.attempts("uid-demo") == []
    assert cache.versions(JOBS) == {}


def test_a_job_made_anew_under_its_name_is_another():
    """Jobs are told apart by uid: a new one of the same name begins from nothing."""
    cache = Cache()
    old = bodies("complete", "jobs")[-1]
    cache.put(JOBS, old)
    cache.drop(JOBS, old)
    cache.put(JOBS, copied(bodies("complete", "jobs")[0], uid="job-new"))
    (attempt,) = cache.attempts("uid-demo")
    assert attempt.phase is AttemptPhase.PENDING


def test_an_orphaned_job_is_nobodys_attempt():
    """A Job that lost its owner (delete --cascade=orphan) is listed no more, though still versioned."""
    cache = Cache()
    job = bodies("complete", "jobs")[0]
    cache.put(JOBS, job)
    cache.put(JOBS, copied(job, ownerReferences=[], resourceVersion="999999999"))
    assert cache.attempts("uid-demo") == []
    assert list(cache.versions(JOBS).values()) == ["999999999"]


def test_a_forged_pod_changes_no_attempt():
    """A pod with our labels that the attempt's Job does not control is not its pod."""
    cache = Cache()
    job, pod = bodies("error", "jobs")[-1], bodies("error", "pods")[-1]
    cache.put(JOBS, job)
    cache.put(PODS, copied(pod, ownerReferences=[]))
    (attempt,) = cache.attempts("uid-demo")
    assert (attempt.pod_uid, attempt.phase.ended) == (None, False)


def test_a_removed_job_takes_its_pods_along():
    """Nothing of a Job that went before or after its pods stays in memory."""
    for jobs_first in (True, False):
        cache = Cache()
        job, pod = bodies("complete", "jobs")[-1], bodies("complete", "pods")[-1]
        cache.put(JOBS, job)
        cache.put(PODS, pod)
        removed = [(JOBS, job), (PODS, pod)]
        for resource, body in removed if jobs_first else reversed(removed):
            cache.drop(resource, body)
        assert not cache._jobs | cache._pods | cache._jobs_of | cache._pods_of
        assert cache.versions(JOBS) == cache.versions(PODS) == {}


def test_attempts_come_in_the_order_of_trials():
    """Attempts are sorted by trial and number, whatever the order of events."""
    cache = Cache()
    for index, number in ((10, 0), (2, 1), (2, 0)):
        job = bodies("complete", "jobs")[0]
        labels = job["metadata"]["labels"] | {
            "foretune.io/trial": str(index),
            "foretune.io/attempt": str(number),
        }
        uid = f"job-{index}-{number}"
        cache.put(JOBS, copied(job, uid=uid, name=uid, labels=labels))
    found = [(a.index, a.number) for a in cache.attempts("uid-demo")]
    assert found == [(2, 0), (2, 1), (10, 0)]
    assert cache.attempts("uid-other") == []


def test_threads_may_read_while_the_watches_write():
    """Readers never see half an event while every recorded event of every attempt comes in twice."""
    cache, over, seen = Cache(), threading.Event(), []

    def read() -> None:
        while not over.is_set():
            seen.append(cache.attempts("uid-demo"))
            cache.versions(PODS)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for _ in range(2):
        for events in RECORDED.values():
            for event in events:
                resource = JOBS if event["resource"] == "jobs" else PODS
                change = cache.drop if event["type"] == "DELETED" else cache.put
                change(resource, event["object"])
    over.set()
    for thread in readers:
        thread.join()
    assert len(cache.attempts("uid-demo")) == len(RECORDED)
    assert all(attempt.phase.ended for attempt in cache.attempts("uid-demo"))
    assert all(len(attempts) <= len(RECORDED) for attempts in seen)
