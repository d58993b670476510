"""What the chart makes: rights, restricted pods, settings that the processes understand."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import kubernetes_validate
import pytest
import yaml
from scripts.build_images import IMAGES
from tests.support.chart import (
    CHART,
    NAMESPACE,
    RELEASE,
    RefusedError,
    containers,
    environment,
    helm,
    merged,
    only,
    parse,
    pod_specs,
    render,
    render_text,
)

from foretune import constants, contract, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT: Final = CHART.parents[1]

EVERYTHING: Final = {
    "networkPolicy.enabled": True,
    "podDisruptionBudget.enabled": True,
    "metrics.serviceMonitor.enabled": True,
    "metrics.serviceMonitor.renderMode": "alwaysRender",
    "metrics.podMonitor.enabled": True,
    "metrics.podMonitor.renderMode": "alwaysRender",
    "commonLabels": {"team": "ml"},
    "podLabels": {"team": "ml"},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}}
    ],
    "tolerations": [{"operator": "Exists"}],
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "imagePullSecrets": [{"name": "registry"}],
}

VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "everything": EVERYTHING,
    "namespaces": {"watchNamespaces": ["ml", "vision"]},
    "postgres": {"tracker.databaseUrl": "postgresql+psycopg://u:p@db/foretune"},
    "postgres secret": {"tracker.existingSecret.name": "database"},
    "emptyDir": {"persistence.enabled": False},
    "own accounts": {"serviceAccount.create": False, "rbac.create": False},
    "no extras": {"metrics.service.enabled": False, "crds.enabled": False},
}

YAMLLINT: Final = "{extends: default, rules: {line-length: disable, document-start: disable, comments: disable, braces: disable, comments-indentation: disable, indentation: {spaces: consistent, indent-sequences: whatever}}}"


@pytest.fixture(params=VARIANTS)
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> list[dict[str, Any]]:
    """The objects of each variant."""
    return render(tmp_path, VARIANTS[request.param])


@pytest.mark.parametrize("version", [3, 4])
def test_lint(version: int) -> None:
    """`helm lint --strict` of helm 3 and of helm 4 finds nothing."""
    helm("lint", "--strict", str(CHART), version=version)


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_3_and_4_agree(variant: str, tmp_path: Path) -> None:
    """Helm 3 renders the same objects as helm 4."""

    def ordered(version: int) -> list[str]:
        text = render_text(tmp_path, VARIANTS[variant], version=version)
        return sorted(yaml.safe_dump(each) for each in parse(text))

    assert ordered(3) == ordered(4)


def test_old_kubernetes_is_refused(tmp_path: Path) -> None:
    """A cluster without CEL rules in CRDs is refused; a managed cluster's version is understood."""
    assert render(tmp_path, {}, "--kube-version", "v1.29.1-gke.1")
    with pytest.raises(RefusedError, match=r"kubeVersion: >=1\.29\.0"):
        render(tmp_path, {}, "--kube-version", "v1.28.9")


def test_objects_are_valid(objects: list[dict[str, Any]]) -> None:
    """Every object fits the strict schemas of the oldest and of a new Kubernetes."""
    for each in objects:
        if each["kind"] in ("CustomResourceDefinition", "ServiceMonitor", "PodMonitor"):
            continue  # the first is checked by an API server, of the others there is no schema here
        for version in ("1.29", "1.36"):
            kubernetes_validate.validate(each, version, strict=True)


