"""What the trainer takes, and what it says to the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.trials import trial_json

from foretune import contract
from foretune.api.v1alpha1 import parse as parse_job
from foretune.contract import ExitCode
from foretune.planner.launch import trial_config
from foretune.ports import LaunchRequest
from foretune_trainer import config
from foretune_trainer.errors import TrainerError


def test_defaults() -> None:
    """Every hyperparameter of the contract and every extra has a default."""
    found = config.parse(trial_json(params={}), {})
    assert set(found.values) == {*config.HYPERPARAMETERS, *config.EXTRAS}
    assert set(config.HYPERPARAMETERS) == set(contract.BUILTIN_PARAMETERS)
    assert (found["learning_rate"], found["optimizer"], found["epochs"]) == (1e-3, "adam", 10)


@pytest.mark.parametrize(
    ("name", "alias"),
    [(name, alias) for name, others in contract.BUILTIN_PARAMETERS.items() for alias in others],
)
def test_aliases(name: str, alias: str) -> None:
    """Each other name of the contract sets the same hyperparameter."""
    value: Any = (
        "sgd" if name == "optimizer" else 0.25 if name in ("learning_rate", "dropout") else 3
    )
    assert config.parse(trial_json(params={alias: value}), {})[name] == value


def test_what_foretune_writes_is_read() -> None:
    """trial.json as Foretune writes it, with extras and a path, is understood."""
    manifest = {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": "demo", "namespace": "team-a", "uid": "job-1"},
        "spec": {
            "objective": {"metric": "val_loss", "goal": "minimize"},
            "space": {"lr": {"min": 0.001, "max": 0.1}, "width": {"values": [16, 32]}},
            "trial": {
                "builtin": {
                    "model": "transformer",
                    "dataset": "sst2",
                    "path": "/data/sst2",
                    "extras": {"max_length": 32},
                }
            },
        },
    }
    request = LaunchRequest(
        job=parse_job(manifest).to_domain(),
        name="demo-t0003-a1",
        index=3,
        number=1,
        params={"lr": 0.01, "width": 32},
        config_hash="x",
    )
    raw = json.loads(json.dumps(trial_config(request, report_url="http://x", checkpoint_dir="/c")))
    found = config.parse(raw, {})
    assert (found.model, found.dataset, found.path) == ("transformer", "sst2", "/data/sst2")
    assert (found["learning_rate"], found["width"], found["max_length"]) == (0.01, 32, 32)
    assert (found.index, found.attempt, found.objective) == (3, 1, "val_loss")
    assert str(found.checkpoint_dir) == "/c"


def written(
    params: dict[str, Any], early: dict[str, Any] | None = None, **trial: Any
) -> dict[str, Any]:
    """Return trial.json as Foretune writes it for one trial."""
    builtin = {"builtin": {"model": "cnn", "dataset": "digits", "extras": trial.pop("extras", {})}}
    manifest = {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": "demo", "namespace": "team-a", "uid": "job-1"},
        "spec": {
            "objective": {"metric": "accuracy", "goal": "maximize"},
            "space": {"lr": {"min": 0.001, "max": 0.1}},
            "trial": trial or builtin,
            **({"earlyStopping": early} if early else {}),
        },
    }
    request = LaunchRequest(
        job=parse_job(manifest).to_domain(),
        name="demo-t0000-a0",
        index=0,
        number=0,
        params=params,
        config_hash="x",
    )
    found: dict[str, Any] = json.loads(
        json.dumps(trial_config(request, report_url="http://x", checkpoint_dir="/c"))
    )
    return found


@pytest.mark.parametrize(
    ("params", "early", "most", "epochs"),
    [
        ({"lr": 0.01}, {}, None, 10),
        ({"lr": 0.01, "epochs": 6}, {}, 6, 6),
        ({"lr": 0.01, "num_epochs": 6}, {}, 6, 6),
        ({"lr": 0.01, "epochs": 6}, {"max": 20}, 20, 6),
        ({"lr": 0.01, "epochs": 30}, {"max": 20}, 30, 30),
        ({"lr": 0.01}, {"max": 20}, 20, 20),
        ({"lr": 0.01}, {"max": 19.5}, 20, 20),
    ],
)
def test_fidelity_as_foretune_writes_it(
    params: dict[str, Any], early: dict[str, Any], most: int | None, epochs: int
) -> None:
    """The epochs of a whole training are the trial's own or those of `earlyStopping.max`, whichever are more."""
    raw = written(params, early)
    assert raw.get("fidelity") == ({"name": "epochs", "max": most} if most else None)
    found = config.parse(raw, {})
    assert (found.horizon, found["epochs"]) == (most or 10, epochs)


