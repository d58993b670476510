"""What a good TuningJob becomes: the job that the planner knows, with every default filled in."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from tests.support.manifests import good

from foretune.api.manifest import load
from foretune.api.v1alpha1 import parse
from foretune.domain.job import (
    Algorithm,
    Builtin,
    FailurePolicy,
    Goal,
    Image,
    Inject,
    JobKey,
    Reduce,
    Template,
)
from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Scale

EXAMPLES = Path(__file__).parents[2] / "examples"


def spec(**changes):
    return parse(good(**changes)).to_domain(uid="u").spec


def test_the_shortest_job_has_every_default():
    """Objective, space and trial are enough; all else has its documented default."""
    job = parse(good()).to_domain(uid="abc")
    assert job.key == JobKey("default", "good")
    assert (job.uid, job.generation, job.created_at, job.status) == ("abc", 1, 0.0, {})
    found = job.spec
    assert (found.objective.goal, found.objective.reduce) == (Goal.MAXIMIZE, Reduce.BEST)
    assert found.objective.target is None
    assert found.search.algorithm is Algorithm.AUTO
    assert (found.search.initial, found.search.timeout_s) == (None, 30.0)
    assert (found.parallelism, found.trials, found.gpu_hours) == (1, 20, None)
    assert found.failure == FailurePolicy(max_failed_percent=20.0, on_error_retries=1)
    assert (found.suspend, found.ttl_s) == (False, None)
    assert (found.trial.gpu, found.trial.resources, found.trial.timeout_s) == (0, {}, None)


def test_the_seed_follows_from_the_uid():
    """Without a seed, one object always gets the same, and two objects different ones."""
    job = parse(good())
    first, again, other = (job.to_domain(uid=uid).spec.search.seed for uid in ("a", "a", "b"))
    assert first == again == zlib.crc32(b"a")
    assert other != first
    assert spec(search={"seed": 7}).search.seed == 7


def test_the_metadata_of_an_api_server_is_read():
    """Namespace, uid, generation, creation time and status come from the object."""
    body = good()
    body["metadata"] |= {
        "namespace": "team",
        "uid": "u-1",
        "generation": 4,
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "managedFields": [{"manager": "kubectl"}],
        "labels": {"a": "b"},
    }
    body["status"] = {"phase": "Running"}
    job = parse(body).to_domain()
    assert job.key == JobKey("team", "good")
    assert (job.uid, job.generation) == ("u-1", 4)
    assert job.created_at == 1767323045.0
    assert job.status == {"phase": "Running"}


def test_local_mode_gives_namespace_and_uid():
    """What a file can't know comes as arguments."""
    job = parse(good()).to_domain(namespace="local", uid="u-2")
    assert (job.key.namespace, job.uid) == ("local", "u-2")


