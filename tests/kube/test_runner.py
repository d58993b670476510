"""The runner when events are missing or answers are odd; its life is in test_cluster.py."""

from __future__ import annotations

import json

import pytest
from tests.kube.cases import IMAGE, SDK_IMAGE, VARIANTS, Hand, request_of
from tests.kube.recording import bodies, recorded
from tests.kube.server import Answer, Request, Server, refusal
from tests.support.world import make_job

from foretune.adapters.kube.cache import Cache
from foretune.adapters.kube.resources import JOBS, PODS
from foretune.adapters.kube.runner import ASK_AGAIN_S, KubeRunner
from foretune.domain.trial import AttemptPhase
from foretune.errors import ClusterUnavailableError, ConflictError, InvalidInputError

RECORDED = recorded()


def runner_of(server: Server, cache: Cache, clock: Hand | None = None) -> KubeRunner:
    """Return a runner over `server`."""
    return KubeRunner(
        server.api(),
        cache,
        report_url="http://tracker",
        trainer_image=IMAGE,
        sdk_image=SDK_IMAGE,
        monotonic=clock or Hand(),
    )


def test_observing_asks_nothing(server):
    """What the watches have shown is enough: no request, in any phase of any scenario."""
    for events in RECORDED.values():
        cache = Cache()
        runner = runner_of(server, cache)
        for event in sorted(events, key=lambda event: event["resource"], reverse=True):
            resource = JOBS if event["resource"] == "jobs" else PODS
            cache.put(resource, event["object"])
            runner.observe(make_job())
    assert server.requests == []


def test_a_missed_event_is_asked_for_after_a_while(server):
    """The Job has ended, its pod's last event does not come: the pod is read after five seconds."""
    clock, cache = Hand(), Cache()
    runner, pods = runner_of(server, cache, clock), bodies("error", "pods")
    cache.put(JOBS, bodies("error", "jobs")[-1])
    cache.put(PODS, pods[0])
    server.default = lambda _: Answer(body={"metadata": {}, "items": [pods[-1]]})
    for _ in range(3):
        (attempt,) = runner.observe(make_job())
        assert not attempt.phase.ended
    assert server.requests == []
    clock.now += ASK_AGAIN_S
    (attempt,) = runner.observe(make_job())
    assert (attempt.phase, attempt.exit_code) == (AttemptPhase.FAILED, 1)
    runner.observe(make_job())
    assert len(server.requests) == 1


def test_a_pod_that_still_runs_is_waited_for(server):
    """If the cluster itself says that the ended Job's pod runs, the attempt runs, and asking is rare."""
    clock, cache = Hand(), Cache()
    runner, pods = runner_of(server, cache, clock), bodies("error", "pods")
    cache.put(JOBS, bodies("error", "jobs")[-1])
    running = next(pod for pod in pods if pod["status"]["phase"] == "Running")
    server.default = lambda _: Answer(body={"metadata": {}, "items": [running]})
    for turn in range(10):
        (attempt,) = runner.observe(make_job())
        assert attempt.phase is AttemptPhase.RUNNING, turn
        clock.now += 1
    assert len(server.requests) == 2
    cache.put(PODS, pods[-1])
    (attempt,) = runner.observe(make_job())
    assert attempt.phase is AttemptPhase.FAILED


def test_an_unreachable_cluster_leaves_an_ended_job_open(server):
    """If the pod can't be asked for, the turn fails; nothing is concluded from nothing."""
    cache = Cache()
    cache.put(JOBS, bodies("error", "jobs")[-1])
    server.default = lambda _: refusal(503, "no")
    with pytest.raises(ClusterUnavailableError):
        runner_of(server, cache).observe(make_job())


def test_only_the_jobs_own_pods_are_taken(server):
    """The list of a trial's pods may hold those of an earlier Job, or forged ones: they are left out."""
    cache, clock = Cache(), Hand()
    own = bodies("error", "pods")[-1]
    foreign = json.loads(json.dumps(own))
    foreign["metadata"].update(
        uid="foreign", name="foreign", creationTimestamp="2030-01-01T00:00:00Z"
    )
    foreign["metadata"]["ownerReferences"][0]["uid"] = "another-job"
    server.default = lambda _: Answer(body={"metadata": {}, "items": [foreign, own]})
    cache.put(JOBS, bodies("error", "jobs")[-1])
    (attempt,) = runner_of(server, cache, clock).observe(make_job())
    assert attempt.pod_uid == own["metadata"]["uid"]
    (request,) = server.requests
    assert request.query["labelSelector"] == "foretune.io/job-uid=uid-demo,foretune.io/trial=1"


EVENT = {"message": "old", "lastTimestamp": "2026-11-25T12:00:00Z"}


def podless(clock: Hand, server: Server, answer: Answer) -> KubeRunner:
    """Return a runner that has waited for the first pod of a Job, and whose next question is answered."""
    cache = Cache()
    cache.put(JOBS, bodies("error", "jobs")[0])
    runner = runner_of(server, cache, clock)
    (attempt,) = runner.observe(make_job())
    assert (attempt.container_reason, server.requests) == (None, [])
    clock.now += ASK_AGAIN_S
    server.default = lambda _: answer
    return runner


