"""Make storage.sql with the real Optuna: `python make_storage.py`, where optuna==5.0.0 is installed."""

from __future__ import annotations

import sqlite3
import tempfile
import warnings
from pathlib import Path

import optuna

HERE = Path(__file__).parent


def objective(trial: optuna.Trial) -> float:
    """Train for three pretended epochs; one trial raises, one is not finite, some are pruned."""
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    layers = trial.suggest_int("layers", 1, 4)
    optimizer = trial.suggest_categorical("optimizer", ["adam", "sgd", None])
    trial.suggest_int("batch_size", 16, 128, step=16)
    trial.suggest_float("dropout", 0.0, 0.5, step=0.1)
    if optimizer == "sgd":
        trial.suggest_float("momentum", 0.5, 0.99)
    if trial.number == 4:
        raise RuntimeError("no")
    if trial.number == 5:
        return float("nan")
    value = 0.0
    for epoch in range(3):
        value = 0.5 + 0.1 * epoch + 0.01 * layers - abs(lr - 0.01)
        trial.report(float("nan") if (trial.number, epoch) == (6, 1) else value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return float("inf") if trial.number == 9 else value


def main() -> None:
    """Make a storage with three studies, and dump it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "storage.db"
        url = f"sqlite:///{path}"
        pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
        sampler = optuna.samplers.RandomSampler(seed=1)
        study = optuna.create_study(
            study_name="digits cnn",
            storage=url,
            direction="maximize",
            sampler=sampler,
            pruner=pruner,
        )
        study.set_user_attr("dataset", "digits")
        study.set_user_attr("notes", ["a", 1])
        study.set_metric_names(["accuracy"])
        study.optimize(objective, n_trials=10, catch=(RuntimeError,))
        study.ask({"lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)})
        study.enqueue_trial({"lr": 0.01})
        two = optuna.create_study(
            study_name="two objectives",
            storage=url,
            directions=["minimize", "maximize"],
            sampler=optuna.samplers.RandomSampler(seed=2),
        )
        two.optimize(
            lambda t: (t.suggest_float("x", -1, 1) ** 2, t.suggest_float("y", 0, 1)), n_trials=4
        )
        optuna.create_study(study_name="empty", storage=url)
        connection = sqlite3.connect(path)
        (HERE / "storage.sql").write_text("\n".join(connection.iterdump()) + "\n")
        connection.close()


if __name__ == "__main__":
    main()
