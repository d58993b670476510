"""A job whose processes are killed or replaced in its midst ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.support.chart import CHART
from tests.support.cluster import wait_for
from tests.support.installed import NAMESPACE, TEAM, Installed

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3000)]

VALUES: Final = {"watchNamespaces": [TEAM]}
"""Of the chart: here with rights in one namespace only; `test_operator` has them in the cluster."""

TRIALS: Final = 5

EPOCHS: Final = 2

LIMIT_S: Final = 400
"""Seconds for one job of `TRIALS` trials, a restart in the middle of it included."""


def tuning_job(name: str, algorithm: str, trials: int = TRIALS) -> dict[str, Any]:
    """Return a job that trains networks; its trials depend on its seed alone where `algorithm` does."""
    return {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": name},
        "spec": {
            "objective": {"metric": "accuracy", "goal": "maximize"},
            "space": {
                "learning_rate": {"min": 0.001, "max": 0.03, "scale": "log"},
                "batch_size": {"values": [32, 64, 128]},
                "epochs": {"type": "const", "value": EPOCHS},
            },
            "search": {"algorithm": algorithm, "seed": 7, "initial": 3},
            "trial": {"builtin": {"model": "cnn", "dataset": "digits"}},
            "parallelism": 2,
            "budget": {"trials": trials},
        },
    }


def mid_run(release: Installed, uid: str, ended: int) -> Callable[[], bool]:
    """Return a condition: so many trials have ended, and another one runs."""

    def probe() -> bool:
        states = Counter(t["state"] for t in release.trials(uid))
        assert states["Completed"] >= ended, states
        assert states["Running"], states
        return True

    return probe


def run(release: Installed, job: dict[str, Any], *killed: str) -> list[dict[str, Any]]:
    """Run a job in whose midst processes are killed; returns its trials, checked by `checked`."""
    name = job["metadata"]["name"]
    release.cluster.apply(job, namespace=TEAM)
    uid = release.job(name)["metadata"]["uid"]
    for number, process in enumerate(killed, start=1):
        wait_for(f"{number} trials to have ended", mid_run(release, uid, number), every_s=0.05)
        release.wait_restarted(process, release.kill(process))
    return checked(release, release.wait_over(name, limit_s=LIMIT_S))


def checked(release: Installed, job: dict[str, Any], *, evictions: int = 0) -> list[dict[str, Any]]:
    """Return the trials of a job that is Complete; fails unless the whole budget ran, each trial once."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    budget, status = job["spec"]["budget"]["trials"], job["status"]
    (complete,) = (c for c in status["conditions"] if c["type"] == "Complete")
    assert (complete["status"], complete["reason"]) == ("True", "MaxTrials")
    assert status["counts"]["succeeded"] == status["allocated"] == budget

    trials = release.trials(uid)
    assert [t["index"] for t in trials] == list(range(budget))
    assert {t["state"] for t in trials} == {"Completed"}
    assert len({t["config_hash"] for t in trials}) == budget
    for trial in trials:
        points = release.curve(uid, trial["index"])
        assert [p["epoch"] for p in points] == list(range(1, EPOCHS + 1)), trial
        assert trial["value"] == max(p["metrics"]["accuracy"] for p in points)
        assert [a["number"] for a in trial["attempts"]] == [0], trial
    best = max(trials, key=lambda t: (t["value"], -t["index"]))
    found = (status["best"]["trial"], status["best"]["value"], status["best"]["params"])
    assert found == (best["index"], best["value"], best["params"])

    # As many Jobs and pods as trials, now and ever: nothing was started twice.
    assert len(release.jobs_of(name)) == budget
    assert len(release.pods_of(name)) == budget + evictions
    writes = [w for w in release.writes() if w.namespace == TEAM and w.verb == "create"]
    created = [w.name for w in writes if w.resource == "jobs" and w.name.startswith(f"{name}-")]
    assert len(created) == len(set(created)) == budget
    return trials


