"""What Jobs and pods say of an attempt: recorded streams in any order, and states made by hand."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.kube.recording import SCENARIOS, recorded
from tests.support.world import make_job

from foretune.adapters.kube.cache import Cache
from foretune.adapters.kube.observe import observe, slim_job, slim_pod
from foretune.adapters.kube.resources import JOBS, PODS
from foretune.domain.trial import AttemptPhase, EndReason, Trial, TrialState
from foretune.planner.outcomes import classify, held_gpu_s
from foretune.planner.snapshot import Recovered

if TYPE_CHECKING:
    from foretune.domain.trial import ObservedAttempt

Events = list[dict[str, Any]]
RECORDED = recorded()
OWNER = "uid-demo"

ENDS = {
    "complete": (AttemptPhase.SUCCEEDED, 0, EndReason.DONE),
    "error": (AttemptPhase.FAILED, 1, EndReason.ERROR),
    "bad-config": (AttemptPhase.FAILED, 64, EndReason.CONFIG_BUG),
    "diverged": (AttemptPhase.FAILED, 79, EndReason.DIVERGED),
    "no-program": (AttemptPhase.FAILED, 128, EndReason.ERROR),
    "deadline": (AttemptPhase.FAILED, 143, EndReason.TIMED_OUT),
    "out-of-memory": (AttemptPhase.FAILED, 137, EndReason.OUT_OF_MEMORY),
    "evicted": (AttemptPhase.FAILED, 137, EndReason.ERROR),  # of the second pod
    "drained-with-zero": (AttemptPhase.FAILED, 0, EndReason.PREEMPTED),
    "pod-deleted": (AttemptPhase.FAILED, 137, EndReason.ERROR),  # of the second pod
    "pod-deleted-with-zero": (AttemptPhase.FAILED, 0, EndReason.PREEMPTED),
    "pod-killed": (AttemptPhase.FAILED, 137, EndReason.PREEMPTED),
    "suspended": (AttemptPhase.FAILED, 137, EndReason.ERROR),  # of the second pod
    "leaves-by-itself": (AttemptPhase.FAILED, 75, EndReason.TIMED_OUT),
}
"""Phase, exit code and class of each recorded attempt."""


def feed(cache: Cache, event: dict[str, Any]) -> None:
    """Give an event of a watch to the cache."""
    resource = JOBS if event["resource"] == "jobs" else PODS
    (cache.drop if event["type"] == "DELETED" else cache.put)(resource, event["object"])


def seen(cache: Cache) -> ObservedAttempt | None:
    """Return the only attempt, or None."""
    found = cache.attempts(OWNER)
    assert len(found) < 2
    return found[0] if found else None


def replayed(events: Events) -> ObservedAttempt:
    """Return the attempt after all events."""
    cache = Cache()
    for event in events:
        feed(cache, event)
    attempt = seen(cache)
    assert attempt is not None
    return attempt


def reason_of(attempt: ObservedAttempt) -> EndReason:
    """Return the class of an ended attempt that reported a value."""
    trial = Trial(
        job_uid=OWNER, index=0, params={}, state=TrialState.RUNNING, config_hash="", value=0.5
    )
    return classify(attempt, trial, make_job().spec, Recovered(), now=0.0).reason


def orders(events: Events) -> list[Events]:
    """Return orders in which the two watches may deliver the events: each keeps its own.

    The Job comes first: the answer to its creation is in the cache before any event.
    """
    first, *jobs = [event for event in events if event["resource"] == "jobs"]
    pods = [event for event in events if event["resource"] == "pods"]
    found = [[*jobs, *pods], [*pods, *jobs]]
    for seed in range(60):
        draw = random.Random(seed)
        sides = [0] * len(jobs) + [1] * len(pods)
        draw.shuffle(sides)
        queues = [iter(jobs), iter(pods)]
        found.append([next(queues[side]) for side in sides])
    return [events, *([first, *others] for others in found)]


def test_each_scenario_is_recorded_and_expected():
    """The recording, what made it, and the table of ends speak of the same scenarios."""
    assert set(RECORDED) == set(ENDS) == set(SCENARIOS)


@pytest.mark.parametrize("scenario", ENDS)
def test_an_attempt_ends_as_what_happened_to_it(scenario):
    """Each recorded way to end gives its phase, exit code and class."""
    phase, code, reason = ENDS[scenario]
    attempt = replayed(RECORDED[scenario])
    assert (attempt.phase, attempt.exit_code) == (phase, code)
    assert reason_of(attempt) is reason
    assert attempt.created_at <= attempt.bound_at <= attempt.started_at <= attempt.ended_at
    assert attempt.node.startswith("node-")


@pytest.mark.parametrize("scenario", ENDS)
def test_the_order_of_the_two_watches_does_not_matter(scenario):
    """However Jobs' and pods' events interleave, an attempt ends once, whole, and always alike."""
    end = replayed(RECORDED[scenario])
    for events in orders(RECORDED[scenario]):
        cache = Cache()
        for event in events:
            feed(cache, event)
            attempt = seen(cache)
            if attempt is not None and attempt.phase.ended:
                assert attempt == end, events
        assert seen(cache) == end


@pytest.mark.parametrize("scenario", ENDS)
def test_pods_that_came_and_went_before_their_job_was_known_end_nothing_wrongly(scenario):
    """All of the pods' events before the first of the Job: the end is right, or the cluster is asked."""
    cache = Cache()
    for event in sorted(RECORDED[scenario], key=lambda event: event["resource"], reverse=True):
        feed(cache, event)
    attempt = seen(cache)
    if cache.unsettled(OWNER):
        assert not attempt.phase.ended
        assert any(event["type"] == "DELETED" for event in RECORDED[scenario])
    else:  # only the GPU time of pods that are gone is not known any more
        end = replayed(RECORDED[scenario])
        assert replace(attempt, replaced_s=0.0) == replace(end, replaced_s=0.0)


