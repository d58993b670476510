"""Past tasks as the target sees them: mapped to its space, the related ones only, bounded in size.

Notation: T tasks, n rows of one of them, D columns of the target's encoding, E constants of the target
that some past task varied. What is kept of a history is at most `MAX_TOTAL` rows, whatever its size.
Nothing here depends on the order of tasks or trials.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Params, Scale
from foretune.search.condense import MIN_ROWS, Condensed, condensed, limit_for, spread
from foretune.search.registry import (
    CONVERSIONS,
    EXACT,
    conversion,
    dimension,
    label,
    matched,
    nearest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.space import Parameter, Value
    from foretune.domain.trial import Trial
    from foretune.search.designer import Problem
    from foretune.search.encode import Column, Encoding

MAX_ROWS: Final = 200
"""Rows kept of one task: the best and an even choice of the others."""

MAX_TOTAL: Final = 1600
"""Rows kept of all tasks together, which bounds the time of a suggestion."""

MAX_TASKS: Final = 64
"""Tasks used; of more, those that share the most parameters, then those with the most rows."""

BESTS: Final = 20
"""Best configurations of a task that are candidates for the target."""

MARGIN: Final = 0.5
"""How far outside the target's bounds a row still teaches, in units of the parameter's range."""

TOLD: Final = 0.25
"""Share of a task's rows that must say something of a parameter."""

RELATED: Final = 0.5
"""A task that shares fewer parameters than this part of what the closest task shares is a stranger."""


@dataclass(frozen=True)
class Summary:
    """What is kept of one task."""

    name: str
    rows: Tensor
    """`n x D`, in the columns of the target."""
    known: Tensor
    """`D`, 1 where the task has the parameter, else 0."""
    z: Tensor
    """`n` scores, larger is better: mean 0, standard deviation 1 over all rows of the task."""
    bests: tuple[Params, ...]
    """Legal configurations of the target, the best first."""
    set_aside: Mapping[str, int]
    """Rows left out, by reason."""
    besides: Tensor
    """`n x E`: how far the rows are from the target's constants, in units of what past tasks tried; 0
    where the task does not say."""


@dataclass(frozen=True)
class Library:
    """All that is kept of a history."""

    tasks: tuple[Summary, ...]
    rejected: Mapping[str, str]
    """Name of a task that says nothing about the target, and why."""

    @property
    def set_aside(self) -> Mapping[str, int]:
        """Rows left out of all tasks, by reason."""
        total: Counter[str] = Counter()
        for task in self.tasks:
            total.update(task.set_aside)
        return dict(sorted(total.items()))


@dataclass(frozen=True)
class _Placed:
    """A task whose parameters were found, before its rows are thinned."""

    task: Condensed
    mapping: Mapping[str, _Source]
    rows: Tensor
    inside: Tensor


