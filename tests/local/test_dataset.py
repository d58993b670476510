"""The built-in trainer's data set and extras are checked by the trainer itself before trial 0."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.support.manifests import good

from foretune.adapters.local import dataset
from foretune.adapters.local.dataset import check_dataset, to_read
from foretune.api.v1alpha1 import parse
from foretune.cli.main import run
from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from foretune.domain.job import JobSpec


def spec_of(**builtin: Any) -> JobSpec:
    """Return the spec of a job of the built-in trainer."""
    body = good(trial={"builtin": {"model": "cnn", "dataset": "digits", **builtin}})
    return parse(body).to_domain().spec


def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment without a network and with an empty cache."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}


def test_what_ships_with_foretune_needs_no_check() -> None:
    """Only data from outside, and extras, are worth the trainer's start."""
    assert to_read(spec_of()) is None
    assert to_read(spec_of(dataset="synthetic:image:2:40")) is None
    assert to_read(spec_of(dataset="mnist")) == "mnist"
    assert to_read(spec_of(extras={"width": 8})) == "digits"
    body = good(trial={"builtin": None, "image": "example.org/x:1"})
    assert to_read(parse(body).to_domain().spec) is None


@pytest.mark.slow
def test_what_the_trainer_can_read_passes(tmp_path: Path) -> None:
    """A data set that is there, with extras that are known, raises nothing."""
    check_dataset(spec_of(extras={"width": 8, "valid_fraction": 0.2}), environ(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builtin", "path", "said"),
    [
        ({"dataset": "mnist", "path": "EMPTY"}, "path", "neither a folder with data, nor"),
        ({"dataset": "mnist"}, "dataset", "nor in the cache"),
        (
            {"extras": {"widht": 8}},
            "extras.widht",
            "is not known to this trainer; did you mean width?",
        ),
    ],
)
def test_what_the_trainer_can_not_read_is_told_with_its_field(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    builtin: dict[str, Any],
    path: str,
    said: str,
) -> None:
    """`foretune run` ends with 2 and one line: the field of the manifest, and the trainer's own words."""
    if "path" in builtin:
        builtin = {**builtin, "path": str(tmp_path)}
    for name, value in environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    body = good(trial={"builtin": {"model": "cnn", "dataset": "digits", **builtin}})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(body))
    assert run(["run", str(tmp_path / "job.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spec.trial.builtin.{path}: ")
    assert said in line
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_a_trainer_that_can_not_be_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the check itself breaks, that is no problem of the manifest."""
    monkeypatch.setattr(dataset, "MODULE", "foretune_trainer.nothing")
    with pytest.raises(InvalidInputError, match=r"can.t be run on this machine: .*nothing"):
        check_dataset(spec_of(dataset="mnist"), environ(tmp_path))