@pytest.mark.parametrize("scenario", ENDS)
def test_a_job_without_its_pods_end_counts_as_running(scenario):
    """The Job's own events alone never end an attempt: the exit code is with the pod."""
    cache = Cache()
    for event in RECORDED[scenario]:
        if event["resource"] == "jobs":
            feed(cache, event)
    attempt = seen(cache)
    assert attempt is not None
    assert not attempt.phase.ended
    assert [(job.name, known) for job, known in cache.unsettled(OWNER)] == [(attempt.name, False)]


@pytest.mark.parametrize("scenario", ENDS)
def test_what_the_cluster_lists_settles_an_ended_job(scenario):
    """After a restart, an ended Job and what is left of its pods give an end; none is no reason to wait."""
    bodies: dict[str, dict[str, Any]] = {}
    for event in RECORDED[scenario]:
        uid = event["object"]["metadata"]["uid"]
        bodies[uid] = event
        if event["type"] == "DELETED":
            del bodies[uid]
    cache = Cache()
    pods = [event["object"] for event in bodies.values() if event["resource"] == "pods"]
    (job,) = (event["object"] for event in bodies.values() if event["resource"] == "jobs")
    cache.put(JOBS, job)
    ((open_job, _),) = cache.unsettled(OWNER)
    cache.settle(open_job, pods)
    attempt = seen(cache)
    phase, code, reason = ENDS[scenario]
    assert cache.unsettled(OWNER) == []
    if pods:
        assert (attempt.phase, attempt.exit_code, reason_of(attempt)) == (phase, code, reason)
    elif scenario == "deadline":
        assert reason_of(attempt) is EndReason.TIMED_OUT
    elif job["status"].get("succeeded"):
        assert (attempt.phase, attempt.exit_code) == (AttemptPhase.SUCCEEDED, 0)
    else:
        assert (attempt.phase, attempt.disruption) == (AttemptPhase.FAILED, "PodLost")
        assert reason_of(attempt) is EndReason.PREEMPTED


