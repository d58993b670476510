"""The three processes beside a real control plane: trials are pods, faults are real kills.

Nothing is installed but the CRD. The processes run outside the cluster, as with a developer's kubeconfig,
and the tracker reviews a real token of a real service account.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from tests.support.cluster import Cluster, metric_lines, wait_for
from tests.support.proxy import proxy
from tests.support.serving import Serving, free_port
from tests.support.until import until

from foretune.adapters.http.tracker import HttpTracker
from foretune.adapters.kube.resources import PODS
from foretune.api.v1alpha1 import parse
from foretune.app.operator import assemble
from foretune.controller.process import OperatorProcess
from foretune.domain.job import JobKey
from foretune.domain.trial import TrialState
from foretune.planner.naming import attempt_name
from foretune.settings import OperatorSettings, from_environ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foretune.domain.trial import Trial

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT: Final = Path(__file__).parents[2]
ACCOUNT: Final = "foretune-operator"
WRITES: Final = {"create", "patch", "apply", "update", "delete"}
LIMIT_S: Final = 240.0
END_S: Final = 60.0
"""Limit of an end after SIGTERM; it is 22 s on a machine that has nothing else to do."""
MANY: Final = 60
"""Trials of a job that a test interrupts, and makes smaller afterwards: it can't be done too early."""


@dataclass
class System:
    """The cluster, a client of the tracker, and the settings of an operator."""

    cluster: Cluster
    folder: Path
    history: HttpTracker
    settings: dict[str, str]

    def operator(self, name: str, **settings: str) -> Serving:
        """Return an operator that is not started yet."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        own = {"FORETUNE_IDENTITY": name, **settings}
        return Serving("operator", folder, {**self.settings, **own})

    def apply(self, name: str, **spec: Any) -> None:
        """Apply a TuningJob of short trials."""
        self.cluster.apply(job(name, **spec))

    def patch(self, name: str, **spec: Any) -> None:
        """Change the spec of a TuningJob."""
        self.cluster.kubectl("patch", *merge(name, **spec))

    def status(self, name: str) -> dict[str, Any]:
        """Return the status of a TuningJob."""
        return (self.cluster.get("tuningjob", name) or {}).get("status") or {}

    def uid(self, name: str) -> str:
        """Return the uid of a TuningJob."""
        return self.cluster.get("tuningjob", name)["metadata"]["uid"]

    def trials(self, name: str) -> list[Trial]:
        """Return the trials that the history has of a TuningJob."""
        return list(self.history.trials(self.uid(name)))

    def jobs(self, name: str) -> list[dict[str, Any]]:
        """Return the Jobs of a TuningJob."""
        return self.cluster.items("jobs", selector=f"foretune.io/job={name}")

    def ended(self, name: str, count: int) -> bool:
        """Whether so many trials have ended, and some have not."""
        found = self.status(name).get("counts", {})
        assert self.status(name).get("phase") != "Complete", "too late"
        return found.get("succeeded", 0) >= count and found.get("running", 0) > 0

    def complete(self, name: str, trials: int) -> dict[str, Any]:
        """Wait for the end; nothing may be lost, run twice, or left without its TTL."""
        found = self.cluster.wait_condition("tuningjob", name, "Complete", limit_s=LIMIT_S)
        told, known = found["status"], self.trials(name)
        assert told["counts"]["succeeded"] == trials, told
        assert [trial.index for trial in known] == list(range(trials))
        assert {trial.state for trial in known} == {TrialState.COMPLETED}
        assert all(len(trial.attempts) == 1 for trial in known)
        assert len({trial.config_hash for trial in known}) == trials
        jobs = self.jobs(name)
        assert sorted(j["metadata"]["labels"]["foretune.io/trial"] for j in jobs) == sorted(
            map(str, range(trials))
        )
        assert all(j["spec"].get("ttlSecondsAfterFinished") == 3600 for j in jobs)
        best = max(known, key=lambda trial: trial.value)
        assert told["best"]["value"] == best.value
        assert told["best"]["params"] == dict(best.params)
        return told


def job(name: str, *, trials: int = 4, seconds: float = 0, **spec: Any) -> dict[str, Any]:
    """Return a TuningJob whose trials print x as their accuracy after some seconds."""
    body = {
        "objective": {"metric": "accuracy"},
        "space": {"x": {"type": "float", "min": 0, "max": 1}},
        "search": {"algorithm": "sobol"},
        "trial": {
            "image": "example.org/any:1",
            "command": ["sh", "-c", f"sleep {seconds}; echo accuracy=$(params.x)"],
        },
        "parallelism": 2,
        "budget": {"trials": trials},
    }
    return {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": name},
        "spec": {**body, **spec},
    }


def merge(name: str, **spec: Any) -> tuple[str, ...]:
    """Return the arguments of `kubectl patch` that change a TuningJob's spec."""
    return "tuningjob", name, "--type=merge", "-p", json.dumps({"spec": spec})


