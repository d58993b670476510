"""The Job of one attempt: `build_job` is pure. `docs/concepts/trial-pod.md` explains its every part."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, Final

from foretune import constants, contract
from foretune.adapters.kube.observe import DEFAULT_CONTAINER
from foretune.domain.job import Builtin, Image, Inject, Template
from foretune.errors import InvalidJobError, Problem
from foretune.planner import launch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from foretune.adapters.kube.client import Json
    from foretune.domain.job import TrialSpec, Workload
    from foretune.ports import LaunchRequest

CONFIG_LIMIT: Final = 16 * 1024
"""Bytes of `trial.json`: it is an annotation, and all annotations of an object share 256 KiB."""

TOKEN_SECONDS: Final = 3600
"""Life of a pod's token; the kubelet renews it when four fifths are over."""

GRACE_SECONDS: Final = 60
"""From SIGTERM to SIGKILL: time for a checkpoint."""

LOST_NODE_SECONDS: Final = 60
"""How long a pod stays bound to a node that is silent; Kubernetes' default is 300."""

USER: Final = 65532
"""User and group of a trial whose pod we build: `nonroot` of the usual minimal images."""

SHM_LIMIT: Final = "2Gi"
"""Of /dev/shm: DataLoader workers need more than the 64 MiB of a container; counts as memory."""

TMP_LIMIT: Final = "10Gi"
"""Of /tmp; more ends the pod instead of filling the node's disk."""

SDK: Final = "foretune-sdk"
"""Name of the init container that brings the SDK, and of the volume it goes through."""

SDK_LIMIT: Final = "16Mi"
"""Of that volume; the SDK has 100 KiB."""

SDK_RESOURCES: Final = {"cpu": "250m", "memory": "128Mi"}
"""Of that container, as requests and as limits: a quota may want both, and so does a guaranteed pod."""

PYTHON_PATH: Final = "PYTHONPATH"
"""Where a Python that starts looks for the SDK."""

_CONFINED: Final[Json] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

FAIL_CODES: Final = (
    contract.ExitCode.BAD_CONFIG,
    contract.ExitCode.BAD_EXTRA,
    contract.ExitCode.DIVERGED,
    contract.ExitCode.OUT_OF_MEMORY,
)
"""Exit codes that end the Job at once, whatever `backoffLimit` a template sets."""

IGNORED_CODES: Final = (contract.ExitCode.PREEMPTED, 143)
"""Exit codes after which the Job controller starts the pod again: it left because it was asked to."""

_TEMPLATE: Final = "spec.trial.template.job"
_POD: Final = f"{_TEMPLATE}.spec.template.spec"


def build_job(
    request: LaunchRequest,
    *,
    report_url: str,
    trainer_image: str,
    sdk_image: str,
    metrics_port: int = 0,
) -> Json:
    """Return the batch/v1 Job of an attempt.

    `trainer_image` is that of `trial.builtin`, which shows live figures at `metrics_port` (0: at none);
    `sdk_image` is that from which `trial.inject` copies. Raises `InvalidJobError` for a `trial.json` above
    `CONFIG_LIMIT`, and for a template that can't be one attempt (several pods, restarts within a pod).
    """
    config, text = _config(request, report_url)
    workload, trial = request.job.spec.trial.workload, request.job.spec.trial
    if isinstance(workload, Template):
        body, kind = _checked(workload), "template"
    else:
        body, kind = _own(workload, trial, trainer_image), _kind(workload)
    name, labels = primary_container(workload), _labels(request)
    spec, pod = body["spec"], body["spec"]["template"]["spec"]
    container = next(one for one in pod["containers"] if one["name"] == name)
    _equip(container, request, report_url=report_url, checkpoints=config["checkpoint"]["dir"])
    _furnish(pod, container, own=kind != "template")
    if metrics_port and kind == "builtin":
        _show(container, metrics_port)
    if trial.inject and kind != "builtin":
        _inject(pod, container, sdk_image, shims=Inject.SHIMS in trial.inject)
    meta, template_meta = body.get("metadata") or {}, spec["template"].get("metadata") or {}
    spec.pop("ttlSecondsAfterFinished", None)  # set once the outcome is committed, never before
    spec.setdefault("completions", 1)
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 0)
    spec["podReplacementPolicy"] = (
        "Failed"  # never two pods of one attempt; the policy below needs it
    )
    spec["podFailurePolicy"] = {"rules": [*_rules(name), *_their_rules(spec)]}
    if trial.timeout_s is not None:
        spec.setdefault("activeDeadlineSeconds", int(trial.timeout_s))
    spec["template"]["metadata"] = {
        "labels": {**(template_meta.get("labels") or {}), **labels},
        "annotations": {
            **(template_meta.get("annotations") or {}),
            constants.ANNOTATION_TRIAL_CONFIG: text,
            DEFAULT_CONTAINER: name,
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": request.name,
            "namespace": request.job.key.namespace,
            "labels": {**(meta.get("labels") or {}), **labels},
            "annotations": {
                **(meta.get("annotations") or {}),
                constants.ANNOTATION_CONFIG_HASH: request.config_hash,
                constants.ANNOTATION_WORKLOAD: kind,
            },
            "ownerReferences": [_owner(request)],
        },
        "spec": spec,
    }


