"""The adapter against a real Kubernetes: Jobs, pods, statuses, tokens and the Lease as they are there."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from kubernetes.client import Configuration
from tests.kube.cases import IMAGE, SDK_IMAGE, VARIANTS, Hand, request_of
from tests.kube.recording import configuration
from tests.support.cluster import Cluster, wait_for
from tests.support.manifests import good

from foretune.adapters.kube.cache import Cache
from foretune.adapters.kube.client import KubeApi
from foretune.adapters.kube.lease import DURATION_S, NAME, Lease
from foretune.adapters.kube.resources import JOBS, PODS, TUNINGJOBS, Resource
from foretune.adapters.kube.runner import KubeRunner
from foretune.adapters.kube.status import KubeStatusSink
from foretune.adapters.kube.template import build_job
from foretune.adapters.kube.tokens import KubeTokenReviews
from foretune.api.v1alpha1 import parse
from foretune.domain.job import JobKey, Template
from foretune.domain.trial import AttemptPhase, ObservedAttempt
from foretune.errors import (
    ClusterUnavailableError,
    ConflictError,
    InvalidJobError,
    QuotaExceededError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foretune.domain.job import Job

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CRD: Final = Path(__file__).parents[2] / "crds" / "foretune.io_tuningjobs.yaml"
SPACE: Final = "trials"
URL: Final = "http://127.0.0.1:1"
SLEEP: Final = "trap 'exit 143' TERM; echo started; sleep 600 & wait $!"


@dataclass
class World:
    """A namespace that enforces `restricted`, and the adapter at work in it."""

    cluster: Cluster
    api: KubeApi
    cache: Cache
    runner: KubeRunner
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests of the adapter by verb and resource."""

    def job(self, name: str, code: str, **trial: Any) -> Job:
        """Create a TuningJob whose trials run `code` in a shell, and return it."""
        body = good(
            trial={"builtin": None, "image": "example.org/any:1", "command": ["bash", "-c", code]}
            | trial
        )
        body["metadata"] = {"name": name, "namespace": SPACE}
        made = self.api.create(TUNINGJOBS, body, namespace=SPACE)
        return parse(made).to_domain()

    def refresh(self) -> None:
        """Show the cache what there is, as the watches would."""
        for resource in (JOBS, PODS):
            found, _ = self.api.list(resource, namespace=SPACE, selector="foretune.io/job")
            for body in found:
                self.cache.put(resource, body)
            there = {body["metadata"]["uid"] for body in found}
            for uid in set(self.cache.versions(resource)) - there:
                self.cache.drop(resource, {"metadata": {"uid": uid, "namespace": SPACE}})

    def seen(self, job: Job, index: int = 0) -> ObservedAttempt | None:
        """Return a trial's attempt as it is now."""
        self.refresh()
        return next((a for a in self.runner.observe(job) if a.index == index), None)

    def until(
        self, job: Job, right: Callable[[ObservedAttempt], bool], what: str
    ) -> ObservedAttempt:
        """Wait until the attempt is right."""

        def probe() -> ObservedAttempt | None:
            attempt = self.seen(job)
            assert attempt is not None, "there is no attempt"
            assert right(attempt), attempt
            return attempt

        return wait_for(f"{job.key}: {what}", probe)

    def launched(self, job: Job) -> str:
        """Start the first attempt and return its name."""
        request = request_of(job)
        self.runner.launch(request)
        return request.name

    def running(self, job: Job) -> ObservedAttempt:
        """Wait until the attempt runs."""
        return self.until(job, lambda a: a.phase is AttemptPhase.RUNNING, "runs")

    def ended(self, job: Job) -> ObservedAttempt:
        """Wait until the attempt has ended."""
        return self.until(job, lambda a: a.phase.ended, "ends")

    def log(self, job: Job, attempt: ObservedAttempt, text: str) -> str:
        """Wait until the attempt's log has `text`, and return it."""

        def probe() -> str | None:
            log = self.runner.log_tail(job, attempt)
            assert text in log, log
            return log

        return wait_for(f"{text!r} in the log of {attempt.name}", probe)


