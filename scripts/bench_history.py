"""How long a suggestion takes with a large history, what reading it costs, and the memory it leaves.

    python -m scripts.bench_history            prints a table, writes build/bench-history.json
    python -m scripts.bench_history --shapes 1000x1000 --repeats 20

Each shape (tasks x rows of each) is measured in a process of its own, through `Optimizer(history=...)`: eight
hyperparameters, rows of the past tasks drawn at random, 100 trials of the job itself, one in twenty out of
memory. Preparing is what happens once for a history: the optimizer is made, and the first suggestion reads
the rows and fits the model of the past tasks. Latency is that of later suggestions, each about another job;
the two experts have the turn alternately. Memory is counted when the caller's own rows are dropped, and,
while they are there, by how much it rose beyond them.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import platform
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scripts.bench_suggest import bare, memory, quantile

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Objective
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.optimizer import Observation, Optimizer, TaskHistory
from foretune.search.designer import Deadline, Problem, designer_for, split
from foretune.search.sampling import draw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from foretune.domain.space import Params, Space

FILE: Final = Path("build/bench-history.json")
"""Where the figures go, below the current folder."""

SHAPES: Final = ("100x1000", "1000x1000", "1x1000000")
"""Tasks and rows of each."""

OBSERVED: Final = 100
"""Trials of the job itself."""

START: Final = 10
"""Trials by the plain expert in any case: its start is over."""

WARM_UP: Final = 4
"""Suggestions before those that count."""

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


def loss(params: Params, task: int, rng: random.Random) -> float:
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


def drawn(space: Space, rng: random.Random) -> Params:
    """Return a random configuration."""
    return {p.name: draw(p, rng.random()) for p in space.parameters}


def rows(space: Space, task: int, count: int) -> Iterator[Observation]:
    """Yield the rows of a past task, one in twenty out of memory."""
    rng = random.Random(task)  # noqa: S311 - not cryptography
    for i in range(count):
        params = drawn(space, rng)
        if i % 20 == 19:  # noqa: PLR2004 - one in twenty
            yield Observation(params, failure="oom")
        else:
            yield Observation(params, value=loss(params, task, rng))


def observed(space: Space, seed: int) -> list[Trial]:
    """Return the ended trials of a job; by turns it is the one or the other expert's turn."""
    rng = random.Random(-1 - seed)  # noqa: S311 - not cryptography
    found: list[Trial] = []
    for i in range(OBSERVED):
        trial = Trial(
            job_uid=f"bench-{seed}",
            index=i,
            params=drawn(space, rng),
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
            found.append(replace(trial, value=loss(trial.params, 0, rng)))
    return found


def serve(pipe: Connection, tasks: int, count: int, repeats: int) -> None:
    """Measure one shape in this process, and send the figures through `pipe`."""
    import botorch  # noqa: F401, PLC0415 - part of what the memory is compared with
    import gpytorch  # noqa: F401, PLC0415

    space = parse_space(SPACE, "space")
    history = [TaskHistory(f"task-{i}", list(rows(space, i, count))) for i in range(tasks)]
    given = memory()["rss"]
    began, worked = time.perf_counter(), time.process_time()
    optimizer = Optimizer(space, history=history)
    read = {"read_s": time.perf_counter() - began, "read_cpu_s": time.process_time() - worked}
    rose = memory()["peak"] - given
    del history
    gc.collect()
    kept = optimizer.history
    assert isinstance(kept, tuple)
    began, worked = time.perf_counter(), time.process_time()
    optimizer.suggest()
    read |= {"fit_s": time.perf_counter() - began, "fit_cpu_s": time.process_time() - worked}
    designer = designer_for("auto")
    objective = Objective(metric="val_loss", goal=Goal.MINIMIZE)
    seconds, busy, proposers = [], [], []
    for seed in range(WARM_UP + repeats):
        problem = Problem(space=space, objective=objective, seed=seed, history=kept)
        completed, pending = split(observed(space, seed))
        began, worked = time.perf_counter(), time.process_time()
        proposed = designer.suggest(problem, completed, pending, Deadline(600.0))
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - worked)
        proposers.append(proposed.proposer)
    if set(proposers) != {"gp", "meta-gp"}:
        raise SystemExit(
            f"{tasks}x{count}: answered by {sorted(set(proposers))}, not by the models"
        )
    gc.collect()
    figures = {"p50": 0.5, "p99": 0.99}
    latency = {f"{n}_s": quantile(seconds[WARM_UP:], q) for n, q in figures.items()}
    latency |= {f"cpu_{n}_s": quantile(busy[WARM_UP:], q) for n, q in figures.items()}
    held = {"given": given, "rose": max(0.0, rose), "rss": memory()["rss"]}
    pipe.send({"tasks": tasks, "rows": tasks * count, **read, **latency, "memory_mib": held})


def measure(shapes: list[str], repeats: int) -> dict[str, Any]:
    """Return all figures. Raises `RuntimeError` when a measured process fails."""
    base = bare()
    found: dict[str, Any] = {"bare_mib": base, "repeats": repeats, "shapes": []}
    for shape in shapes:
        tasks, count = (int(part) for part in shape.split("x"))
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, tasks, count, repeats)
        )
        child.start()
        theirs.close()
        try:
            row: dict[str, Any] = ours.recv()
        except EOFError:
            child.join()
            raise RuntimeError(
                f"{shape}: the measured process ended with {child.exitcode}"
            ) from None
        child.join()
        row["memory_mib"]["growth"] = row["memory_mib"]["rss"] - base
        found["shapes"].append(row)
    found["machine"] = f"{os.cpu_count()} cores, {platform.machine()}"
    found["load"] = os.getloadavg()[0]
    return found


COLUMNS: Final = {
    "p50 (s)": "{p50_s:.3f}",
    "p99 (s)": "{p99_s:.3f}",
    "CPU p50 (s)": "{cpu_p50_s:.3f}",
    "CPU p99 (s)": "{cpu_p99_s:.3f}",
    "reading (s; CPU)": "{read_s:.1f}; {read_cpu_s:.1f}",
    "fitting (s; CPU)": "{fit_s:.1f}; {fit_cpu_s:.1f}",
    "rise while reading (MiB)": "{rose:.0f}",
    "growth (MiB)": "{growth:.0f}",
}
"""Head of a column, and what stands in it."""


def table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown, ready for docs/benchmarks.md."""
    lines = [f"| history | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in found["shapes"]:
        cells = " | ".join(cell.format(**row, **row["memory_mib"]) for cell in COLUMNS.values())
        each = row["rows"] // row["tasks"]
        lines.append(f"| {row['tasks']:,} tasks of {each:,} rows | {cells} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    found = measure(options.shapes, options.repeats)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))
    print(f"\nwritten: {options.out} ({found['machine']}; load {found['load']:.1f})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
