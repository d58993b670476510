"""Makes a prior of past tasks, and judges it: would it have helped tasks that it did not see?

Each of some tasks is tuned again, choosing among its own recorded rows, with the other data sets' tasks as
history: by the designer that jobs get, once with the new prior's tasks, once with the champion's, once
without any. A new prior is promoted only when it is no worse than the champion (the first one: than
none). The figures are part of the artefact.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Final

from foretune import __version__
from foretune.app.artefact import MAX_FAVOUR, brief, digest, packed
from foretune.domain.job import Algorithm, Goal
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import InvalidInputError, SpaceExhaustedError
from foretune.search.designer import Completed, Deadline, Pending, Problem, designer_for

if TYPE_CHECKING:
    from foretune.app.artefact import Prior
    from foretune.domain.history import SourceTask
    from foretune.domain.space import Params

MIN_TASKS: Final = 3
"""Tasks below which nothing can be held out and something still be learned."""

HELD_OUT: Final = 8
"""Tasks tuned again at most: each takes some seconds with each prior."""

ENOUGH: Final = 12
"""Different configurations a task needs to be tuned again: fewer are soon all tried."""

BUDGET: Final = 10
"""Evaluations of each replay."""

FIRST: Final = 5
"""Values after which the evidence for the prior is read."""

SLACK: Final = 0.05
"""How much worse than the champion a new prior may be: of its regret, and nats a value."""

GRAIN: Final = 0.01
"""Regret that is no difference: a held-out task has some dozens of rows."""

WIDTH: Final = 1.645
"""Standard deviations on each side that hold 90 % of a normal distribution."""

NEW_TASKS: Final = 3
NEW_SHARE: Final = 0.05
"""New tasks that are worth a new prior: at least, and as a share of those known."""

DAY_S: Final = 86_400.0
"""Age in seconds from which any change is worth a new prior."""

Progress = Callable[[int, int, str], None]
"""Hears how many of how many steps are done, and what is done now."""


_WITH: Final = {
    "prior": "with the new prior",
    "plain": "without a prior",
    "champion": "with the champion",
}


@dataclass(frozen=True)
class Replay:
    """One held-out task, tuned again with one prior."""

    regret: float
    """After `BUDGET` evaluations: 0 the task's best row, 1 its middle one."""
    inside: tuple[bool, ...]
    """For each value whether it lay in the 90 % interval that was predicted for it."""
    log_odds_plain: tuple[float, float]
    """Evidence against the prior after `FIRST` and after `BUDGET` random rows, nats."""


@dataclass(frozen=True)
class Trained:
    """A new prior, and whether it should be used."""

    files: Mapping[str, bytes]
    figures: Mapping[str, Any]
    promoted: bool
    why: str