@pytest.fixture(scope="module")
def system(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Tracker and suggestion service, ready, and what an operator needs."""
    folder = tmp_path_factory.mktemp("system")
    cluster.kubectl("create", "serviceaccount", ACCOUNT)
    token = cluster.kubectl("create", "token", ACCOUNT, "--audience", "foretune", "--duration=2h")
    (folder / "token").write_text(token)
    ports = {name: str(free_port()) for name in ("tracker", "suggestion")}
    suggestion = Serving("suggestion", folder, {"FORETUNE_PORT": ports["suggestion"]})
    tracker = Serving(
        "tracker",
        folder,
        {
            "KUBECONFIG": str(cluster.kubeconfig),
            "FORETUNE_HOST": "127.0.0.1",
            "FORETUNE_PORT": ports["tracker"],
            "FORETUNE_DATABASE_URL": f"sqlite:///{folder / 'history.db'}",
            "FORETUNE_SUGGESTION_URL": f"http://127.0.0.1:{ports['suggestion']}",
            "FORETUNE_OPERATOR_USERS": f"system:serviceaccount:default:{ACCOUNT}",
        },
    )
    url = f"http://127.0.0.1:{ports['tracker']}"
    history = HttpTracker(url, token.strip)
    settings = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "FORETUNE_TRACKER_URL": url,
        "FORETUNE_TOKEN_FILE": str(folder / "token"),
        "FORETUNE_NAMESPACE": "default",
    }
    made = System(cluster, folder, history, settings)
    with suggestion.ended(), tracker.ended():
        suggestion.start(ready=False)
        tracker.start(ready=False)
        install_late(made)
        until(tracker.ready, "the tracker is ready", limit_s=180)
        until(suggestion.ready, "the suggestion service is ready", limit_s=180)
        yield made
        history.disconnect()


def install_late(system: System) -> None:
    """Install the CRD while an operator waits for it: it says what is missing, and goes on by itself."""
    early = system.operator("early")
    with early.ended():
        early.start(ready=False)
        wait_for(
            "the operator to say what is missing", lambda: said(early, "kubectl apply -f crds/")
        )
        system.cluster.kubectl("apply", "-f", str(ROOT / "crds"))
        until(early.ready, "the operator to be ready", limit_s=LIMIT_S)
        assert early.terminate(within_s=END_S) == 0


def said(process: Serving, text: str) -> bool:
    """Whether a process is unready for this reason."""
    try:
        answer = process.get("/readyz")
    except httpx.TransportError:
        return False
    return answer.status_code == 503 and text in answer.text


@pytest.fixture(scope="module")
def operator(system: System) -> Iterator[Serving]:
    """An operator; tests that end it start it again.

    It needs no lease, which a machine busy with other work could cost it.
    """
    made = system.operator("first", FORETUNE_LEADER_ELECTION="false")
    with made.ended():
        made.start()
        yield made


def metric(process: Serving, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels."""
    found = metric_lines(process.get("/metrics").text, name)
    return sum(value for have, value in found if labels.items() <= have.items())


def metric_lines_of(process: Serving, name: str, **labels: str) -> list[Any]:
    """Return a metric's samples that have these labels."""
    found = metric_lines(process.get("/metrics").text, name)
    return [have for have, _ in found if labels.items() <= have.items()]


def writes(process: Serving) -> float:
    """Return how many requests to the API server wrote something; the Lease is not a trial's."""
    name = "foretune_kube_api_requests_total"
    found = metric_lines(process.get("/metrics").text, name)
    return sum(n for have, n in found if have["verb"] in WRITES and have["resource"] != "leases")


def test_a_job_runs_to_its_end(system, operator):
    """Trials are pods, their printed metric is read, at most six writes each, within 120 MiB."""
    before, finished = writes(operator), {"outcome": "succeeded"}
    ended = metric(operator, "foretune_trials_finished_total", **finished)
    began = time.monotonic()
    system.apply("plain", trials=6)
    wait_for("a pod", lambda: system.cluster.items("pods", selector="foretune.io/job=plain"))
    first_pod_s = time.monotonic() - began
    told = system.complete("plain", 6)
    assert told["observedGeneration"] == 1
    each = (writes(operator) - before) / 6
    assert each <= 6
    assert metric(operator, "foretune_trials_finished_total", **finished) == ended + 6
    assert metric(operator, "foretune_operator_leader") == 1
    assert metric(operator, "foretune_job_trials", tuningjob="plain", phase="Succeeded") == 6
    pages = Path(f"/proc/{operator.process.pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", pages)[1]) / 1024
    print(
        f"operator: {resident:.0f} MiB, first pod after {first_pod_s:.2f} s, {each:.1f} writes a trial"
    )
    assert resident < 120


