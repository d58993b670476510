"""The values of the chart: each is documented, typed, and does something."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from scripts import sync_chart
from tests.support.chart import CHART, RefusedError, helm, merged, parse, render_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIGEST: Final = "sha256:" + "0" * 64
MONITOR: Final = {
    "metrics.serviceMonitor.enabled": True,
    "metrics.serviceMonitor.renderMode": "alwaysRender",
}
PODS: Final = {
    "metrics.podMonitor.enabled": True,
    "metrics.podMonitor.renderMode": "alwaysRender",
}
POLICY: Final = {"networkPolicy.enabled": True}
EMPTY_DIR: Final = {"persistence.enabled": False}
SECRET: Final = {"tracker.existingSecret.name": "database"}

CHANGES: Final[list[tuple[str, Any, dict[str, Any]]]] = [
    ("nameOverride", "tuner", {}),
    ("fullnameOverride", "tuner", {}),
    ("commonLabels", {"team": "ml"}, {}),
    ("imagePullSecrets", [{"name": "registry"}], {}),
    ("image.repository", "example.com/foretune", {}),
    ("image.tag", "v9", {}),
    ("image.digest", DIGEST, {}),
    ("image.pullPolicy", "Always", {}),
    ("watchNamespaces", ["ml"], {}),
    ("history.priorScope", "cluster", {}),
    ("history.publishers", ["ml", "*"], {}),
    ("crds.enabled", False, {}),
    ("crds.keep", False, {}),
    ("operator.apiQps", 7.5, {}),
    ("operator.apiBurst", 7, {}),
    ("operator.leaderElection", False, {}),
    ("operator.extraEnv", [{"name": "HTTPS_PROXY", "value": "http://proxy"}], {}),
    ("operator.resources", {"limits": {"memory": "1Gi"}}, {}),
    ("tracker.databaseUrl", "postgresql+psycopg://u:p@db/foretune", {}),
    ("tracker.existingSecret.name", "database", {}),
    ("tracker.existingSecret.key", "uri", SECRET),
    ("tracker.extraEnv", [{"name": "PGSSLMODE", "value": "verify-full"}], {}),
    ("tracker.resources", {"limits": {"memory": "1Gi"}}, {}),
    ("tracker.service.type", "LoadBalancer", {}),
    ("tracker.service.port", 80, {}),
    ("tracker.service.annotations", {"a": "b"}, {}),
    ("suggestion.image.repository", "example.com/suggestion", {}),
    ("suggestion.image.tag", "v9", {}),
    ("suggestion.image.digest", DIGEST, {}),
    ("suggestion.image.pullPolicy", "Always", {}),
    ("suggestion.prior", "none", {}),
    ("suggestion.threads", 4, {}),
    ("suggestion.extraEnv", [{"name": "A", "value": "b"}], {}),
    ("suggestion.resources", {"limits": {"memory": "4Gi"}}, {}),
    ("trainer.image.repository", "example.com/trainer", {}),
    ("trainer.image.tag", "v9", {}),
    ("trainer.image.digest", DIGEST, {}),
    ("persistence.enabled", False, {}),
    ("persistence.existingClaim", "mine", {}),
    ("persistence.size", "50Gi", {}),
    ("persistence.storageClass", "fast", {}),
    ("persistence.accessModes", ["ReadWriteOncePod"], {}),
    ("persistence.annotations", {"a": "b"}, {}),
    ("persistence.keep", False, {}),
    ("persistence.emptyDirSizeLimit", "1Gi", EMPTY_DIR),
    ("serviceAccount.create", False, {}),
    ("serviceAccount.name", "tuner", {}),
    ("serviceAccount.annotations", {"a": "b"}, {}),
    ("rbac.create", False, {}),
    ("rbac.authReviews", False, {}),
    ("rbac.userRoles", False, {}),
    ("metrics.service.enabled", False, {}),
    ("metrics.service.annotations", {"a": "b"}, {}),
    (
        "metrics.serviceMonitor.enabled",
        True,
        {"metrics.serviceMonitor.renderMode": "alwaysRender"},
    ),
    ("metrics.serviceMonitor.renderMode", "skipIfMissing", MONITOR),
    ("metrics.serviceMonitor.namespace", "monitoring", MONITOR),
    ("metrics.serviceMonitor.additionalLabels", {"release": "kps"}, MONITOR),
    ("metrics.serviceMonitor.interval", "15s", MONITOR),
    ("metrics.serviceMonitor.scrapeTimeout", "5s", MONITOR),
    ("metrics.serviceMonitor.honorLabels", False, MONITOR),
    ("metrics.serviceMonitor.relabelings", [{"targetLabel": "a", "replacement": "b"}], MONITOR),
    (
        "metrics.serviceMonitor.metricRelabelings",
        [{"regex": "python_.*", "action": "drop"}],
        MONITOR,
    ),
    ("metrics.podMonitor.enabled", True, {"metrics.podMonitor.renderMode": "alwaysRender"}),
    ("metrics.podMonitor.renderMode", "skipIfMissing", PODS),
    ("metrics.podMonitor.port", 9500, PODS),
    ("metrics.podMonitor.namespace", "monitoring", PODS),
    ("metrics.podMonitor.additionalLabels", {"release": "kps"}, PODS),
    ("metrics.podMonitor.interval", "15s", PODS),
    ("metrics.podMonitor.scrapeTimeout", "5s", PODS),
    ("metrics.podMonitor.relabelings", [{"targetLabel": "a", "replacement": "b"}], PODS),
    ("metrics.podMonitor.metricRelabelings", [{"regex": "python_.*", "action": "drop"}], PODS),
    ("networkPolicy.enabled", True, {}),
    ("networkPolicy.monitoringNamespaceSelector", {"matchLabels": {"a": "b"}}, POLICY),
    ("networkPolicy.trialNamespaceSelector", {"matchLabels": {"a": "b"}}, POLICY),
    ("networkPolicy.apiServerPorts", [16443], POLICY),
    ("networkPolicy.extraEgress", [{"ports": [{"port": 5432}]}], POLICY),
    ("podDisruptionBudget.enabled", True, {}),
    ("podDisruptionBudget.maxUnavailable", 0, {"podDisruptionBudget.enabled": True}),
    ("podLabels", {"a": "b"}, {}),
    ("podAnnotations", {"a": "b"}, {}),
    ("terminationGracePeriodSeconds", 60, {}),
    ("priorityClassName", "high", {}),
    ("nodeSelector", {"a": "b"}, {}),
    ("tolerations", [{"operator": "Exists"}], {}),
    ("affinity", {"nodeAffinity": {}}, {}),
    (
        "extraObjects",
        [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}}],
        {},
    ),
]
"""Value, another setting of it, and what has to be set for it to matter."""

REFUSED: Final = [
    ({"operatr": {}}, "operatr"),
    ({"operator.apiQpss": 3}, "apiQpss"),
    ({"operator.apiQps": "fast"}, "apiQps"),
    ({"tracker.databaseUrl": "postgres://u:p@db/foretune"}, "databaseUrl"),
    ({"image.digest": "sha256:12"}, "digest"),
    ({"watchNamespaces": "ml"}, "watchNamespaces"),
    ({"watchNamespaces": ["ML_1"]}, "watchNamespaces"),
    ({"history.priorScope": "world"}, "priorScope"),
    ({"history.publishers": "ml"}, "publishers"),
    ({"history.publishers": ["ml*"]}, "publishers"),
    ({"persistence.size": "big"}, "size"),
    ({"metrics.serviceMonitor.interval": "30"}, "interval"),
    ({"metrics.serviceMonitor.renderMode": "always"}, "renderMode"),
    ({"metrics.podMonitor.port": 80}, "port"),
    ({"metrics.podMonitor.interval": 30}, "interval"),
    (
        {"metrics.podMonitor.enabled": True},
        "metrics.podMonitor.enabled: this cluster does not know monitoring.coreos.com/v1",
    ),
    ({"suggestion.threads": 0}, "threads"),
    (
        {"tracker.databaseUrl": "postgresql+psycopg://u:p@db/f", **SECRET},
        "set one of them, not both",
    ),
    ({"metrics.serviceMonitor.enabled": True}, "does not know monitoring.coreos.com/v1"),
    ({**MONITOR, "metrics.service.enabled": False}, "needs metrics.service.enabled"),
]


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the path of every value that is documented by itself."""
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value and key != "resources":
            yield from leaves(value, here)
        else:
            yield here


