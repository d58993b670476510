"""Two jobs of one family in a row on this machine: the second one learns from the first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.local_jobs import foretune, shown, trials, write_job

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SPACE = {
    "lr": {"min": 0.0001, "max": 1.0, "scale": "log"},
    "width": {"min": 16, "max": 512, "scale": "log", "type": "int"},
    "dropout": {"type": "float", "min": 0, "max": 0.9},
}

PROGRAM = """
    import math
    best = {{"lr": {lr}, "width": {width}}}
    far = sum(((math.log(params[name]) - math.log(at)) / 3) ** 2 for name, at in best.items())
    report(1, accuracy={top} - far - (params["dropout"] - 0.2) ** 2)
    """
"""A training whose best learning rate and width are somewhere in the middle of the space."""


def evaluations(found: list[dict[str, Any]], level: float) -> int:
    """Return how many trials it took to reach a level; more than all when it was not reached."""
    values = [row["value"] for row in found]
    return next((i + 1 for i, value in enumerate(values) if value >= level), len(values) + 1)


def test_the_second_job_uses_the_first(tmp_path: Path) -> None:
    """It is at the first one's best after a few evaluations, and audit, status and story say how."""
    first = write_job(
        tmp_path,
        PROGRAM.format(lr=0.01, width=100, top=0.95),
        name="first",
        space=SPACE,
        search={"algorithm": "sobol", "seed": 3},
        parallelism=4,
        budget={"trials": 14},
    )
    second = write_job(
        tmp_path,
        PROGRAM.format(lr=0.011, width=104, top=0.96),
        name="second",
        space=SPACE,
        search={"algorithm": "auto", "seed": 3, "timeoutSeconds": 300},
        parallelism=1,
        budget={"trials": 7},
    )
    for manifest in (first, second):
        code, _, err = foretune(tmp_path, "run", str(manifest))
        assert code == 0, err
    before, after = trials(tmp_path, "first"), trials(tmp_path, "second")
    level = max(row["value"] for row in before)
    assert evaluations(after, level) <= 5 < evaluations(before, level)

    rows = json.loads(shown(tmp_path, "explain", "second", "-o", "json"))
    assert {row["prior"] for row in rows} == {"used"}
    assert rows[0]["proposer"] == "meta-gp"
    assert rows[0]["expert"] == "meta"
    named = {source["task"] for row in rows for source in row["sources"]}
    assert named == {"local/first"}
    assert any(row["inside"] is not None for row in rows)
    status = json.loads(shown(tmp_path, "status", "second", "-o", "json"))
    assert status["prior"]["decision"] == "used"
    assert [task["ref"] for task in status["prior"]["tasks"]] == ["local/first"]
    story = shown(tmp_path, "explain", "second", "0")
    assert "Past jobs were used: 1 task." in story
    assert f"It came out at accuracy {rows[0]['value']:.5g}" in story
