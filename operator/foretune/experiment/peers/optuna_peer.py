"""Optuna's samplers as peers: TPE (multivariate, with the constant liar in batches) and the Gaussian process.

Run by the Python of its own environment, so it imports the standard library and Optuna only. A proposal that
was measured elsewhere (at the nearest row of a table) is told where it was measured: the trial that was
asked for is failed, which Optuna's samplers ignore, and a finished one is added at that place.
"""

from __future__ import annotations

import importlib
from typing import Any


def distributions(optuna: Any, space: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return Optuna's form of a manifest's space."""
    kinds = optuna.distributions
    found: dict[str, Any] = {}
    for name, entry in space.items():
        if entry["type"] in ("choice", "ordinal"):
            found[name] = kinds.CategoricalDistribution(entry["values"])
        elif entry["type"] == "const":
            found[name] = kinds.CategoricalDistribution([entry["value"]])
        else:
            log = entry["scale"] == "log"
            make = kinds.IntDistribution if entry["type"] == "int" else kinds.FloatDistribution
            step = entry.get("step")
            more = {"step": step} if step is not None and not log else {}
            if entry["type"] == "int":
                more = {key: int(value) for key, value in more.items()}
            found[name] = make(entry["min"], entry["max"], log=log, **more)
    return found


class Run:
    """A study."""

    def __init__(self, method: str, start: dict[str, Any]) -> None:
        """Make the study with the sampler that was asked for."""
        self.optuna = optuna = importlib.import_module("optuna")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if method == "optuna-gp":
            sampler = optuna.samplers.GPSampler(seed=start["seed"])
        else:
            sampler = optuna.samplers.TPESampler(
                seed=start["seed"], multivariate=True, constant_liar=start["batch"] > 1
            )
        self.study = optuna.create_study(direction=start["goal"], sampler=sampler)
        self.distributions = distributions(optuna, start["space"])
        self.asked: dict[str, Any] = {}

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return `n` configurations."""
        trials = [self.study.ask(self.distributions) for _ in range(n)]
        self.asked |= {str(trial.number): trial for trial in trials}
        return [{"token": trial.number, "params": trial.params} for trial in trials]

    def tell(self, token: str, params: dict[str, Any], value: float | None) -> None:
        """Finish a trial, there or elsewhere."""
        trial = self.asked.pop(token)
        states = self.optuna.trial.TrialState
        if value is None or params == trial.params:
            state = states.FAIL if value is None else states.COMPLETE
            self.study.tell(trial, value, state=state)
            return
        self.study.tell(trial, state=states.FAIL)
        self.study.add_trial(
            self.optuna.trial.create_trial(
                params=params, distributions=self.distributions, value=value
            )
        )