def test_no_object_twice(objects: list[dict[str, Any]]) -> None:
    """No two objects have the same kind, namespace and name."""
    names = Counter(
        (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_labels(tmp_path: Path) -> None:
    """Every object of the chart has the common labels, and only the pod is what Services select."""
    found = render(tmp_path, EVERYTHING)
    for each in found:
        if each["metadata"]["name"] == f"{RELEASE}-x":
            continue
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "foretune"
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["team"] == "ml"
    deployment = only(found, "Deployment")
    selector = deployment["spec"]["selector"]["matchLabels"]
    pod = deployment["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= pod.items()
    assert not selector.items() <= only(found, "Pod")["metadata"]["labels"].items()
    for service in (o for o in found if o["kind"] == "Service"):
        assert service["spec"]["selector"] == selector


@pytest.mark.parametrize("variant", VARIANTS)
def test_yamllint(variant: str, tmp_path: Path) -> None:
    """What is rendered is tidy YAML, without duplicate keys."""
    file = tmp_path / "rendered.yaml"
    text = render_text(tmp_path, VARIANTS[variant])
    # helm 4 ends each document with an empty line
    file.write_text(text.replace("\n\n---", "\n---").rstrip("\n") + "\n")
    command = [str(Path(sys.executable).with_name("yamllint")), "--strict", "-d", YAMLLINT]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# --- Pod Security


def test_pods_are_restricted(objects: list[dict[str, Any]]) -> None:
    """Every pod fulfils Pod Security "restricted", and its root file systems are read-only."""
    specs = pod_specs(objects)
    assert specs
    for spec in specs.values():
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 65532
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for volume in spec["volumes"]:
            (kind,) = set(volume) - {"name"}
            assert kind in ("emptyDir", "projected", "persistentVolumeClaim")
        for each in spec["containers"] + spec.get("initContainers", []):
            own = each["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert "/tmp" in {mount["mountPath"] for mount in each["volumeMounts"]}
            assert each["resources"]["requests"]
            assert each["resources"]["limits"]["memory"]


def test_tokens(objects: list[dict[str, Any]]) -> None:
    """The API token is mounted where the API server is called, and not into the suggestion service."""
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    mounted = {
        name: {mount["mountPath"] for mount in each["volumeMounts"]}
        for name, each in containers(objects).items()
    }
    api = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert {name for name, paths in mounted.items() if api in paths} == {"operator", "tracker"}
    own = str(Path(settings.IN_CLUSTER_TOKEN).parent)
    assert {name for name, paths in mounted.items() if own in paths} == {"operator"}
    (volume,) = (v for v in spec["volumes"] if v["name"] == "foretune-token")
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == contract.TOKEN_AUDIENCE
    assert source["serviceAccountToken"]["path"] == Path(settings.IN_CLUSTER_TOKEN).name


# --- Settings


KINDS: Final = {
    "operator": settings.OperatorSettings,
    "tracker": settings.TrackerSettings,
    "suggestion": settings.SuggestionSettings,
}


@pytest.mark.parametrize("name", KINDS)
def test_settings_are_understood(name: str, tmp_path: Path) -> None:
    """Every variable FORETUNE_* of a container is a setting of its process, and every setting is set."""
    container = containers(render(tmp_path))[name]
    assert container["args"] == [name]
    assert "command" not in container
    given = {k: v for k, v in environment(container).items() if k.startswith("FORETUNE_")}
    known = {f"FORETUNE_{field.upper()}" for field in KINDS[name].__dataclass_fields__}
    assert set(given) == known
    texts = {key: value if isinstance(value, str) else "x" for key, value in given.items()}
    settings.from_environ(KINDS[name], texts)


def test_settings_of_the_default(tmp_path: Path) -> None:
    """The processes find each other, and trials find the tracker through its Service."""
    found = render(tmp_path)
    env = {
        name: settings.from_environ(
            KINDS[name], {k: v for k, v in environment(c).items() if isinstance(v, str)}
        )
        for name, c in containers(found).items()
    }
    operator, tracker, suggestion = env["operator"], env["tracker"], env["suggestion"]
    service = only(found, "Service", "-tracker")
    assert isinstance(operator, settings.OperatorSettings)
    assert isinstance(tracker, settings.TrackerSettings)
    assert isinstance(suggestion, settings.SuggestionSettings)
    assert operator.report_url == f"http://{service['metadata']['name']}.{NAMESPACE}.svc:8080"
    assert operator.tracker_url == f"http://127.0.0.1:{tracker.port}"
    assert operator.namespaces == ()
    assert operator.trainer_image == IMAGES["trainer"].tag
    assert operator.sdk_image == IMAGES["light"].tag
    assert tracker.suggestion_url == f"http://{suggestion.host}:{suggestion.port}"
    assert tracker.operator_users == (f"system:serviceaccount:{NAMESPACE}:{RELEASE}",)
    assert tracker.database_url.startswith("sqlite:////var/lib/foretune/")
    assert suggestion.host == "127.0.0.1"


def test_ports(tmp_path: Path) -> None:
    """Probes and Services lead to ports on which the processes listen."""
    found = render(tmp_path)
    wanted = {
        "operator": {settings.OPERATOR_METRICS_PORT},
        "tracker": {settings.TRACKER_PORT, settings.TRACKER_METRICS_PORT},
        "suggestion": {settings.SUGGESTION_METRICS_PORT},
    }
    named: dict[str, int] = {}
    for name, container in containers(found).items():
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        assert set(ports.values()) == wanted[name]
        assert not set(ports) & set(named)
        named |= ports
        env = environment(container)
        assert int(env["FORETUNE_METRICS_PORT"]) in ports.values()
        for probe, path in (
            ("startup", "healthz"),
            ("liveness", "healthz"),
            ("readiness", "readyz"),
        ):
            get = container[f"{probe}Probe"]["httpGet"]
            assert get["path"] == f"/{path}"
            assert ports[get["port"]] == int(env["FORETUNE_METRICS_PORT"])
    for service in (o for o in found if o["kind"] == "Service"):
        for port in service["spec"]["ports"]:
            assert named[port["targetPort"]] == port["port"]


def test_service_links_are_off(tmp_path: Path) -> None:
    """A Service named foretune can't set FORETUNE_PORT in the pods."""
    for spec in pod_specs(render(tmp_path)).values():
        assert spec["enableServiceLinks"] is False


def test_images(tmp_path: Path) -> None:
    """The default images are those that scripts/build_images.py builds; a digest goes first."""
    found = {name: c["image"] for name, c in containers(render(tmp_path)).items()}
    assert found == {
        "operator": IMAGES["light"].tag,
        "tracker": IMAGES["light"].tag,
        "suggestion": IMAGES["suggestion"].tag,
    }
    digest = "sha256:" + "a" * 64
    pinned = containers(render(tmp_path, {"image.digest": digest, "image.tag": "v9"}))
    assert pinned["operator"]["image"] == f"ghcr.io/foretune/foretune@{digest}"


# --- Rights


def rules(objects: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (role, rule)."""
    for each in objects:
        if each["kind"] in ("Role", "ClusterRole"):
            for rule in each["rules"]:
                yield each, rule


def test_rights_are_least(objects: list[dict[str, Any]]) -> None:
    """No role has a wildcard, reads Secrets, writes roles, or passes rights on."""
    for role, rule in rules(objects):
        assert set(rule) <= {"apiGroups", "resources", "verbs", "resourceNames"}, role
        for text in (*rule["apiGroups"], *rule["resources"], *rule["verbs"]):
            assert "*" not in text, role
        assert not {"secrets", "configmaps", "serviceaccounts"} & set(rule["resources"]), role
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"], role
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), role


def granted(objects: list[dict[str, Any]]) -> dict[str, set[tuple[str, str, str]]]:
    """Return (group, resource, verb) that the service account gets, by namespace ("" for the cluster)."""
    roles = {
        (o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o["rules"]
        for o in objects
        if o["kind"] in ("Role", "ClusterRole")
    }
    found: dict[str, set[tuple[str, str, str]]] = {}
    for each in objects:
        if each["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        assert each["subjects"] == [
            {"kind": "ServiceAccount", "name": RELEASE, "namespace": NAMESPACE}
        ]
        where = each["metadata"].get("namespace", "")
        ref = each["roleRef"]
        home = where if ref["kind"] == "Role" else ""
        for rule in roles[ref["kind"], home, ref["name"]]:
            found.setdefault(where, set()).update(
                (group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            )
    return found


REVIEWS: Final = {
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
}

JOB_RIGHTS: Final = {
    *((constants.GROUP, constants.PLURAL, verb) for verb in ("get", "list", "watch")),
    (constants.GROUP, f"{constants.PLURAL}/status", "patch"),
    *(("batch", "jobs", v) for v in ("create", "get", "list", "watch", "patch", "delete")),
    *(("", "pods", verb) for verb in ("list", "watch")),
    ("", "pods/log", "get"),
    ("", "events", "list"),
}

LEASE: Final = {("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "update")}


def test_rights_in_the_cluster(tmp_path: Path) -> None:
    """By default the service account has exactly these rights, the Lease only at home."""
    assert granted(render(tmp_path)) == {"": JOB_RIGHTS | REVIEWS, NAMESPACE: LEASE}


def test_rights_in_namespaces(tmp_path: Path) -> None:
    """With `watchNamespaces` all rights but the reviews are Roles of these namespaces."""
    found = render(tmp_path, {"watchNamespaces": ["ml", "vision"]})
    assert granted(found) == {
        "": REVIEWS,
        "ml": JOB_RIGHTS,
        "vision": JOB_RIGHTS,
        NAMESPACE: LEASE,
    }
    assert environment(containers(found)["operator"])["FORETUNE_NAMESPACES"] == "ml,vision"
    found = render(tmp_path, {"watchNamespaces": ["ml"], "rbac.authReviews": False})
    assert not [o for o in found if o["kind"] in ("ClusterRole", "ClusterRoleBinding")]


def test_watching_only_its_own_namespace(tmp_path: Path) -> None:
    """The release's own namespace may be the watched one: Lease and jobs are then both there."""
    found = render(tmp_path, {"watchNamespaces": [NAMESPACE]})
    assert granted(found)[NAMESPACE] == LEASE | JOB_RIGHTS


def test_user_roles(tmp_path: Path) -> None:
    """Viewers read TuningJobs, editors write them too; the cluster's own roles take them up."""
    found = render(tmp_path)
    viewer, editor = (only(found, "ClusterRole", f"-{name}") for name in ("viewer", "editor"))
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    for role, wanted in ((viewer, {"view", "edit", "admin"}), (editor, {"edit", "admin"})):
        labels = role["metadata"]["labels"]
        assert {key.removeprefix(prefix) for key in labels if key.startswith(prefix)} == wanted
    assert viewer["rules"][0]["verbs"] == ["get", "list", "watch"]
    assert {"create", "patch", "delete"} < set(editor["rules"][0]["verbs"])


# --- The history


def volumes(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pod's volumes by name."""
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    return {v["name"]: v for v in spec["volumes"]}


def test_one_writer(objects: list[dict[str, Any]]) -> None:
    """There is never a second pod beside the first one."""
    spec = only(objects, "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_history_on_a_claim(tmp_path: Path) -> None:
    """SQLite lies on a claim that outlives the release."""
    found = render(tmp_path)
    claim = only(found, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    mounted = volumes(found)["history"]["persistentVolumeClaim"]["claimName"]
    assert mounted == claim["metadata"]["name"]
    found = render(tmp_path, {"persistence.existingClaim": "mine"})
    assert volumes(found)["history"]["persistentVolumeClaim"]["claimName"] == "mine"
    assert not [o for o in found if o["kind"] == "PersistentVolumeClaim"]
    found = render(tmp_path, {"persistence.storageClass": "-"})
    assert only(found, "PersistentVolumeClaim")["spec"]["storageClassName"] == ""


@pytest.mark.parametrize("variant", ["postgres", "postgres secret"])
def test_history_in_postgresql(variant: str, tmp_path: Path) -> None:
    """With PostgreSQL there is no volume, and the URL stands in a Secret, not in the Deployment."""
    text = render_text(tmp_path, VARIANTS[variant])
    found = parse(text)
    assert "u:p@db" not in text
    assert "history" not in volumes(found)
    assert not [o for o in found if o["kind"] == "PersistentVolumeClaim"]
    source = environment(containers(found)["tracker"])["FORETUNE_DATABASE_URL"]["secretKeyRef"]
    secrets = [o for o in found if o["kind"] == "Secret"]
    if variant == "postgres":
        assert source == {"name": secrets[0]["metadata"]["name"], "key": "url"}
    else:
        assert (source, secrets) == ({"name": "database", "key": "url"}, [])


# --- CRD, metrics, notes


def test_crd_is_that_of_the_repository(tmp_path: Path) -> None:
    """The CRD of the chart is that of crds/, with labels, and is kept on uninstall if asked."""
    (path,) = (ROOT / "crds").glob("*.yaml")
    wanted = yaml.safe_load(path.read_text("utf-8"))
    found = only(render(tmp_path), "CustomResourceDefinition")
    extra = {k: found["metadata"].pop(k) for k in ("labels", "annotations")}
    assert found == wanted
    assert extra["annotations"] == {"helm.sh/resource-policy": "keep"}
    free = only(render(tmp_path, {"crds.keep": False}), "CustomResourceDefinition")
    assert "annotations" not in free["metadata"]
    none = render(tmp_path, {"crds.enabled": False})
    assert not [o for o in none if o["kind"] == "CustomResourceDefinition"]


def test_no_tuningjob_in_the_chart(objects: list[dict[str, Any]]) -> None:
    """The chart has no TuningJob: the first install would fail, as its kind is not known yet."""
    assert constants.KIND not in {o["kind"] for o in objects}


def test_service_monitor(tmp_path: Path) -> None:
    """The ServiceMonitor selects the metrics Service and names each process's job."""
    found = render(tmp_path, EVERYTHING)
    monitor = only(found, "ServiceMonitor")["spec"]
    service = only(found, "Service", "-metrics")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    other = only(found, "Service", "-tracker")
    assert not monitor["selector"]["matchLabels"].items() <= other["metadata"]["labels"].items()
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {e["port"] for e in monitor["endpoints"]} == ports
    for endpoint in monitor["endpoints"]:
        assert endpoint["relabelings"][0]["replacement"] == f"foretune-{endpoint['port']}"
    known = ("--api-versions", "monitoring.coreos.com/v1")
    assert only(
        render(tmp_path, {"metrics.serviceMonitor.enabled": True}, *known), "ServiceMonitor"
    )
    skipped = {
        "metrics.serviceMonitor.enabled": True,
        "metrics.serviceMonitor.renderMode": "skipIfMissing",
    }
    assert not [o for o in render(tmp_path, skipped) if o["kind"] == "ServiceMonitor"]


def test_pod_monitor(tmp_path: Path) -> None:
    """The PodMonitor finds the port that the operator gives pods of trials, while these run, where it may."""
    pods = {
        "metrics.podMonitor.enabled": True,
        "metrics.podMonitor.renderMode": "alwaysRender",
        "metrics.podMonitor.port": 9500,
    }
    found = render(tmp_path, pods)
    env = environment(containers(found)["operator"])
    values = {k: v for k, v in env.items() if isinstance(v, str)}
    operator = settings.from_environ(settings.OperatorSettings, values)
    assert operator.trial_metrics_port == 9500
    monitor = only(found, "PodMonitor")["spec"]
    assert monitor["namespaceSelector"] == {"any": True}
    (expression,) = monitor["selector"]["matchExpressions"]
    assert expression == {"key": constants.LABEL_JOB, "operator": "Exists"}
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] == constants.TRIAL_METRICS
    keep, name = endpoint["relabelings"]
    assert (keep["regex"], keep["action"]) == ("Running", "keep")
    assert keep["sourceLabels"] == ["__meta_kubernetes_pod_phase"]
    assert name == {"targetLabel": "job", "replacement": "foretune-trainer"}
    ours = render(tmp_path, {**pods, "watchNamespaces": ["ml", "vision"]})
    selector = only(ours, "PodMonitor")["spec"]["namespaceSelector"]
    assert selector == {"matchNames": ["ml", "vision"]}
    off = render(tmp_path)
    assert not [o for o in off if o["kind"] == "PodMonitor"]
    assert environment(containers(off)["operator"])["FORETUNE_TRIAL_METRICS_PORT"] == "0"


@pytest.mark.parametrize("variant", VARIANTS)
def test_notes(variant: str, tmp_path: Path) -> None:
    """The notes name a first TuningJob that is valid, in a namespace that is watched."""
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(merged(VARIANTS[variant])))
    where = [RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(file)]
    notes = helm("install", *where, "--dry-run=client").partition("\nNOTES:\n")[2]
    manifest = notes.partition("<<END\n")[2].partition("\n     END")[0]
    job = yaml.safe_load(manifest)
    assert (job["apiVersion"], job["kind"]) == (constants.API_VERSION, constants.KIND)
    watched = VARIANTS[variant].get("watchNamespaces", ["default"])
    assert job["metadata"]["namespace"] in watched
    assert "port-forward service/foretune-tracker 8080:8080" in notes
    assert ("WARNING" in notes) == (variant == "emptyDir")
