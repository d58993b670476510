"""What good values look like, parameter by parameter: how a job starts that has no past tasks of its own.

Tasks of other models, with other parameters, are no guide as functions. What carries over is where the
good values of a parameter of the same meaning lie: learning rates of 10^-8 and 10 are seldom good. For each
parameter of the space the good values of all tasks that have it make a density on the parameter's own
scale, each kind of task (set of parameter names) with the same weight, with a uniform share mixed in. A
Sobol point is then bent, coordinate by coordinate, by the inverse of the distribution: the start is as
spread out as before, with more of it where values have been good, and nothing is ruled out. After the
start the model is alone. No torch, no numpy.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from foretune.domain.job import Goal
from foretune.domain.space import Choice, Ordinal
from foretune.search import sobol
from foretune.search.designer import Completed, Suggestion, known_keys
from foretune.search.registry import canonical_name, label, matched, params_key
from foretune.search.sampling import SPARE_POINTS, configuration, tunable
from foretune.search.simple import initial_trials

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foretune.domain.history import SourceTask
    from foretune.domain.space import Parameter, Params, Space, Value
    from foretune.search.designer import Deadline, Designer, Pending, Problem

GOOD: Final = 0.05
"""Share of a task's rows that count as good."""

FEWEST_GOOD: Final = 3
MOST_GOOD: Final = 10
"""Good rows of a task: at least and at most."""

MIN_ROWS: Final = 5
"""Values below which a task says nothing."""

UNIFORM: Final = 0.3
"""Share of the start that ignores what was good elsewhere."""

WIDTH: Final = 0.1
"""Deviation of the kernel around a good value, in units of the parameter's range."""

STEPS: Final = 100
"""Cells of the density."""

OUTSIDE: Final = 0.1
"""How far beyond the bounds a good value still speaks for the end of the range, in the same units."""

INSIDE: Final = 0.1
"""Share of the good values that must lie in the range: else the parameter means something else here."""

KIN: Final = 2 / 3
"""Share of all parameters of two spaces that they have in common, from which one task guides the other."""

FEW: Final = 4
"""Own past tasks below which kin from elsewhere are added."""

CACHED: Final = 4
"""Histories kept joined, and habits kept read."""


class Habits:
    """The distributions of good values over the parameters of one space."""

    def __init__(self, space: Space, tasks: Sequence[SourceTask]) -> None:
        """Read `tasks`, in any order."""
        self._space = space
        self._parameters = tunable(space)
        found: dict[str, list[tuple[Value, float]]] = defaultdict(list)
        for alike in _kinds(tasks):
            for good in alike:
                names = matched([p.name for p in self._parameters], good[0])
                for name, theirs in names.items():
                    weight = 1.0 / (len(alike) * len(good))
                    found[name] += [(params[theirs], weight) for params in good]
        self._sums: dict[str, list[float]] = {}
        for parameter in self._parameters:
            density = _density(parameter, found.get(parameter.name, ()))
            if density is not None:
                total = math.fsum(density)
                self._sums[parameter.name] = [
                    0.0,
                    *itertools.accumulate(value / total for value in density),
                ]

    @property
    def known(self) -> tuple[str, ...]:
        """Parameters of which something is known."""
        return tuple(self._sums)

    def bent(self, name: str, u: float) -> float:
        """Return the place in [0, 1) below which the share `u` of the distribution lies."""
        sums = self._sums.get(name)
        if sums is None:
            return u
        cells = len(sums) - 1
        i = min(cells - 1, max(0, bisect.bisect_right(sums, u) - 1))
        part = (u - sums[i]) / (sums[i + 1] - sums[i])
        return (i + min(1 - 1e-9, max(0.0, part))) / cells

    def points(self, seed: int) -> Iterator[Params]:
        """Yield configurations of the bent Sobol sequence, without end."""
        for point in sobol.points(len(self._parameters), seed=seed):
            pairs = zip(self._parameters, point, strict=True)
            bent = [self.bent(parameter.name, u) for parameter, u in pairs]
            yield configuration(self._space, self._parameters, bent)


def _kinds(tasks: Sequence[SourceTask]) -> list[list[list[Params]]]:
    """Return the good configurations of each task, the tasks sorted by kind."""
    kinds: dict[frozenset[str], list[list[Params]]] = defaultdict(list)
    for task in sorted(tasks, key=lambda t: t.name):
        good = _good(task)
        if good:
            shared = set.intersection(*(set(params) for params in good))
            good = [{name: params[name] for name in sorted(shared)} for params in good]
            kinds[frozenset(map(canonical_name, shared))].append(good)
    return list(kinds.values())


def _good(task: SourceTask) -> list[Params]:
    sign = -1.0 if task.objective.goal is Goal.MAXIMIZE else 1.0
    rows = [
        (
            sign * trial.value,
            params_key(trial.params),
            trial,
        )
        for trial in Completed(task.trials).valued
        if trial.value is not None and math.isfinite(trial.value)
    ]
    if len(rows) < MIN_ROWS:
        return []
    rows.sort(key=lambda row: row[:2])
    count = min(MOST_GOOD, max(FEWEST_GOOD, math.ceil(GOOD * len(rows))))
    return [trial.params for _, _, trial in rows[:count]]