def test_a_spec_that_can_not_run_is_told_in_its_status(system, operator):
    """What only the operator can see stands in the status with its path; made anew, the job runs."""
    trial = {"image": "example.org/any:1", "command": ["sh", "-c", "echo accuracy=$(params.y)"]}
    system.apply("bad", trial=trial)
    found = system.cluster.wait_condition("tuningjob", "bad", "Accepted", status="False")
    told = found["status"]
    accepted = next(c for c in told["conditions"] if c["type"] == "Accepted")
    assert accepted["reason"] == "InvalidSpec"
    assert "spec.trial.command[2]: $(params.y) names no parameter" in accepted["message"]
    assert (told["phase"], told["observedGeneration"]) == ("Failed", 1)
    assert system.jobs("bad") == []
    until(
        lambda: metric(operator, "foretune_job_status_phase", tuningjob="bad", phase="Failed") == 1,
        "the job to be counted as Failed",
    )
    assert "immutable" in system.cluster.refused(
        "patch", *merge("bad", trial=job("bad")["spec"]["trial"])
    )
    system.cluster.kubectl("delete", "tuningjob", "bad")
    system.apply("bad", trials=2)
    system.complete("bad", 2)


def test_somebody_elses_job_under_the_name_is_left_alone(system, operator):
    """A foreign Job in the way is told, not adopted; once it is gone and the spec changes, trials run."""
    system.apply("taken", suspend=True)
    system.cluster.wait_condition("tuningjob", "taken", "Progressing", status="False")
    body = system.cluster.get("tuningjob", "taken")
    domain = parse({**body, "status": {}}).to_domain()
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": attempt_name(domain, 0, 0)},
        "spec": {
            "suspend": True,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "x", "image": "example.org/x:1"}],
                }
            },
        },
    }
    system.cluster.apply(foreign)
    system.patch("taken", suspend=False)
    found = system.cluster.wait_condition("tuningjob", "taken", "Degraded")
    degraded = next(c for c in found["status"]["conditions"] if c["type"] == "Degraded")
    assert degraded["reason"] == "NameCollision"
    assert metric(operator, "foretune_kube_api_requests_total", verb="create", code="409") >= 1
    assert system.cluster.get("job", foreign["metadata"]["name"])["spec"]["suspend"] is True
    system.cluster.kubectl("delete", "job", foreign["metadata"]["name"])
    system.patch("taken", parallelism=3)
    system.complete("taken", 4)