def test_fidelity_of_extras_and_of_own_code() -> None:
    """Epochs that are fixed for all trials count, and so do other programs' names for them."""
    assert written({"lr": 0.1}, extras={"epochs": 5})["fidelity"]["max"] == 5
    image = {"image": "x", "command": ["train"]}
    assert written({"num_train_epochs": 3}, **image)["fidelity"]["max"] == 3
    assert "fidelity" not in written({"epochs": "many"}, **image)


def test_the_horizon_decides_what_a_checkpoint_fits() -> None:
    """Of a trial with a schedule the horizon is part of a checkpoint's identity, the number of epochs is not."""
    cosine = {"schedule": "cosine"}
    for params, alike in ((cosine, False), ({}, True)):
        eight, short, four = (
            config.parse(
                trial_json(
                    params={"epochs": epochs, **params}, fidelity={"name": "epochs", "max": most}
                ),
                {},
            ).digest
            for epochs, most in ((8, 8), (4, 8), (4, 4))
        )
        assert eight == short
        assert (short == four) is alike


def test_a_parameter_goes_before_an_extra() -> None:
    """What is tuned wins over what is fixed for all trials."""
    raw = trial_json(params={"weight_decay": 0.2})
    raw["workload"] = {**raw["workload"], "extras": {"weight_decay": 0.1}}
    assert config.parse(raw, {})["weight_decay"] == 0.2


BERT = {"model": "bert", "dataset": "sst2"}