def read(problem: Problem, encoding: Encoding) -> Library:
    """Return the history of `problem` in the columns of `encoding`."""
    rejected: dict[str, str] = {}
    limit = limit_for(len(problem.history))
    told = [condensed(source, limit=limit) for source in problem.history]
    rejected |= {task.name: task.reason for task in told if task.reason}
    found = _related([task for task in told if not task.reason], encoding, rejected)
    constants = _varied(encoding, [placed.task for placed in found])
    limit = min(MAX_ROWS, max(MIN_ROWS, MAX_TOTAL // max(1, len(found))))
    return Library(tuple(_summary(p, encoding, constants, limit) for p in found), rejected)


def _related(
    tasks: Sequence[Condensed], encoding: Encoding, rejected: dict[str, str]
) -> list[_Placed]:
    """Return the tasks that say something about the target, each once, by name; adds to `rejected`."""
    wanted = [column.parameter.name for column in encoding.columns]
    shared = [len(matched(wanted, _names(task.trials))) for task in tasks]
    prints = [task.fingerprint for task in tasks]
    order = sorted(
        range(len(tasks)),
        key=lambda i: (-shared[i], -min(MAX_ROWS, tasks[i].rows), tasks[i].name, prints[i]),
    )
    found: dict[int, _Placed] = {}
    most = 0
    for i in order:
        task = tasks[i]
        reason = ""
        if any(prints[i] == prints[j] for j in found):
            reason = "the same as another task"
        elif len(found) == MAX_TASKS:
            reason = f"beyond the {MAX_TASKS} closest tasks"
        elif shared[i] == 0:
            reason = "no parameter in common"
        else:
            mapping = _mapping(encoding, task.trials)
            rows, inside = _rows(encoding, mapping, [t.params for t in task.trials])
            most = max(most, len(mapping))
            if not mapping:
                reason = "no parameter in common"
            elif len(mapping) < RELATED * most:
                reason = "shares few parameters, others share more"
            elif int(inside.sum()) < MIN_ROWS:
                reason = "its values lie outside the bounds of the space"
            else:
                found[i] = _Placed(task, mapping, rows, inside)
        if reason:
            rejected[task.name] = reason
    return [found[i] for i in sorted(found, key=lambda i: (tasks[i].name, prints[i]))]


def _names(trials: Sequence[Trial]) -> set[str]:
    return {name for trial in trials for name in trial.params}


def _summary(
    placed: _Placed, encoding: Encoding, constants: Mapping[str, _Coordinate], limit: int
) -> Summary:
    task, inside = placed.task, placed.inside.tolist()
    valued = task.trials[: len(task.trials) - _failures(task)]
    kept = [i for i in range(len(valued)) if inside[i]]
    failed = [i for i in range(len(valued), len(inside)) if inside[i]]
    chosen = [kept[place] for place in spread(len(kept), limit)]
    index = torch.tensor([*chosen, *failed[: limit // 4]])
    known = torch.zeros(encoding.width, dtype=torch.float64)
    for column in encoding.columns:
        if column.parameter.name in placed.mapping:
            known[column.start : column.stop] = 1.0
    aside = Counter(task.set_aside)
    aside["outside the bounds"] = inside.count(False)
    trials = [task.trials[i] for i in index.tolist()]
    return Summary(
        name=task.name,
        rows=placed.rows[index],
        known=known,
        z=torch.tensor([task.scores[i] for i in index.tolist()], dtype=torch.float64),
        bests=tuple(encoding.decode(row) for row in encoding.snap(placed.rows[chosen[:BESTS]])),
        set_aside={reason: count for reason, count in sorted(aside.items()) if count > 0},
        besides=torch.tensor(
            [[far(trial) for far in constants.values()] for trial in trials], dtype=torch.float64
        ).reshape(len(trials), len(constants)),
    )


def _failures(task: Condensed) -> int:
    """Return how many of the trials, the last ones, have no value."""
    return sum(trial.value is None for trial in task.trials)


# ------------------------------------------------------------------ constants of the target
_Coordinate = Callable[["Trial"], float]


def _varied(encoding: Encoding, tasks: Sequence[Condensed]) -> dict[str, _Coordinate]:
    """Return how far trials are from each constant of the target that some past task varied."""
    constants = [p for p in encoding.space.parameters if isinstance(p, Const)]
    found: dict[str, _Coordinate] = {}
    offered = sorted({name for task in tasks for name in _names(task.trials)})
    pairs = matched([p.name for p in constants], offered)
    for parameter in constants:
        name = pairs.get(parameter.name)
        if name is None:
            continue
        told = [{label(t.params[name]) for t in task.trials if name in t.params} for task in tasks]
        if all(len(values) < 2 for values in told):  # noqa: PLR2004 - nobody varied it
            continue
        values = [t.params[name] for task in tasks for t in task.trials if name in t.params]
        found[parameter.name] = _coordinate(parameter, name, values)
    return found


def _coordinate(parameter: Const, name: str, values: Sequence[Value]) -> _Coordinate:
    """Return the distance from a constant: of numbers on the dimension's own scale, of others 0 or 1."""
    numbers = [x for x in map(_number, values) if x is not None]
    own = _number(parameter.value)
    if own is None or len(numbers) < len(values):
        wanted = label(parameter.value)
        return lambda t: float(name in t.params and label(t.params[name]) != wanted)
    every = [*numbers, own]
    least = min(x for x in map(abs, every) if x > 0) if any(every) else 1.0
    ratios = min(every) >= 0 and dimension(name).scale is Scale.LOG

    def place(number: float) -> float:
        return math.log(max(number, least)) if ratios else number

    span = max(map(place, every)) - min(map(place, every))

    def far(trial: Trial) -> float:
        number = _number(trial.params[name]) if name in trial.params else None
        return 0.0 if number is None or span <= 0 else (place(number) - place(own)) / span

    return far


# ------------------------------------------------------------------ parameters of the target
@dataclass(frozen=True)
class _Source:
    name: str
    convert: Callable[[float], float] | None


def placed(encoding: Encoding, trials: Sequence[Trial]) -> tuple[Tensor, Tensor] | None:
    """Return trials of one past task as `n x D` rows, and which of them lie in or near the bounds.

    None when the task has no parameter in common with the target.
    """
    mapping = _mapping(encoding, trials)
    return _rows(encoding, mapping, [t.params for t in trials]) if mapping else None


def _mapping(encoding: Encoding, trials: Sequence[Trial]) -> dict[str, _Source]:
    """Return where the values of each of the target's parameters stand in a task's trials."""
    pairs = matched([c.parameter.name for c in encoding.columns], _names(trials))
    mapping: dict[str, _Source] = {}
    for column in encoding.columns:
        parameter = column.parameter
        name = pairs.get(parameter.name)
        if name is None:
            continue
        values = [trial.params[name] for trial in trials if name in trial.params]
        convert = _conversion(parameter, name, values)
        codes = [_encoded(column, value, convert) for value in values]
        told = sum(code is not None for code in codes)
        # Options of which none is the target's say nothing about it.
        foreign = isinstance(parameter, Choice) and not any(_is_option(column, v) for v in values)
        if told >= max(1, TOLD * len(trials)) and not foreign:
            mapping[parameter.name] = _Source(name, convert)
    return mapping


def _conversion(
    parameter: Parameter, name: str, values: Sequence[Value]
) -> Callable[[float], float] | None:
    if isinstance(parameter, Choice):
        return None
    numbers = [x for x in map(_number, values) if x is not None]
    options = (
        [float(option) for option in parameter.options] if isinstance(parameter, Ordinal) else ()
    )
    change = conversion(
        numbers,
        lambda v: _unit(parameter, v),
        wanted=parameter.name,
        offered=name,
        options=options,
        whole=isinstance(parameter, Int),
    )
    return CONVERSIONS[change] if change is not None else None


def _rows(
    encoding: Encoding,
    mapping: Mapping[str, _Source],
    configurations: Sequence[Mapping[str, Value]],
) -> tuple[Tensor, Tensor]:
    """Return `n x D` rows, and which of them lie in or near the target's bounds."""
    rows = torch.full((len(configurations), encoding.width), math.nan, dtype=torch.float64)
    inside = torch.ones(len(configurations), dtype=torch.bool)
    for column in encoding.columns:
        part = slice(column.start, column.stop)
        source = mapping.get(column.parameter.name)
        if source is not None:
            nothing = [math.nan] * column.width
            codes = [
                _encoded(column, params[source.name], source.convert) or nothing
                if source.name in params
                else nothing
                for params in configurations
            ]
            rows[:, part] = torch.tensor(codes, dtype=torch.float64)
            seen = rows[:, part]
            inside &= ~((seen < -MARGIN) | (seen > 1 + MARGIN)).any(dim=1)
        # What a row does not say counts as the average of those that say it, or as the middle.
        middle = torch.nanmean(rows[inside][:, part], dim=0).nan_to_num(nan=0.5)
        rows[:, part] = torch.where(rows[:, part].isnan(), middle, rows[:, part])
    return rows, inside


def _encoded(
    column: Column, value: Value, convert: Callable[[float], float] | None
) -> list[float] | None:
    """Return the columns of a value of another task, which may lie outside; None when it says nothing."""
    parameter = column.parameter
    if isinstance(parameter, Choice):
        return _option(column, value)
    number = _number(value)
    if number is None or (isinstance(value, bool) and not _takes_flags(parameter)):
        return None
    try:
        u = _unit(parameter, convert(number) if convert is not None else number)
    except (ValueError, OverflowError):
        return None
    return [u] if math.isfinite(u) else None


def _unit(parameter: Parameter, number: float) -> float:
    """Return where a number lies in a parameter's unit interval, or beyond."""
    if isinstance(parameter, Ordinal):
        return _rank([float(option) for option in parameter.options], number)
    if number == 0 and isinstance(parameter, Float | Int) and parameter.scale is Scale.LOG:
        return 0.0  # none at all, as of weight decay: below every other value
    return parameter.to_unit(number)


def _takes_flags(parameter: Parameter) -> bool:
    """Return whether 0 and 1 are legal, so that False and True may stand for them."""
    return parameter.problem(0) is None and parameter.problem(1) is None


def _is_option(column: Column, value: Value) -> bool:
    return _place(column, value) is not None


def _option(column: Column, value: Value) -> list[float]:
    assert column.codes is not None
    place = _place(column, value)
    # Another option: as far from each of the target's as they are from the middle of them all.
    code = column.codes.mean(dim=0) if place is None else column.codes[place]
    return [float(x) for x in code]


def _place(column: Column, value: Value) -> int | None:
    """Return which option of the target a value of another task is, if any."""
    said = label(value)
    options = [label(option) for option in column.values]
    if said in options:
        return options.index(said)
    flags = {"true": "1", "false": "0", "1": "true", "0": "false"}
    other = flags.get(said)
    return options.index(other) if other in options else None


def _number(value: Value) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _rank(options: Sequence[float], number: float) -> float:
    """Return the rank of a number among rising options, in [0, 1] inside, extended by one step outside."""
    last = len(options) - 1
    option = nearest(options, number)
    if abs(option - number) <= EXACT * abs(option):
        return options.index(option) / last
    if number <= options[0]:
        return -1 / last
    if number >= options[-1]:
        return 1 + 1 / last
    k = max(i for i in range(last) if options[i] <= number)
    return (k + (number - options[k]) / (options[k + 1] - options[k])) / last