def test_a_suspended_job_goes_on_where_it_was(system, operator):
    """While suspended, what runs ends and nothing starts; resumed, no index is used twice."""
    system.apply("paused", trials=MANY, seconds=0.5)
    wait_for("the first end", lambda: system.ended("paused", 1))
    system.patch("paused", suspend=True)

    def at_rest() -> bool:
        told = system.status("paused")
        assert told["phase"] == "Suspended", told
        assert told["counts"]["running"] == 0, told
        assert told["counts"]["pending"] == 0, told
        return True

    wait_for("the job to be at rest", at_rest)
    done = len(system.jobs("paused"))
    assert 1 <= done < MANY
    system.patch("paused", suspend=False, budget={"trials": done + 2})
    system.complete("paused", done + 2)


def test_a_deleted_job_leaves_nothing(system, operator):
    """Jobs, pods and series go; the history closes the job and cancels what ran."""
    system.apply("gone", seconds=600)
    wait_for("two pods to run", lambda: system.status("gone").get("counts", {}).get("running") == 2)
    uid = system.uid("gone")
    system.cluster.kubectl("delete", "tuningjob", "gone", "--wait=false")
    wait_for("its Jobs to go", lambda: not system.jobs("gone"))
    wait_for(
        "its pods to go",
        lambda: not system.cluster.items("pods", selector="foretune.io/job=gone"),
    )
    until(lambda: system.history.job(uid).phase == "Deleted", "the history to hear of it")
    assert {trial.state for trial in system.history.trials(uid)} == {TrialState.CANCELLED}
    until(
        lambda: not metric_lines_of(operator, "foretune_job_info", tuningjob="gone"),
        "its series to end",
    )


def test_a_killed_operator_loses_and_repeats_nothing(system, operator):
    """After kill -9 the next one goes on, and closes what was deleted meanwhile."""
    system.apply("killed", trials=MANY, seconds=0.5)
    system.apply("orphan", seconds=600)
    wait_for("the job to be under way", lambda: system.ended("killed", 2))
    orphan = wait_for("the other's uid", lambda: system.trials("orphan") and system.uid("orphan"))
    operator.kill()
    trials = len(system.trials("killed")) + 2
    system.patch("killed", budget={"trials": trials})
    system.cluster.kubectl("delete", "tuningjob", "orphan", "--wait=false")
    wait_for("it to be gone", lambda: not system.cluster.get("tuningjob", "orphan"))
    operator.start()
    system.complete("killed", trials)
    until(lambda: system.history.job(orphan).phase == "Deleted", "the history to hear of it")
    assert operator.terminate(within_s=END_S) == 0
    operator.start()
    shown = {"tuningjob": "killed", "phase": "Succeeded"}
    until(
        lambda: metric(operator, "foretune_job_trials", **shown) == trials,
        "the ended job to be shown",
    )
    assert writes(operator) == 0  # jobs that have ended cost a restart nothing


LEASES: Final = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": ["foretune-operator"],
        "verbs": ["get", "update"],
    },
]


def shipped_rules() -> list[dict[str, Any]]:
    """Return the rules that the chart gives the operator in a namespace."""
    text = (ROOT / "charts" / "foretune" / "templates" / "_helpers.tpl").read_text()
    (rules,) = re.findall(r'define "foretune\.rules" -}}(.*?){{- end }}', text, re.DOTALL)
    return yaml.safe_load(rules)


