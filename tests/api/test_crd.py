"""The CRD: fresh, structural, and a schema of exactly what the models and the status hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.support.world import make_job

from foretune.adapters.kube.resources import TUNINGJOBS
from foretune.api import crd, docs
from foretune.api import spec as models
from foretune.api.cel import RULES
from foretune.constants import Condition
from foretune.domain.trial import AttemptPhase, EndReason, ObservedAttempt, Trial, TrialState
from foretune.errors import Problem
from foretune.planner import status as status_page
from foretune.planner.snapshot import Snapshot

ROOT = Path(__file__).parents[2]


def version() -> dict[str, Any]:
    return crd.crd()["spec"]["versions"][0]


def schema() -> dict[str, Any]:
    return version()["schema"]["openAPIV3Schema"]


def nodes(node: dict[str, Any], path: str = ""):
    """Yield (path, node) of every field of a structural schema."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}".removeprefix("."))
    for key in ("additionalProperties", "items"):
        if key in node:
            yield from nodes(node[key], f"{path}{'[]' if key == 'items' else '.*'}")


def test_the_file_is_fresh():
    """crds/ holds what the models give."""
    assert (ROOT / crd.PATH).read_text() == crd.text()


@pytest.mark.parametrize("module", [crd, docs])
def test_a_stale_file_is_found(module, tmp_path, monkeypatch, capsys):
    """--check fails for a file that is not what the models give, and writing mends it."""
    monkeypatch.chdir(tmp_path)
    assert module.main(["--check"]) == 1
    assert "is stale" in capsys.readouterr().err
    assert module.main([]) == 0
    assert module.main(["--check"]) == 0


def test_the_reference_page_is_fresh():
    """docs/reference/tuningjob.md says what the models say."""
    assert (ROOT / docs.PAGE).read_text() == docs.page()


def test_the_names_are_those_of_the_code():
    """Group, version and plural are what clients ask for."""
    spec = crd.crd()["spec"]
    assert (spec["group"], version()["name"], spec["names"]["plural"]) == (
        TUNINGJOBS.group,
        TUNINGJOBS.version,
        TUNINGJOBS.plural,
    )
    assert crd.crd()["metadata"] == {"name": f"{TUNINGJOBS.plural}.{TUNINGJOBS.group}"}
    assert spec["names"]["shortNames"] == ["tj"]
    assert spec["names"]["categories"] == ["all", "foretune"]
    assert version()["subresources"] == {"status": {}}


@pytest.mark.parametrize("kubernetes", ["1.29", "1.32", "1.37"])
def test_the_crd_is_a_crd(kubernetes):
    """The file has the shape that Kubernetes documents for its kind; nothing is misspelt."""
    document = crd.crd()
    if kubernetes == "1.29":  # selectableFields came with 1.30; older servers leave it out
        del document["spec"]["versions"][0]["selectableFields"]
    kubernetes_validate.validate(document, kubernetes, strict=True)


def test_the_schema_is_structural():
    """Every field has a type, or says that it has none; nothing is left of JSON schema's references."""
    for path, node in nodes(schema()):
        loose = node.get("x-kubernetes-preserve-unknown-fields")
        either = node.get("x-kubernetes-int-or-string")
        assert "type" in node or loose or either, path
        assert not {"$ref", "$defs", "title", "anyOf", "const", "ge", "le", "gt"} & set(node), path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_everything_of_the_spec_is_bounded():
    """Lists, maps and texts have limits, which the cost of the rules is estimated with."""
    limits = {"array": "maxItems", "string": ("maxLength", "enum", "format")}
    for path, node in nodes(schema()["properties"]["spec"]):
        wanted = limits.get(node.get("type", ""), ())
        wanted = (wanted,) if isinstance(wanted, str) else wanted
        open_text = path.startswith(("trial.template.job", "task.labels"))
        assert not wanted or open_text or set(wanted) & set(node), path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_only_what_another_api_checks_is_kept_unpruned():
    """Unknown fields are pruned, and so refused by kubectl, wherever we know all fields."""
    kept = {
        path
        for path, node in nodes(schema()["properties"]["spec"])
        if node.get("x-kubernetes-preserve-unknown-fields")
    }
    assert {path for path in kept if not path.startswith("trial.template.job")} == {
        "space.*.values[]",
        "space.*.value",
        "space.*.default",
        "trial.builtin.extras",
        "trial.env[]",
        "trial.envFrom[]",
        "trial.volumes[]",
        "trial.volumeMounts[]",
    }


def test_every_field_is_described():
    """Each field of the spec has a description, which kubectl explain shows."""
    for path, node in nodes(schema()["properties"]["spec"]):
        generic = path.endswith(("[]", ".*")) or path.startswith(
            ("trial.template.job.", "trial.env")
        )
        generic = generic or path.startswith(("trial.volumes[]", "trial.volumeMounts[]"))
        assert generic or node.get("description"), path