WRONG: list[tuple[dict[str, Any], ExitCode, str]] = [
    ({"params": {"learning_rat": 1}}, ExitCode.BAD_EXTRA, "did you mean learning_rate?"),
    ({"params": {"zzz": 1}}, ExitCode.BAD_EXTRA, "there are learning_rate, batch_size"),
    ({"params": {"weight_decay": "much"}}, ExitCode.BAD_EXTRA, "params.weight_decay: must be"),
    ({"params": {"schedule": "steps"}}, ExitCode.BAD_EXTRA, "one of constant, cosine"),
    ({"params": {"frozen_layers": 1}}, ExitCode.BAD_EXTRA, "goes with bert, not cnn"),
    ({"params": {"pretrained": 1}}, ExitCode.BAD_EXTRA, "params.pretrained: must be a text"),
    ({"params": {"warmup": 1}}, ExitCode.BAD_EXTRA, "params.warmup: must be a number >= 0"),
    (
        {"workload": BERT, "params": {"frozen_layers": 1}},
        ExitCode.BAD_EXTRA,
        "params.frozen_layers: needs pretrained",
    ),
    (
        {"workload": BERT, "params": {"pretrained": "x/y", "width": 64}},
        ExitCode.BAD_EXTRA,
        "params.width: comes with the pretrained model",
    ),
    ({"params": {"lr": 0}}, ExitCode.BAD_CONFIG, "params.lr: must be a number > 0"),
    ({"params": {"lr": "1e-4"}}, ExitCode.BAD_CONFIG, "not '1e-4'"),
    ({"params": {"lr": True}}, ExitCode.BAD_CONFIG, "must be a number"),
    ({"params": {"batch_size": 16.5}}, ExitCode.BAD_CONFIG, "must be a whole number from 1"),
    ({"fidelity": {"name": "steps", "max": 9}}, ExitCode.BAD_CONFIG, "fidelity.name: must be"),
    ({"fidelity": {"name": "epochs"}}, ExitCode.BAD_CONFIG, "fidelity.max: must be a whole"),
    ({"fidelity": {"max": 0}}, ExitCode.BAD_CONFIG, "fidelity.max: must be a whole number from 1"),
    ({"fidelity": {"max": 2}}, ExitCode.BAD_CONFIG, "params.epochs: must be at most fidelity.max"),
    ({"fidelity": 3}, ExitCode.BAD_CONFIG, "fidelity: must be an object"),
    ({"checkpoint": {"dir": 3}}, ExitCode.BAD_CONFIG, "checkpoint.dir: must be a text"),
    ({"checkpoint": {"everySeconds": "x"}}, ExitCode.BAD_CONFIG, "checkpoint.everySeconds: must"),
    ({"checkpoint": {"everySeconds": -1}}, ExitCode.BAD_CONFIG, "checkpoint.everySeconds: must"),
    ({"params": {"layers": 0}}, ExitCode.BAD_CONFIG, "params.layers: must be"),
    ({"params": {"dropout": 1.0}}, ExitCode.BAD_CONFIG, "<= 0.95"),
    ({"params": {"dropout": float("nan")}}, ExitCode.BAD_CONFIG, "params.dropout: must be"),
    ({"params": {"epochs": float("inf")}}, ExitCode.BAD_CONFIG, "params.epochs: must be"),
    ({"params": {"optimizer": "adamw"}}, ExitCode.BAD_CONFIG, "one of adam, sgd, rmsprop"),
    ({"params": {"lr": 1, "learning_rate": 1}}, ExitCode.BAD_CONFIG, "is the same as params.lr"),
    ({"params": [1]}, ExitCode.BAD_CONFIG, "params: must be an object"),
    ({"workload": {"model": "cn", "dataset": "digits"}}, ExitCode.BAD_CONFIG, "did you mean cnn?"),
    (
        {"workload": {"model": "cnn"}},
        ExitCode.BAD_CONFIG,
        "workload.dataset: must be one of digits",
    ),
    (
        {"workload": {"model": "cnn", "dataset": "digits", "path": 3}},
        ExitCode.BAD_CONFIG,
        "workload.path: must be a text",
    ),
    ({"version": 2}, ExitCode.BAD_CONFIG, "speaks 1, not 2"),
    ({"seed": -1}, ExitCode.BAD_CONFIG, "seed: must be a whole number >= 0"),
]


@pytest.mark.parametrize(("changes", "code", "text"), WRONG)
def test_wrong(changes: dict[str, Any], code: ExitCode, text: str) -> None:
    """Wrong input has its exit code, and one line that names the field and what would be right."""
    with pytest.raises(TrainerError) as caught:
        config.parse(trial_json(**changes), {})
    assert caught.value.code is code
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("{", "must be JSON")])
def test_unreadable_file(tmp_path: Path, text: str | None, said: str) -> None:
    """A trial.json that is missing or torn is a wrong configuration."""
    path = tmp_path / "trial.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TrainerError, match=said) as caught:
        config.load(path, {})
    assert caught.value.code is ExitCode.BAD_CONFIG


def test_the_guide_has_every_parameter() -> None:
    """The guide's tables name each hyperparameter, alias and extra of the trainer."""
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "trainer.md").read_text()
    for name, others in contract.BUILTIN_PARAMETERS.items():
        for one in (name, *others):
            assert f"| `{one}` |" in guide
    for name in (*config.EXTRAS, *contract.BUILTIN_MODELS):
        assert f"| `{name}` |" in guide


def test_digest() -> None:
    """A checkpoint fits a trial of the same parameters, of more epochs too, and no other."""

    def digest(**params: Any) -> str:
        return config.parse(trial_json(params=params), {}).digest

    assert digest(lr=0.1) == digest(learning_rate=0.1)
    assert digest(lr=0.1) != digest(lr=0.2)
    assert digest(epochs=3) == digest(epochs=9)
    for extra in ({"schedule": "cosine"}, {"warmup": 0.1}):
        assert digest(epochs=3, **extra) != digest(epochs=9, **extra)
