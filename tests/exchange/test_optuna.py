"""A storage that Optuna itself wrote is read by its tables."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from tests.support.exchange import DATA, brought, opened

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Reduce
from foretune.domain.space import Choice, Float, Int, Scale
from foretune.domain.trial import EndReason, TrialState
from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The storage, as Optuna left it."""
    path = tmp_path / "storage.db"
    connection = sqlite3.connect(path)
    connection.executescript((DATA / "optuna" / "storage.sql").read_text())
    connection.close()
    return path


def test_studies_become_tasks(storage: Path, tmp_path: Path) -> None:
    """Every study with ended trials is a task: direction, metric, space and attributes are kept."""
    summary = brought(storage, tmp_path / "h.db")
    assert [(t.name, t.counts.added) for t in summary.tasks] == [
        ("digits cnn", 9),
        ("two objectives", 4),
    ]
    assert summary.unfinished == 2
    assert summary.notes == ["study 'two objectives' has 2 objectives: the first one is taken"]
    assert dict(summary.reasons) == {"value: no finite value": 1}
    history = opened(tmp_path / "h.db")
    (job,) = history.find_jobs(name="digits cnn")
    assert job.objective.metric == "accuracy"
    assert (job.objective.goal, job.objective.reduce) == (Goal.MAXIMIZE, Reduce.LAST)
    assert job.context == {"dataset": "digits"}
    assert parse_space(job.manifest["space"]).parameters == (
        Float(name="lr", low=1e-4, high=0.1, scale=Scale.LOG),
        Int(name="layers", low=1, high=4),
        Choice(name="optimizer", options=("adam", "sgd", "null")),
        Int(name="batch_size", low=16, high=128, step=16),
        Float(name="dropout", low=0.0, high=0.5, step=0.1),
        Float(name="momentum", low=0.5, high=0.99),
    )
    history.close()


def test_trials_keep_how_they_ended_and_their_curves(storage: Path, tmp_path: Path) -> None:
    """Values, choices, failures, pruned trials and intermediate values are Optuna's own."""
    brought(storage, tmp_path / "h.db")
    history = opened(tmp_path / "h.db")
    (job,) = history.find_jobs(name="digits cnn")
    found = history.trials(job.uid)
    connection = sqlite3.connect(storage)
    told = dict(
        connection.execute(
            "SELECT number, value FROM trials JOIN trial_values USING (trial_id) WHERE study_id = 1"
        )
    )
    connection.close()
    assert len(told) == 7
    assert {n: found[n].value for n in told if n < 9} == {n: told[n] for n in told if n < 9}
    assert [t.state for t in found].count(TrialState.EARLY_STOPPED) == 3
    assert [(t.reason, t.counts_as_failure) for t in found[4:6]] == [(EndReason.ERROR, True)] * 2
    assert found[2].params["optimizer"] == "null"
    assert "momentum" not in found[2].params
    assert found[0].params["batch_size"] == 16
    assert found[0].seconds == pytest.approx(0.678795, abs=1e-5)
    curve = history.curve(job.uid, 0)
    assert [point.epoch for point in curve] == [0, 1, 2]
    assert curve[-1].metrics["accuracy"] == found[0].value
    history.close()


def test_a_storage_that_grows_is_imported_again(storage: Path, tmp_path: Path) -> None:
    """A second import adds the trials that have ended since, and nothing else."""
    brought(storage, tmp_path / "h.db")
    assert brought(storage, tmp_path / "h.db").total.added == 0
    connection = sqlite3.connect(storage)
    connection.execute("UPDATE trials SET state = 'COMPLETE' WHERE number = 10 AND study_id = 1")
    connection.execute("INSERT INTO trial_values VALUES (99, 11, 0, 0.5, 'FINITE')")
    connection.commit()
    connection.close()
    again = brought(storage, tmp_path / "h.db").total
    assert (again.added, again.known) == (1, 13)


def test_what_is_no_storage_is_told(tmp_path: Path) -> None:
    """Another database, an old storage and a text are each refused in one line."""
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    with pytest.raises(InvalidInputError, match="is no storage of Optuna"):
        brought(path, tmp_path / "h.db")
    connection.execute("CREATE TABLE studies (study_id, study_name)")
    connection.commit()
    connection.close()
    with pytest.raises(InvalidInputError, match="optuna storage upgrade"):
        brought(path, tmp_path / "h.db")
    text = tmp_path / "text.txt"
    text.write_text("no database at all, and longer than a head of SQLite" * 40)
    with pytest.raises(InvalidInputError, match="is no SQLite database"):
        brought(text, tmp_path / "h.db", format="optuna")
