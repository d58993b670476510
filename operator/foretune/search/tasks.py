"""Past tasks as the target sees them: oriented, cleaned, mapped to its space, and bounded in size.

Notation: T tasks, n rows of one of them, D columns of the target's encoding. Reading a history costs
time in proportion to its rows once; what remains of it is at most `MAX_TOTAL` rows, whatever its size.
Nothing here depends on the order of tasks or trials.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from foretune.domain.job import Goal
from foretune.domain.space import Choice, Float, Int, Ordinal, Params, canonical
from foretune.search.designer import Completed
from foretune.search.registry import CONVERSIONS, conversion, matched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.space import Value
    from foretune.domain.trial import Trial
    from foretune.search.designer import Problem, SourceTask
    from foretune.search.encode import Column, Encoding

MAX_ROWS: Final = 200
"""Rows kept of one task: the best and an even choice of the others."""

MAX_TOTAL: Final = 1600
"""Rows kept of all tasks together, which bounds the time of a suggestion."""

MAX_TASKS: Final = 64
"""Tasks used; of more, those with the most rows."""

MIN_ROWS: Final = 5
"""Rows below which a task says too little."""

BESTS: Final = 20
"""Best configurations of a task that are candidates for the target."""

MARGIN: Final = 0.5
"""How far outside the target's bounds a row still teaches, in units of the parameter's range."""

MAJORITY: Final = 0.6
"""Share of a task's rows that must agree on a unit before the others are set aside."""


FLIPPED: Final = 0.2
"""Largest share of a task's rows that may have the wrong sign."""

GAP: Final = 2.0
"""Factor between the two kinds of row where some are in per cent and others are fractions."""

SLACK: Final = 0.25
"""How far beyond the others repaired rows may lie, in units of their range."""

NEARLY: Final = 0.9
"""Share of the odd rows that must fall among the others once repaired."""


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