def test_a_suspended_job_is_queued():
    """While Kueue (or anybody) suspends the Job, the attempt is Queued, its pod dying or gone."""
    cache, phases = Cache(), []
    for event in RECORDED["suspended"]:
        feed(cache, event)
        attempt = seen(cache)
        if not phases or phases[-1] is not attempt.phase:
            phases.append(attempt.phase)
    assert phases == [
        AttemptPhase.PENDING,
        AttemptPhase.RUNNING,
        AttemptPhase.QUEUED,
        AttemptPhase.PENDING,
        AttemptPhase.RUNNING,
        AttemptPhase.FAILED,
    ]
    assert attempt.ignored_pods == 0


def test_the_end_of_a_program_is_read_from_its_container():
    """Last words, the container's reason and the log's last lines come with the attempt."""
    attempt = replayed(RECORDED["error"])
    assert (attempt.termination_message, attempt.container_reason) == ("boom\n", "Error")
    assert replayed(RECORDED["out-of-memory"]).container_reason == "OOMKilled"
    assert replayed(RECORDED["no-program"]).container_reason == "StartError"


def test_pods_that_leave_by_themselves_are_counted():
    """A pod that left with 75 and no disruption is counted; a deleted or evicted one is not."""
    assert replayed(RECORDED["leaves-by-itself"]).ignored_pods == 1
    for scenario in ("evicted", "pod-deleted", "suspended", "drained-with-zero"):
        assert replayed(RECORDED[scenario]).ignored_pods == 0


def test_the_gpus_of_a_replaced_pod_are_booked():
    """Time on a GPU that an eviction took from the first pod is held time, though it led nowhere."""
    pods = {}
    for event in RECORDED["evicted"]:
        if event["resource"] == "pods":
            pods[event["object"]["metadata"]["uid"]] = slim_pod(event["object"])
    first, second = sorted(pods.values(), key=lambda pod: pod.created_at)
    attempt = replayed(RECORDED["evicted"])
    assert attempt.replaced_s == first.ended_at - first.bound_at > 0
    assert held_gpu_s(replace(attempt, gpus=2), until=0.0) == 2 * (
        first.ended_at - first.bound_at + second.ended_at - second.bound_at
    )
    assert replayed(RECORDED["complete"]).replaced_s == 0


# -- states made by hand


def job_body(**changes: Any) -> dict[str, Any]:
    """Return a Job as recorded when it was created; `end=(type, reason, message)` ends it."""
    body = json.loads(json.dumps(RECORDED["complete"][0]["object"]))
    end = changes.pop("end", None)
    if end is not None:
        kind, reason, message = end
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        condition["lastTransitionTime"] = "2026-11-25T12:00:00Z"
        body["status"]["conditions"] = [condition]
    body["metadata"].update(changes.pop("metadata", {}))
    body["spec"].update(changes)
    return body


def pod_body(phase: str = "Running", state: dict[str, Any] | None = None, **status: Any) -> Any:
    """Return a pod of that Job whose primary container is in `state`."""
    pods = [e["object"] for e in RECORDED["complete"] if e["resource"] == "pods"]
    body = json.loads(json.dumps(pods[-1]))
    body["status"]["phase"] = phase
    body["status"]["containerStatuses"] = []
    if state is not None:
        body["status"]["containerStatuses"] = [{"name": "trainer", "state": state}]
    body["status"].update(status)
    return body


def looked_at(job: dict[str, Any], *pods: dict[str, Any], listed: bool = False) -> ObservedAttempt:
    """Return the attempt of a Job and its pods."""
    slim = slim_job(job)
    assert slim is not None
    found = [pod for pod in map(slim_pod, pods) if pod is not None]
    assert len(found) == len(pods)
    return observe(slim, found, listed=listed)


TERMINATED = {
    "exitCode": 1,
    "reason": "Error",
    "startedAt": "2026-11-25T11:00:00Z",
    "finishedAt": "2026-11-25T11:30:00Z",
}
FAILED = ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")


