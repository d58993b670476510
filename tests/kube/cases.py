"""Jobs, requests and templates for the tests of the Kubernetes adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tests.support.world import make_job

from foretune.domain.job import Builtin, Image, Inject, Template
from foretune.planner.naming import attempt_name, config_hash
from foretune.ports import LaunchRequest

if TYPE_CHECKING:
    from foretune.domain.job import Job, Workload

IMAGE: Final = "ghcr.io/foretune/trainer:test"
SDK_IMAGE: Final = "ghcr.io/foretune/foretune:test"
PARAMS: Final = {"lr": 0.01, "layers": 3}


class Hand:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def with_workload(workload: Workload, **trial: Any) -> Job:
    """Return a job of two parameters that runs `workload`; keywords replace fields of its trial."""
    job = make_job()
    spec = replace(job.spec.trial, **{"workload": workload, "gpu": 0, **trial})
    return replace(job, spec=replace(job.spec, trial=spec))


def job_of(code: str, *, command: tuple[str, ...] = (), **trial: Any) -> Job:
    """Return a job whose trials run `code` in a shell."""
    run = command or ("bash", "-c", code)
    return with_workload(Image(image="example.org/any:1", command=run), **trial)


def request_of(
    job: Job, *, index: int = 0, number: int = 0, params: dict[str, Any] | None = None
) -> LaunchRequest:
    """Return the request of an attempt."""
    chosen = dict(PARAMS if params is None else params)
    return LaunchRequest(
        job=job,
        name=attempt_name(job, index, number),
        index=index,
        number=number,
        params=chosen,
        config_hash=config_hash(chosen),
    )


def template_of(**pod: Any) -> dict[str, Any]:
    """Return a user's Job of two containers, `train` being the primary one; keywords change its pod."""
    train = {
        "name": "train",
        "image": "example.org/train:2",
        "command": ["python", "train.py", "--lr=$(params.lr)"],
        "env": [{"name": "LAYERS", "value": "$(params.layers)"}],
    }
    helper = {"name": "helper", "image": "example.org/helper:1", "args": ["$(params.lr)"]}
    spec = {"containers": [helper, train], **pod}
    return {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": spec}}}


RESTRICTED_POD: Final = {
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
}
RESTRICTED_CONTAINER: Final = {
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
}


def _restricted(job: dict[str, Any]) -> dict[str, Any]:
    pod = job["spec"]["template"]["spec"]
    pod.update(RESTRICTED_POD)
    for container in pod["containers"]:
        container.update(RESTRICTED_CONTAINER)
    return job


def _rich_template() -> dict[str, Any]:
    job = _restricted(template_of())
    job["metadata"] = {"labels": {"team": "vision", "foretune.io/trial": "99"}}
    job["spec"].update(
        backoffLimit=3,
        activeDeadlineSeconds=77,
        ttlSecondsAfterFinished=5,
        podFailurePolicy={
            "rules": [
                {"action": "Count", "onExitCodes": {"operator": "In", "values": [3]}},
            ]
        },
    )
    job["spec"]["template"]["metadata"] = {"annotations": {"sidecar.istio.io/inject": "false"}}
    pod = job["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = 120
    pod["tolerations"] = [{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]
    pod["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    pod["containers"][1]["volumeMounts"] = [{"name": "scratch", "mountPath": "/foretune/work/"}]
    pod["containers"][1]["resources"] = {"limits": {"cpu": "2500m", "nvidia.com/gpu": 2}}
    return job


VARIANTS: Final[dict[str, Job]] = {
    "builtin": with_workload(
        Builtin(model="cnn", dataset="digits", extras={"width": 8}), gpu=1, timeout_s=600.0
    ),
    "builtin-with-data": with_workload(
        Builtin(
            model="bert",
            dataset="sst2",
            data_path="/data/sst2",
            env=({"name": "HF_HOME", "value": "/data/hf"},),
            env_from=({"configMapRef": {"name": "settings", "optional": True}},),
            volumes=({"name": "data", "persistentVolumeClaim": {"claimName": "data"}},),
            volume_mounts=({"name": "data", "mountPath": "/data", "readOnly": True},),
        ),
        resources={"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "16Gi"}},
    ),
    "image": with_workload(
        Image(
            image="example.org/own:3",
            command=("python", "train.py"),
            args=("--lr", "$(params.lr)", "--out=$(FORETUNE_CHECKPOINT_DIR)"),
            env=(
                {"name": "OMP_NUM_THREADS", "value": "7"},
                {"name": "RUN", "value": "lr=$(params.lr) layers=$(params.layers)"},
                {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            ),
            volumes=({"name": "work", "emptyDir": {"sizeLimit": "1Gi"}},),
            volume_mounts=({"name": "work", "mountPath": "/foretune/work"},),
        ),
        gpu=2,
    ),
    "image-only": with_workload(Image(image="example.org/own:3")),
    "image-with-sdk": with_workload(
        Image(
            image="example.org/own:3",
            env=(
                {"name": "BASE", "value": "/opt"},
                {"name": "PYTHONPATH", "value": "$(BASE)/lib"},
            ),
        ),
        inject=frozenset({Inject.SDK}),
    ),
    "template-with-shims": with_workload(
        Template(
            job=_restricted(
                template_of(initContainers=[{"name": "data", "image": "x", **RESTRICTED_CONTAINER}])
            ),
            primary_container="train",
        ),
        inject=frozenset({Inject.SHIMS}),
    ),
    "template": with_workload(
        Template(job=_restricted(template_of()), primary_container="train"), timeout_s=60.0
    ),
    "rich-template": with_workload(
        Template(job=_rich_template(), primary_container="train"), timeout_s=60.0
    ),
}
"""One job for each kind of workload, all fit for a namespace that enforces `restricted`."""
