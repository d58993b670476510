"""`build_job`: what a trial's Job holds, for our own pods and for the user's."""

from __future__ import annotations

import copy
import json
from typing import Any

import kubernetes_validate
import pytest
from tests.kube.cases import (
    IMAGE,
    PARAMS,
    SDK_IMAGE,
    VARIANTS,
    request_of,
    template_of,
    with_workload,
)

from foretune import contract
from foretune.adapters.kube.template import build_job
from foretune.domain.job import Builtin, Image, Inject, Template
from foretune.errors import InvalidJobError

URL = "http://foretune-tracker.foretune:8080"
SCHEMA = "1.36"


def built(job: Any, **request: Any) -> dict[str, Any]:
    """Return the Job of an attempt of `job`."""
    return build_job(
        request_of(job, **request), report_url=URL, trainer_image=IMAGE, sdk_image=SDK_IMAGE
    )


def pod_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a Job's pod."""
    return body["spec"]["template"]["spec"]


def primary(body: dict[str, Any]) -> dict[str, Any]:
    """Return the container that trains."""
    name = body["spec"]["template"]["metadata"]["annotations"][
        "kubectl.kubernetes.io/default-container"
    ]
    return next(one for one in pod_of(body)["containers"] if one["name"] == name)


def env_of(body: dict[str, Any]) -> dict[str, str | None]:
    """Return the primary container's variables; each must be there once."""
    entries = primary(body)["env"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names), names
    return {entry["name"]: entry.get("value") for entry in entries}


def paths(error: pytest.ExceptionInfo[InvalidJobError]) -> list[str]:
    """Return where the problems are."""
    return [problem.path for problem in error.value.problems]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_fits_the_schema_of_kubernetes(variant):
    """Each kind of workload gives a Job without a field that batch/v1 does not know."""
    kubernetes_validate.validate(built(VARIANTS[variant]), SCHEMA, strict=True)