def test_defaults_reach_into_absent_objects():
    """An object that is left out gets its fields' defaults, which rules between fields read."""
    spec = schema()["properties"]["spec"]["properties"]
    for name in ("search", "budget", "failurePolicy", "task"):
        assert spec[name]["default"] == {}
    assert spec["budget"]["properties"]["trials"]["default"] == 20
    assert spec["parallelism"]["default"] == 1
    assert spec["failurePolicy"]["properties"]["maxFailed"]["default"] == "20%"
    assert spec["failurePolicy"]["properties"]["onError"]["default"] == {}


def test_the_schema_and_the_models_have_the_same_fields():
    """No field of a model is missing from the CRD."""
    spec = schema()["properties"]["spec"]
    assert list(spec["properties"]) == list(
        models.Spec.model_json_schema(by_alias=True)["properties"]
    )
    assert spec["required"] == ["objective", "space", "trial"]


def test_every_rule_says_what_is_wrong():
    """Each CEL rule has a message of one line, and its path one fieldPath at most."""
    for path, rules in RULES.items():
        for rule in rules:
            assert bool(rule.message) != bool(rule.expression), (path, rule.rule)
            assert "\n" not in rule.rule + rule.message + rule.expression
            assert not rule.field or re.fullmatch(r"(\.[A-Za-z]+)+", rule.field)


def unknown(value: Any, node: dict[str, Any], path: str = "status") -> list[str]:
    """Return the fields of `value` that the schema would prune, or whose type it would refuse."""
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return []
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    if not isinstance(value, kinds[node["type"]]):
        return [f"{path}: {value!r} is no {node['type']}"]
    found = []
    if isinstance(value, dict):
        for name, entry in value.items():
            child = node.get("properties", {}).get(name) or node.get("additionalProperties")
            where = f"{path}.{name}"
            found += unknown(entry, child, where) if child else [f"{where}: pruned"]
    if isinstance(value, list):
        if len(value) > node["maxItems"]:
            found.append(f"{path}: {len(value)} entries")
        for position, entry in enumerate(value):
            found += unknown(entry, node["items"], f"{path}[{position}]")
    if isinstance(value, str) and len(value) > node.get("maxLength", len(value)):
        found.append(f"{path}: {len(value)} characters")
    return found


def full_status() -> dict[str, Any]:
    """Return a status with every list full and every field there."""
    base = Trial(
        job_uid="u",
        index=0,
        params={"lr": 0.01, "layers": 3, "optimizer": "adam", "bias": True},
        state=TrialState.COMPLETED,
        config_hash="h",
        value=0.5,
        epochs=4.0,
        gpu_s=3600.0,
        created_at=1.0,
        ended_at=5.0,
    )
    trials = [replace(base, index=i, value=i / 100) for i in range(20)]
    trials += [
        replace(
            base, index=20 + i, state=state, value=None, reason=EndReason.ERROR, message="x" * 999
        )
        for i, state in enumerate(
            [TrialState.FAILED, TrialState.INFEASIBLE, TrialState.TIMED_OUT] * 4
        )
    ]
    trials += [
        replace(base, index=40 + i, state=TrialState.RUNNING, ended_at=None) for i in range(80)
    ]
    waiting = ObservedAttempt(
        name="n",
        index=41,
        number=0,
        config_hash="h",
        phase=AttemptPhase.PENDING,
        container_reason="ImagePullBackOff",
    )
    job = make_job(trials=500, parallelism=100)
    audit = {
        "prior": "used",
        "reason": "r" * 999,
        "sources": {"n" * 400 + str(i): 0.1 for i in range(12)},
    }
    seen = Snapshot(job=job, trials=trials, attempts=[waiting], audit=audit)
    return status_page.build(seen, 60.0)


@pytest.mark.parametrize(
    "page",
    [
        full_status(),
        status_page.rejected([Problem("spec.space", "y" * 3000)], 2, 9.0),
        status_page.unavailable(full_status(), 3, "the tracker does not answer", 99.0),
        status_page.build(Snapshot(job=make_job(), trials=[], attempts=[]), 1.0),
    ],
    ids=["full", "rejected", "unavailable", "new"],
)
def test_nothing_of_a_status_is_pruned(page):
    """What the operator writes is what an API server keeps."""
    assert unknown(page, schema()["properties"]["status"]) == []


def test_every_field_of_the_status_is_written():
    """The schema promises nothing that no operator writes."""
    page = full_status()
    assert set(page) == set(schema()["properties"]["status"]["properties"])
    counts = schema()["properties"]["status"]["properties"]["counts"]["properties"]
    assert set(page["counts"]) == set(counts)
    assert {c["type"] for c in page["conditions"]} <= set(Condition)


def test_the_columns_read_fields_that_are_there():
    """Each column of kubectl get is a path of the schema, of the column's type."""
    for column in version()["additionalPrinterColumns"]:
        if column["jsonPath"] == ".metadata.creationTimestamp":
            continue
        node = schema()
        for part in column["jsonPath"].removeprefix(".").split("."):
            node = node["properties"][part]
        assert node["type"] == column["type"], column["name"]


def test_the_text_holds_no_aliases():
    """Shared parts are written out: kubectl explain and people read it."""
    assert not re.search(r"[&*]id\d+", crd.text())
    assert yaml.safe_load(crd.text()) == crd.crd()