def test_why_there_is_no_pod_is_read_from_the_newest_event(server):
    """A pod that the cluster refuses shows in an event only: its message comes with the attempt."""
    clock = Hand()
    new = {"message": "violates PodSecurity", "lastTimestamp": "2026-11-25T12:00:09Z"}
    runner = podless(clock, server, Answer(body={"metadata": {}, "items": [EVENT, new, EVENT]}))
    for _ in range(3):
        (attempt,) = runner.observe(make_job())
        assert attempt.phase is AttemptPhase.PENDING
        told = (attempt.container_reason, attempt.waiting_message)
        assert told == ("FailedCreate", "violates PodSecurity")
    (request,) = server.requests
    uid = bodies("error", "jobs")[0]["metadata"]["uid"]
    assert request.path == "/api/v1/namespaces/default/events"
    assert request.query["fieldSelector"] == f"involvedObject.uid={uid},reason=FailedCreate"
    clock.now += ASK_AGAIN_S
    server.default = lambda _: Answer(body={"metadata": {}, "items": []})
    (attempt,) = runner.observe(make_job())
    assert attempt.container_reason is None


def test_without_the_right_to_read_events_a_pending_attempt_is_just_pending(server):
    """A missing right is logged and costs the explanation only."""
    runner = podless(Hand(), server, refusal(403, "may not"))
    (attempt,) = runner.observe(make_job())
    assert (attempt.phase, attempt.container_reason) == (AttemptPhase.PENDING, None)


def test_an_attempt_with_a_pod_asks_for_no_events(server):
    """Once the pod is there, nothing is asked, however long it is pending."""
    clock, cache = Hand(), Cache()
    cache.put(JOBS, bodies("error", "jobs")[0])
    cache.put(PODS, bodies("error", "pods")[0])
    runner = runner_of(server, cache, clock)
    for _ in range(5):
        runner.observe(make_job())
        clock.now += 60
    assert server.requests == []


def test_a_job_that_vanishes_while_it_is_adopted_is_tried_again(server):
    """Taken at the creation, gone at the look: the next turn creates it."""
    server.answers = [refusal(409, "already exists"), refusal(404, "not found")]
    with pytest.raises(ClusterUnavailableError, match="was there and is gone"):
        runner_of(server, Cache()).launch(request_of(VARIANTS["builtin"]))


def test_a_job_without_an_owner_is_not_adopted(server):
    """A Job of the wanted name that nobody controls is somebody else's."""
    request = request_of(VARIANTS["builtin"])
    meta = {"name": request.name, "annotations": {"foretune.io/config-hash": request.config_hash}}
    server.answers = [refusal(409, "already exists"), Answer(body={"metadata": meta})]
    with pytest.raises(ConflictError, match="belongs to somebody else"):
        runner_of(server, Cache()).launch(request)


def test_a_refused_ttl_is_told(server):
    """If the Job is there and its TTL is refused, that is an error and not a Job that is gone."""
    cache, job = Cache(), bodies("error", "jobs")[-1]
    cache.put(JOBS, job)

    def answer(request: Request) -> Answer:
        return refusal(422, "no") if request.method == "PATCH" else Answer(body=job)

    server.default = answer
    with pytest.raises(InvalidInputError, match="422"):
        runner_of(server, cache).set_ttl(make_job(), job["metadata"]["name"], 5)


def test_a_job_that_stays_for_a_finalizer_is_shown_as_deleting(server):
    """A Job that somebody's finalizer keeps is there, deleting, until it is gone."""
    cache, job = Cache(), bodies("error", "jobs")[0]
    cache.put(JOBS, job)
    dying = json.loads(json.dumps(job))
    dying["metadata"].update(deletionTimestamp="2026-11-25T12:00:00Z", resourceVersion="99999999")
    server.default = lambda _: Answer(body=dying)
    runner = runner_of(server, cache)
    runner.delete(make_job(), job["metadata"]["name"])
    (attempt,) = runner.observe(make_job())
    assert attempt.deleting is True


def test_the_log_is_asked_for_with_fewer_lines_until_it_fits(server):
    """The server counts bytes from the first line asked for, so fewer lines reach the end."""
    lines = [f"line {number}\n" for number in range(5000)]

    def log(request: Request) -> Answer:
        text = "".join(lines[-int(request.query["tailLines"]) :])
        return Answer(body=text[: int(request.query["limitBytes"])].encode())

    server.default = log
    cache = Cache()
    for resource, kind in ((JOBS, "jobs"), (PODS, "pods")):
        cache.put(resource, bodies("error", kind)[-1])
    runner = runner_of(server, cache)
    (attempt,) = runner.observe(make_job())
    text = runner.log_tail(make_job(), attempt, limit_bytes=3000)
    assert text.splitlines()[-1] == "line 4999"
    assert len(server.requests) == 2
    assert {request.query["container"] for request in server.requests} == {"trainer"}
