"""Past jobs of a history database as tasks to learn from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.support.histories import (
    a_batch,
    a_job,
    a_proposal,
    an_attempt,
    an_outcome,
    epochs,
    running_trial,
)

from foretune.adapters.store import SqlHistory
from foretune.app.history import source_tasks
from foretune.errors import InvalidInputError
from foretune.optimizer import Optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the history is."""
    return tmp_path / "history.db"


@pytest.fixture
def history(file: Path) -> Iterator[SqlHistory]:
    """An empty history."""
    opened = SqlHistory(str(file))
    opened.migrate()
    yield opened
    opened.close()


def tuned(history: SqlHistory, uid: str, values: list[float], **changes: object) -> None:
    """Record a job with one completed trial a value, at lr 0.001, 0.002, ... of 2 layers."""
    job = a_job(uid, name=uid, **changes)
    history.put_job(job)
    for index, value in enumerate(values):
        history.put_proposal(a_proposal(uid, index))
        history.put_attempt(uid, index, an_attempt())
        history.add_reports(replace(a_batch(epochs(value), index), job_uid=uid))
        history.commit(uid, an_outcome(index), at=2001.0)


@pytest.mark.slow
def test_ended_trials_of_a_scope_become_tasks(history: SqlHistory) -> None:
    """Jobs of the namespace, but for the asking one and those without an ended trial, with their spaces."""
    tuned(history, "one", [0.1, 0.2, 0.3], context={"model": "cnn"})
    tuned(history, "two", [0.4])
    tuned(history, "other", [0.5], namespace="team-b")
    running_trial(history, 0, a_job("runs", name="runs"))
    found = {t.name: t for t in source_tasks(history, namespace="team-a", without="two")}
    assert set(found) == {"team-a/one"}
    task = found["team-a/one"]
    assert [t.value for t in task.trials] == [0.1, 0.2, 0.3]
    assert task.context == {"model": "cnn"}
    assert task.space is not None
    assert task.space.names == ("lr", "layers")
    assert {t.name for t in source_tasks(history)} == {"team-a/one", "team-a/two", "team-b/other"}


def test_a_job_whose_space_is_not_understood_still_teaches(history: SqlHistory) -> None:
    """A manifest of another version costs the space and nothing else."""
    tuned(history, "odd", [0.1, 0.2], manifest={"space": {"lr": {"shape": "round"}}})
    (task,) = source_tasks(history)
    assert task.space is None
    assert len(task.trials) == 2


@pytest.mark.slow
def test_the_optimizer_learns_from_a_file(history: SqlHistory, file: Path) -> None:
    """The first suggestion is the best configuration that a job in the file found."""
    tuned(history, "one", [0.1, 0.2, 0.9, 0.3, 0.2, 0.1])
    space = {"lr": {"min": 0.0001, "max": 0.1, "scale": "log"}, "layers": {"values": [2, 3, 4]}}
    opt = Optimizer(space, goal="maximize", metric="accuracy", history=file)
    first = opt.suggest()[0]
    assert first.params == {"lr": 0.003, "layers": 2}
    assert first.proposer == "meta-gp"
    assert first.detail["tasks"] == 1
    assert opt.history == file


def test_a_file_that_is_no_history_is_refused(file: Path) -> None:
    """A database of something else is named in the error."""
    file.write_bytes(b"SQLite format 3\x00" + bytes(84))
    with pytest.raises(InvalidInputError, match=r"history\.db"):
        Optimizer({"x": {"min": 0.0, "max": 1.0}}, history=file)
