"""From `helm install` and `kubectl apply` to a tuned model, on a real control plane.

With FORETUNE_RECORD=FILE, what was measured on the way is written there as JSON (`make bench-cluster`).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from scripts.build_images import IMAGES
from tests.support.cluster import ROOT, wait_for
from tests.support.foreign import PROGRAMS, foreign_site, needs, python
from tests.support.installed import (
    ACCOUNT,
    PORTS,
    TEAM,
    Installed,
    Write,
    memory_after,
    memory_of,
)
from tests.support.prometheus import Prometheus, documented_config, promtool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3000)]

EXAMPLES: Final = {"digits-cnn": "push", "own-image": "log_tail", "job-template": "push"}
"""Example: the carrier that brings its metrics."""

EXAMPLE_LIMIT_S: Final = 600
"""Seconds within which all examples are done, on a machine that is busy with other things too."""

MIB: Final = 1024 * 1024

BARE_IMPORT: Final = "import torch, gpytorch, botorch"
"""What the suggestion service's memory is compared with."""


def example(name: str) -> dict[str, Any]:
    """Return a manifest of examples/."""
    return dict(yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8")))


def script_job(name: str, script: str, **spec: Any) -> dict[str, Any]:
    """Return a TuningJob whose trials run a Python script, the value `x` in `sys.argv[1]`."""
    trial = {"image": "python:3.11-slim-bookworm", "command": ["python3", "-u", "-c", script]}
    trial["args"] = ["$(params.x)"]
    return {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": name},
        "spec": {
            "objective": {"metric": "loss", "goal": "minimize"},
            "space": {"x": {"min": -1.0, "max": 1.0}},
            "search": {"algorithm": "sobol"},
            "trial": trial,
            **spec,
        },
    }


def foretune(release: Installed, *args: str) -> tuple[int, str, str]:
    """Return how a command of the command line ends that reads the release's tracker."""
    token = release.cluster.folder / "token"
    token.write_text(release.token(), encoding="utf-8")
    where = ["--tracker", release.tracker_url, "--token-file", str(token)]
    return release.cluster.run([sys.executable, "-m", "foretune", *args, *where])


def told(release: Installed, *args: str) -> Any:
    """Return what a command of the command line prints as JSON."""
    code, out, err = foretune(release, *args, "-o", "json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def finished(release: Installed) -> dict[str, dict[str, Any]]:
    """The examples, applied with kubectl and run to their end, by name."""
    release.apply_file(ROOT / "examples" / "digits-cnn.yaml")
    # The others come when the first trial is there: the time to it is one of the figures.
    wait_for("the first trial's pod", lambda: release.pods_of("digits-cnn"))
    for name in ("own-image", "job-template"):
        release.apply_file(ROOT / "examples" / f"{name}.yaml")
    return {name: release.wait_over(name, limit_s=EXAMPLE_LIMIT_S) for name in EXAMPLES}


@pytest.fixture(scope="module")
def histories(
    release: Installed, finished: dict[str, dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """The trials of the examples as the tracker tells them to a reader, by name of the job."""
    return {name: release.trials(job["metadata"]["uid"]) for name, job in finished.items()}


# --- the release -----------------------------------------------------------------------------


def test_helm_finds_the_release_in_order(release):
    """`helm test` passes: the API server knows TuningJobs, and all three processes are ready."""
    assert "Phase:          Succeeded" in release.run_helm("test")


def test_the_processes_run_as_the_chart_says(release):
    """One pod, restricted, under the chart's account; no container was restarted to get there."""
    pod = release.wait_ready()
    spec, statuses = pod["spec"], pod["status"]["containerStatuses"]
    assert spec["serviceAccountName"] == ACCOUNT.rpartition(":")[2]
    assert {s["name"]: s["restartCount"] for s in statuses} == dict.fromkeys(PORTS, 0)
    images = {c["name"]: c["image"] for c in spec["containers"]}
    light, suggestion = IMAGES["light"].tag, IMAGES["suggestion"].tag
    assert images == {"operator": light, "tracker": light, "suggestion": suggestion}
    assert pod["spec"]["securityContext"]["runAsUser"] == 65532


# --- the examples ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_completes(finished, histories, name):
    """Every trial of the budget ran once and has a value; the best of them is in the status."""
    spec, status = finished[name]["spec"], finished[name]["status"]
    trials, budget = histories[name], spec["budget"]["trials"]
    assert [t["index"] for t in trials] == list(range(budget))
    assert {t["state"] for t in trials} == {"Completed"}
    assert len({t["config_hash"] for t in trials}) == budget
    assert {t["source"] for t in trials} == {EXAMPLES[name]}
    assert {len(t["attempts"]) for t in trials} == {1}
    (complete,) = (c for c in status["conditions"] if c["type"] == "Complete")
    assert (complete["status"], complete["reason"]) == ("True", "MaxTrials")
    assert (status["counts"]["succeeded"], status["progress"]) == (budget, f"{budget}/{budget}")
    best = (max if spec["objective"]["goal"] == "maximize" else min)(t["value"] for t in trials)
    (winner,) = (t for t in trials if t["index"] == status["best"]["trial"])
    assert (status["best"]["value"], winner["value"]) == (best, best)
    assert status["best"]["params"] == winner["params"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_curves_of_an_example_are_in_the_tracker(release, finished, histories, name):
    """Each trial left a point for each epoch it ran, and its value is the best of them."""
    job = finished[name]
    objective = job["spec"]["objective"]
    pick = max if objective["goal"] == "maximize" else min
    for trial in histories[name]:
        curve = release.curve(job["metadata"]["uid"], trial["index"])
        epochs = int(trial["params"].get("epochs", 5))
        assert [point["epoch"] for point in curve] == list(range(1, epochs + 1))
        assert trial["value"] == pick(p["metrics"][objective["metric"]] for p in curve)


def test_the_trials_trained(release, finished, histories):
    """A network was trained in each trial: losses fell, the best one reads most digits."""
    uid = finished["digits-cnn"]["metadata"]["uid"]
    best = max(histories["digits-cnn"], key=lambda t: t["value"])
    curve = release.curve(uid, best["index"])
    assert best["value"] > 0.85
    assert curve[-1]["metrics"]["val_loss"] < curve[0]["metrics"]["val_loss"]
    assert len({t["value"] for t in histories["digits-cnn"]}) > 3


def test_each_trial_was_a_pod_of_its_own(release, finished, histories):
    """Each trial has one Job, owned by the TuningJob, whose one pod succeeded on a node."""
    for name, job in finished.items():
        jobs, pods = release.jobs_of(name), release.pods_of(name)
        assert len(jobs) == len(pods) == len(histories[name])
        owners = [owner for j in jobs for owner in j["metadata"]["ownerReferences"]]
        assert {(o["kind"], o["uid"]) for o in owners} == {("TuningJob", job["metadata"]["uid"])}
        assert {p["status"]["phase"] for p in pods} == {"Succeeded"}
        assert {p["spec"]["nodeName"] for p in pods} <= {"node-0", "node-1"}
        pod_uids = {p["metadata"]["uid"] for p in pods}
        assert pod_uids == {a["pod_uid"] for t in histories[name] for a in t["attempts"]}


def test_the_template_is_kept(release, finished):
    """What a user's Job says stays in the trials' Jobs, beside what Foretune adds."""
    (pod, *_) = release.pods_of("job-template")
    assert pod["metadata"]["labels"]["team"] == "vision"
    assert [c["name"] for c in pod["spec"]["initContainers"]] == ["data"]
    (trainer,) = pod["spec"]["containers"]
    assert trainer["resources"]["limits"] == {"memory": "128Mi"}
    assert "FORETUNE_PARAMS" in {e["name"] for e in trainer["env"]}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_command_line_agrees(release, finished, histories, name):
    """`foretune status`, `trials` and `best` say of a cluster's job what its status and history say."""
    status = finished[name]["status"]
    rows = told(release, "trials", name)
    shown = [(r["index"], r["state"], r["params"], r["value"], r["epochs"]) for r in rows]
    keys = ("index", "state", "params", "value", "epochs")
    assert shown == [tuple(t[k] for k in keys) for t in histories[name]]
    best = told(release, "best", name)
    assert (best["index"], best["value"]) == (status["best"]["trial"], status["best"]["value"])
    code, out, err = foretune(release, "status", name)
    assert code == 0, err
    assert "Complete" in out


def test_only_readers_of_the_namespace_read_its_history(release, finished):
    """A service account without the role `view` gets no job to see; one with it does."""
    uid = finished["own-image"]["metadata"]["uid"]
    assert release.history(f"/v1/jobs/{uid}")["name"] == "own-image"
    release.cluster.kubectl("create", "serviceaccount", "stranger", "-n", TEAM)
    headers = {"Authorization": f"Bearer {release.token('stranger')}"}
    with pytest.raises(AssertionError, match="403"):
        release.get(f"{release.tracker_url}/v1/jobs/{uid}", **headers)


def test_every_example_is_accepted(release):
    """The API server takes each manifest of examples/, those for GPUs and data sets too."""
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        out = release.cluster.kubectl("apply", "-n", TEAM, "--dry-run=server", "-f", str(path))
        assert f"tuningjob.foretune.io/{path.stem}" in out


def test_a_data_folder_that_is_not_there(release):
    """The job fails with the first trial, and the status says in one line which field is wrong."""
    job = example("digits-cnn")
    job["metadata"] = {"name": "no-folder"}
    job["spec"]["trial"]["builtin"] = {"model": "cnn", "dataset": "mnist", "path": "/data/mnist"}
    release.cluster.apply(job, namespace=TEAM)
    status = release.wait_over("no-folder", "Failed", limit_s=EXAMPLE_LIMIT_S)["status"]
    failed = next(c for c in status["conditions"] if c["type"] == "Failed")
    assert (status["phase"], failed["reason"]) == ("Failed", "ConfigBug")
    line = r"trial \d can't read its data: spec\.trial\.builtin\.path: /data/mnist is no folder: .*"
    assert re.fullmatch(line, failed["message"])


@pytest.fixture(scope="module")
def bert(release: Installed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """examples/sst2-bert.yaml with a small budget and its data set on a claim, run to its end."""
    release.add_claim("datasets", sentences(tmp_path_factory.mktemp("sst2")))
    job = example("sst2-bert")
    spec, trial = job["spec"], job["spec"]["trial"]
    spec["budget"] = {"trials": 2}
    spec["parallelism"] = 2
    spec["space"]["epochs"] = {"value": 1}
    extras = {"max_samples": 300, "max_length": 32, "width": 64}
    trial["builtin"] |= {"path": "/data/sst2", "extras": extras}
    claim = {"claimName": "datasets", "readOnly": True}
    trial["volumes"] = [{"name": "data", "persistentVolumeClaim": claim}]
    trial["volumeMounts"] = [{"name": "data", "mountPath": "/data", "readOnly": True}]
    release.cluster.apply(job, namespace=TEAM)
    return release.wait_over("sst2-bert", limit_s=EXAMPLE_LIMIT_S)


def sentences(folder: Path) -> dict[str, Path]:
    """Return the files of SST-2 in FORETUNE_DATA, else of a small data set of the same form."""
    names = ("train.parquet", "validation.parquet", "test.parquet")
    real = Path(os.environ.get("FORETUNE_DATA", "/nonexistent"), "datasets", "sst2")
    if not (real / names[0]).exists():
        real = folder
        for name in names:
            texts = [f"{word} film number {n}" for n in range(200) for word in ("good", "bad")]
            table = pa.table({"text": texts, "label": [1, 0] * 200})
            parquet.write_table(table, folder / name)
    return {f"sst2/{name}": real / name for name in names}


def test_trials_with_gpus_and_a_mounted_data_set(release, bert):
    """BERT trains on SST-2 from a claim; each trial held a GPU, whose time is booked."""
    trials = release.trials(bert["metadata"]["uid"])
    assert [t["state"] for t in trials] == ["Completed"] * 2
    assert {a["gpus"] for t in trials for a in t["attempts"]} == {1}
    for pod in release.pods_of("sst2-bert"):
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    held = sum(t["gpu_s"] for t in trials)
    assert held > 0
    assert bert["status"]["spent"]["gpuHours"] == pytest.approx(held / 3600, abs=1e-4)
    ((_, told),) = release.samples("operator", "foretune_job_gpu_seconds", tuningjob="sst2-bert")
    assert told == pytest.approx(held)


# --- programs of others ------------------------------------------------------------------------


SHIMMED: Final = "from ray import train\nfor n in (1, 2, 3): train.report({'val_loss': 1 / n})\n"
"""A program written for Ray, which is not there."""

FOREIGN: Final[dict[str, dict[str, Any]]] = {
    "transformers": {
        "command": ["unmodified_transformers.py", "--learning_rate", "$(params.lr)"],
        "args": ["--epochs", "8", "--seconds", "0.8"],
    },
    "lightning": {"command": ["with_lightning.py", "8"], "inject": ["sdk"]},
    "keras": {"command": ["with_keras.py", "8"], "inject": ["sdk"]},
    "ray": {"command": ["with_ray.py"], "inject": ["shims"]},
}
"""Programs without a line of ours (Keras' has one), in an environment without Foretune."""


@pytest.fixture(scope="module")
def foreign(
    release: Installed, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """A job of one trial for each of `FOREIGN`, run to its end."""
    needs("transformers", "accelerate", "pytorch_lightning", "keras")
    shimmed = tmp_path_factory.mktemp("ray") / "with_ray.py"
    shimmed.write_text(SHIMMED, encoding="utf-8")
    files = {path.name: path for path in (*PROGRAMS.glob("*.py"), shimmed)}
    foreign_site(release.add_claim("foreign", files) / "site")
    claim = {"claimName": "foreign", "readOnly": True}
    for name, trial in FOREIGN.items():
        program, *args = trial["command"]
        job = script_job(f"foreign-{name}", "", budget={"trials": 1})
        job["spec"]["objective"] = {"metric": "val_loss", "goal": "minimize", "reduce": "last"}
        job["spec"]["space"] = {"lr": {"min": 0.05, "max": 0.2}}
        job["spec"]["trial"] = {
            "image": "registry.example.com/team/train:3",
            "env": [{"name": "PYTHONPATH", "value": "/foreign/site"}],
            "volumes": [{"name": "foreign", "persistentVolumeClaim": claim}],
            "volumeMounts": [{"name": "foreign", "mountPath": "/foreign", "readOnly": True}],
            **trial,
            "command": [python(), f"/foreign/{program}", *args],
        }
        release.cluster.apply(job, namespace=TEAM)
    names = {name: f"foreign-{name}" for name in FOREIGN}
    return {n: release.wait_over(job, limit_s=EXAMPLE_LIMIT_S) for n, job in names.items()}


@pytest.mark.parametrize("name", FOREIGN)
def test_programs_of_others_report(release, foreign, name):
    """Each program reports every epoch, the last one at full precision."""
    uid = foreign[name]["metadata"]["uid"]
    (trial,) = release.trials(uid)
    curve = release.curve(uid, 0)
    posts = name == "transformers"
    assert (trial["state"], trial["source"]) == ("Completed", "kubeflow" if posts else "push")
    assert [p["epoch"] for p in curve] == [1.0 + n for n in range(3 if name == "ray" else 8)]
    values = [point["metrics"]["val_loss"] for point in curve]
    assert trial["value"] == values[-1] != round(values[-1], 4)
    if posts:  # with what was posted on the way and at the end, among what the log has
        assert 2 <= sum(value != float(f"{value:.4g}") for value in values) < 8


@pytest.mark.parametrize("name", FOREIGN)
def test_the_sdk_comes_where_it_is_asked_for(release, foreign, name):
    """An init container of our image brought it, restricted as the namespace wants it; else there is none."""
    (pod,) = release.pods_of(f"foreign-{name}")
    found = {c["name"]: c["image"] for c in pod["spec"].get("initContainers", ())}
    wanted = {"foretune-sdk": IMAGES["light"].tag} if "inject" in FOREIGN[name] else {}
    assert found == wanted


# --- metrics ---------------------------------------------------------------------------------


def test_the_operators_metrics_agree_with_the_history(release, finished, histories):
    """Trials by phase, the best value and the counts of the operator are those of the history."""
    for name, trials in histories.items():
        labels = {"namespace": TEAM, "tuningjob": name}
        job, best = finished[name], finished[name]["status"]["best"]

        def one(metric: str, labels: dict[str, str] = labels) -> float:
            ((_, value),) = release.samples("operator", metric, **labels)
            return value

        phases = {
            own["phase"]: value
            for own, value in release.samples("operator", "foretune_job_trials", **labels)
            if value
        }
        assert phases == {"Succeeded": len(trials)}
        assert one("foretune_job_best_objective") == best["value"]
        assert one("foretune_job_trials_max") == job["spec"]["budget"]["trials"]
        ended = sorted(trials, key=lambda t: t["ended_at"])
        order = [t["index"] for t in ended]
        assert one("foretune_job_evaluations_to_best") == order.index(best["trial"]) + 1
        assert (
            one("foretune_job_last_improvement_timestamp_seconds")
            == ended[order.index(best["trial"])]["ended_at"]
        )
    count = sum(len(trials) for trials in histories.values())
    assert _sum(release, "operator", "foretune_trials_finished_total", outcome="succeeded") >= count
    sources = Counter(t["source"] for trials in histories.values() for t in trials)
    for source, number in sources.items():
        told = _sum(release, "operator", "foretune_trial_metric_source_total", source=source)
        assert told >= number
    assert _sum(release, "operator", "foretune_operator_leader") == 1


def test_the_trackers_metrics_agree_with_the_history(release, histories):
    """The tracker counts every trial with a value, and no failed write."""
    values = sum(t["value"] is not None for trials in histories.values() for t in trials)
    assert _sum(release, "tracker", "foretune_history_observations") >= values
    assert _sum(release, "tracker", "foretune_history_writes_total", result="error") == 0
    assert _sum(release, "tracker", "foretune_history_writes_total", result="ok") > values


def test_the_suggestion_service_counted_its_answers(release, histories):
    """It was asked for every trial, and nothing had to stand in for it."""
    count = sum(len(trials) for trials in histories.values())
    assert _sum(release, "suggestion", "foretune_suggestion_duration_seconds_count") >= count
    assert _sum(release, "suggestion", "foretune_suggestion_errors_total") == 0
    proposers = Counter(t["proposer"] for t in itertools.chain(*histories.values()))
    assert not [name for name in proposers if name.endswith("/fallback")], proposers


def _sum(release: Installed, process: str, metric: str, **labels: str) -> float:
    return sum(value for _, value in release.samples(process, metric, **labels))


@pytest.mark.parametrize("process", PORTS)
def test_promtool_has_nothing_against_the_metrics(release, histories, process):
    """`promtool check metrics` finds nothing in what each process exports after a real job."""
    assert promtool(release.metrics(process)) == ""


@pytest.fixture(scope="module")
def prometheus(release: Installed, histories: object) -> Iterator[Prometheus]:
    """A real Prometheus in the cluster, set up as the documentation says."""
    with Prometheus.running(release, documented_config()) as found:
        yield found


def test_prometheus_scrapes_all_three_processes(prometheus):
    """With the documented configuration the targets are up, under the names that it gives them."""
    up = {labels["job"]: value for labels, value in prometheus.query("up")}
    assert up == {f"foretune-{name}": 1.0 for name in PORTS}


def test_promql_returns_the_numbers_of_the_history(release, prometheus, finished, histories):
    """Best value, trials by state and totals come back from Prometheus as the history has them."""
    best = prometheus.query(f'foretune_job_best_objective{{namespace="{TEAM}"}}')
    found = {labels["tuningjob"]: value for labels, value in best}
    assert found.items() >= {n: j["status"]["best"]["value"] for n, j in finished.items()}.items()
    done = 'sum by (tuningjob) (foretune_job_trials{phase="Succeeded"})'
    found = {labels["tuningjob"]: value for labels, value in prometheus.query(done)}
    assert found.items() >= {name: len(trials) for name, trials in histories.items()}.items()
    ((_, observations),) = prometheus.query("foretune_history_observations")
    assert observations == _sum(release, "tracker", "foretune_history_observations")


def test_the_documented_questions_are_answered(prometheus):
    """Every PromQL in docs/operations/monitoring.md is valid, and those about ended jobs have an answer."""
    for query, answered in prometheus.documented_queries():
        found = prometheus.query(query)
        assert found or not answered, query


# --- one job learns from another ---------------------------------------------------------------

FAMILY: Final = """
import math, sys
rate, width = map(float, sys.argv[1:])
far = (math.log(rate / {rate}) / 3) ** 2 + (math.log(width / {width}) / 3) ** 2
print(f"epoch=1 loss={{{floor} + far}}")
"""
"""A training whose best rate and width are somewhere in the middle of the space."""


def family(name: str, *, rate: float, width: float, floor: float, **spec: Any) -> dict[str, Any]:
    """Return a job of a family: the same space, the best configuration at nearly the same place."""
    job = script_job(name, FAMILY.format(rate=rate, width=width, floor=floor), **spec)
    job["spec"]["space"] = {
        "rate": {"min": 0.0001, "max": 1.0, "scale": "log"},
        "width": {"type": "float", "min": 16, "max": 512, "scale": "log"},
    }
    job["spec"]["trial"]["args"] = ["$(params.rate)", "$(params.width)"]
    return job


def test_the_second_job_of_a_family_uses_the_first(release):
    """It is at the first one's best after a few evaluations; status, audit and metrics say how."""
    before = family(
        "family-1",
        rate=0.01,
        width=100,
        floor=0.2,
        search={"algorithm": "sobol", "seed": 1},
        parallelism=8,
        budget={"trials": 16},
    )
    after = family(
        "family-2",
        rate=0.011,
        width=104,
        floor=0.19,
        search={"algorithm": "auto", "seed": 1, "timeoutSeconds": 120},
        budget={"trials": 6},
    )
    found = []
    for job in (before, after):
        release.cluster.apply(job, namespace=TEAM)
        found.append(release.wait_over(job["metadata"]["name"], limit_s=EXAMPLE_LIMIT_S))
    first, second = ([t["value"] for t in release.trials(job["metadata"]["uid"])] for job in found)
    level = min(first)
    assert min(second[:5]) <= level < min(first[:5])

    prior = found[1]["status"]["prior"]
    assert prior["decision"] == "used"
    assert f"{TEAM}/family-1" in {task["ref"] for task in prior["tasks"]}
    shown = release.cluster.kubectl("get", "tuningjob", "family-2", "-n", TEAM)
    assert shown.splitlines()[0].split()[5] == "PRIOR"
    assert "used" in shown.splitlines()[1].split()
    rows = told(release, "explain", "family-2")
    assert {row["prior"] for row in rows} == {"used"}
    assert rows[0]["proposer"] == "meta-gp"
    assert f"{TEAM}/family-1" in {source["task"] for row in rows for source in row["sources"]}
    code, out, err = foretune(release, "explain", "family-2", "0")
    assert code == 0, err
    assert "Past jobs were used" in out
    counted = release.samples(
        "tracker", "foretune_transfer_proposals_total", expert="meta", prior="used"
    )
    assert sum(value for _, value in counted) >= 1
    assert "prior" not in found[0]["status"]  # Sobol learns nothing, and says nothing of it


# --- the end of things -----------------------------------------------------------------------

QUICK: Final = "import sys; print(f'epoch=1 loss={float(sys.argv[1]) ** 2}')"

SLOW: Final = "import sys, time; print(f'epoch=1 loss={float(sys.argv[1])}'); time.sleep(3600)"


def test_jobs_end_with_their_ttl(release):
    """The Jobs of ended trials go with their TTL, the pods with them; status and history stay."""
    limits = {"budget": {"trials": 2}, "ttlSecondsAfterFinished": 1}
    release.cluster.apply(script_job("brief", QUICK, **limits), namespace=TEAM)
    release.wait_over("brief", limit_s=EXAMPLE_LIMIT_S)
    wait_for("the Jobs to go", lambda: not release.jobs_of("brief"))
    wait_for("the pods to go", lambda: not release.pods_of("brief"))
    job = release.job("brief")
    assert (job["status"]["phase"], job["status"]["progress"]) == ("Complete", "2/2")
    trials = release.trials(job["metadata"]["uid"])
    assert [(t["index"], t["state"]) for t in trials] == [(0, "Completed"), (1, "Completed")]


def test_nothing_is_left_of_a_deleted_job(release):
    """`kubectl delete` ends running trials and removes all; the history keeps them as Cancelled."""
    job = script_job("doomed", SLOW, budget={"trials": 4}, parallelism=2)
    release.cluster.apply(job, namespace=TEAM)
    uid = release.job("doomed")["metadata"]["uid"]

    def running() -> bool:
        return Counter(t["state"] for t in release.trials(uid))["Running"] == 2

    wait_for("two running trials", running)
    release.cluster.kubectl("delete", "tuningjob", "doomed", "-n", TEAM)
    wait_for("the Jobs to go", lambda: not release.jobs_of("doomed"))
    wait_for("the pods to go", lambda: not release.pods_of("doomed"))
    wait_for("the job to be closed", lambda: release.history(f"/v1/jobs/{uid}")["closed_at"])
    assert release.history(f"/v1/jobs/{uid}")["phase"] == "Deleted"
    assert {t["state"] for t in release.trials(uid)} == {"Cancelled"}

    def forgotten() -> bool:
        return not release.samples("operator", "foretune_job_trials", tuningjob="doomed")

    wait_for("the job's series to end", forgotten)


def test_a_finished_job_can_be_deleted(release):
    """Jobs and pods of a finished TuningJob go with it; its trials stay as they were."""
    release.cluster.apply(script_job("spent", QUICK, budget={"trials": 2}), namespace=TEAM)
    uid = release.wait_over("spent", limit_s=EXAMPLE_LIMIT_S)["metadata"]["uid"]
    before = release.trials(uid)
    assert len(release.jobs_of("spent")) == len(before) == 2
    release.cluster.kubectl("delete", "tuningjob", "spent", "-n", TEAM)
    wait_for("the Jobs to go", lambda: not release.jobs_of("spent"))
    wait_for("the pods to go", lambda: not release.pods_of("spent"))
    wait_for("the job to be closed", lambda: release.history(f"/v1/jobs/{uid}")["closed_at"])
    assert release.trials(uid) == before


# --- figures ---------------------------------------------------------------------------------


def test_what_it_costs(release, finished, histories):
    """The writes to the API server a trial, and the memory of the processes, stay within their goals."""
    figures = measured(release, finished, histories)
    if path := os.environ.get("FORETUNE_RECORD"):
        Path(path).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    assert figures["api_writes_per_trial"]["digits-cnn"] <= 6, figures
    assert figures["operator_rss_mib"] < 120, figures
    assert figures["tracker_rss_mib"] < 120, figures
    assert figures["suggestion_growth_mib"] < 150, figures


def measured(
    release: Installed,
    finished: dict[str, dict[str, Any]],
    histories: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """Return the figures of docs/benchmarks.md that this module's jobs give."""
    writes, pod = release.writes(), release.pod()["metadata"]["name"]
    applied = _first(writes, "tuningjobs", "digits-cnn")
    made = {
        "job": _first(writes, "jobs", "digits-cnn-"),
        # Its name is not in the request; no other TuningJob was there yet.
        "pod": min(
            w.at
            for w in writes
            if w.at > applied and w.namespace == TEAM and (w.verb, w.resource) == ("create", "pods")
        ),
    }
    ours = [w for w in writes if w.user == ACCOUNT and w.namespace == TEAM]
    per_job = {
        name: Counter(
            f"{w.verb} {w.resource}"
            for w in ours
            if w.name == name or w.name.startswith((f"{name}-", f"{name}."))
        )
        for name in finished
    }
    memory = {name: memory_of(pod, name) for name in PORTS}
    bare = memory_after(BARE_IMPORT)["VmRSS"]
    return {
        **{f"apply_to_first_{kind}_s": round(at - applied, 3) for kind, at in made.items()},
        "api_writes": {name: dict(sorted(found.items())) for name, found in per_job.items()},
        "api_writes_per_trial": {
            name: round(found.total() / len(histories[name]), 2) for name, found in per_job.items()
        },
        **{f"{name}_rss_mib": round(found["VmRSS"] / MIB, 1) for name, found in memory.items()},
        **{f"{name}_peak_mib": round(found["VmHWM"] / MIB, 1) for name, found in memory.items()},
        "suggestion_bare_import_mib": round(bare / MIB, 1),
        "suggestion_growth_mib": round((memory["suggestion"]["VmRSS"] - bare) / MIB, 1),
        "trials": {name: len(trials) for name, trials in histories.items()},
        "cpus": os.cpu_count(),
    }


def _first(writes: list[Write], resource: str, name: str) -> float:
    """Return when the first object was created whose name starts so."""
    own = [w for w in writes if (w.verb, w.resource) == ("create", resource)]
    return min(w.at for w in own if w.name.startswith(name))
