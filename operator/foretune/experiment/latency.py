"""How long a suggestion takes with a large history, and what it holds: each size in a process of its own.

The history is made up, since no recorded one has a million rows: tasks of equal size over eight parameters, each
a noisy valley with its own optimum near a common one. What the caller's own rows hold is told apart from the growth.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from foretune.experiment.campaign import code_digest
from foretune.experiment.resources import PeakMemory, cpu_s, resident_mib
from foretune.optimizer import Observation, Optimizer, TaskHistory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SPACE: Final = {
    "lr": {"min": 1e-5, "max": 1e-1, "scale": "log"},
    "weight_decay": {"min": 1e-6, "max": 1e-1, "scale": "log"},
    "dropout": {"min": 0.0, "max": 0.7},
    "momentum": {"min": 0.0, "max": 0.99},
    "batch_size": {"min": 16, "max": 512, "type": "int", "scale": "log"},
    "layers": {"min": 1, "max": 8, "type": "int"},
    "mixup": {"min": 0.0, "max": 1.0},
    "warmup": {"min": 0.0, "max": 0.3},
}
"""Eight numbers, some of whose names say what they are."""

TASKS: Final = 100
"""Tasks among which the rows are divided."""

OBSERVED: Final = 90
"""Trials of the job before suggestions count."""

COUNTED: Final = 20
"""Suggestions that count, from `OBSERVED` + 1 on: at 100 observations in the middle."""

FILE: Final = "latency.json"
"""Where the figures are kept, in the folder of the runs."""


def measure(sizes: Sequence[int], folder: Path) -> dict[str, Any]:
    """Measure every size, each in a fresh process; write the figures into `folder` and return them."""
    context = multiprocessing.get_context("spawn")
    cases: list[dict[str, Any]] = []
    for rows in sizes:
        with context.Pool(1) as pool:
            cases.append(pool.apply(case, (rows,)))
    found = {"cases": cases, "code": code_digest()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def read(folders: Sequence[Path]) -> dict[str, Any] | None:
    """Return the figures of the first folder that has any."""
    for folder in folders:
        if (folder / FILE).is_file():
            found: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return found
    return None


def case(rows: int) -> dict[str, Any]:
    """Return the figures of one size."""
    import botorch  # noqa: F401, PLC0415
    import gpytorch  # noqa: F401, PLC0415

    bare = resident_mib()
    tasks = history(rows)
    held = resident_mib() - bare
    memory = PeakMemory()
    began = cpu_s()
    optimizer = Optimizer(SPACE, history=tasks, seed=0)
    rng = random.Random(0)  # noqa: S311 - not cryptography
    _suggest(optimizer, rng)
    first = cpu_s() - began
    while len(optimizer.observations) < OBSERVED:
        params = _drawn(rng)
        optimizer.observe(params, value=_loss(params, 0.5, rng))
    taken = [_suggest(optimizer, rng) for _ in range(1 + COUNTED)][1:]
    cpu, wall = zip(*taken, strict=True)
    return {
        "rows": rows,
        "first_cpu_s": first,
        "cpu_p50_s": float(np.quantile(cpu, 0.5)),
        "cpu_p99_s": float(np.quantile(cpu, 0.99)),
        "wall_p50_s": float(np.quantile(wall, 0.5)),
        "wall_p99_s": float(np.quantile(wall, 0.99)),
        "growth_mib": memory.grown_mib(),
        "rows_mib": held,
    }


def history(rows: int) -> tuple[TaskHistory, ...]:
    """Return so many rows in `TASKS` tasks."""
    rng = random.Random(1)  # noqa: S311 - not cryptography
    found = []
    for number in range(min(TASKS, rows)):
        best = 0.5 + 0.2 * rng.random()
        configurations = [_drawn(rng) for _ in range(rows // min(TASKS, rows))]
        observations = [Observation(p, value=_loss(p, best, rng)) for p in configurations]
        found.append(TaskHistory(name=f"task-{number}", observations=observations, space=SPACE))
    return tuple(found)


def _suggest(optimizer: Optimizer, rng: random.Random) -> tuple[float, float]:
    """Return CPU and wall seconds of one suggestion, which is then observed."""
    busy, began = cpu_s(), time.perf_counter()
    (suggestion,) = optimizer.suggest()
    taken = cpu_s() - busy, time.perf_counter() - began
    optimizer.observe(suggestion.id, value=_loss(suggestion.params, 0.5, rng))
    return taken


def _drawn(rng: random.Random) -> dict[str, Any]:
    return {
        "lr": 10 ** rng.uniform(-5, -1),
        "weight_decay": 10 ** rng.uniform(-6, -1),
        "dropout": rng.uniform(0.0, 0.7),
        "momentum": rng.uniform(0.0, 0.99),
        "batch_size": round(2 ** rng.uniform(4, 9)),
        "layers": rng.randint(1, 8),
        "mixup": rng.random(),
        "warmup": rng.uniform(0.0, 0.3),
    }


def _loss(params: Mapping[str, Any], best: float, rng: random.Random) -> float:
    """Return a noisy valley with its lowest learning rate at `best` of its logarithmic range."""
    lr, dropout, layers = (float(params[name]) for name in ("lr", "dropout", "layers"))
    away = (math.log10(lr) + 5) / 4 - best
    rest = (dropout - 0.3) ** 2 + 0.01 * (layers - 4) ** 2
    return 0.1 + away**2 + 0.3 * rest + rng.gauss(0.0, 0.01)