def test_every_field_arrives():
    """Nothing of a full spec is lost on the way to the planner."""
    found = spec(
        objective={"metric": "val_loss", "goal": "minimize", "target": 0.1, "reduce": "last"},
        search={"algorithm": "sobol", "seed": 3, "initial": 8, "timeoutSeconds": 5},
        trial={
            "gpu": 2,
            "timeoutSeconds": 60,
            "resources": {"requests": {"cpu": 1, "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
            "builtin": {"path": "/data", "extras": {"width": 32}},
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "mnist"}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "env": [{"name": "A", "value": "b"}],
            "envFrom": [{"secretRef": {"name": "hub"}}],
        },
        parallelism=4,
        budget={"trials": 50, "gpuHours": 12.5},
        failurePolicy={"maxFailed": 3, "onError": {"retries": 2}},
        suspend=True,
        ttlSecondsAfterFinished=60,
        task={"model": "lenet", "labels": {"team": "vision"}},
    )
    objective = found.objective
    assert (objective.metric, objective.goal, objective.target) == ("val_loss", "minimize", 0.1)
    assert objective.reduce is Reduce.LAST
    assert (found.search.algorithm, found.search.seed) == (Algorithm.SOBOL, 3)
    assert (found.search.initial, found.search.timeout_s) == (8, 5.0)
    assert (found.trial.gpu, found.trial.timeout_s) == (2, 60.0)
    assert found.trial.resources == {
        "requests": {"cpu": "1", "memory": "2Gi"},
        "limits": {"memory": "4Gi"},
    }
    workload = found.trial.workload
    assert isinstance(workload, Builtin)
    assert (workload.data_path, workload.extras) == ("/data", {"width": 32})
    assert workload.volumes[0]["persistentVolumeClaim"] == {"claimName": "mnist"}
    assert workload.volume_mounts == ({"name": "data", "mountPath": "/data"},)
    assert workload.env == ({"name": "A", "value": "b"},)
    assert workload.env_from == ({"secretRef": {"name": "hub"}},)
    assert (found.parallelism, found.trials, found.gpu_hours) == (4, 50, 12.5)
    assert found.failure.limit(50) == 3
    assert found.failure.on_error_retries == 2
    assert (found.suspend, found.ttl_s) == (True, 60)
    assert found.context == {"model": "lenet", "dataset": "digits", "team": "vision"}


def test_the_manifest_is_kept_as_it_was_given():
    """The history gets the spec's JSON, untouched by defaults and by later changes of the body."""
    body = good()
    given = json.dumps(body["spec"])
    job = parse(body).to_domain(uid="u")
    body["spec"]["space"]["lr"]["min"] = 5
    assert json.dumps(job.spec.manifest) == given


@pytest.mark.parametrize(
    ("given", "limit"), [(0, 0), (5, 5), ("0%", 0), ("20%", 10), ("100%", 50), ("1%", 1)]
)
def test_max_failed_is_a_number_or_a_share(given, limit):
    """A share is of budget.trials, rounded up; 0 % allows none."""
    assert spec(failurePolicy={"maxFailed": given}).failure.limit(50) == limit


def test_an_image_keeps_its_command():
    """Command, args and env arrive word by word; nothing is rewritten."""
    found = spec(
        trial={
            "builtin": None,
            "image": "example.org/train:1",
            "command": ["python", "train.py"],
            "args": ["--lr=$(params.lr)", "$$(params.nope)"],
            "env": [{"name": "LAYERS", "value": "$(params.layers)"}],
        }
    ).trial.workload
    assert isinstance(found, Image)
    assert found.command == ("python", "train.py")
    assert found.args == ("--lr=$(params.lr)", "$$(params.nope)")
    assert found.env[0]["value"] == "$(params.layers)"


def test_what_is_injected_is_a_set():
    """`inject` may name each part once or more; without it nothing is injected."""
    image = {"builtin": None, "image": "own:1"}
    assert spec(trial={**image, "inject": ["shims", "sdk"]}).trial.inject == {
        Inject.SDK,
        Inject.SHIMS,
    }
    assert spec(trial=image).trial.inject == frozenset()


def test_a_template_keeps_its_job():
    """The Job of a template is passed on as it is."""
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {"template": {"spec": {"containers": [{"name": "trainer", "image": "a"}]}}},
    }
    found = spec(trial={"builtin": None, "template": {"job": job}}).trial.workload
    assert found == Template(job=job, primary_container="trainer")


def test_any_metric_may_be_the_objective_of_an_own_image():
    """Only the built-in trainer's metrics are known beforehand."""
    trial = {"builtin": None, "image": "example.org/train:1"}
    assert spec(objective={"metric": "f1/macro"}, trial=trial).objective.metric == "f1/macro"


def test_extras_of_the_trainer_may_be_parameters():
    """A name that is no hyperparameter of the trainer is one of its extras."""
    found = spec(space={"weight_decay": {"min": 0.0001, "max": 0.1, "scale": "log"}})
    assert "weight_decay" in found.space.names


def test_a_made_up_data_set_is_known():
    """synthetic:<kind>:<classes>:<size> needs no name in a list."""
    builtin = {"dataset": "synthetic:image:10:28"}
    workload = spec(trial={"builtin": builtin}).trial.workload
    assert workload.dataset == "synthetic:image:10:28"