def trained(
    tasks: Sequence[SourceTask],
    *,
    champion: Prior | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Return the prior of `tasks`, judged against the champion.

    Raises `InvalidInputError` when there are fewer than `MIN_TASKS` tasks with enough values.
    """
    kept = [short for short in map(brief, _ordered(tasks)) if short is not None]
    if len(kept) < MIN_TASKS:
        raise InvalidInputError(
            f"prior: needs at least {MIN_TASKS} tasks with 5 values each; there are {len(kept)}"
        )
    held = _held_out(kept)
    rivals: dict[str, Sequence[SourceTask]] = {"prior": kept, "plain": ()}
    if champion is not None:
        rivals["champion"] = champion.tasks
    found: dict[str, list[Replay]] = {name: [] for name in rivals}
    total = len(held) * len(rivals)
    for i, task in enumerate(held):
        for j, (name, known) in enumerate(rivals.items()):
            if progress is not None:
                progress(i * len(rivals) + j, total, f"{task.name}: {_WITH[name]}")
            others = tuple(t for t in known if data_set(t) != data_set(task))
            found[name].append(replayed(task, others))
    if progress is not None:
        progress(total, total, "judged")
    figures, favour = _figures(held, found)
    promoted, why = verdict(figures)
    files = packed(tasks, version=__version__, favour=favour, figures=figures)
    return Trained(files, figures, promoted, why)


def due(tasks: Sequence[SourceTask], latest: Prior | None, age_s: float) -> bool:
    """Return whether enough has happened since the latest prior was made, `age_s` seconds ago, to make another.

    That is when `NEW_TASKS` tasks (or a twentieth of those known, if that is more) are new, or after a day
    with any change.
    """
    if latest is None:
        return True
    before = {task.name for task in latest.tasks}
    new = sum(task.name not in before for task in tasks if brief(task) is not None)
    if new >= max(NEW_TASKS, NEW_SHARE * len(before)):
        return True
    changed = {digest(task) for task in tasks if brief(task) is not None} - set(latest.digests)
    return bool(changed) and age_s >= DAY_S


def data_set(task: SourceTask) -> str:
    """Return what is held out together: tasks on one data set know too much of each other."""
    return task.context.get("dataset") or task.name


def _ordered(tasks: Sequence[SourceTask]) -> list[SourceTask]:
    return sorted(tasks, key=lambda task: task.name)


def _held_out(tasks: Sequence[SourceTask]) -> list[SourceTask]:
    """Return the tasks to tune again, of as many data sets as may be, whatever the order of `tasks`."""
    fit = [task for task in tasks if task.space is not None and len(_pool(task)) >= ENOUGH]

    def place(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    sets: dict[str, list[SourceTask]] = {}
    for task in sorted(fit, key=lambda t: place(t.name)):
        sets.setdefault(data_set(task), []).append(task)
    turns = sorted(sets, key=place)
    layers = max((len(found) for found in sets.values()), default=0)
    drawn = [sets[name][i] for i in range(layers) for name in turns if i < len(sets[name])]
    return drawn[:HELD_OUT]


def _pool(task: SourceTask) -> dict[str, tuple[Params, float]]:
    """Return the task's legal configurations with their values, each once."""
    space = task.space
    assert space is not None
    return {
        space.key(t.params): (t.params, t.value)
        for t in task.trials
        if t.value is not None and not space.problems(t.params)
    }


def replayed(task: SourceTask, history: tuple[SourceTask, ...]) -> Replay:
    """Return how the task goes when it is tuned again, among its own rows, with such a history."""
    pool = _pool(task)
    assert task.space is not None
    problem = Problem(
        space=task.space,
        objective=task.objective,
        context=task.context,
        history=history,
        candidates=tuple(params for params, _ in pool.values()),
    )
    designer = designer_for(Algorithm.AUTO)
    sign = 1.0 if task.objective.goal is Goal.MAXIMIZE else -1.0
    regrets = _regrets([sign * value for _, value in pool.values()])
    by_key = dict(zip(pool, regrets, strict=True))
    trials: list[Trial] = []
    inside: list[bool] = []
    regret = 1.0
    for _ in range(min(BUDGET, len(pool))):
        try:
            found = designer.suggest(problem, Completed(trials), Pending(()), Deadline(math.inf))
        except SpaceExhaustedError:
            break
        key = task.space.key(found.params)
        value = pool[key][1]
        regret = min(regret, by_key[key])
        mean, sd = found.detail.get("mean"), found.detail.get("sd")
        if mean is not None and sd is not None:
            noise = float(found.detail.get("noise_sd") or 0.0)
            inside.append(abs(value - mean) <= WIDTH * math.hypot(sd, noise))
        trials.append(_ended(len(trials), found.params, value, found.proposer))
    rows = list(pool.values())
    random.Random(f"prior/{task.name}").shuffle(rows)  # noqa: S311 - not cryptography
    odds = []
    for count in (FIRST, BUDGET):
        given = [_ended(i, params, value, "") for i, (params, value) in enumerate(rows[:count])]
        answer = designer.suggest(problem, Completed(given), Pending(()), Deadline(math.inf))
        odds.append(float(answer.detail.get("log_odds_plain", 0.0)))
    return Replay(regret, tuple(inside), (odds[0], odds[1]))


def _regrets(values: Sequence[float]) -> list[float]:
    """Return 0 for the best of values (larger is better), 1 for the middle one and all that are worse."""
    best, middle = max(values), median(values)
    if middle >= best:
        return [0.0 if value >= best else 1.0 for value in values]
    return [min(1.0, (best - value) / (best - middle)) for value in values]


def _ended(index: int, params: Params, value: float, proposer: str) -> Trial:
    return Trial(
        job_uid="held-out",
        index=index,
        params=params,
        state=TrialState.COMPLETED,
        reason=EndReason.DONE,
        config_hash="",
        value=value,
        proposer=proposer,
    )


def _figures(
    held: Sequence[SourceTask], found: Mapping[str, Sequence[Replay]]
) -> tuple[dict[str, Any], float | None]:
    """Return the figures of the artefact, rounded so that another machine finds the same, and the favour."""
    if not held:
        return {"held_out": []}, None
    inside = [one for replay in found["prior"] for one in replay.inside]
    against = [replay.log_odds_plain[0] for replay in found["prior"]]
    favour = round(min(MAX_FAVOUR, max(0.0, -median(against))), 2)
    figures: dict[str, Any] = {
        "held_out": [task.name for task in held],
        f"regret_{BUDGET}": {
            name: round(fmean(replay.regret for replay in replays), 3)
            for name, replays in found.items()
        },
        "nats_a_value": {
            name: round(fmean(replay.log_odds_plain[1] / BUDGET for replay in replays), 3)
            for name, replays in found.items()
            if name != "plain"
        },
        "worse_than_plain": sum(
            ours.regret > plain.regret + GRAIN
            for ours, plain in zip(found["prior"], found["plain"], strict=True)
        ),
    }
    if inside:
        figures["coverage_90"] = round(fmean(inside), 2)
    return figures, favour


def verdict(figures: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether a prior of these figures should be used in place of the champion (or none), and why."""
    regrets = figures.get(f"regret_{BUDGET}")
    if regrets is None:
        return False, "no task could be held out to judge it: promote it by hand if you trust it"
    rival = "champion" if "champion" in regrets else "plain"
    name = "the champion" if rival == "champion" else "no prior"
    ours, theirs = regrets["prior"], regrets[rival]
    told = f"regret after {BUDGET} evaluations {ours:.3f}, with {name} {theirs:.3f}"
    if ours > theirs * (1 + SLACK) + GRAIN:
        return False, f"worse than {name}: {told}"
    losses = figures["nats_a_value"]
    least = losses.get("champion", 0.0)
    if losses["prior"] > least + SLACK:
        text = f"{losses['prior']:+.3f} nats a value against {least:+.3f}"
        return False, f"its predictions are worse than those of {name}: {text}"
    return True, f"no worse than {name}: {told}"