@pytest.mark.parametrize(
    "reason",
    ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"],
)
def test_a_container_that_can_not_start_says_why(reason):
    """A waiting container gives its reason and message, so that the planner can give up in time."""
    waiting = {"waiting": {"reason": reason, "message": "not found"}}
    attempt = looked_at(job_body(), pod_body("Pending", waiting))
    assert attempt.phase is AttemptPhase.PENDING
    assert (attempt.container_reason, attempt.waiting_message) == (reason, "not found")
    assert attempt.termination_message == ""
    assert attempt.bound_at is not None


def test_a_pod_that_can_not_be_scheduled_is_pending_and_holds_nothing():
    """Unschedulable: no node, no time of binding, so no GPU is booked."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    pod = pod_body("Pending", conditions=[condition])
    del pod["spec"]["nodeName"]
    attempt = looked_at(job_body(), pod)
    assert (attempt.phase, attempt.node, attempt.bound_at) == (AttemptPhase.PENDING, None, None)


def test_a_job_whose_pods_a_quota_refuses_is_pending():
    """A Job without any pod yet is Pending."""
    attempt = looked_at(job_body())
    assert (attempt.phase, attempt.pod_uid) == (AttemptPhase.PENDING, None)


@pytest.mark.parametrize(
    ("status", "disruption"),
    [
        ({"reason": "UnexpectedAdmissionError"}, "UnexpectedAdmissionError"),
        ({"reason": "OutOfnvidia.com/gpu"}, "OutOfnvidia.com/gpu"),
        ({"reason": "NodeLost"}, "NodeLost"),
        (
            {
                "conditions": [
                    {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
                ]
            },
            "DeletionByPodGC",
        ),
        ({}, "PodLost"),
    ],
)
def test_a_pod_that_failed_before_its_program_ended_is_a_disruption(status, disruption):
    """A kubelet that refuses the pod, and a node that is lost, are not the program's fault."""
    attempt = looked_at(job_body(end=FAILED), pod_body("Failed", **status), listed=True)
    assert (attempt.phase, attempt.disruption) == (AttemptPhase.FAILED, disruption)
    assert reason_of(attempt) is EndReason.PREEMPTED


def test_a_container_of_which_the_kubelet_lost_track_is_a_disruption():
    """ContainerStatusUnknown has exit code 137, yet nobody knows how the program ended."""
    end = {"terminated": {**TERMINATED, "exitCode": 137, "reason": "ContainerStatusUnknown"}}
    attempt = looked_at(job_body(end=FAILED), pod_body("Failed", end))
    assert attempt.disruption == "ContainerStatusUnknown"


def test_a_failed_init_container_fails_the_attempt():
    """The init container's exit code and words stand for those of the program that never began."""
    init = {"name": "fetch", "state": {"terminated": {**TERMINATED, "message": "no such bucket"}}}
    waiting = {"waiting": {"reason": "PodInitializing"}}
    pod = pod_body("Failed", waiting, initContainerStatuses=[init])
    attempt = looked_at(job_body(end=FAILED), pod)
    assert (attempt.exit_code, attempt.termination_message) == (1, "no such bucket")
    assert (attempt.disruption, reason_of(attempt)) == (None, EndReason.ERROR)


def test_the_deadline_of_a_templates_own_pod_is_a_deadline():
    """A pod that its own activeDeadlineSeconds ended is TimedOut like one that the Job's ended."""
    pod = pod_body("Failed", {"terminated": TERMINATED}, reason="DeadlineExceeded")
    attempt = looked_at(job_body(end=FAILED), pod)
    assert (attempt.deadline_exceeded, reason_of(attempt)) == (True, EndReason.TIMED_OUT)


def test_the_job_controllers_words_stand_in_for_a_lost_pod():
    """The exit code of a pod that is gone is read from the Job's PodFailurePolicy message."""
    message = "Container trainer for pod default/x failed with exit code 79 matching FailJob rule"
    attempt = looked_at(job_body(end=("Failed", "PodFailurePolicy", message)), listed=True)
    assert (attempt.exit_code, attempt.disruption) == (79, None)
    assert reason_of(attempt) is EndReason.DIVERGED


