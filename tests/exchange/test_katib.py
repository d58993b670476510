"""Katib's Experiment and Trial objects, as kubectl prints them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.support.exchange import DATA, brought, opened

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.space import Choice, Float, Int, Ordinal, Scale
from foretune.domain.trial import EndReason, TrialState
from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

OBJECTS = DATA / "katib" / "objects.yaml"


def test_an_experiment_becomes_a_task(tmp_path: Path) -> None:
    """Space, objective, strategy, ends and times are Katib's; texts become what the space says they are."""
    summary = brought(OBJECTS, tmp_path / "h.db")
    assert (summary.total.added, summary.total.set_aside, summary.unfinished) == (2, 2, 1)
    assert list(summary.reasons) == [
        "lr: must be between 0.001 and 0.1, not 0.5",
        "Validation-accuracy: no finite value, but 'unavailable'",
    ]
    history = opened(tmp_path / "h.db")
    (job,) = history.find_jobs(name="mnist-random")
    assert job.objective == Objective(
        metric="Validation-accuracy", goal=Goal.MAXIMIZE, target=0.99, reduce=Reduce.LAST
    )
    assert parse_space(job.manifest["space"]).parameters == (
        Float(name="lr", low=0.001, high=0.1, scale=Scale.LOG),
        Int(name="num-layers", low=2, high=5),
        Ordinal(name="batch-size", options=(32, 64, 128)),
        Choice(name="optimizer", options=("sgd", "adam", "16")),
    )
    good, bad = history.trials(job.uid)
    assert good.params == {"lr": 0.01, "num-layers": 3, "batch-size": 64, "optimizer": "16"}
    assert (good.value, good.seconds, good.created_at) == (0.97, 120, 1714557600)
    assert (bad.state, bad.reason) == (TrialState.INFEASIBLE, EndReason.OUT_OF_MEMORY)
    assert bad.message == "Trial has failed: OOMKilled"
    history.close()


def test_json_and_documents_read_alike(tmp_path: Path) -> None:
    """A List in JSON, and objects as documents of YAML, give the same trials under the same uid."""
    told = yaml.safe_load(OBJECTS.read_text())
    text = json.dumps(told, default=lambda time: time.isoformat())
    (tmp_path / "list.json").write_text(text)
    plain = yaml.safe_dump_all(json.loads(text)["items"])
    (tmp_path / "documents.yaml").write_text(plain)
    uids = set()
    for file in (OBJECTS, tmp_path / "list.json", tmp_path / "documents.yaml"):
        summary = brought(file, tmp_path / "h.db")
        uids |= {task.uid for task in summary.tasks}
        assert summary.total.added == (2 if file == OBJECTS else 0)
    assert len(uids) == 1


def test_trials_without_their_experiment(tmp_path: Path) -> None:
    """Trials alone tell their objective; the space is not known then."""
    told = yaml.safe_load(OBJECTS.read_text())
    told["items"] = told["items"][1:]
    (tmp_path / "trials.yaml").write_text(yaml.safe_dump(told))
    summary = brought(tmp_path / "trials.yaml", tmp_path / "h.db")
    assert summary.total.added == 3
    history = opened(tmp_path / "h.db")
    (job,) = history.find_jobs(name="mnist-random")
    assert "space" not in job.manifest
    assert job.objective.goal is Goal.MAXIMIZE
    assert history.trials(job.uid)[0].params["batch-size"] == 64
    history.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "is neither YAML nor JSON"),
        ("kind: Pod\napiVersion: v1\n", "holds no Trial of Katib"),
        ("- 1\n", "holds no Trial of Katib"),
        ('{"items": 3}', "holds no Trial of Katib"),
        ("", "holds no Trial of Katib"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    """What holds no Trial is told in one line."""
    path = tmp_path / "objects.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=reason):
        brought(path, tmp_path / "h.db")
