"""Syne Tune's methods that learn from past tasks: zero-shot, bounding box, quantile (copula Thompson sampling).

Run by the Python of its own environment, so it imports the standard library and that environment's packages.
None of the three takes account of what its own proposals gave, so outcomes are not passed on. Repaired, since
a comparison with a crash says nothing (as released, 0.16.0):

* zero-shot implements `get_config`, but its scheduler calls `suggest`, which proposes at random: `get_config` is
  asked. Its surrogates draw candidates before the random state exists, and other ones for each task, which it then
  ranks as if they were the same: the state is made first, and all tasks get the same candidates.
* bounding box wraps random search here, as in its own example; that draws from numpy's global state, which is
  seeded, so that a run can be repeated.

Quantile runs as released. Goals are minimised; rows that failed are left out, since none of them has a place for them.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

METRIC = "loss"
"""What the objective is called within Syne Tune."""


class Run:
    """One scheduler or searcher."""

    def __init__(self, method: str, start: dict[str, Any]) -> None:
        """Make what was asked for of the space and the past tasks."""
        self.domains = start["space"]
        space = config_space(self.domains)
        tasks = evaluations(start, space)
        make = {"zero-shot": zero_shot, "bounding-box": bounding_box, "quantile": quantile}[method]
        self.suggest = make(space, tasks, start["seed"])
        self.count = 0

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return `n` configurations."""
        found = []
        for _ in range(n):
            params = self.suggest()
            legal = {name: nearest(entry, params[name]) for name, entry in self.domains.items()}
            found.append({"token": self.count, "params": legal})
            self.count += 1
        return found

    def tell(self, token: str, params: dict[str, Any], value: float | None) -> None:
        """Take note of nothing: these methods learn from past tasks alone."""


def config_space(domains: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return Syne Tune's form of a manifest's space."""
    kinds: Any = importlib.import_module("syne_tune.config_space")
    found: dict[str, Any] = {}
    for name, entry in domains.items():
        if entry["type"] == "const":
            found[name] = entry["value"]
        elif entry["type"] in ("choice", "ordinal"):
            found[name] = kinds.choice(entry["values"])
        else:
            log = entry["scale"] == "log"
            whole = kinds.lograndint if log else kinds.randint
            real = kinds.loguniform if log else kinds.uniform
            found[name] = (whole if entry["type"] == "int" else real)(entry["min"], entry["max"])
    return found


def nearest(entry: dict[str, Any], value: Any) -> Any:
    """Return the value as the space has it: tables of a method hold whole numbers as floats."""
    if hasattr(value, "item"):
        value = value.item()
    if entry["type"] == "const":
        return entry["value"]
    if entry["type"] in ("choice", "ordinal"):
        if isinstance(value, str):
            return value
        return min(entry["values"], key=lambda option: abs(option - value))
    if entry["type"] == "int":
        return round(value)
    step = entry.get("step")
    if step is not None:
        value = entry["min"] + round((value - entry["min"]) / step) * step
    return min(entry["max"], max(entry["min"], float(value)))


def evaluations(start: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    """Return the past tasks as Syne Tune takes them, each with its rows that have a value."""
    module: Any = importlib.import_module(
        "syne_tune.optimizer.schedulers.transfer_learning.transfer_learning_task_evaluation"
    )
    pandas: Any = importlib.import_module("pandas")
    numpy: Any = importlib.import_module("numpy")
    sign = -1.0 if start["goal"] == "maximize" else 1.0
    found: dict[str, Any] = {}
    for number, rows in enumerate(start["history"]):
        kept = [row for row in rows if row["value"] is not None and math.isfinite(row["value"])]
        if not kept:
            continue
        values = numpy.array([sign * row["value"] for row in kept]).reshape(-1, 1, 1, 1)
        found[str(number)] = module.TransferLearningTaskEvaluations(
            configuration_space=space,
            hyperparameters=pandas.DataFrame([row["params"] for row in kept])[list(space)],
            objectives_names=[METRIC],
            objectives_evaluations=values,
        )
    return found


def zero_shot(space: dict[str, Any], tasks: dict[str, Any], seed: int) -> Any:
    """Return a source of proposals: the candidate that adds most to the best rank on the past tasks."""
    numpy: Any = importlib.import_module("numpy")
    module: Any = importlib.import_module(
        "syne_tune.optimizer.schedulers.transfer_learning.zero_shot"
    )

    class Repaired(module.ZeroShotTransfer):  # type: ignore[misc]  # it is of another environment
        """With a random state from the start, and the same candidates for every task."""

        def __init__(self, **arguments: Any) -> None:
            self.random_state = numpy.random.RandomState(seed)
            self.drawn: list[Any] = []
            self.asked = 0
            super().__init__(**arguments)

        def _sample_random_config(self, config_space: dict[str, Any]) -> Any:
            count = 10000 if len(config_space) >= 6 else 5 ** len(config_space)  # noqa: PLR2004 - as in theirs
            if len(self.drawn) < count:
                self.drawn.append(super()._sample_random_config(config_space))
            self.asked += 1
            return self.drawn[(self.asked - 1) % count]

    method = Repaired(
        config_space=space,
        metric=METRIC,
        transfer_learning_evaluations=tasks,
        do_minimize=True,
        use_surrogates=True,
        random_seed=seed,
    )
    return method.get_config


def bounding_box(space: dict[str, Any], tasks: dict[str, Any], seed: int) -> Any:
    """Return a source of proposals: at random in the box of the past tasks' best configurations."""
    numpy: Any = importlib.import_module("numpy")
    baselines: Any = importlib.import_module("syne_tune.optimizer.baselines")
    module: Any = importlib.import_module(
        "syne_tune.optimizer.schedulers.transfer_learning.bounding_box"
    )
    numpy.random.seed(seed)

    def random_search(box: dict[str, Any], metric: str, minimize: bool, seed: int) -> Any:  # noqa: FBT001 - theirs
        return baselines.RandomSearch(box, metrics=[metric], do_minimize=minimize, random_seed=seed)

    method = module.BoundingBox(
        scheduler_fun=random_search,
        config_space=space,
        metric=METRIC,
        transfer_learning_evaluations=tasks,
        do_minimize=True,
        random_seed=seed,
    )
    return lambda: method.suggest().config


def quantile(space: dict[str, Any], tasks: dict[str, Any], seed: int) -> Any:
    """Return a source of proposals: Thompson samples of a regression of the past tasks' quantiles."""
    module: Any = importlib.import_module(
        "syne_tune.optimizer.schedulers.transfer_learning.quantile_based.quantile_based_searcher"
    )
    searcher = module.QuantileBasedSurrogateSearcher(
        config_space=space, transfer_learning_evaluations=tasks, random_seed=seed
    )
    return searcher.suggest