def test_rights_in_one_namespace_are_enough(system, tmp_path):
    """With Roles of the chart's rules alone, an operator of one namespace runs its jobs and no others."""
    api = "rbac.authorization.k8s.io"
    meta = {"name": ACCOUNT, "namespace": "team"}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "team"}
    role = {"apiGroup": api, "kind": "Role", "name": ACCOUNT}
    system.cluster.kubectl("create", "namespace", "team")
    system.cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": f"{api}/v1",
            "kind": "Role",
            "metadata": meta,
            "rules": [*shipped_rules(), *LEASES],
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": role,
            "subjects": [subject],
        },
        namespace="team",
    )
    token = system.cluster.kubectl("create", "token", ACCOUNT, "-n", "team").strip()
    config = yaml.safe_load(system.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    team = system.operator(
        "team",
        KUBECONFIG=str(tmp_path / "kubeconfig"),
        FORETUNE_NAMESPACES="team",
        FORETUNE_NAMESPACE="team",
    )
    with team.ended():
        team.start()
        system.cluster.apply(job("small", trials=2), namespace="team")
        system.cluster.wait_condition("tuningjob", "small", "Complete", namespace="team")
        assert metric(team, "foretune_kube_api_requests_total", code="403") == 0
        assert {labels["namespace"] for labels in metric_lines_of(team, "foretune_jobs")} == {
            "team"
        }
        assert team.terminate(within_s=END_S) == 0
    system.cluster.kubectl("delete", "namespace", "team", "--wait=false")


def test_two_leaders_do_no_harm(system, operator):
    """Two operators that both act create each Job once, and commit each outcome once."""
    other = system.operator("third")
    with other.ended():
        other.start()
        system.apply("shared", trials=6, parallelism=3)
        system.complete("shared", 6)
        assert metric(other, "foretune_operator_leader") == 1
        assert other.terminate(within_s=END_S) == 0


def test_the_audit_finds_what_no_watch_has_shown(system, operator, monkeypatch):
    """Against the real lists: what is not there is forgotten, and what was never shown is a dead watch."""
    system.apply("audited", suspend=True)
    place = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"  # read at its import
    monkeypatch.setattr(place, str(system.cluster.kubeconfig))
    settings = replace(from_environ(OperatorSettings, system.settings), metrics_port=0)
    process = OperatorProcess(settings, assemble(settings))
    store, cache = process._store, process._parts.cache
    owner = {"kind": "Job", "apiVersion": "batch/v1", "controller": True, "uid": "j", "name": "j"}
    meta = {"namespace": "default", "resourceVersion": "1", "generation": 1}
    labels = {"foretune.io/job": "was"}
    store.put({"metadata": {**meta, "name": "was", "uid": "t"}, "spec": {}})
    pod = {**meta, "name": "p", "uid": "p", "labels": labels, "ownerReferences": [owner]}
    cache.put(PODS, {"metadata": pod, "spec": {}, "status": {}})
    process._audit._lag_s = 0.01
    process._audit.once()
    assert store.gone(JobKey("default", "was")) == ("t",)
    assert process._queue.take(wait=False) == JobKey("default", "was")
    assert cache.versions(PODS) == {}
    assert "is dead" in process._watchdog.wrong()
    process._close()
    system.cluster.kubectl("delete", "tuningjob", "audited")


def test_a_cluster_that_is_away_is_waited_for_or_left(system, operator, tmp_path):
    """Cut connections are opened again; a silent network costs the lease, and a standby goes on."""
    assert operator.terminate(within_s=END_S) == 0
    config = yaml.safe_load(system.cluster.kubeconfig.read_text())
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    with proxy(server.hostname, server.port) as network, contextlib.ExitStack() as stack:
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{network.port}"
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        behind = system.operator("behind", KUBECONFIG=str(tmp_path / "kubeconfig"))
        standby = system.operator("standby")
        for process in (behind, standby):
            stack.enter_context(process.ended())
            process.start()
        assert metric(standby, "foretune_operator_leader") == 0
        system.apply("away", trials=MANY, seconds=0.5)
        wait_for("the job to be under way", lambda: system.ended("away", 1))
        failed = {"code": "error"}
        errors = metric(behind, "foretune_kube_api_requests_total", **failed)
        network.cut()
        until(
            lambda: metric(behind, "foretune_kube_api_requests_total", **failed) > errors,
            "a request to fail",
        )
        network.heal()
        done = system.status("away")["counts"]["succeeded"]
        wait_for("the job to go on", lambda: system.ended("away", done + 2))
        assert behind.process.poll() is None
        network.stall()
        trials = len(system.trials("away")) + 2
        system.patch("away", budget={"trials": trials})
        assert behind.process.wait(120) == 1
        assert "the lease is lost" in behind.text()
        system.complete("away", trials)
        assert metric(standby, "foretune_operator_leader") == 1
        assert standby.terminate(within_s=END_S) == 0
    operator.start()
