"""Programs that know nothing of Foretune, as trials of `foretune run`: every epoch is there in the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.support.foreign import PROGRAMS, foreign_site, needs, python
from tests.support.local_jobs import foretune

from foretune.adapters.store import SqlHistory
from foretune.domain.trial import TrialState

if TYPE_CHECKING:
    from pathlib import Path

    from foretune.domain.trial import Point, Trial

pytestmark = pytest.mark.slow


def tuned(
    folder: Path, program: str, args: list[str], interpreter: str = sys.executable, **trial: Any
) -> tuple[Trial, list[Point]]:
    """Return the one trial of a job that runs a program, and its curve."""
    body = {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": "unmodified"},
        "spec": {
            "objective": {"metric": "val_loss", "goal": "minimize", "reduce": "last"},
            "search": {"algorithm": "sobol"},
            "space": {"lr": {"min": 0.05, "max": 0.2}},
            "trial": {
                "image": "example.org/none:1",
                "command": [interpreter, str(PROGRAMS / f"{program}.py"), *args],
                **trial,
            },
            "budget": {"trials": 1},
        },
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(body))
    code, out, err = foretune(folder, "run", "job.yaml", "--history", "h.db")
    assert code == 0, (out, err)
    history = SqlHistory(str(folder / "h.db"))
    try:
        (job,) = history.find_jobs(name="unmodified")
        return history.trial(job.uid, 0), list(history.curve(job.uid, 0))
    finally:
        history.close()


def exact(value: float) -> bool:
    """Whether a value has more digits than the Trainer of transformers prints."""
    return value != float(f"{value:.4g}")


def test_transformers(tmp_path: Path) -> None:
    """No line: posts bring full precision now and then, and at the end; the log has every epoch."""
    needs("accelerate")
    args = ["--learning_rate", "$(params.lr)", "--epochs", "8", "--seconds", "0.8"]
    trial, curve = tuned(tmp_path, "unmodified_transformers", args)
    assert (trial.state, trial.source) == (TrialState.COMPLETED, "kubeflow")
    assert [point.epoch for point in curve] == [1.0 + n for n in range(8)]
    for point in curve:
        names = {"accuracy", "eval_accuracy", "eval_loss", "val_loss"}
        assert names <= set(point.metrics)
    precise = [point.epoch for point in curve if exact(point.metrics["val_loss"])]
    assert precise[-1] == 8.0
    assert (
        2 <= len(precise) < 8
    )  # training took more than five seconds: there was a post on the way
    assert trial.value == curve[-1].metrics["val_loss"]


def test_the_way_out_of_transformers_posts(tmp_path: Path) -> None:
    """DISABLE_KUBEFLOW_INTEGRATION leaves the log alone, with four digits."""
    needs("accelerate")
    off = [{"name": "DISABLE_KUBEFLOW_INTEGRATION", "value": "TRUE"}]
    trial, curve = tuned(tmp_path, "unmodified_transformers", ["--epochs", "2"], env=off)
    assert (trial.state, trial.source) == (TrialState.COMPLETED, "log_tail")
    assert [point.epoch for point in curve] == [1.0, 2.0]
    assert not any(exact(point.metrics["val_loss"]) for point in curve)


def test_lightning_where_the_sdk_is_injected(tmp_path: Path) -> None:
    """No line, in an environment without Foretune: the SDK is brought, and Lightning finds the callback."""
    needs("pytorch_lightning")
    site = foreign_site(tmp_path / "site")
    env = [{"name": "PYTHONPATH", "value": str(site)}]
    trial, curve = tuned(tmp_path, "with_lightning", ["3"], python(), env=env, inject=["sdk"])
    assert (trial.state, trial.source) == (TrialState.COMPLETED, "push")
    assert [point.epoch for point in curve] == [1.0, 2.0, 3.0]
    assert all(exact(point.metrics["val_loss"]) for point in curve)
