"""How long a suggestion takes with a large history, and what it holds: each size in a process of its own.

The history is made up, since no recorded one has a million rows: a noisy valley over eight hyperparameters whose
place depends on the task, one row in twenty out of memory. Preparing is what happens once for a history: its rows are
read, and the first suggestion fits the model of the past tasks. Latency is that of later suggestions at 100 trials,
each about another job; the two experts have the turn alternately. Growth is the peak above the bare imports and the
caller's own rows.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Objective
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import InvalidInputError
from foretune.experiment.campaign import code_digest
from foretune.experiment.resources import PeakMemory, cpu_s
from foretune.optimizer import Observation, Optimizer, TaskHistory
from foretune.search.designer import Deadline, Problem, designer_for, split
from foretune.search.sampling import draw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from foretune.domain.space import Params, Space

OBSERVED: Final = 100
"""Trials of the job itself."""

START: Final = 10
"""Trials by the plain expert in any case: its start is over."""

WARM_UP: Final = 4
"""Suggestions before those that count."""

FILE: Final = "latency.json"
"""Where the figures are kept, in the folder of the runs."""

SPACE: Final = {
    "learning_rate": {"min": 0.00001, "max": 0.1, "scale": "log"},
    "batch_size": {"values": [16, 32, 64, 128, 256]},
    "layers": {"min": 1, "max": 8},
    "units": {"min": 16, "max": 1024, "scale": "log"},
    "dropout": {"min": 0.0, "max": 0.6, "type": "float"},
    "momentum": {"min": 0.1, "max": 0.99},
    "optimizer": {"values": ["adam", "sgd", "rmsprop"]},
    "weight_decay": {"min": 0.000001, "max": 0.1, "scale": "log"},
}
"""Eight hyperparameters."""


def shape_of(text: str) -> tuple[int, int]:
    """Return tasks and rows of each, as `100x1000` says; raises `InvalidInputError`."""
    tasks, _, rows = text.partition("x")
    if not (tasks.isdecimal() and rows.isdecimal() and int(tasks) and int(rows)):
        raise InvalidInputError(f"shapes: must be TASKSxROWS, as 100x1000, not {text!r}")
    return int(tasks), int(rows)


def measure(shapes: Sequence[tuple[int, int]], folder: Path, *, repeats: int) -> dict[str, Any]:
    """Measure every shape, each in a fresh process; write the figures into `folder` and return them."""
    context = multiprocessing.get_context("spawn")
    cases: list[dict[str, Any]] = []
    for tasks, rows in shapes:
        with context.Pool(1) as pool:
            cases.append(pool.apply(case, (tasks, rows, repeats)))
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


def case(tasks: int, rows: int, repeats: int) -> dict[str, Any]:
    """Return the figures of one shape. Raises `RuntimeError` when a model did not answer."""
    import botorch  # noqa: F401, PLC0415 - part of what the memory is compared with
    import gpytorch  # noqa: F401, PLC0415

    space = parse_space(SPACE, "space")
    history = [TaskHistory(f"task-{i}", list(_rows(space, i, rows))) for i in range(tasks)]
    memory = PeakMemory()
    began = cpu_s()
    optimizer = Optimizer(space, history=history)
    reading = cpu_s() - began
    optimizer.suggest()
    first = cpu_s() - began
    kept = optimizer.history
    assert isinstance(kept, tuple)
    designer, objective = designer_for("auto"), Objective(metric="val_loss", goal=Goal.MINIMIZE)
    cpu, wall, proposers = [], [], set()
    for seed in range(WARM_UP + repeats):
        problem = Problem(space=space, objective=objective, seed=seed, history=kept)
        completed, pending = split(_observed(space, seed))
        busy, began = cpu_s(), time.perf_counter()
        proposed = designer.suggest(problem, completed, pending, Deadline(600.0))
        cpu.append(cpu_s() - busy)
        wall.append(time.perf_counter() - began)
        proposers.add(proposed.proposer)
    if proposers != {"gp", "meta-gp"}:
        raise RuntimeError(f"{tasks}x{rows}: answered by {sorted(proposers)}, not by the models")
    cpu, wall = cpu[WARM_UP:], wall[WARM_UP:]
    return {
        "tasks": tasks,
        "rows": tasks * rows,
        "reading_cpu_s": reading,
        "first_cpu_s": first,
        "cpu_p50_s": float(np.quantile(cpu, 0.5)),
        "cpu_p99_s": float(np.quantile(cpu, 0.99)),
        "wall_p50_s": float(np.quantile(wall, 0.5)),
        "wall_p99_s": float(np.quantile(wall, 0.99)),
        "growth_mib": memory.grown_mib(),
    }


def _loss(params: Params, task: int, rng: random.Random) -> float:
    """Return a noisy valley over `SPACE` whose place depends on the task."""
    shift = math.sin(task)
    lr, layers, units = (float(params[name]) for name in ("learning_rate", "layers", "units"))
    return (
        0.2
        + 0.1 * (math.log10(lr) + 2.7 + 0.4 * shift) ** 2
        + 0.05 * abs(math.log2(float(params["batch_size"]) / 64))
        + 0.01 * (layers - 5 - shift) ** 2
        + 0.02 * (math.log2(units) - 7) ** 2
        + 0.5 * (float(params["dropout"]) - 0.2) ** 2
        + 0.1 * (float(params["momentum"]) - 0.8) ** 2
        + {"adam": 0.0, "sgd": 0.08, "rmsprop": 0.03}[str(params["optimizer"])]
        + 0.01 * abs(math.log10(float(params["weight_decay"])) + 3)
        + rng.gauss(0.0, 0.01)
    )


def _drawn(space: Space, rng: random.Random) -> Params:
    """Return a random configuration."""
    return {p.name: draw(p, rng.random()) for p in space.parameters}


def _rows(space: Space, task: int, count: int) -> Iterator[Observation]:
    """Yield the rows of a past task, one in twenty out of memory."""
    rng = random.Random(task)  # noqa: S311 - not cryptography
    for i in range(count):
        params = _drawn(space, rng)
        if i % 20 == 19:  # noqa: PLR2004 - one in twenty
            yield Observation(params, failure="oom")
        else:
            yield Observation(params, value=_loss(params, task, rng))


def _observed(space: Space, seed: int) -> list[Trial]:
    """Return the ended trials of a job; by turns it is the one or the other expert's turn."""
    rng = random.Random(-1 - seed)  # noqa: S311 - not cryptography
    found: list[Trial] = []
    for i in range(OBSERVED):
        trial = Trial(
            job_uid=f"bench-{seed}",
            index=i,
            params=_drawn(space, rng),
            state=TrialState.COMPLETED,
            config_hash="",
            reason=EndReason.DONE,
            # With few proposals of its own it is the plain expert's turn.
            proposer="gp" if seed % 2 or i < START else "meta-gp",
        )
        if i % 20 == 19:  # noqa: PLR2004 - one in twenty
            found.append(
                replace(trial, state=TrialState.INFEASIBLE, reason=EndReason.OUT_OF_MEMORY)
            )
        else:
            found.append(replace(trial, value=_loss(trial.params, 0, rng)))
    return found
