"""A real API server with our CRD refuses the table of bad manifests, and takes what is right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.support.manifests import Case, cases, good, merged

from foretune.api import crd

if TYPE_CHECKING:
    from tests.support.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).parents[2]

DRY = ("apply", "--dry-run=server", "-f", "-")


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Cluster:
    """The cluster with the CRD, whose rules the server has found cheap enough."""
    cluster.apply(yaml.safe_load((ROOT / crd.PATH).read_text()))
    cluster.wait_condition("crd", crd.crd()["metadata"]["name"], "Established")
    return cluster


def one_line(text: str) -> str:
    """Return a message on one line, with the keys of maps written as in a manifest."""
    return re.sub(r"\[([A-Za-z_][\w.-]*)\]", r".\1", " ".join(text.split()))


@pytest.mark.parametrize("case", cases("crd"), ids=lambda case: case.name)
def test_kubectl_says_what_is_wrong(server: Cluster, case: Case):
    """Kubectl prints the field's path and what would be right."""
    said = one_line(server.refused(*DRY, stdin=case.text))
    assert [part for part in case.kubectl if part not in said] == [], said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("apiVersion: foretune.io/v1alpha1\nspec: {a: [1, 2\n", "error parsing"),
        ("[1, 2]\n", "error"),
        (json.dumps(good() | {"apiVersion": "foretune.io/v1"}), 'version "foretune.io/v1"'),
        (json.dumps(good() | {"kind": "TuningJobs"}), 'no matches for kind "TuningJobs"'),
    ],
    ids=["not YAML", "a list", "another version", "another kind"],
)
def test_kubectl_refuses_what_is_no_tuningjob(server: Cluster, text: str, said: str):
    """What is no TuningJob of ours does not get as far as the schema."""
    assert said in one_line(server.refused(*DRY, stdin=text))


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_taken(server: Cluster, path: Path):
    """Every example is applied as it stands."""
    assert "server dry run" in server.kubectl("apply", "--dry-run=server", "-f", str(path))


def test_what_is_fixed_stays(server: Cluster):
    """Objective, space, trial and task can't change; budget, parallelism and suspension can."""
    job = good()
    server.apply(job)
    for change in (
        {"objective": {"metric": "val_loss"}},
        {"space": {"layers": {"min": 1}}},
        {"trial": {"builtin": {"model": "transformer"}}},
        {"task": {"labels": {"team": "b"}}},
    ):
        (field,) = change
        said = server.refused("apply", "-f", "-", stdin=json.dumps(merged(job, {"spec": change})))
        assert f"spec.{field}: Invalid value" in one_line(said)
        assert "is immutable: make another TuningJob" in one_line(said)
    server.apply(
        merged(job, {"spec": {"suspend": True, "parallelism": 3, "budget": {"trials": 30}}})
    )


def test_explain_knows_the_fields(server: Cluster):
    """Kubectl explain shows the description of a field that lies deep."""
    assert "Smallest value" in server.kubectl("explain", "tuningjob.spec.space.min")
    assert "reaches this value" in server.kubectl("explain", "tj.spec.objective.target")