def told(trials: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return of each trial what must not depend on when a process was killed."""
    return [tuple(t[k] for k in ("index", "params", "state", "value", "epochs")) for t in trials]


@pytest.fixture(scope="module")
def undisturbed(release: Installed) -> list[dict[str, Any]]:
    """The trials of a job during which nothing happens."""
    return run(release, tuning_job("calm", "sobol"))


@pytest.mark.parametrize("process", ["operator", "tracker"])
def test_a_killed_process_changes_nothing(release, undisturbed, process):
    """Operator or tracker killed twice: every trial has the parameters and the value it has without."""
    trials = run(release, tuning_job(f"without-{process}", "sobol"), process, process)
    assert told(trials) == told(undisturbed)
    assert not [t["proposer"] for t in trials if t["proposer"].endswith("/fallback")]


def evicted(release: Installed, name: str) -> Callable[[], bool]:
    """Return a condition that comes true by evicting a pod of a job, one that is not just about to end."""
    asked: set[str] = set()

    def probe() -> bool:
        pods = {pod["metadata"]["name"]: pod["status"] for pod in release.pods_of(name)}
        if any(status.get("reason") == "Evicted" for status in pods.values()):
            return True
        running = [pod for pod, status in pods.items() if status["phase"] == "Running"]
        if running and not asked & set(running):
            asked.add(running[-1])
            release.cluster.fault(f"/evict/{TEAM}/{running[-1]}")
        return False

    return probe


def test_a_failing_cluster_changes_nothing(release, undisturbed):
    """A trial's pod is evicted, then the API server is killed: the trial runs again within its attempt."""
    job = tuning_job("storm", "sobol")
    release.cluster.apply(job, namespace=TEAM)
    uid = uid_of(release, "storm")
    wait_for("a pod to be evicted", evicted(release, "storm"))
    wait_for("a trial to have ended", mid_run(release, uid, 1))
    pid = release.cluster.folder / "controlplane" / "apiserver.pid"
    os.kill(int(pid.read_text(encoding="utf-8")), signal.SIGKILL)
    trials = checked(release, release.wait_over("storm", limit_s=LIMIT_S), evictions=1)
    assert told(trials) == told(undisturbed)


def test_a_killed_suggestion_service_stops_nobody(release):
    """The job goes on while it is down; back again, it proposes from all that happened meanwhile."""
    job = tuning_job("without-suggestion", "gp", trials=4)
    trials = run(release, job, "suggestion")
    assert {t["proposer"] for t in trials} <= {"sobol", "gp", "sobol/fallback"}
    release.wait_ready()
    change = '{"spec": {"budget": {"trials": 6}}}'
    patch = ("patch", "tuningjob", "without-suggestion", "--type=merge", "-p", change)
    release.cluster.kubectl(*patch, "-n", TEAM)

    def resumed() -> dict[str, Any] | None:
        found = release.job("without-suggestion")
        status = found["status"]
        assert (status["phase"], status["progress"]) == ("Complete", "6/6"), status["progress"]
        return found

    more = checked(release, wait_for("the two trials more", resumed, limit_s=LIMIT_S))
    assert told(more[:4]) == told(trials)
    assert [t["proposer"] for t in more[4:]] == ["gp", "gp"]


def test_an_upgrade_mid_run_changes_nothing(release, undisturbed):
    """`helm upgrade` replaces the pod while trials run: they go on, and the history is on its volume."""
    before, pod = release.trials(uid_of(release, "calm")), release.pod()["metadata"]["uid"]
    job = tuning_job("upgraded", "sobol")
    release.cluster.apply(job, namespace=TEAM)
    wait_for("a trial to have ended", mid_run(release, uid_of(release, "upgraded"), 1))
    release.run_helm(
        "upgrade", str(CHART), "-f", str(release.values), "--set", "operator.apiQps=40"
    )
    trials = checked(release, release.wait_over("upgraded", limit_s=LIMIT_S))
    assert told(trials) == told(undisturbed)
    assert release.wait_ready()["metadata"]["uid"] != pod
    assert release.trials(uid_of(release, "calm")) == before


def test_an_uninstalled_release_comes_back(release, undisturbed):
    """`helm uninstall` leaves TuningJobs and history; installed again, the release knows all jobs."""
    job, before = release.job("calm"), release.trials(uid_of(release, "calm"))
    release.run_helm("uninstall", "--wait")
    wait_for("the pod to go", lambda: not release.cluster.items("pods", NAMESPACE))
    assert release.job("calm")["status"] == job["status"]
    release.known.clear()  # the Services get other addresses
    release.install()
    assert release.trials(uid_of(release, "calm")) == before

    def seen() -> bool:
        return bool(release.samples("operator", "foretune_job_best_objective", tuningjob="calm"))

    wait_for("the operator to have looked at the job", seen)
    assert release.job("calm")["status"] == job["status"]
    names = {each["metadata"]["name"] for each in release.jobs_of("calm")}
    assert len(names) == TRIALS


def uid_of(release: Installed, name: str) -> str:
    """Return the uid of a TuningJob."""
    return str(release.job(name)["metadata"]["uid"])
