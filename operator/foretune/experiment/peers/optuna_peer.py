"""Optuna's TPE as a peer: multivariate, with the constant liar in batches.

Run by the Python of its own environment, so it imports the standard library and Optuna only. A proposal that
was measured elsewhere (at the nearest row of a table) is told where it was measured: the trial that was
asked for is failed, which Optuna's samplers ignore, and a finished one is added at that place.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import sys
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

    def __init__(self, start: dict[str, Any]) -> None:
        """Make the study with the sampler that was asked for."""
        self.optuna = optuna = importlib.import_module("optuna")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = optuna.samplers
        sampler = samplers.TPESampler(
            seed=start["seed"], multivariate=True, constant_liar=start["batch"] > 1
        )
        self.study = optuna.create_study(direction=start["goal"], sampler=sampler)
        self.distributions = distributions(optuna, start["space"])
        self.asked: dict[str, Any] = {}
        self.memory = peak_mib()

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

    def used(self) -> dict[str, float]:
        """Return CPU seconds and growth of memory."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        return {"cpu_s": own.ru_utime + own.ru_stime, "grown_mib": peak_mib() - self.memory}


def peak_mib() -> float:
    """Return the peak of resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def answer(run: Run | None, message: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Return the run and the answer to one message."""
    if message["do"] == "start":
        run = Run(message)
        return run, {"used": run.used()}
    assert run is not None, "start comes first"
    found: dict[str, Any] = {}
    if message["do"] == "ask":
        found["configurations"] = run.ask(message["n"])
    elif message["do"] == "tell":
        run.tell(message["token"], message["params"], message["value"])
    else:
        raise ValueError(f"do: {message['do']!r}")
    return run, found | {"used": run.used()}


def main() -> None:
    """Answer line by line; what libraries print goes to stderr."""
    run: Run | None = None
    out = sys.stdout
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                run, said = answer(run, json.loads(line))
            except Exception as error:  # noqa: BLE001 - it is told, and ends the run
                said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), file=out, flush=True)


if __name__ == "__main__":
    main()
