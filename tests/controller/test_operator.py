"""The three processes beside a real control plane: trials are pods, faults are real kills.

Nothing is installed but the CRD. The processes run outside the cluster, as with a developer's kubeconfig,
and the tracker reviews a real token of a real service account.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.support.cluster import Cluster, metric_lines, wait_for
from tests.support.serving import Serving, free_port
from tests.support.until import until

from foretune.adapters.http.tracker import HttpTracker
from foretune.domain.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foretune.domain.trial import Trial

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT: Final = Path(__file__).parents[2]
ACCOUNT: Final = "foretune-operator"
WRITES: Final = {"create", "patch", "apply", "update", "delete"}
LIMIT_S: Final = 240.0


@dataclass
class System:
    """The cluster, the processes, and a client of the tracker."""

    cluster: Cluster
    folder: Path
    tracker: Serving
    suggestion: Serving
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


@pytest.fixture(scope="module")
def system(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Tracker and suggestion service, ready, and what an operator needs."""
    folder = tmp_path_factory.mktemp("system")
    cluster.kubectl("apply", "-f", str(ROOT / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd/tuningjobs.foretune.io")
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
    with suggestion.ended(), tracker.ended():
        suggestion.start(ready=False)
        tracker.start()
        until(suggestion.ready, "the suggestion service is ready", limit_s=180)
        yield System(cluster, folder, tracker, suggestion, history, settings)
        history.disconnect()


@pytest.fixture(scope="module")
def operator(system: System) -> Iterator[Serving]:
    """An operator that leads; tests that end it start it again."""
    made = system.operator("first")
    with made.ended():
        made.start()
        yield made


def metric(process: Serving, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels."""
    found = metric_lines(process.get("/metrics").text, name)
    return sum(value for have, value in found if labels.items() <= have.items())


def writes(process: Serving) -> float:
    """Return how many requests to the API server wrote something; the Lease is not a trial's."""
    name = "foretune_kube_api_requests_total"
    found = metric_lines(process.get("/metrics").text, name)
    return sum(n for have, n in found if have["verb"] in WRITES and have["resource"] != "leases")


def test_a_job_runs_to_its_end(system, operator):
    """Trials are pods, their printed metric is read, at most six writes each, within 120 MiB."""
    before = writes(operator)
    began = time.monotonic()
    system.apply("plain", trials=6)
    wait_for("a pod", lambda: system.cluster.items("pods", selector="foretune.io/job=plain"))
    first_pod_s = time.monotonic() - began
    told = system.complete("plain", 6)
    assert told["observedGeneration"] == 1
    assert (writes(operator) - before) / 6 <= 6
    assert first_pod_s < 30
    assert metric(operator, "foretune_trials_finished_total", outcome="succeeded") == 6
    assert metric(operator, "foretune_operator_leader") == 1
    assert metric(operator, "foretune_job_trials", tuningjob="plain", phase="Succeeded") == 6
    pages = Path(f"/proc/{operator.process.pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", pages)[1]) / 1024
    print(f"operator: {resident:.0f} MiB, first pod after {first_pod_s:.2f} s")
    assert resident < 120