def test_the_built_in_trainers_zero_is_believed():
    """Exit code 0 of the trainer means finished even under a disruption; an image's does not."""
    disrupted = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
    pod = pod_body("Succeeded", {"terminated": {**TERMINATED, "exitCode": 0}}, conditions=disrupted)
    end = ("Complete", "CompletionsReached", "")
    own = {"annotations": {"foretune.io/workload": "builtin"}}
    assert looked_at(job_body(end=end, metadata=own), pod).phase is AttemptPhase.SUCCEEDED
    attempt = looked_at(job_body(end=end), pod)
    assert (attempt.phase, attempt.disruption) == (AttemptPhase.FAILED, "PreemptionByScheduler")


def test_the_primary_container_is_the_one_that_the_pod_names():
    """With sidecars, the container named by the default-container annotation tells the end."""
    job, pod = job_body(end=("Complete", "CompletionsReached", "")), pod_body("Succeeded")
    named = {"kubectl.kubernetes.io/default-container": "train"}
    job["spec"]["template"]["metadata"]["annotations"] = named
    pod["metadata"]["annotations"] = named
    ends = [("helper", 3), ("train", 0)]
    pod["status"]["containerStatuses"] = [
        {"name": name, "state": {"terminated": {**TERMINATED, "exitCode": code}}}
        for name, code in ends
    ]
    assert looked_at(job, pod).exit_code == 0


def test_gpus_are_counted_over_the_pods_containers():
    """All containers of a pod hold their GPUs together; init containers hold theirs one by one."""
    job = job_body()

    def container(count: object) -> dict[str, Any]:
        return {"resources": {"limits": {"nvidia.com/gpu": count, "cpu": "2"}}}

    job["spec"]["template"]["spec"] = {
        "containers": [container("2"), container(1), {"name": "none"}],
        "initContainers": [container(2)],
    }
    assert looked_at(job).gpus == 3
    job["spec"]["template"]["spec"]["initContainers"] = [container(4)]
    assert looked_at(job).gpus == 4


def test_ttl_and_deletion_are_seen():
    """A Job that has its TTL, or that is being deleted, says so."""
    attempt = looked_at(job_body(ttlSecondsAfterFinished=0))
    assert (attempt.ttl_set, attempt.deleting) == (True, False)
    attempt = looked_at(job_body(metadata={"deletionTimestamp": "2026-11-25T12:00:00Z"}))
    assert (attempt.ttl_set, attempt.deleting) == (False, True)


def test_the_newest_pod_speaks_for_the_attempt():
    """Of several pods the one made last counts; of two made in one second the one that runs."""
    old = pod_body("Failed", {"terminated": {**TERMINATED, "exitCode": 143}})
    new = pod_body("Running", {"running": {"startedAt": "2026-11-25T11:31:00Z"}})
    new["metadata"]["uid"], new["metadata"]["name"] = "pod-new", "a-pod-new"
    attempt = looked_at(job_body(), old, new)
    assert (attempt.pod_uid, attempt.phase, attempt.exit_code) == (
        "pod-new",
        AttemptPhase.RUNNING,
        None,
    )


def test_an_object_that_is_not_ours_is_passed_over():
    """A Job without our owner or with broken labels, and a pod of no Job, are no attempt."""
    orphan = job_body(metadata={"ownerReferences": []})
    assert slim_job(orphan) is None
    strange = job_body()
    strange["metadata"]["labels"]["foretune.io/trial"] = "seven"
    assert slim_job(strange) is None
    lonely = pod_body()
    lonely["metadata"].pop("ownerReferences")
    assert slim_pod(lonely) is None


def test_slim_objects_are_values():
    """What is kept of an object can be compared and replaced, and is not shared with its source."""
    body = pod_body("Running", {"running": {"startedAt": "2026-11-25T11:31:00Z"}})
    slim = slim_pod(body)
    assert slim is not None
    body["status"]["phase"] = "Failed"
    assert slim == replace(slim)
    assert not slim.ended