def runner_of(api: KubeApi, cache: Cache) -> KubeRunner:
    """Return a runner."""
    return KubeRunner(api, cache, report_url=URL, trainer_image=IMAGE, sdk_image=SDK_IMAGE)


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[World]:
    """The adapter in a cluster with our CRD and a restricted namespace."""
    cluster.apply(yaml.safe_load(CRD.read_text()))
    cluster.wait_condition("crd", "tuningjobs.foretune.io", "Established")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    meta = {"name": SPACE, "labels": labels}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    requests: Counter[tuple[str, str]] = Counter()
    api = KubeApi(
        configuration(cluster),
        qps=1000,
        burst=1000,
        on_request=lambda verb, name, *_: requests.update([(verb, name)]),
    )
    account = Resource("", "v1", "serviceaccounts")

    def ready() -> bool:
        api.list(TUNINGJOBS)  # 404 until the CRD is served
        return bool(api.list(account, namespace=SPACE)[0])

    def served() -> bool:
        with contextlib.suppress(Exception):
            return ready()
        return False

    wait_for("the namespace and the CRD to be served", served)
    cache = Cache()
    yield World(cluster, api, cache, runner_of(api, cache), requests)
    api.close()


# -- what is admitted


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_admitted_in_a_restricted_namespace(world, variant):
    """The Job, and the pod that the Job controller would make of it, pass API server and Pod Security."""
    job = replace(VARIANTS[variant], key=JobKey(SPACE, "demo"))
    body = build_job(request_of(job), report_url=URL, trainer_image=IMAGE, sdk_image=SDK_IMAGE)
    made = world.api.create(JOBS, body, namespace=SPACE, dry_run=True, creates_job=True)
    assert made["spec"]["podFailurePolicy"] == body["spec"]["podFailurePolicy"]
    template = body["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {"name": "demo", **template["metadata"]}
    made = world.api.create(PODS, pod, namespace=SPACE, dry_run=True)
    admitted = [[e["name"] for e in one.get("env", ())] for one in made["spec"]["containers"]]
    assert admitted == [
        [e["name"] for e in one.get("env", ())] for one in template["spec"]["containers"]
    ]


def test_the_namespace_does_refuse_what_is_not_restricted(world):
    """A pod as root is refused there, so that passing means something."""
    container = {"name": "x", "image": "x", "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [container]}}
    with pytest.raises(InvalidJobError, match="violates PodSecurity"):
        world.api.create(
            PODS,
            {**pod, "metadata": {"name": "root"}},
            namespace=SPACE,
            dry_run=True,
            creates_job=True,
        )


def test_a_template_that_the_cluster_refuses_is_the_users_to_mend(world):
    """A Job that the API server finds invalid becomes a problem at spec.trial in its own words."""
    job = world.job("refused", "true", resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})
    with pytest.raises(InvalidJobError, match="must be less than or equal to cpu limit") as error:
        world.launched(job)
    assert [problem.path for problem in error.value.problems] == ["spec.trial"]


def test_a_quota_is_told_apart_from_a_refusal(world):
    """A quota on Jobs is temporary; once it is gone the same launch succeeds."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    world.cluster.apply(quota | {"spec": {"hard": {"count/jobs.batch": "0"}}}, namespace=SPACE)
    job = world.job("quota", "true")

    def refused() -> bool:
        try:
            world.launched(job)
        except QuotaExceededError as error:
            return "count/jobs.batch" in str(error)
        except InvalidJobError as error:  # "status unknown for quota": it is too new
            raise AssertionError(str(error)) from error
        world.runner.delete(job, request_of(job).name)
        return False

    wait_for("the quota to refuse a Job", refused)
    world.cluster.kubectl("delete", "resourcequota", "none", "-n", SPACE)
    wait_for("the launch to pass", lambda: _passes(lambda: world.launched(job)))
    assert world.ended(job).phase is AttemptPhase.SUCCEEDED


def test_a_pod_that_pod_security_refuses_is_told(world):
    """Pod Security lets the Job pass and refuses its pods: the attempt says so instead of waiting mutely."""
    body = world.job("root", "true")
    root = {"name": "trainer", "image": "example.org/any:1", "command": ["true"]}
    job = {"spec": {"template": {"spec": {"containers": [root]}}}}
    template = Template(job=job, primary_container="trainer")
    job = replace(body, spec=replace(body.spec, trial=replace(body.spec.trial, workload=template)))
    name = world.launched(job)
    attempt = world.until(job, lambda a: a.container_reason == "FailedCreate", "has no pod")
    assert attempt.phase is AttemptPhase.PENDING
    assert 'violates PodSecurity "restricted' in attempt.waiting_message
    world.runner.delete(job, name)


def _passes(act: Callable[[], object]) -> bool:
    try:
        act()
    except QuotaExceededError:
        return False
    return True


# -- one attempt's life

LOOK: Final = """
set -e
cat /foretune/config/trial.json; echo
echo "uid=$FORETUNE_POD_UID trial=$FORETUNE_TRIAL lr=$FORETUNE_PARAM_LR threads=$OMP_NUM_THREADS"
test -s "$FORETUNE_TOKEN_FILE"
mkdir -p "$FORETUNE_CHECKPOINT_DIR" && touch "$FORETUNE_CHECKPOINT_DIR/x" /tmp/x /dev/shm/x
! touch /x 2>/dev/null || exit 9
test "$(id -u)" = 65532
test ! -e /var/run/secrets/kubernetes.io || exit 8
echo "with $(params.lr)"
echo '{"v":1}' > "$FORETUNE_TERMINATION_LOG"
"""


def test_a_trial_runs_to_its_end_in_six_writes(world):
    """From the Job's creation to its TTL: every phase, the pod's surroundings, and at most six writes."""
    job = world.job("life", LOOK, resources={"requests": {"cpu": "2", "memory": "64Mi"}}, gpu=1)
    world.requests.clear()
    sink = KubeStatusSink(world.api)
    name = world.launched(job)
    sink.write(job, _status("Running", allocated=1))
    (attempt,) = world.runner.observe(job)  # at once: the answer is in the cache
    assert (attempt.name, attempt.phase) == (name, AttemptPhase.PENDING)
    attempt = world.ended(job)
    assert (attempt.phase, attempt.exit_code) == (AttemptPhase.SUCCEEDED, 0), world.runner.log_tail(
        job, attempt
    )
    sink.write(job, _status("Complete", allocated=1))
    world.runner.set_ttl(job, name, 0)
    sink.close()
    assert attempt.created_at <= attempt.bound_at <= attempt.started_at <= attempt.ended_at
    assert (attempt.gpus, attempt.node[:5], attempt.termination_message) == (
        1,
        "node-",
        '{"v":1}\n',
    )
    writes = {
        r: n for r, n in world.requests.items() if r[0] in ("create", "patch", "apply", "delete")
    }
    assert writes == {
        ("create", "jobs"): 1,
        ("patch", "jobs"): 1,
        ("apply", "tuningjobs/status"): 2,
    }
    wait_for("the Job to go after its TTL", lambda: world.seen(job) is None)
    assert world.runner.lookup(job, name) is None
    world.runner.set_ttl(job, name, 0)  # gone: nothing to do


def test_what_a_pod_finds(world):
    """trial.json, parameters, identity and threads are in the pod, and the log's tail is read back."""
    job = world.job("look", LOOK, resources={"requests": {"cpu": "2", "memory": "64Mi"}})
    world.launched(job)
    attempt = world.ended(job)
    text = world.log(job, attempt, "with 0.01")
    config = json.loads(text.splitlines()[0])
    assert config["params"] == {"lr": 0.01, "layers": 3}
    assert f"uid={attempt.pod_uid} trial={job.uid}/0 lr=0.01 threads=2" in text
    assert world.runner.log_tail(job, replace(attempt, pod_name=None)) == ""
    assert world.runner.log_tail(job, replace(attempt, pod_name="gone")) == ""


def test_the_end_of_a_long_log_is_read(world):
    """Of a log larger than the limit, the last whole lines come, not the first."""
    job = world.job("long", "for i in $(seq 20000); do echo line-$i; done; exit 3")
    world.launched(job)
    attempt = world.ended(job)
    assert (attempt.phase, attempt.exit_code) == (AttemptPhase.FAILED, 3)
    text = world.runner.log_tail(job, attempt, limit_bytes=4096)
    lines = text.splitlines()
    assert lines[-1] == "line-20000"
    assert 20 <= len(lines) <= 400
    assert all(line.startswith("line-") for line in lines)


def test_a_deadline_ends_an_attempt(world):
    """A trial that runs longer than its timeout has failed, and says that it was the deadline."""
    job = world.job("deadline", SLEEP, timeoutSeconds=4)
    world.launched(job)
    attempt = world.ended(job)
    assert (attempt.phase, attempt.deadline_exceeded) == (AttemptPhase.FAILED, True)


# -- launching twice


class CutOff(KubeApi):
    """A client whose creations succeed without their answers arriving."""

    def create(self, *args: Any, **options: Any) -> Any:
        """Create, then lose the answer."""
        super().create(*args, **options)
        raise ClusterUnavailableError("POST jobs: ReadTimeoutError")


def test_the_same_attempt_launched_again_is_adopted(world):
    """A creation whose answer was lost is healed by the next: one Job, one uid, no error."""
    job = world.job("adopted", SLEEP)
    cut_off = CutOff(configuration(world.cluster))
    with pytest.raises(ClusterUnavailableError):
        runner_of(cut_off, Cache()).launch(request_of(job))
    fresh = Cache()
    for _ in range(2):
        runner_of(world.api, fresh).launch(request_of(job))
    assert len(fresh.attempts(job.uid)) == 1
    found, _ = world.api.list(JOBS, namespace=SPACE, selector="foretune.io/job=adopted")
    assert [body["metadata"]["uid"] for body in found] == list(fresh.versions(JOBS))
    world.runner.delete(job, request_of(job).name)


def test_two_leaders_make_one_job(world):
    """Eight runners that launch the same attempts at once make each of them once."""
    job = world.job("raced", SLEEP)
    problems: list[Exception] = []

    def act() -> None:
        runner = runner_of(world.api, Cache())
        for index in range(3):
            try:
                runner.launch(request_of(job, index=index))
            except Exception as error:
                problems.append(error)

    threads = [threading.Thread(target=act) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    found, _ = world.api.list(JOBS, namespace=SPACE, selector="foretune.io/job=raced")
    assert len(found) == 3
    for index in range(3):
        world.runner.delete(job, request_of(job, index=index).name)


def test_a_name_that_belongs_to_somebody_else_is_a_conflict(world):
    """Another configuration under the name, or another owner, is not adopted and not touched."""
    job = world.job("taken", SLEEP)
    world.launched(job)
    with pytest.raises(ConflictError, match="runs configuration"):
        world.runner.launch(request_of(job, params={"lr": 0.5, "layers": 2}))
    other = replace(job, uid="00000000-0000-0000-0000-000000000000")
    stranger = replace(request_of(other), name=request_of(job).name)
    with pytest.raises(ConflictError, match="belongs to somebody else"):
        world.runner.launch(stranger)
    assert world.runner.lookup(other, stranger.name) is None
    for act in (world.runner.delete, lambda j, n: world.runner.set_ttl(j, n, 0)):
        act(other, stranger.name)
    assert world.running(job).deleting is False
    world.runner.delete(job, stranger.name)


# -- ends that nobody planned


def test_a_deleted_attempt_is_gone_with_its_pod(world):
    """Deleting takes the Job at once and its pod soon; deleting again is fine."""
    job = world.job("deleted", SLEEP)
    name = world.launched(job)
    attempt = world.running(job)
    assert world.runner.lookup(job, name) == world.seen(job)
    world.runner.delete(job, name)
    assert world.runner.observe(job) == []
    assert world.runner.lookup(job, name) is None
    world.runner.delete(job, name)
    runner_of(world.api, Cache()).delete(job, name)
    wait_for("the pod to go", lambda: world.cluster.get("pod", attempt.pod_name, SPACE) is None)


def test_an_attempt_is_deleted_by_uid(world):
    """A Job made anew under the name of one that is remembered is left alone."""
    job = world.job("anew", SLEEP)
    name = world.launched(job)
    world.running(job)
    world.cluster.kubectl("delete", "job", name, "-n", SPACE, "--wait=true")
    fresh = runner_of(world.api, Cache())
    wait_for("the name to be free", lambda: fresh.lookup(job, name) is None)
    fresh.launch(request_of(job))
    world.runner.delete(job, name)  # the cache still holds the old uid
    world.runner.set_ttl(job, name, 0)
    there = fresh.lookup(job, name)
    assert there is not None
    assert not there.deleting
    fresh.delete(job, name)


def test_a_job_deleted_by_hand_takes_its_attempts_along(world):
    """When the TuningJob goes, its Jobs and pods go: the owner reference is the cluster's to follow."""
    job = world.job("owner", SLEEP)
    name = world.launched(job)
    world.running(job)
    world.cluster.kubectl("delete", "tuningjob", "owner", "-n", SPACE)
    wait_for("the attempt to go", lambda: world.seen(job) is None)
    assert world.runner.lookup(job, name) is None


def test_an_evicted_pod_is_replaced_within_its_attempt(world):
    """An eviction does not end the attempt: the same Job gets another pod, and no failure is counted."""
    job = world.job("evicted", SLEEP)
    name = world.launched(job)
    first = world.running(job)
    world.log(job, first, "started")
    world.cluster.fault(f"/evict/{SPACE}/{first.pod_name}")
    second = world.until(
        job,
        lambda a: a.pod_uid not in (None, first.pod_uid) and a.phase is AttemptPhase.RUNNING,
        "runs again",
    )
    assert (second.name, second.disruption, second.ignored_pods) == (name, None, 0)
    world.runner.delete(job, name)


def test_an_image_that_is_not_there_is_told(world):
    """ErrImagePull and its message reach the planner while the attempt is pending."""
    world.cluster.fault("/image?bad=never")
    job = world.job("unpullable", "true", image="example.org/never:1")
    name = world.launched(job)
    attempt = world.until(job, lambda a: a.container_reason == "ErrImagePull", "can't be pulled")
    assert attempt.phase is AttemptPhase.PENDING
    assert "example.org/never:1" in attempt.waiting_message
    world.runner.delete(job, name)
    world.cluster.fault("/image")


def test_a_restart_finds_how_an_attempt_ended(world):
    """A new process knows an ended Job's end from the cluster, and that its pod is gone if it is."""
    job = world.job("restart", "exit 79")
    name = world.launched(job)
    attempt = world.ended(job)
    cache = Cache()
    cache.put(JOBS, world.api.get(JOBS, name, namespace=SPACE))
    (again,) = runner_of(world.api, cache).observe(job)
    assert again == attempt
    assert runner_of(world.api, Cache()).lookup(job, name) == attempt
    world.cluster.kubectl("delete", "pod", attempt.pod_name, "-n", SPACE)
    cache = Cache()
    cache.put(JOBS, world.api.get(JOBS, name, namespace=SPACE))
    world.requests.clear()
    runner = runner_of(world.api, cache)
    for _ in range(3):
        (again,) = runner.observe(job)
        assert (again.phase, again.exit_code, again.pod_uid) == (AttemptPhase.FAILED, 79, None)
    assert world.requests == {("list", "pods"): 1}


# -- statuses


def _status(phase: str, **more: Any) -> dict[str, Any]:
    condition = {
        "type": "Progressing",
        "status": "True" if phase == "Running" else "False",
        "reason": "TrialsRunning",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-11-25T12:00:00Z",
    }
    return {"phase": phase, "conditions": [condition], "observedGeneration": 1, **more}


def test_a_status_is_ours_and_others_conditions_stay(world):
    """We own what we write; a condition of another manager in the list survives, a field we drop goes."""
    job = world.job("status", "true")
    sink = KubeStatusSink(world.api, monotonic=lambda: 0.0)
    best = {"trial": 3, "value": 0.5, "params": {"lr": 0.1}, "epochs": 2}
    sink.write(job, _status("Running", best=best, progress="1/3"))
    theirs = {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": "status", "namespace": SPACE},
        "status": {
            "conditions": [
                {
                    "type": "Audited",
                    "status": "True",
                    "reason": "Looked",
                    "message": "",
                    "lastTransitionTime": "2026-11-25T12:00:00Z",
                }
            ]
        },
    }
    flags = ("--server-side", "--subresource=status", "--field-manager=auditor")
    world.cluster.kubectl("apply", *flags, "-f", "-", stdin=json.dumps(theirs))
    shown = world.api.get(TUNINGJOBS, "status", namespace=SPACE)["status"]
    assert (shown["phase"], shown["best"]) == ("Running", best)
    sink.write(job, _status("Failed"))
    shown = world.api.get(TUNINGJOBS, "status", namespace=SPACE)["status"]
    kinds = {c["type"]: c["status"] for c in shown["conditions"]}
    assert kinds == {"Progressing": "False", "Audited": "True"}
    assert "best" not in shown
    assert "progress" not in shown


def test_a_status_is_not_written_to_another_object(world):
    """A status for a TuningJob that was deleted and made anew changes nothing of the new one."""
    job = world.job("twin", "true")
    world.cluster.kubectl("delete", "tuningjob", "twin", "-n", SPACE)
    sink = KubeStatusSink(world.api)
    sink.write(job, _status("Running"))  # gone
    new = world.job("twin", "true")
    sink.write(job, _status("Failed"))
    assert "status" not in world.api.get(TUNINGJOBS, "twin", namespace=SPACE)
    sink.reject(new.key, _status("Failed"), uid=new.uid)
    shown = world.api.get(TUNINGJOBS, "twin", namespace=SPACE)["status"]
    assert shown["phase"] == "Failed"
    sink.close()


# -- tokens


def test_a_pods_token_names_its_pod_while_it_lives(world):
    """The projected token is accepted for its audience and names its pod; without the pod it is refused."""
    job = world.job("token", 'cat "$FORETUNE_TOKEN_FILE"; echo; ' + SLEEP)
    name = world.launched(job)
    attempt = world.running(job)
    token = world.log(job, attempt, "started").splitlines()[0]
    reviews = KubeTokenReviews(world.api)
    found = reviews.review(token)
    assert found is not None
    assert found.username == f"system:serviceaccount:{SPACE}:default"
    assert found.pod_uid == attempt.pod_uid
    assert f"system:serviceaccounts:{SPACE}" in found.groups
    assert reviews.may_read(found.username, found.groups, SPACE) is False
    world.runner.delete(job, name)
    wait_for("the token to end with its pod", lambda: reviews.review(token) is None)


def test_other_tokens_are_refused(world):
    """A token of another audience, of no pod, and nonsense are told apart."""
    reviews = KubeTokenReviews(world.api)
    assert reviews.review("nonsense") is None
    token = ("create", "token", "default", "-n", SPACE)
    other = world.cluster.kubectl(*token, "--audience=other").strip()
    assert reviews.review(other) is None
    unbound = reviews.review(world.cluster.kubectl(*token, "--audience=foretune").strip())
    assert unbound is not None
    assert (unbound.username, unbound.pod_uid) == (f"system:serviceaccount:{SPACE}:default", None)


def test_rights_are_asked_of_the_cluster(world):
    """Who may get tuningjobs in a namespace may read its trials; nobody else, and nowhere else."""
    user = f"system:serviceaccount:{SPACE}:reader"
    reviews = KubeTokenReviews(world.api)
    assert reviews.may_read(user, (), SPACE) is False
    rule = ("--verb=get", "--resource=tuningjobs.foretune.io", "-n", SPACE)
    world.cluster.kubectl("create", "role", "reader", *rule)
    bind = ("--role=reader", f"--serviceaccount={SPACE}:reader", "-n", SPACE)
    world.cluster.kubectl("create", "rolebinding", "reader", *bind)
    wait_for("the right to be known", lambda: reviews.may_read(user, (), SPACE))
    assert reviews.may_read(user, (), "default") is False
    assert reviews.may_read("admin", ("system:masters",), "default") is True


def test_a_tracker_without_rights_is_not_the_callers_fault(world):
    """Where we may not ask for reviews, callers are told to try again, not that they are refused."""
    token = world.cluster.kubectl("create", "token", "default", "-n", SPACE).strip()
    admin = configuration(world.cluster)
    poor = Configuration(host=admin.host)
    poor.ssl_ca_cert = admin.ssl_ca_cert
    poor.api_key = {"authorization": token}
    poor.api_key_prefix = {"authorization": "Bearer"}
    with pytest.raises(ClusterUnavailableError, match="needs the right to ask"):
        KubeTokenReviews(KubeApi(poor)).review("nonsense")


# -- the lease


@dataclass
class Pair:
    """Two candidates with a clock each, in a namespace of their own."""

    api: KubeApi
    namespace: str
    clocks: tuple[Hand, Hand] = field(default_factory=lambda: (Hand(), Hand()))

    def lease(self, number: int) -> Lease:
        """Return candidate 0 or 1, as a fresh process."""
        return Lease(
            self.api,
            namespace=self.namespace,
            identity=f"operator-{number}",
            monotonic=self.clocks[number],
        )


@pytest.fixture
def pair(world: World, request: pytest.FixtureRequest) -> Pair:
    """Two candidates."""
    name = request.node.name.replace("_", "-")[:60].rstrip("-")
    world.cluster.kubectl("create", "namespace", name)
    return Pair(world.api, name)


def test_one_of_two_holds_the_lease(pair):
    """The second waits while the first renews, however long, and takes over at once after a release."""
    first, second = pair.lease(0), pair.lease(1)
    assert first.acquire() is True
    assert second.acquire() is False
    for _ in range(4):
        for clock in pair.clocks:
            clock.now += DURATION_S - 1
        assert first.renew() is True
        assert second.acquire() is False
    assert (first.holder, second.holder) == ("operator-0", "operator-0")
    assert second.renew() is False
    first.release()
    assert first.renewed_at is None
    assert second.acquire() is True
    assert first.acquire() is False


def test_a_silent_holder_loses_the_lease(pair):
    """After 15 s without a renewal, by the taker's own clock, the other takes it; the old one is told."""
    first, second = pair.lease(0), pair.lease(1)
    assert first.acquire() is True
    assert second.acquire() is False
    pair.clocks[1].now += DURATION_S - 0.1
    assert second.acquire() is False
    pair.clocks[1].now += 0.2
    assert second.acquire() is True
    assert first.renew() is False
    assert (first.renewed_at, first.holder) == (None, "operator-1")
    assert first.acquire() is False
    first.release()  # nothing of ours to give back
    assert second.renew() is True


def test_a_restarted_holder_goes_on(pair):
    """The same identity, as a new process, has the lease at once."""
    assert pair.lease(0).acquire() is True
    again = pair.lease(0)
    assert again.acquire() is True
    assert again.renew() is True


def test_a_touched_or_deleted_lease_is_kept(world, pair):
    """Somebody's annotation, or `kubectl delete lease`, does not make the holder stop."""
    lease = pair.lease(0)
    assert lease.acquire() is True
    world.cluster.kubectl("annotate", "lease", NAME, "a=b", "-n", pair.namespace)
    assert lease.renew() is True
    world.cluster.kubectl("delete", "lease", NAME, "-n", pair.namespace)
    assert lease.renew() is True
    assert lease.renew() is True


def test_the_lease_says_who_and_since_when(world, pair):
    """Holder, times and the number of changes are in the record, as `kubectl describe` shows them."""
    first, second = pair.lease(0), pair.lease(1)
    first.acquire()
    before = world.cluster.get("lease", NAME, pair.namespace)["spec"]
    first.renew()
    after = world.cluster.get("lease", NAME, pair.namespace)["spec"]
    assert before["acquireTime"] == after["acquireTime"] <= before["renewTime"] < after["renewTime"]
    assert (after["holderIdentity"], after["leaseTransitions"]) == ("operator-0", 0)
    first.release()
    second.acquire()
    last = world.cluster.get("lease", NAME, pair.namespace)["spec"]
    assert (last["holderIdentity"], last["leaseDurationSeconds"]) == ("operator-1", 15)
    assert last["leaseTransitions"] == 1
