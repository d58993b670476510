"""Early stopping replayed on recorded curves: what each rule saves, and which bests it would have killed.

A run takes some rows of a task in random order, one after another, and shows a rule each curve report by
report. A stop is false where the best of the run is lost by it. What a rule knows of the past are the other
tasks of the same family, never the task itself.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow.parquet as pq

from foretune.domain.job import EarlyStopping, Goal, Objective, StopMethod
from foretune.experiment import statistics as st
from foretune.experiment.tasks import half_of
from foretune.search.curves import Curve, CurveModel, learn
from foretune.search.stopping import Stopper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

PER_TASK: Final = 100
"""Curves of each past task, as many as a tracking server reads."""

TASKS: Final = 16
"""Past tasks, drawn at random where there are more."""

RULES: Final = {
    "median": (StopMethod.MEDIAN, False),
    "asha": (StopMethod.ASHA, False),
    "curve, own": (StopMethod.CURVE, False),
    "curve": (StopMethod.CURVE, True),
}
"""Rule to method, and whether it sees past tasks."""


@dataclass(frozen=True)
class Recorded:
    """The whole curves of one task."""

    family: str
    task: str
    objective: Objective
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Result:
    """What a rule did in one run."""

    false: bool
    """Whether the best of the run was stopped."""
    saved: float
    """Share of epochs that were not trained."""
    regret: float
    """What was lost of the best value, in units of the distance from the median to the best."""
    stopped: float
    """Share of trials that were stopped."""
    error: float
    """Mean distance of predicted final values from the true ones, in their deviations; NaN without any."""


def load(folder: Path) -> list[Recorded]:
    """Return every recorded task with curves, from `folder`/history."""
    return [task for read in READERS for task in read(folder / "history")]


def _task(family: str, task: str, goal: Goal, epochs: Any, values: Any) -> Recorded | None:
    """Return a task of `n` curves with the same epochs; rows that never were finite are left out."""
    objective = Objective(metric="value", goal=goal)
    made = [
        Curve.of(
            objective,
            list(zip(epochs, map(float, row), strict=True)),
            full=float(epochs[-1]),
            ended=True,
        )
        for row in values
    ]
    whole = tuple(c for c in made if c.points and c.points[-1][0] == epochs[-1])
    return Recorded(family, task, objective, whole) if len(whole) >= 10 else None  # noqa: PLR2004


def _by_task(
    path: Path, family: str, columns: Sequence[tuple[str, Goal]], *, first: int = 0
) -> Iterator[Recorded]:
    """Yield tasks of a file with list columns: the first column whose curves are there counts."""
    data = pq.read_table(path, columns=["task", *(c for c, _ in columns)]).to_pydict()
    rows: dict[str, list[int]] = defaultdict(list)
    for i, task in enumerate(data["task"]):
        rows[task].append(i)
    for task, indices in sorted(rows.items()):
        for column, goal in columns:
            curves = [data[column][i][first:] for i in indices if data[column][i] is not None]
            lengths = [len(c) for c in curves if len(c) > 1]
            if not lengths:
                continue
            usual = max(set(lengths), key=lengths.count)
            kept = [c for c in curves if len(c) == usual]
            epochs = [float(i + 1) for i in range(usual)]
            if (found := _task(family, task, goal, epochs, kept)) is not None:
                yield found
            break


def _lcbench(folder: Path) -> Iterator[Recorded]:
    path = folder / "lcbench_a" / "lcbench_surrogate_a.parquet"
    return _by_task(path, "lcbench_a", [("val_acc_curve", Goal.MAXIMIZE)])


def _taskset(folder: Path) -> Iterator[Recorded]:
    path = folder / "taskset_imdb_rnn" / "taskset_imdb_rnn.parquet"
    # The first point is before the first step.
    return _by_task(path, "taskset_imdb_rnn", [("valid_loss_curve", Goal.MINIMIZE)], first=1)


def _deepobs(folder: Path) -> Iterator[Recorded]:
    columns = [("test_accuracies_curve", Goal.MAXIMIZE), ("test_losses_curve", Goal.MINIMIZE)]
    path = folder / "deepobs_baselines" / "deepobs_baselines.parquet"
    return _by_task(path, "deepobs_baselines", columns, first=1)


def _stepback(folder: Path) -> Iterator[Recorded]:
    path = folder / "stepback_runs" / "stepback_runs.parquet"
    return _by_task(path, "stepback_runs", [("val_score_curve", Goal.MAXIMIZE)])


def _lcdb(folder: Path) -> Iterator[Recorded]:
    """Yield learners on growing samples: the resource is the size of the sample."""
    columns = ["openmlid", "learner", "size_train", "acc_valid"]
    path = folder / "lcdb_sample_curves" / "lcdb_accuracy_mean.parquet"
    data = pq.read_table(path, columns=columns).to_pydict()
    tasks: dict[int, dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for task, learner, size, value in zip(*(data[c] for c in columns), strict=True):
        tasks[task][learner][float(size)] = value
    for task, learners in sorted(tasks.items()):
        sizes = sorted({size for sizes in learners.values() for size in sizes})
        # The largest samples were too much for some learners: up to where three in four have a value.
        common = [
            s for s in sizes if sum(s in c for c in learners.values()) >= 0.75 * len(learners)
        ]
        whole = [c for c in learners.values() if all(s in c for s in common)]
        if len(common) >= 8 and len(whole) >= 10:  # noqa: PLR2004 - less is no curve, or no run
            values = [[c[s] for s in common] for c in whole]
            found = _task("lcdb_sample_curves", str(task), Goal.MAXIMIZE, common, values)
            if found is not None:
                yield found


READERS: Final[tuple[Callable[[Path], Iterator[Recorded]], ...]] = (
    _lcbench,
    _taskset,
    _deepobs,
    _stepback,
    _lcdb,
)


def prior_of(target: Recorded, tasks: Sequence[Recorded], *, grace: int) -> CurveModel | None:
    """Return what the other tasks of the family tell, with the same direction."""
    rng = random.Random(f"{target.family}/{target.task}")  # noqa: S311 - not cryptography
    others = [
        t
        for t in tasks
        if t.family == target.family and t is not target and t.objective == target.objective
    ]
    chosen = rng.sample(others, min(TASKS, len(others)))
    past = [rng.sample(t.curves, min(PER_TASK, len(t.curves))) for t in chosen]
    return learn(target.objective, past, grace=grace)


def run(
    task: Recorded,
    spec: EarlyStopping,
    prior: CurveModel | None,
    *,
    trials: int,
    seed: int,
) -> Result:
    """Run through `trials` rows in an order of their own."""
    rng = random.Random(f"{task.family}/{task.task}/{seed}")  # noqa: S311 - not cryptography
    order = rng.sample(task.curves, min(trials, len(task.curves)))
    ended: list[Curve] = []
    others: list[Curve] = []
    spent: list[float] = []
    errors: list[float] = []
    stopper = Stopper(spec, task.objective, ended, prior)
    for curve in order:
        cut = _shown(stopper, curve, others)
        spent.append(cut.share)
        if cut.share < 1:
            others.append(cut)
            final = stopper.final(cut)
            if final is not None and final[1] > 0:
                errors.append(abs(curve.last - final[0]) / final[1])
        else:
            ended.append(curve)
            stopper = Stopper(spec, task.objective, ended, prior)
    sign = 1.0 if task.objective.goal is Goal.MAXIMIZE else -1.0
    values = np.array([sign * c.last for c in order])
    best = values.max()
    kept = max(sign * c.last for c in ended)
    spread = max(best - float(np.median(values)), 1e-12)
    return Result(
        false=kept < best - 1e-12,
        saved=1 - float(np.mean(spent)),
        regret=float((best - kept) / spread),
        stopped=len(others) / len(order),
        error=float(np.mean(errors)) if errors else float("nan"),
    )


def _shown(stopper: Stopper, curve: Curve, others: Sequence[Curve]) -> Curve:
    """Return what of a curve was trained."""
    for n in range(1, len(curve.points)):
        cut = Curve(curve.points[:n], curve.full)
        if stopper.decide(cut, others) is not None:
            return cut
    return curve


def measure(
    tasks: Sequence[Recorded], *, trials: int, runs: int, half: str = ""
) -> dict[tuple[str, str], dict[str, list[Result]]]:
    """Return results by (rule, family) and task."""
    found: dict[tuple[str, str], dict[str, list[Result]]] = defaultdict(dict)
    for task in tasks:
        if half and half_of(task.family, task.task) != half:
            continue
        for rule, (method, learns) in RULES.items():
            spec = EarlyStopping(method=method)
            prior = prior_of(task, tasks, grace=spec.grace_trials) if learns else None
            if learns and prior is None:
                continue
            found[rule, task.family][task.task] = [
                run(task, spec, prior, trials=trials, seed=seed) for seed in range(runs)
            ]
    return found


def table(found: dict[tuple[str, str], dict[str, list[Result]]]) -> str:
    """Return the results as a table of Markdown, intervals by the bootstrap over tasks."""
    lines = [
        "| rule | history | tasks | best killed, % | epochs saved, % | regret, % | trials stopped, % | error, sd |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (rule, family), by_task in sorted(found.items()):
        cells = [_cell(by_task, name) for name in ("false", "saved", "regret", "stopped")]
        errors = [r.error for results in by_task.values() for r in results]
        error = f"{np.nanmean(errors):.2f}" if np.isfinite(errors).any() else "-"
        lines.append(f"| {rule} | {family} | {len(by_task)} | {' | '.join(cells)} | {error} |")
    return "\n".join(lines)


def _cell(by_task: dict[str, list[Result]], name: str) -> str:
    means = np.array([np.mean([getattr(r, name) for r in rs]) for rs in by_task.values()])
    found = st.interval(100 * means, list(by_task))
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"