def defaults() -> dict[str, Any]:
    """Return values.yaml."""
    return dict(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")))


def schema_leaves(node: dict[str, Any], root: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the path of every property of the schema that has none itself."""
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    if path.endswith("resources") or not node.get("properties"):
        yield path
        return
    for key, value in node["properties"].items():
        yield from schema_leaves(value, root, f"{path}.{key}" if path else key)


def test_every_value_has_a_case() -> None:
    """No value of values.yaml is left out of the table of changes."""
    assert sorted(path for path, _, _ in CHANGES) == sorted(leaves(defaults()))


@pytest.mark.slow
@pytest.mark.parametrize(("path", "value", "given"), CHANGES, ids=[c[0] for c in CHANGES])
def test_every_value_does_something(
    path: str, value: Any, given: dict[str, Any], tmp_path: Path
) -> None:
    """A value that is set changes what is rendered: none is unused."""
    before = render_text(tmp_path, given)
    after = render_text(tmp_path, {**given, path: value})
    assert before != after


@pytest.mark.parametrize(("values", "reason"), REFUSED)
def test_mistakes_are_refused(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """A typo, a wrong type and a contradiction are refused, and named."""
    with pytest.raises(RefusedError, match=reason):
        render_text(tmp_path, values)


def test_schema_and_values_agree() -> None:
    """The schema knows the values of values.yaml and, for umbrella charts, `global` and `enabled`."""
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    found = set(schema_leaves(schema, schema))
    assert found - set(leaves(defaults())) == {"global", "enabled"}
    assert set(leaves(defaults())) - found == set()


def test_generated_files_are_fresh() -> None:
    """The chart's CRD and README are what their sources make of them."""
    assert sync_chart.COPY.read_text("utf-8") == sync_chart.crd_template()
    assert sync_chart.README.read_text("utf-8") == sync_chart.readme()


def test_undocumented_value_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value without a comment stops the generator, and so does a folder without a CRD."""
    (tmp_path / "values.yaml").write_text("# -- Documented.\na: 1\nb:\n  # plain\n  c: 2\n")
    monkeypatch.setattr(sync_chart, "CHART", tmp_path)
    monkeypatch.setattr(sync_chart, "CRDS", tmp_path / "crds")
    with pytest.raises(sync_chart.StaleError, match=r"b\.c has no comment"):
        list(sync_chart.values())
    with pytest.raises(sync_chart.StaleError, match="there is no CRD"):
        sync_chart.crd_template()


def test_umbrella_chart(tmp_path: Path) -> None:
    """The chart works as a part of another one, which has `global` values and a condition."""
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "foretune").symlink_to(CHART)
    chart = {
        "apiVersion": "v2",
        "name": "umbrella",
        "version": "1.0.0",
        "dependencies": [{"name": "foretune", "version": "0.1.0", "condition": "foretune.enabled"}],
    }
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(chart))
    values = {"global.imageRegistry": "example.com", "foretune.enabled": True}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(merged(values)))
    assert "kind: Deployment" in helm("template", "x", str(tmp_path))
    assert "kind: Deployment" not in helm(
        "template", "x", str(tmp_path), "--set", "foretune.enabled=false"
    )
    with pytest.raises(RefusedError, match="typo"):
        helm("template", "x", str(tmp_path), "--set", "foretune.typo=1")


def test_crd_copy_keeps_every_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CRD reaches the cluster as it stands in crds/, whatever braces its texts have."""
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"description": "{{ .Values.none }}, $(params.x), {{/* c */}}", "maximum": 2**53},
    }
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    crds = tmp_path / "crds"
    crds.mkdir()
    (crds / "things.yaml").write_text("# A comment.\n" + yaml.safe_dump(crd))
    monkeypatch.setattr(sync_chart, "CRDS", crds)
    (chart / "templates" / "crds.yaml").write_text(sync_chart.crd_template())
    found = parse(helm("template", "x", str(chart), "-s", "templates/crds.yaml"))
    assert [each["spec"] for each in found] == [crd["spec"]]
    (crds / "things.yaml").write_text(
        yaml.safe_dump({**crd, "metadata": {"name": "things", "labels": {"a": "b"}}})
    )
    with pytest.raises(sync_chart.StaleError, match="the name alone"):
        sync_chart.crd_template()