def _density(parameter: Parameter, values: Sequence[tuple[Value, float]]) -> list[float] | None:
    """Return the density over cells of [0, 1], a cell an option of a choice; None if nothing is known."""
    if isinstance(parameter, Choice):
        words = [label(option) for option in parameter.options]
        places = [
            (words.index(label(value)), weight) for value, weight in values if label(value) in words
        ]
        if not places:
            return None
        total = math.fsum(weight for _, weight in places)
        shares = [UNIFORM / len(words)] * len(words)
        for place, weight in places:
            shares[place] += (1 - UNIFORM) * weight / total
        return shares
    near = [
        (min(1.0, max(0.0, u)), weight)
        for value, weight in values
        if (u := _place(parameter, value)) is not None and -OUTSIDE <= u <= 1 + OUTSIDE
    ]
    mass = math.fsum(weight for _, weight in near)
    if mass <= INSIDE * math.fsum(weight for _, weight in values):
        return None
    cells = [
        math.fsum(
            weight * math.exp(-0.5 * (((i + 0.5) / STEPS - u) / WIDTH) ** 2) for u, weight in near
        )
        for i in range(STEPS)
    ]
    total = math.fsum(cells)
    return [UNIFORM / STEPS + (1 - UNIFORM) * cell / total for cell in cells]


def _place(parameter: Parameter, value: Value) -> float | None:
    """Return where a number of another task lies on the parameter's scale, which may be outside [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(parameter, Ordinal):
        options = [float(option) for option in parameter.options]
        last = max(1, len(options) - 1)
        if not options[0] <= value <= options[-1]:
            return -1 / last if value < options[0] else 1 + 1 / last
        k = max(0, bisect.bisect_right(options, value) - 1)
        if k >= len(options) - 1:
            return 1.0
        return (k + (value - options[k]) / (options[k + 1] - options[k])) / last
    try:
        u = parameter.to_unit(value)
    except (ValueError, OverflowError):
        return None
    return u if math.isfinite(u) else None


def with_kin(
    space: Space, history: tuple[SourceTask, ...], starter: tuple[SourceTask, ...]
) -> tuple[SourceTask, ...]:
    """Return the past tasks to learn from; the same object for the same objects.

    They are those of `history`, and while few of these share a parameter with the space, those of `starter`
    that have nearly the same parameters. Empty when no task is of use.
    """
    for known in _joined:
        if known[0] is history and known[1] is starter and known[2] == space:
            return known[3]
    wanted = {canonical_name(parameter.name) for parameter in tunable(space)}
    own = sum(bool(wanted & _names(task)) for task in history)
    kin = tuple(task for task in starter if _alike(wanted, _names(task)) >= KIN)
    found = history if own else ()
    if own < FEW and kin:
        found = (*found, *kin)
    _joined.append((history, starter, space, found))
    del _joined[:-CACHED]
    return found


_joined: list[
    tuple[tuple[SourceTask, ...], tuple[SourceTask, ...], Space, tuple[SourceTask, ...]]
] = []


def _names(task: SourceTask) -> set[str]:
    return {canonical_name(name) for trial in task.trials[:1] for name in trial.params}


def _alike(a: set[str], b: set[str]) -> float:
    return len(a & b) / max(1, len(a | b))


class StartsWell:
    """Starts a job where values have been good elsewhere, and leaves the rest to another designer."""

    def __init__(self, then: Designer) -> None:
        """Hand over to `then` after the start."""
        self._then = then
        self.name = then.name

    def suggest(
        self, problem: Problem, completed: Completed, pending: Pending, deadline: Deadline
    ) -> Suggestion:
        """Return the default configuration, then bent Sobol points, then the other's answers."""
        trials = (*completed.trials, *pending.trials)
        if len(trials) < initial_trials(problem) and not problem.candidates:
            suggestion = _start(problem, known_keys(problem.space, trials))
            if suggestion is not None:
                return suggestion
        return self._then.suggest(replace(problem, starter=()), completed, pending, deadline)


def _habits(problem: Problem) -> Habits:
    """Return the habits of a problem's starter; the same objects are read once."""
    for space, tasks, habits in _read:
        if tasks is problem.starter and space == problem.space:
            return habits
    habits = Habits(problem.space, problem.starter)
    _read.append((problem.space, problem.starter, habits))
    del _read[:-CACHED]
    return habits


_read: list[tuple[Space, tuple[SourceTask, ...], Habits]] = []


def _start(problem: Problem, used: set[str]) -> Suggestion | None:
    default = problem.space.default()
    if default is not None and problem.space.key(default) not in used:
        return None  # the designer begins with it, too
    habits = _habits(problem)
    if not habits.known:
        return None
    detail: dict[str, Any] = {
        "expert": "starter",
        "prior": "none",
        "reason": "no past job fits: the start is where values have been good elsewhere",
        "known": list(habits.known),
        "tasks": 0,
    }
    for params in itertools.islice(habits.points(problem.seed), len(used) + SPARE_POINTS):
        if problem.space.key(params) not in used:
            return Suggestion(params=params, proposer="starter", detail=detail)
    return None
