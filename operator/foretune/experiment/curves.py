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

from foretune.api.space import parse_space
from foretune.domain.job import EarlyStopping, Goal, Objective, StopMethod
from foretune.domain.space import Params
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.experiment import statistics as st
from foretune.experiment.tasks import family_of, half_of, legal
from foretune.search.curves import Curve, CurveModel, learn
from foretune.search.designer import Completed, Deadline, Pending, Problem, designer_for
from foretune.search.stopping import Stopper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from foretune.search.designer import Suggestion

PER_TASK: Final = 100
"""Curves of each past task, as many as a tracking server reads."""

TASKS: Final = 16
"""Past tasks, drawn at random where there are more."""

FEWEST: Final = 10
"""Curves, and sizes of a sample, below which a task is no task."""

DESIGNED: Final = ("lcbench_a", "taskset_imdb_rnn")
"""Histories whose configurations the plain expert chooses among."""

RULES: Final = {
    "median": (StopMethod.MEDIAN, False),
    "asha": (StopMethod.ASHA, False),
    "own-curve": (StopMethod.CURVE, False),
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
    params: tuple[Params, ...] = ()
    """Of each curve, where a designer can choose among them."""


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
    reached: float
    """Regret of the best that ran to its end against the task's best row, in units of median to best."""
    error: float
    """Mean distance of predicted final values from the true ones, in their deviations; NaN without any."""


def load(folder: Path, families: Sequence[str] = ()) -> list[Recorded]:
    """Return the recorded tasks of some histories, or of all, from `folder`/history."""
    names = families or tuple(READERS)
    return [task for name in names for task in READERS[name](folder / "history")]


def _task(
    family: str,
    task: str,
    goal: Goal,
    epochs: Sequence[float],
    values: Sequence[Sequence[float]],
    *,
    params: Sequence[Params] = (),
) -> Recorded | None:
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
    kept = [i for i, c in enumerate(made) if c.points and c.points[-1][0] == epochs[-1]]
    if len(kept) < FEWEST:
        return None
    chosen = tuple(params[i] for i in kept) if params else ()
    return Recorded(family, task, objective, tuple(made[i] for i in kept), chosen)


def _by_task(
    path: Path, family: str, columns: Sequence[tuple[str, Goal]], *, first: int = 0
) -> Iterator[Recorded]:
    """Yield tasks of a file with list columns: the first column whose curves are there counts."""
    file = pq.read_table(path)
    data = file.select(["task", *(c for c, _ in columns)]).to_pydict()
    configurations = _configurations(family, file) if family in DESIGNED else ()
    rows: dict[str, list[int]] = defaultdict(list)
    for i, task in enumerate(data["task"]):
        rows[task].append(i)
    for task, indices in sorted(rows.items()):
        for column, goal in columns:
            curves = {i: data[column][i][first:] for i in indices if data[column][i] is not None}
            lengths = [len(c) for c in curves.values() if len(c) > 1]
            if not lengths:
                continue
            usual = max(set(lengths), key=lengths.count)
            kept = [i for i, c in curves.items() if len(c) == usual]
            epochs = [float(i + 1) for i in range(usual)]
            params = [configurations[i] for i in kept] if configurations else ()
            values = [curves[i] for i in kept]
            if (found := _task(family, task, goal, epochs, values, params=params)) is not None:
                yield found
            break


def _configurations(family: str, file: Any) -> list[Params]:
    """Return the configuration of each row of a file, as its family's space has it."""
    described = family_of(family)
    space = parse_space(described.space, "space")
    names = [n for n in file.column_names if not str(file.schema.field(n).type).startswith("list")]
    data = {n: file[n].to_numpy() for n in names}
    readers = {name: described.columns.get(name, name) for name in space.names}
    columns = {
        name: legal(space[name], data[reader] if isinstance(reader, str) else reader(data))
        for name, reader in readers.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


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
        if len(common) >= FEWEST:
            values = [[c[s] for s in common] for c in whole]
            found = _task("lcdb_sample_curves", str(task), Goal.MAXIMIZE, common, values)
            if found is not None:
                yield found


READERS: Final[dict[str, Callable[[Path], Iterator[Recorded]]]] = {
    "lcbench_a": _lcbench,
    "taskset_imdb_rnn": _taskset,
    "deepobs_baselines": _deepobs,
    "stepback_runs": _stepback,
    "lcdb_sample_curves": _lcdb,
}
"""Histories with curves, by name."""


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
    return _result(task, order, ended, spent, errors)


def _result(
    task: Recorded,
    order: Sequence[Curve],
    ended: Sequence[Curve],
    spent: Sequence[float],
    errors: Sequence[float],
) -> Result:
    sign = 1.0 if task.objective.goal is Goal.MAXIMIZE else -1.0
    values = np.array([sign * c.last for c in order])
    best = values.max()
    kept = max(sign * c.last for c in ended)
    spread = max(best - float(np.median(values)), 1e-12)
    everything = np.array([sign * c.last for c in task.curves])
    top, middle = everything.max(), float(np.median(everything))
    return Result(
        false=bool(kept < best - 1e-12),
        saved=1 - float(np.mean(spent)),
        regret=float((best - kept) / spread),
        stopped=1 - len(ended) / len(order),
        error=float(np.mean(errors)) if errors else float("nan"),
        reached=float((top - kept) / max(top - middle, 1e-12)),
    )


@dataclass(frozen=True)
class Product(CurveModel):
    """The curve's prediction times that of the model that proposed the trial, as two Gaussians."""

    proposed: tuple[float, float] = (0.0, float("inf"))
    """Mean and deviation of the final value when it was proposed, in this model's unit."""

    def predict(self, curve: Curve) -> tuple[float, float] | None:
        """Return mean and deviation of the product."""
        found = super().predict(curve)
        if found is None:
            return None
        (a, s), (b, t) = found, self.proposed
        weight = t * t / (s * s + t * t)
        return weight * a + (1 - weight) * b, s * t / float(np.hypot(s, t))


def designed(
    task: Recorded,
    spec: EarlyStopping,
    prior: CurveModel | None,
    *,
    trials: int,
    seed: int,
    product: bool = False,
) -> Result:
    """Run through `trials` rows that the plain expert chooses, which sees stopped ones as predicted."""
    space = parse_space(family_of(task.family).space, "space")
    rows = {space.key(params): i for i, params in enumerate(task.params)}
    problem = Problem(space=space, objective=task.objective, seed=seed, candidates=task.params)
    designer = designer_for("gp")
    told: list[Trial] = []
    ended: list[Curve] = []
    others: list[Curve] = []
    spent: list[float] = []
    errors: list[float] = []
    order: list[Curve] = []
    stopper = Stopper(spec, task.objective, ended, prior)
    for index in range(trials):
        made = designer.suggest(problem, Completed(told), Pending(), Deadline(float("inf")))
        curve = task.curves[rows[space.key(made.params)]]
        order.append(curve)
        if product:
            _multiply(stopper, made)
        cut = _shown(stopper, curve, others)
        spent.append(cut.share)
        value: tuple[float, float] | None = (curve.last, 0.0)
        if cut.share < 1:
            others.append(cut)
            value = stopper.final(cut)
            if value is not None and value[1] > 0:
                errors.append(abs(curve.last - value[0]) / value[1])
        else:
            ended.append(curve)
        stopper = Stopper(spec, task.objective, ended, prior)
        whole = cut.share >= 1
        told.append(
            Trial(
                job_uid="replay",
                index=index,
                params=made.params,
                state=TrialState.COMPLETED if whole else TrialState.EARLY_STOPPED,
                reason=EndReason.DONE if whole else EndReason.STOPPED_BY_RULE,
                config_hash="",
                value=value[0] if value is not None else None,
                value_sd=value[1] if value is not None else 0.0,
            )
        )
    return _result(task, order, ended, spent, errors)


def _multiply(stopper: Stopper, made: Suggestion) -> None:
    """Let a stopper's model heed what was expected of the trial, if a model proposed it."""
    model, mean, sd = stopper.model, made.detail.get("mean"), made.detail.get("sd")
    if model is None or mean is None or sd is None:
        return
    unit = model.unit
    spread = abs(unit.into(mean + sd) - unit.into(mean - sd)) / 2
    stopper.model = Product(
        unit, model.z, model.curves, model.tasks, model.points, (unit.into(mean), spread)
    )


def _shown(stopper: Stopper, curve: Curve, others: Sequence[Curve]) -> Curve:
    """Return what of a curve was trained."""
    for n in range(1, len(curve.points)):
        cut = Curve(curve.points[:n], curve.full)
        if stopper.decide(cut, others) is not None:
            return cut
    return curve


Found = dict[tuple[str, str], dict[str, list[Result]]]
"""Results by (rule, family) and task."""

UNDER_DESIGN: Final = ("none", "curve", "curve x forecast")
"""Rules that are tried with the plain expert's choices."""


def measure(
    tasks: Sequence[Recorded],
    *,
    trials: int,
    runs: int,
    half: str = "",
    design: int = 0,
    rules: Sequence[str] = tuple(RULES),
) -> Found:
    """Return results of the rules in random order, and of `design` runs of the plain expert."""
    found: Found = defaultdict(dict)
    for task in tasks:
        if half and half_of(task.family, task.task) != half:
            continue
        prior = prior_of(task, tasks, grace=EarlyStopping().grace_trials)
        for rule in rules:
            method, learns = RULES[rule]
            if learns and prior is None:
                continue
            known = prior if learns else None
            spec = EarlyStopping(method=method)
            found[rule, task.family][task.task] = [
                run(task, spec, known, trials=trials, seed=seed) for seed in range(runs)
            ]
        if task.params and design and prior is not None:
            for rule in UNDER_DESIGN:
                method = StopMethod.NONE if rule == "none" else StopMethod.CURVE
                found[f"gp, {rule}", task.family][task.task] = [
                    designed(
                        task,
                        EarlyStopping(method=method),
                        prior,
                        trials=trials,
                        seed=seed,
                        product=rule == UNDER_DESIGN[-1],
                    )
                    for seed in range(design)
                ]
    return found


COLUMNS: Final = {
    "false": "best killed, %",
    "saved": "epochs saved, %",
    "regret": "regret, %",
    "stopped": "trials stopped, %",
    "reached": "regret of the job, %",
}


def table(found: Found) -> str:
    """Return the results as a table of Markdown, intervals by the bootstrap over tasks."""
    lines = [
        f"| rule | history | tasks | {' | '.join(COLUMNS.values())} | error, sd |",
        f"|---|---|{'---|' * (len(COLUMNS) + 2)}",
    ]
    for (rule, family), by_task in sorted(found.items()):
        cells = [_cell(by_task, name) for name in COLUMNS]
        # The median: a single curve that jumps after its deviation had vanished would decide a mean.
        errors = [r.error for results in by_task.values() for r in results]
        known = [error for error in errors if np.isfinite(error)]
        error = f"{np.median(known):.2f}" if known else "-"
        lines.append(f"| {rule} | {family} | {len(by_task)} | {' | '.join(cells)} | {error} |")
    return "\n".join(lines)


def _cell(by_task: dict[str, list[Result]], name: str) -> str:
    means = np.array([np.mean([getattr(r, name) for r in rs]) for rs in by_task.values()])
    found = st.interval(100 * means, list(by_task))
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def write(found: Found, path: Path, *, command: str) -> None:
    """Write the table with what made it; text that stands below a line `<!-- -->` is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text() if path.exists() else ""
    _, mark, kept = before.partition(MARK)
    path.write_text(
        f"# Early stopping on recorded curves\n\n`{command}`\n\n{table(found)}\n\n{MARK}{kept if mark else chr(10)}"
    )


MARK: Final = "<!-- what follows is written by hand -->"