def primary_container(workload: Workload) -> str:
    """Return the name of the container that trains and reports."""
    if isinstance(workload, Template):
        return workload.primary_container
    return constants.MAIN_CONTAINER


def _kind(workload: Builtin | Image) -> str:
    return "builtin" if isinstance(workload, Builtin) else "image"


def _config(request: LaunchRequest, report_url: str) -> tuple[Json, str]:
    """Return `trial.json` and its text."""
    checkpoints = f"{contract.WORK_DIR}/checkpoints/{request.job.uid}/t{request.index:04d}"
    config = launch.trial_config(request, report_url=report_url, checkpoint_dir=checkpoints)
    text = json.dumps(config, separators=(",", ":"), allow_nan=False)
    size = len(text.encode())
    if size > CONFIG_LIMIT:
        message = f"parameters and extras of a trial take {size} bytes, at most {CONFIG_LIMIT} fit"
        raise InvalidJobError([Problem("spec", message)])
    return config, text


def _labels(request: LaunchRequest) -> dict[str, str]:
    return {
        constants.LABEL_JOB: request.job.key.name,
        constants.LABEL_JOB_UID: request.job.uid,
        constants.LABEL_TRIAL: str(request.index),
        constants.LABEL_ATTEMPT: str(request.number),
    }


def _owner(request: LaunchRequest) -> Json:
    return {
        "apiVersion": constants.API_VERSION,
        "kind": constants.KIND,
        "name": request.job.key.name,
        "uid": request.job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _rules(container: str) -> list[Json]:
    def on_exit(action: str, codes: Iterable[int]) -> Json:
        values = [int(code) for code in codes]
        return {
            "action": action,
            "onExitCodes": {"containerName": container, "operator": "In", "values": values},
        }

    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return [
        on_exit("FailJob", FAIL_CODES),
        on_exit("Ignore", IGNORED_CODES),
        {"action": "Ignore", "onPodConditions": [disrupted]},
    ]


def _their_rules(spec: Mapping[str, Any]) -> list[Json]:
    return list((spec.get("podFailurePolicy") or {}).get("rules") or ())


# -- a pod of ours


def _own(workload: Builtin | Image, trial: TrialSpec, trainer_image: str) -> Json:
    """Return a Job with the container of `builtin` or `image`."""
    container: Json = {
        "name": constants.MAIN_CONTAINER,
        "image": trainer_image if isinstance(workload, Builtin) else workload.image,
        "env": _copies(workload.env),
        "volumeMounts": _copies(workload.volume_mounts),
        "resources": _resources(trial),
        "securityContext": copy.deepcopy(_CONFINED),
    }
    if workload.env_from:
        container["envFrom"] = _copies(workload.env_from)
    if isinstance(workload, Image) and workload.command:
        container["command"] = list(workload.command)
    if isinstance(workload, Image) and workload.args:
        container["args"] = list(workload.args)
    pod = {
        "containers": [container],
        "volumes": _copies(workload.volumes),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {"spec": {"template": {"spec": pod}}}


def _resources(trial: TrialSpec) -> Json:
    resources = {kind: dict(amounts) for kind, amounts in trial.resources.items()}
    if trial.gpu:  # an extended resource stands in limits; requests follow
        resources.setdefault("limits", {})[constants.GPU_RESOURCE] = str(trial.gpu)
    return resources


def _copies(objects: Sequence[Mapping[str, Any]]) -> list[Json]:
    return [copy.deepcopy(dict(one)) for one in objects]


# -- a pod of the user's


def _checked(template: Template) -> Json:
    """Return a copy of a template's Job; raises `InvalidJobError` for what can't be one attempt."""
    body: Json = copy.deepcopy(dict(template.job))
    spec = body["spec"]
    pod = spec["template"]["spec"]
    problems = [
        Problem(f"{_TEMPLATE}.spec.{field}", f"must be 1, not {spec[field]}: a trial is one pod")
        for field in ("completions", "parallelism")
        if spec.get(field, 1) != 1
    ]
    if pod.get("restartPolicy", "Never") != "Never":
        message = f"must be Never, not {pod['restartPolicy']}: each start of a trial is a pod"
        problems.append(Problem(f"{_POD}.restartPolicy", message))
    names = [container.get("name") for container in pod["containers"]]
    if template.primary_container not in names:
        message = f"must be one of {', '.join(map(str, names))}, not {template.primary_container!r}"
        problems.append(Problem("spec.trial.template.primaryContainer", message))
    if problems:
        raise InvalidJobError(problems)
    return body


# -- what every pod gets


def _equip(container: Json, request: LaunchRequest, *, report_url: str, checkpoints: str) -> None:
    """Give the primary container its environment, and put parameters where they are referred to."""
    params = launch.escaped(request.params)
    for field in ("command", "args"):
        if container.get(field):
            container[field] = [contract.substitute(str(w), params) for w in container[field]]
    theirs = []
    for variable in container.get("env") or ():
        if isinstance(variable.get("value"), str):
            variable["value"] = contract.substitute(variable["value"], params)
        theirs.append(variable)
    cpus = str(launch.threads(container.get("resources") or {}))
    defaults = {**launch.DEFAULT_ENV, **dict.fromkeys(launch.THREAD_VARIABLES, cpus)}
    taken = {variable["name"] for variable in theirs}
    message_path = container.setdefault("terminationMessagePath", contract.TERMINATION_LOG)
    given = {
        **{name: value for name, value in defaults.items() if name not in taken},
        **launch.kubeflow_env(
            request,
            report_url=launch.literal(report_url),
            token_file=f"{contract.CONFIG_DIR}/token",
            taken=taken,
        ),
        **{
            name: launch.literal(value)
            for name, value in launch.identity_env(
                request, report_url=report_url, checkpoint_dir=checkpoints
            ).items()
        },
        contract.ENV_CONFIG: f"{contract.CONFIG_DIR}/trial.json",
        contract.ENV_TOKEN_FILE: f"{contract.CONFIG_DIR}/token",
        contract.ENV_TERMINATION_LOG: message_path,
    }
    pod_uid = {"fieldRef": {"fieldPath": "metadata.uid"}}
    container["env"] = [
        *({"name": name, "value": value} for name, value in given.items()),
        {"name": contract.ENV_POD_UID, "valueFrom": pod_uid},
        # After ours, so that theirs may refer to ours; a name of the contract is never theirs.
        *(
            one
            for one in theirs
            if one["name"] not in given and one["name"] != contract.ENV_POD_UID
        ),
    ]
    container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")


def _show(container: Json, port: int) -> None:
    """Have the built-in trainer show live figures at a port, by whose name a PodMonitor finds it."""
    name = contract.ENV_METRICS_PORT
    theirs = [one for one in container["env"] if one["name"] != name]
    container["env"] = [{"name": name, "value": str(port)}, *theirs]
    container["ports"] = [{"name": constants.TRIAL_METRICS, "containerPort": port}]


def _furnish(pod: Json, container: Json, *, own: bool) -> None:
    """Give the pod its volumes, unless something is mounted there already, and its ways to end."""
    volumes: list[tuple[str, str, Json]] = [
        ("foretune-config", contract.CONFIG_DIR, {"projected": {"sources": _sources()}}),
        ("foretune-work", contract.WORK_DIR, {"emptyDir": {}}),
        ("foretune-cache", contract.CACHE_DIR, {"emptyDir": {}}),
    ]
    if own:
        shm = {"medium": "Memory", "sizeLimit": SHM_LIMIT}
        volumes += [
            ("foretune-shm", "/dev/shm", {"emptyDir": shm}),  # noqa: S108 - a mount of the pod
            ("foretune-tmp", "/tmp", {"emptyDir": {"sizeLimit": TMP_LIMIT}}),  # noqa: S108
        ]
    mounts = container.setdefault("volumeMounts", [])
    taken = {mount["mountPath"].rstrip("/") for mount in mounts}
    for name, path, source in volumes:
        if path not in taken:
            pod.setdefault("volumes", []).append({"name": name, **source})
            read_only = {"readOnly": True} if path == contract.CONFIG_DIR else {}
            mounts.append({"name": name, "mountPath": path, **read_only})
    pod["restartPolicy"] = "Never"
    pod.setdefault("terminationGracePeriodSeconds", GRACE_SECONDS)
    tolerations = pod.setdefault("tolerations", [])
    known = {toleration.get("key") for toleration in tolerations}
    tolerations.extend(
        {
            "key": key,
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": LOST_NODE_SECONDS,
        }
        for key in ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
        if key not in known
    )


def _inject(pod: Json, container: Json, image: str, *, shims: bool) -> None:
    """Bring the SDK into the primary container: a container before it copies one folder out of our image.

    That container is as restricted as Pod Security can be, whatever the pod's own settings are.
    """
    mount = {"name": SDK, "mountPath": contract.SDK_DIR}
    copying: Json = {
        "name": SDK,
        "image": image,
        "args": ["sdk", "copy", contract.SDK_DIR],
        "volumeMounts": [mount],
        "resources": {"requests": dict(SDK_RESOURCES), "limits": dict(SDK_RESOURCES)},
        "securityContext": {
            **copy.deepcopy(_CONFINED),
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod["initContainers"] = [copying, *(pod.get("initContainers") or ())]
    pod.setdefault("volumes", []).append({"name": SDK, "emptyDir": {"sizeLimit": SDK_LIMIT}})
    container["volumeMounts"].append({**mount, "readOnly": True})
    path = contract.sdk_python_path(contract.SDK_DIR, shims=shims)
    theirs = next((one for one in container["env"] if one["name"] == PYTHON_PATH), None)
    if theirs is None:
        container["env"].append({"name": PYTHON_PATH, "value": path})
    elif "valueFrom" in theirs:
        message = f"needs {PYTHON_PATH} of the trial to be a plain value, which it goes in front of"
        raise InvalidJobError([Problem("spec.trial.inject", message)])
    else:  # in place, since it may refer to variables before it
        theirs["value"] = f"{path}:{theirs['value']}" if theirs.get("value") else path


def _sources() -> list[Json]:
    annotation = f"metadata.annotations['{constants.ANNOTATION_TRIAL_CONFIG}']"
    token = {
        "audience": contract.TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
        "path": "token",
    }
    item = {"path": "trial.json", "fieldRef": {"fieldPath": annotation}}
    return [{"downwardAPI": {"items": [item]}}, {"serviceAccountToken": token}]