def test_the_job_is_the_attempts_alone():
    """Name, labels, hash and owner say which attempt of which TuningJob it is, on Job and pod."""
    job = VARIANTS["builtin"]
    body = built(job, index=7, number=2)
    request = request_of(job, index=7, number=2)
    labels = {
        "foretune.io/job": "demo",
        "foretune.io/job-uid": "uid-demo",
        "foretune.io/trial": "7",
        "foretune.io/attempt": "2",
    }
    assert body["metadata"] == {
        "name": request.name,
        "namespace": "default",
        "labels": labels,
        "annotations": {
            "foretune.io/config-hash": request.config_hash,
            "foretune.io/workload": "builtin",
        },
        "ownerReferences": [
            {
                "apiVersion": "foretune.io/v1alpha1",
                "kind": "TuningJob",
                "name": "demo",
                "uid": "uid-demo",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    assert body["spec"]["template"]["metadata"]["labels"] == labels
    assert request.name.endswith("-t0007-a2")


def test_ends_are_told_apart_by_the_job_controller():
    """Codes that can't get better fail the Job; 75, 143 and disruptions start the pod again."""
    spec = built(VARIANTS["builtin"])["spec"]
    on_exit = {"containerName": "trainer", "operator": "In"}
    assert spec["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {**on_exit, "values": [64, 78, 79, 80]}},
        {"action": "Ignore", "onExitCodes": {**on_exit, "values": [75, 143]}},
        {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]
    kept = ("completions", "parallelism", "backoffLimit", "podReplacementPolicy")
    assert [spec[name] for name in kept] == [1, 1, 0, "Failed"]
    assert spec["activeDeadlineSeconds"] == 600
    assert "activeDeadlineSeconds" not in built(VARIANTS["image"])["spec"]


def test_the_pod_is_restricted():
    """A pod of ours has no rights, no root, no token of the API, and a read-only root."""
    body = built(VARIANTS["image"])
    pod, container = pod_of(body), primary(body)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] == 60
    assert {t["key"]: t["tolerationSeconds"] for t in pod["tolerations"]} == {
        "node.kubernetes.io/unreachable": 60,
        "node.kubernetes.io/not-ready": 60,
    }


def test_parameters_reach_the_pod_four_ways():
    """trial.json, one JSON variable, one variable a parameter, and $(params.x) hold the same values."""
    body = built(VARIANTS["image"])
    text = body["spec"]["template"]["metadata"]["annotations"]["foretune.io/trial-config"]
    env = env_of(body)
    assert json.loads(text)["params"] == PARAMS == json.loads(env[contract.ENV_PARAMS])
    assert (env["FORETUNE_PARAM_LR"], env["FORETUNE_PARAM_LAYERS"]) == ("0.01", "3")
    assert primary(body)["args"][:2] == ["--lr", "0.01"]
    assert env["RUN"] == "lr=0.01 layers=3"


def test_trial_json_says_what_to_run_and_where_to_report():
    """The file names the trial, the workload, the report URL and a checkpoint folder of the trial's own."""
    body = built(VARIANTS["builtin-with-data"], index=3, number=1)
    config = json.loads(
        body["spec"]["template"]["metadata"]["annotations"]["foretune.io/trial-config"]
    )
    assert config["trial"] == {
        "namespace": "default",
        "job": "demo",
        "jobUid": "uid-demo",
        "index": 3,
        "attempt": 1,
    }
    assert config["workload"] == {
        "model": "bert",
        "dataset": "sst2",
        "extras": {},
        "path": "/data/sst2",
    }
    assert config["report"] == {"url": URL}
    env = env_of(body)
    assert env[contract.ENV_CHECKPOINT_DIR] == config["checkpoint"]["dir"]
    assert config["checkpoint"]["dir"] == "/foretune/work/checkpoints/uid-demo/t0003"
    assert (env[contract.ENV_TRIAL], env[contract.ENV_ATTEMPT]) == ("uid-demo/3", "1")


def test_identity_comes_from_the_cluster():
    """The pod's uid, its token and trial.json are given by the kubelet, not written by us."""
    body = built(VARIANTS["builtin"])
    uid = next(e for e in primary(body)["env"] if e["name"] == contract.ENV_POD_UID)
    assert uid["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}
    (volume,) = [v for v in pod_of(body)["volumes"] if "projected" in v]
    config, token = volume["projected"]["sources"]
    (item,) = config["downwardAPI"]["items"]
    assert item["fieldRef"]["fieldPath"] == "metadata.annotations['foretune.io/trial-config']"
    assert token["serviceAccountToken"]["audience"] == "foretune"
    (mount,) = [m for m in primary(body)["volumeMounts"] if m["name"] == volume["name"]]
    assert mount == {"name": volume["name"], "mountPath": "/foretune/config", "readOnly": True}
    env = env_of(body)
    assert env[contract.ENV_CONFIG] == f"{mount['mountPath']}/{item['path']}"
    assert (
        env[contract.ENV_TOKEN_FILE]
        == f"{mount['mountPath']}/{token['serviceAccountToken']['path']}"
    )


def test_threads_follow_the_cpus_and_the_user():
    """Threads are the whole CPUs of the resources, at least one; what the user sets stays."""
    assert env_of(built(VARIANTS["builtin-with-data"]))["OMP_NUM_THREADS"] == "4"
    assert env_of(built(VARIANTS["builtin"]))["OMP_NUM_THREADS"] == "1"
    assert env_of(built(VARIANTS["rich-template"]))["MKL_NUM_THREADS"] == "2"
    env = env_of(built(VARIANTS["image"]))
    assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("7", "1")


def test_programs_that_know_kubeflow_trainer_report_to_us():
    """The three variables lead to this trial's route with this pod's token; there is no CA for http."""
    env = env_of(built(VARIANTS["image"], index=3))
    assert env["KUBEFLOW_TRAINER_SERVER_URL"] == f"{URL}/compat/kubeflow/uid-demo/3"
    assert env["KUBEFLOW_TRAINER_SERVER_TOKEN"] == env[contract.ENV_TOKEN_FILE]
    assert "KUBEFLOW_TRAINER_SERVER_CA_CERT" not in env


@pytest.mark.parametrize("name", contract.KUBEFLOW_VARIABLES)
def test_a_kubeflow_of_the_users_gets_no_token_of_ours(name):
    """Where the pod has one of the variables, none of ours is given: our token is for us alone."""
    job = with_workload(Image(image="own:1", env=({"name": name, "value": "theirs"},)))
    env = env_of(built(job))
    assert {n: v for n, v in env.items() if n.startswith("KUBEFLOW")} == {name: "theirs"}


def test_the_sdk_comes_through_an_init_container():
    """One restricted container copies it into a volume that the primary container sees read-only."""
    body = built(VARIANTS["image-with-sdk"])
    (copying,) = pod_of(body)["initContainers"]
    assert (copying["image"], copying["args"]) == (SDK_IMAGE, ["sdk", "copy", "/foretune/sdk"])
    assert copying["resources"]["limits"] == copying["resources"]["requests"]
    security = copying["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["runAsNonRoot"]
    (volume,) = [v for v in pod_of(body)["volumes"] if v["name"] == "foretune-sdk"]
    assert "emptyDir" in volume
    (mount,) = [m for m in primary(body)["volumeMounts"] if m["name"] == "foretune-sdk"]
    assert mount == {"name": "foretune-sdk", "mountPath": "/foretune/sdk", "readOnly": True}
    assert env_of(body)["PYTHONPATH"] == "/foretune/sdk:$(BASE)/lib"
    names = list(env_of(body))
    assert names.index("BASE") < names.index("PYTHONPATH")


def test_the_shims_come_with_the_sdk_and_before_a_templates_own():
    """A template gets the same; its init containers follow, and its other containers stay as they are."""
    body = built(VARIANTS["template-with-shims"])
    assert [one["name"] for one in pod_of(body)["initContainers"]] == ["foretune-sdk", "data"]
    shims = "/foretune/sdk/foretune_report/shims/startup"
    assert env_of(body)["PYTHONPATH"] == f"{shims}:/foretune/sdk"
    helper = next(one for one in pod_of(body)["containers"] if one["name"] == "helper")
    assert "env" not in helper


def test_nothing_is_injected_unasked_or_into_the_builtin_trainer():
    """Without `inject`, and for the trainer that has the SDK, the pod has no init container."""
    builtin = with_workload(Builtin(model="cnn", dataset="digits"), inject=frozenset({Inject.SDK}))
    for job in (VARIANTS["image"], builtin):
        body = built(job)
        assert "initContainers" not in pod_of(body)
        assert "PYTHONPATH" not in env_of(body)


def test_a_path_that_is_not_known_is_refused():
    """PYTHONPATH from a ConfigMap can't be put behind ours: the field is named."""
    source = {"configMapKeyRef": {"name": "a", "key": "b"}}
    image = Image(image="own:1", env=({"name": "PYTHONPATH", "valueFrom": source},))
    with pytest.raises(InvalidJobError) as error:
        built(with_workload(image, inject=frozenset({Inject.SDK})))
    assert paths(error) == ["spec.trial.inject"]


def test_gpus_stand_in_limits_only():
    """`trial.gpu` becomes a limit; memory and CPU stay as given, and no CPU limit is made up."""
    assert primary(built(VARIANTS["image"]))["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    assert primary(built(VARIANTS["builtin-with-data"]))["resources"] == {
        "requests": {"cpu": "4", "memory": "8Gi"},
        "limits": {"memory": "16Gi"},
    }


def test_a_mount_of_the_users_replaces_ours():
    """What the user mounts at one of our paths is used; no path is mounted twice."""
    body = built(VARIANTS["image"])
    mounts = {m["mountPath"]: m["name"] for m in primary(body)["volumeMounts"]}
    assert len(mounts) == len(primary(body)["volumeMounts"])
    assert mounts["/foretune/work"] == "work"
    assert set(mounts) >= {"/foretune/config", "/foretune/cache", "/tmp", "/dev/shm"}
    names = [volume["name"] for volume in pod_of(body)["volumes"]]
    assert "foretune-work" not in names
    assert set(mounts.values()) <= set(names)


def test_the_image_runs_as_it_is():
    """Without a command the image's own entry point runs; a command is never wrapped in a shell."""
    only = primary(built(VARIANTS["image-only"]))
    assert not {"command", "args"} & set(only)
    assert primary(built(VARIANTS["image"]))["command"] == ["python", "train.py"]
    trainer = primary(built(VARIANTS["builtin"]))
    assert trainer["image"] == IMAGE
    assert not {"command", "args"} & set(trainer)


def kubelet(text: str, variables: dict[str, str]) -> str:
    """Return what a kubelet makes of a word: $(NAME) replaced if known, $$ is a dollar sign."""
    made, rest = "", text
    while rest:
        head, dollar, rest = rest.partition("$")
        made += head
        if not dollar:
            break
        if rest.startswith("$"):
            made, rest = made + "$", rest[1:]
        elif rest.startswith("(") and ")" in rest:
            name, _, rest = rest[1:].partition(")")
            made += variables.get(name, f"$({name})")
        else:
            made += "$"
    return made


@pytest.mark.parametrize("value", ["$(HOME)", "$$", "a$b", "$", "$$(HOME)", "$(params.lr)"])
def test_a_value_with_a_dollar_arrives_unchanged(value):
    """A parameter whose text looks like a reference reaches the program letter by letter."""
    job = with_workload(
        Image(
            image="example.org/own:3",
            args=("--x=$(params.x)",),
            env=({"name": "X", "value": "<$(params.x)>"},),
        )
    )
    body = built(job, params={"x": value})
    home = {"HOME": "/root", "params.lr": "wrong"}
    env = {name: kubelet(text, home) for name, text in env_of(body).items() if text is not None}
    assert kubelet(primary(body)["args"][0], home) == f"--x={value}"
    assert env["X"] == f"<{value}>"
    assert env["FORETUNE_PARAM_X"] == value
    assert json.loads(env["FORETUNE_PARAMS"]) == {"x": value}


def test_a_doubled_dollar_keeps_a_reference_as_text():
    """$$(params.x) is the literal $(params.x), as in a pod's command."""
    job = with_workload(Image(image="example.org/own:3", args=("$$(params.lr)",)))
    assert kubelet(primary(built(job))["args"][0], {}) == "$(params.lr)"


def test_a_template_keeps_what_its_user_wrote():
    """The user's fields stay; labels, owner, one pod at a time and the ends of a trial are ours."""
    body = built(VARIANTS["rich-template"], index=5)
    meta, spec, pod = body["metadata"], body["spec"], pod_of(body)
    assert meta["labels"]["team"] == "vision"
    assert meta["labels"]["foretune.io/trial"] == "5"
    assert meta["annotations"]["foretune.io/workload"] == "template"
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (3, 77)
    assert "ttlSecondsAfterFinished" not in spec
    rules = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "Ignore", "Ignore", "Count"]
    assert rules[0]["onExitCodes"]["containerName"] == "train"
    assert spec["template"]["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert pod["terminationGracePeriodSeconds"] == 120
    seconds = {t["key"]: t.get("tolerationSeconds") for t in pod["tolerations"]}
    assert seconds == {
        "node.kubernetes.io/unreachable": None,
        "node.kubernetes.io/not-ready": 60,
    }


def test_a_templates_primary_container_alone_is_changed():
    """Parameters, environment and mounts go to the primary container; others stay as they are."""
    body = built(VARIANTS["template"])
    helper, train = pod_of(body)["containers"]
    assert "env" not in helper
    assert helper["args"] == ["$(params.lr)"]
    assert train["command"][-1] == "--lr=0.01"
    assert env_of(body)["LAYERS"] == "3"
    assert [m["mountPath"] for m in train["volumeMounts"]] == [
        "/foretune/config",
        "/foretune/work",
        "/foretune/cache",
    ]
    assert body["spec"]["activeDeadlineSeconds"] == 60


def test_a_templates_own_identity_is_not_taken():
    """A template can't pass itself off as another trial: variables of the contract are ours."""
    job = template_of()
    variables = [
        {"name": "FORETUNE_TRIAL", "value": "other/1"},
        {"name": "FORETUNE_POD_UID", "value": "other"},
    ]
    job["spec"]["template"]["spec"]["containers"][1]["env"] += variables
    env = env_of(built(with_workload(Template(job=job, primary_container="train"))))
    assert env["FORETUNE_TRIAL"] == "uid-demo/0"
    assert env["FORETUNE_POD_UID"] is None


def test_building_changes_nothing_of_the_spec():
    """The same spec serves every trial: building a Job leaves it as it was."""
    for job in VARIANTS.values():
        before = copy.deepcopy(job)
        first = built(job)
        assert job == before
        assert built(job) == first


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"parallelism": 2}, "spec.trial.template.job.spec.parallelism", "must be 1, not 2"),
        ({"completions": 3}, "spec.trial.template.job.spec.completions", "must be 1, not 3"),
    ],
)
def test_a_template_of_several_pods_is_refused(change, path, says):
    """A trial is one pod: a template that asks for more is refused with the field's path."""
    job = template_of()
    job["spec"].update(change)
    with pytest.raises(InvalidJobError, match=says) as error:
        built(with_workload(Template(job=job, primary_container="train")))
    assert paths(error) == [path]


def test_a_template_that_restarts_within_its_pod_is_refused():
    """RestartPolicy OnFailure would hide ends from us, and podFailurePolicy forbids it."""
    job = template_of(restartPolicy="OnFailure")
    with pytest.raises(InvalidJobError, match="must be Never, not OnFailure") as error:
        built(with_workload(Template(job=job, primary_container="train")))
    assert paths(error) == ["spec.trial.template.job.spec.template.spec.restartPolicy"]


def test_a_template_without_its_primary_container_is_refused():
    """A primary container that is not in the template is named, with those that are."""
    workload = Template(job=template_of(), primary_container="trainer")
    with pytest.raises(InvalidJobError, match="must be one of helper, train, not 'trainer'"):
        built(with_workload(workload))


def test_a_trial_json_that_is_too_large_is_refused():
    """More than 16 KiB of parameters and extras is said at once, not met by the API server."""
    big = Builtin(model="cnn", dataset="digits", extras={"note": "x" * 16_384})
    with pytest.raises(InvalidJobError, match="bytes, at most 16384 fit"):
        built(with_workload(big))


def test_live_figures() -> None:
    """A pod of the built-in trainer has the port that the operator is set to, by its name; others have none."""
    builtin = with_workload(Builtin(model="cnn", dataset="digits"))
    given = {"report_url": URL, "trainer_image": IMAGE, "sdk_image": SDK_IMAGE}
    body = build_job(request_of(builtin), **given, metrics_port=9464)
    assert env_of(body)[contract.ENV_METRICS_PORT] == "9464"
    assert primary(body)["ports"] == [{"name": "ft-metrics", "containerPort": 9464}]
    kubernetes_validate.validate(body, SCHEMA, strict=True)
    image = build_job(request_of(with_workload(Image(image="x"))), **given, metrics_port=9464)
    for other in (image, build_job(request_of(builtin), **given)):
        assert contract.ENV_METRICS_PORT not in env_of(other)
        assert "ports" not in primary(other)