def read(problem: Problem, encoding: Encoding) -> Library:
    """Return the history of `problem` in the columns of `encoding`."""
    rejected: dict[str, str] = {}
    found: list[Summary] = []
    sources = [source for source in problem.history if source.trials]
    for source in problem.history:
        if not source.trials:
            rejected[source.name] = "no trials"
    sources.sort(key=lambda s: (-min(MAX_ROWS, len(s.trials)), s.name, _fingerprint(s)))
    for source in sources[MAX_TASKS:]:
        rejected[source.name] = f"beyond the {MAX_TASKS} largest tasks"
    sources = sorted(sources[:MAX_TASKS], key=lambda s: (s.name, _fingerprint(s)))
    limit = min(MAX_ROWS, max(MIN_ROWS, MAX_TOTAL // max(1, len(sources))))
    for source in sources:
        summary = _summary(source, encoding, limit)
        if isinstance(summary, str):
            rejected[source.name] = summary
        else:
            found.append(summary)
    return Library(tuple(found), rejected)


def _fingerprint(source: SourceTask) -> tuple[int, float]:
    """Return what tells two tasks of one name apart, whatever the order of their trials."""
    # Bounded, so that no sum overflows.
    return len(source.trials), math.fsum(
        math.atan(t.value or 0.0) for t in source.trials if _told(t)
    )


def _told(trial: Trial) -> bool:
    """Return whether a trial has a finite value."""
    return trial.value is not None and math.isfinite(trial.value)


def _summary(source: SourceTask, encoding: Encoding, limit: int) -> Summary | str:
    completed = Completed(source.trials)
    aside: Counter[str] = Counter()
    trials = [t for t in completed.valued if _told(t)]
    aside["no finite value"] = len(completed.trials) - len(trials) - len(completed.failures)
    maximize = source.objective.goal is Goal.MAXIMIZE
    suspects = _suspects([float(t.value) for t in trials if t.value is not None])
    for reason in suspects.values():
        aside[reason] += 1
    good = [t for i, t in enumerate(trials) if i not in suspects]
    if len(good) < MIN_ROWS:
        return f"fewer than {MIN_ROWS} rows with a value"
    sign = 1.0 if maximize else -1.0
    values = [sign * float(t.value or 0.0) for t in good]
    order = sorted(range(len(good)), key=lambda i: -values[i])
    values = [values[i] for i in order]
    if values[0] == values[-1]:
        return "all values are equal"
    told = scores(values)
    chosen = _spread(len(values), limit)
    ranked = _ranked([good[i] for i in order], values, chosen)
    failed = sorted(completed.failures, key=_key)[: limit // 4]
    kept = [(trial, told[i]) for trial, i in zip(ranked, chosen, strict=True)]
    kept += [(t, told[-1]) for t in failed]
    mapping = _mapping(encoding, [t for t, _ in kept])
    if not mapping:
        return "no parameter in common"
    rows, inside = _rows(encoding, mapping, [t.params for t, _ in kept])
    aside["outside the bounds"] = int((~inside).sum())
    if int(inside.sum()) < MIN_ROWS:
        return "its values lie outside the bounds of the space"
    known = torch.zeros(encoding.width, dtype=torch.float64)
    for column in encoding.columns:
        if column.parameter.name in mapping:
            known[column.start : column.stop] = 1.0
    z = torch.tensor([score for _, score in kept], dtype=torch.float64)[inside]
    best = rows[: len(chosen)][inside[: len(chosen)]][:BESTS]
    bests = tuple(encoding.decode(row) for row in encoding.snap(best))
    counts = {reason: count for reason, count in sorted(aside.items()) if count > 0}
    return Summary(source.name, rows[inside], known, z, bests, counts)


def placed(encoding: Encoding, trials: Sequence[Trial]) -> tuple[Tensor, Tensor] | None:
    """Return trials of one past task as `n x D` rows, and which of them lie in or near the bounds.

    None when the task has no parameter in common with the target.
    """
    mapping = _mapping(encoding, trials)
    return _rows(encoding, mapping, [t.params for t in trials]) if mapping else None


def _ranked(trials: Sequence[Trial], values: Sequence[float], chosen: Sequence[int]) -> list[Trial]:
    """Return the trials at the chosen places, those of one value in the order of their parameters."""
    groups: dict[float, list[Trial]] = {}
    found: list[Trial] = []
    for place in chosen:
        value = values[place]
        first = bisect_left(values, -value, key=lambda v: -v)
        if value not in groups:
            last = bisect_right(values, -value, key=lambda v: -v)
            groups[value] = sorted(trials[first:last], key=_key)
        found.append(groups[value][place - first])
    return found


def _key(trial: Trial) -> str:
    return "|".join(f"{name}={canonical(value)}" for name, value in sorted(trial.params.items()))


def scores(ordered: Sequence[float]) -> list[float]:
    """Return scores of mean 0 and standard deviation 1 for values with the best first, not all equal.

    The middle value and the best one give the unit, and what is worse than the middle counts at most one
    unit: that is how regret is measured, while ranks turn the noise among bad configurations into signal
    where few are good.
    """
    unit = max(abs(ordered[0]), abs(ordered[-1]))
    y = [value / unit for value in ordered]
    middle = y[len(y) // 2]
    span = y[0] - middle
    if span <= 0:  # half of them are best: what is left to tell is who is not
        span = middle - y[-1]
    units = [max(-1.0, (value - middle) / span) for value in y]
    mean, sd = fmean(units), pstdev(units)
    return [(value - mean) / sd for value in units]


def _spread(count: int, limit: int) -> list[int]:
    """Return `limit` of `count` positions: the first third of them, and even steps over the rest."""
    if count <= limit:
        return list(range(count))
    first = limit // 3
    rest = limit - first
    step = (count - first) / rest
    return [*range(first), *(first + int((k + 0.5) * step) for k in range(rest))]


def _suspects(values: Sequence[float]) -> dict[int, str]:
    """Return positions of rows whose unit or sign is not that of the others, each with the reason."""
    if not values:
        return {}
    found = _flipped(values)
    fractions = sum(0 <= value <= 1 for value in values)
    if MAJORITY * len(values) <= fractions < len(values):
        found |= _misfits(values, lambda v: 1 < v <= 100, lambda v: v / 100, "per cent")  # noqa: PLR2004
    elif 0 < fractions <= (1 - MAJORITY) * len(values) and max(values) <= 100:  # noqa: PLR2004
        found |= _misfits(values, lambda v: 0 <= v <= 1, lambda v: v * 100, "fraction")
    return found


def _misfits(
    values: Sequence[float],
    odd: Callable[[float], bool],
    repair: Callable[[float], float],
    reason: str,
) -> dict[int, str]:
    """Return the odd values when, repaired, nearly all of them fall among the others."""
    others = sorted(value for value in values if not odd(value))
    suspects = {i: value for i, value in enumerate(values) if odd(value)}
    if not suspects or not others:
        return {}
    low, high = others[0], others[-1]
    slack = SLACK * (high - low)
    among = sum(low - slack <= repair(v) <= high + slack for v in suspects.values())
    # A loss a little above 1 is no per cent: there is a gap between the two kinds of row.
    sizes = [abs(value) for value in suspects.values()]
    largest, least = max(abs(low), abs(high)), min(abs(low), abs(high))
    apart = min(sizes) > GAP * largest or GAP * max(sizes) < least
    return dict.fromkeys(suspects, reason) if apart and among >= NEARLY * len(sizes) else {}


def _flipped(values: Sequence[float]) -> dict[int, str]:
    """Return the few rows of the other sign, when they look just as the others do but for it.

    An objective that crosses zero has many values near it, and few large ones beyond.
    """
    negative = sum(value < 0 for value in values)
    sign = -1.0 if 2 * negative < len(values) else 1.0
    odd = [i for i, value in enumerate(values) if sign * value > 0]
    if not odd or len(odd) > FLIPPED * len(values):
        return {}
    sizes = sorted(-sign * value for value in values if sign * value <= 0)
    low, high = sizes[len(sizes) // 4], sizes[(3 * len(sizes)) // 4]
    alike = low <= median(sign * values[i] for i in odd) <= high
    small = sum(abs(value) < low / 2 for value in values)
    if not alike or small > (1 - NEARLY) * len(values):
        return {}
    return dict.fromkeys(odd, "wrong sign")


@dataclass(frozen=True)
class _Source:
    name: str
    convert: Callable[[float], float] | None


def _mapping(encoding: Encoding, trials: Sequence[Trial]) -> dict[str, _Source]:
    """Return where the values of each of the target's parameters stand in a task's trials."""
    offered = {name for trial in trials for name in trial.params}
    pairs = matched([c.parameter.name for c in encoding.columns], offered)
    mapping: dict[str, _Source] = {}
    for column in encoding.columns:
        name = pairs.get(column.parameter.name)
        if name is None:
            continue
        values = [trial.params[name] for trial in trials if name in trial.params]
        convert = None
        if isinstance(column.parameter, Float | Int):
            numbers = [x for x in map(_number, values) if x is not None]
            change = conversion(numbers, column.parameter.to_unit)
            convert = CONVERSIONS[change] if change is not None else None
        told = [_encoded(column, value, convert) for value in values]
        if sum(code is not None for code in told) >= len(trials) / 2:
            mapping[column.parameter.name] = _Source(name, convert)
    return mapping


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
            for i, params in enumerate(configurations):
                if source.name not in params:
                    continue
                code = _encoded(column, params[source.name], source.convert)
                if code is not None:
                    rows[i, part] = torch.tensor(code, dtype=torch.float64)
            seen = rows[:, part]
            inside &= ~((seen < -MARGIN) | (seen > 1 + MARGIN)).any(dim=1)
        # What a row does not say counts as the average of those that say it, or as the middle.
        middle = torch.nanmean(rows[:, part], dim=0).nan_to_num(nan=0.5)
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
    if number is None:
        return None
    try:
        if isinstance(parameter, Ordinal):
            return [_rank([float(o) for o in parameter.options], number)]
        u = parameter.to_unit(convert(number) if convert is not None else number)
    except (ValueError, OverflowError):
        return None
    return [u] if math.isfinite(u) else None


def _option(column: Column, value: Value) -> list[float] | None:
    assert column.codes is not None
    key = _word(value)
    for i, option in enumerate(column.values):
        if _word(option) == key:
            return [float(x) for x in column.codes[i]]
    # Another option: as far from each of the target's as they are from the middle of them all.
    return [float(x) for x in column.codes.mean(dim=0)]


def _word(value: Value) -> str:
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            return canonical(float(text))
        except ValueError:
            return "".join(ch for ch in text if ch.isalnum())
    return canonical(value)


def _number(value: Value) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _rank(options: Sequence[float], number: float) -> float:
    """Return the rank of a number among rising options, in [0, 1] inside, extended by one step outside."""
    last = len(options) - 1
    if number <= options[0]:
        return 0.0 if number == options[0] else -1 / last
    if number >= options[-1]:
        return 1.0 if number == options[-1] else 1 + 1 / last
    k = max(i for i in range(last) if options[i] <= number)
    return (k + (number - options[k]) / (options[k + 1] - options[k])) / last