def test_grid_takes_a_finite_space():
    """Values, whole numbers and steps can be listed, so grid takes them."""
    space = {"lr": {"scale": None, "min": 0, "max": 1, "step": 0.25}}
    found = spec(space=space, search={"algorithm": "grid"}).space
    assert found.cardinality == 5 * 4


TYPES = {
    "a": ({"min": 0.1, "max": 0.4}, Float(name="a", low=0.1, high=0.4)),
    "b": ({"min": 2, "max": 5}, Int(name="b", low=2, high=5)),
    "c": (
        {"min": 1, "max": 64, "scale": "log"},
        Int(name="c", low=1, high=64, scale=Scale.LOG),
    ),
    "d": (
        {"min": 0, "max": 2, "step": 0.5, "default": 1},
        Float(name="d", low=0, high=2, step=0.5, default=1),
    ),
    "e": ({"values": [64, 16, 32]}, Ordinal(name="e", options=(16, 32, 64))),
    "f": ({"values": ["adam", "sgd"]}, Choice(name="f", options=("adam", "sgd"))),
    "g": ({"values": [True, False]}, Choice(name="g", options=(True, False))),
    "h": ({"value": 10}, Const(name="h", value=10)),
    "i": ({"type": "choice", "values": [3, 1]}, Choice(name="i", options=(3, 1))),
    "j": ({"type": "float", "min": 0, "max": 1}, Float(name="j", low=0, high=1)),
    "k": ({"type": "int", "min": 0, "max": 1}, Int(name="k", low=0, high=1)),
    "l": ({"values": [1, "auto"]}, Choice(name="l", options=(1, "auto"))),
}


@pytest.mark.parametrize("name", TYPES)
def test_the_type_is_read_from_the_fields(name):
    """Values, whole bounds and broken bounds say what kind of parameter it is."""
    given, wanted = TYPES[name]
    assert spec(space={"lr": None, "layers": None, name: given}).space.parameters == (wanted,)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_right(path):
    """Each example can be run as it stands, and is named after its file."""
    job = load(path.read_text(), str(path))
    assert job.name == path.stem
    assert job.to_domain(uid="u").spec.trials >= 1


def test_the_shortest_example_has_eleven_lines():
    """The front page's example stays as short as it is promised."""
    text = (EXAMPLES / "sst2-bert.yaml").read_text()
    assert len([line for line in text.splitlines() if not line.startswith("#")]) == 11


def test_numbers_are_read_as_kubectl_reads_them():
    """1e-4 is a number, 22:22 and 2026-01-01 are texts."""
    text = """
apiVersion: foretune.io/v1alpha1
kind: TuningJob
metadata: {name: yaml}
spec:
  objective: {metric: loss, goal: minimize, target: 1e-3}
  space:
    lr: {min: 1e-4, max: 1E-1, scale: log}
    window: {values: [22:22, 2026-01-01, 08]}
  trial: {image: "example.org/a:1"}
"""
    found = load(text).to_domain(uid="u").spec
    assert found.objective.target == 0.001
    assert found.space["lr"] == Float(name="lr", low=1e-4, high=0.1, scale=Scale.LOG)
    assert list(found.space["window"].values()) == ["22:22", "2026-01-01", "08"]


def test_keys_may_be_merged():
    """<<: takes over another mapping's keys, as kubectl lets it."""
    text = """
apiVersion: foretune.io/v1alpha1
kind: TuningJob
metadata: {name: merge}
spec:
  objective: {metric: accuracy}
  space:
    lr: &lr {min: 0.001, max: 0.1, scale: log}
    weight_decay: {<<: *lr, max: 0.01}
  trial: {builtin: {model: cnn, dataset: digits}}
"""
    space = load(text).to_domain(uid="u").spec.space
    assert space["weight_decay"] == Float(
        name="weight_decay", low=0.001, high=0.01, scale=Scale.LOG
    )
