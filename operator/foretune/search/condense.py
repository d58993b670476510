"""A past task without its bulk: what any target may need of it, read once, whatever the number of rows.

n rows with a value, at most `KEPT` of which stay: the best third, and an even choice of the others. All
of them decide what a value is worth and what is set aside. Nothing depends on the order of the rows.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from heapq import nsmallest
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from foretune.domain.history import SourceTask
from foretune.domain.job import Goal
from foretune.search.designer import is_lesson, is_valued
from foretune.search.registry import params_key
from foretune.search.suspects import suspects

if TYPE_CHECKING:
    import numpy.typing as npt

    from foretune.domain.trial import Trial

KEPT: Final = 600
"""Rows kept of one task: three times what is used, since a target may lie in a corner of its space."""

KEPT_TOTAL: Final = 50_000
"""Rows kept of all tasks together, about 60 MiB."""

KEPT_LEAST: Final = 50
"""Rows kept of one task, however many tasks there are."""

MIN_ROWS: Final = 5
"""Different configurations with a value below which a task says too little."""

FAILED: Final = 4
"""One failed row is kept for so many with a value."""


@dataclass(frozen=True)
class Condensed(SourceTask):
    """What is kept of a task: rows with a value, the best first, then failed ones."""

    scores: tuple[float, ...] = ()
    """Of each of `trials`, larger is better: mean 0, standard deviation 1 over all rows of the task."""
    rows: int = 0
    """Different configurations with a value that the task had."""
    set_aside: Mapping[str, int] = field(default_factory=dict)
    """Rows left out, by reason."""
    reason: str = ""
    """Why nothing can be learned from the task; empty when something can."""

    @property
    def fingerprint(self) -> int:
        """A number that tells tasks apart, whatever they are called."""
        keys = [f"{_key(t)}:{score:.9g}" for t, score in zip(self.trials, self.scores, strict=True)]
        return zlib.crc32("\n".join(keys).encode(errors="replace"))


def limit_for(tasks: int) -> int:
    """Return how many rows are kept of each of so many tasks."""
    return max(KEPT_LEAST, min(KEPT, KEPT_TOTAL // max(1, tasks)))


def condensed(
    source: SourceTask, trials: Sequence[Trial] | None = None, *, limit: int = KEPT
) -> Condensed:
    """Return what is kept of a task.

    `trials` stand in for those of `source`; they have ended, and may be made when they are looked at: they
    are read one by one, and only those that stay are held.
    """
    if isinstance(source, Condensed):
        return source
    return _Reading(source, source.trials if trials is None else trials, limit).result()


class _Reading:
    """One pass over a task."""

    def __init__(self, source: SourceTask, trials: Sequence[Trial], limit: int) -> None:
        self._source = source
        self._trials = trials
        self._limit = limit
        self._sign = 1.0 if source.objective.goal is Goal.MAXIMIZE else -1.0
        self._places = array("q")
        self._values = array("d")
        self._hashes = array("q")
        self._failed: list[tuple[int, int]] = []
        self._aside: Counter[str] = Counter()
        for place, trial in enumerate(trials):
            self._take(place, trial)

    def _take(self, place: int, trial: Trial) -> None:
        if is_valued(trial) and trial.value is not None and isfinite(trial.value):
            self._places.append(place)
            self._values.append(trial.value)
            self._hashes.append(_hash(trial))
        elif is_lesson(trial):
            self._failed.append((zlib.crc32(_key(trial).encode(errors="replace")), place))
            if len(self._failed) > 2 * self._limit:
                self._failed = nsmallest(self._limit, self._failed)
        else:
            self._aside["no finite value"] += 1

    def result(self) -> Condensed:
        trials = self._trials
        if not trials:
            return self._made((), reason="no trials")
        odd = suspects(
            self._values,
            lambda i: trials[self._places[i]].params,
            maximize=self._sign > 0,
            metric=self._source.objective.metric,
        )
        self._aside.update(odd.values())
        good = [i for i in range(len(self._values)) if i not in odd]
        values, first, counts = self._merged(good)
        if len(values) < MIN_ROWS:
            return self._without(f"fewer than {MIN_ROWS} configurations with a value", first)
        if values[0] == values[-1]:
            return self._without("all values are equal", first)
        told = scores(values)
        chosen = spread(len(values), self._limit)
        kept, marks = [], []
        for place, index in zip(chosen, self._ranked(values, first, chosen), strict=True):
            trial = trials[first[index]]
            repeated = counts[index] > 1
            kept.append(replace(trial, value=self._sign * values[place]) if repeated else trial)
            marks.append(told[place])
        failed = self._failures()
        return self._made(
            (*kept, *failed),
            scores=(*marks, *[float(told[-1])] * len(failed)),
            rows=len(values),
        )

    def _merged(self, good: Sequence[int]) -> tuple[Any, Any, Any]:
        """Return values (best first), a row and the count of each configuration: repeats are averaged."""
        index = np.array(good, dtype=np.int64)
        y = self._sign * np.frombuffer(self._values, dtype=np.float64)[index]
        hashes = np.frombuffer(self._hashes, dtype=np.int64)[index]
        if len(index) == 0:
            return y, index, index
        order = np.lexsort((y, hashes))
        starts = np.flatnonzero(np.r_[True, np.diff(hashes[order]) != 0])
        counts = np.diff(np.r_[starts, len(order)])
        # Sums of halves can't overflow where the values themselves are near the largest number.
        means = y[order][starts]
        repeated = np.flatnonzero(counts > 1)
        for group in repeated:
            part = y[order[starts[group] : starts[group] + counts[group]]]
            means[group] = (part / len(part)).sum()
        places = np.frombuffer(self._places, dtype=np.int64)[index[order[starts]]]
        best = np.argsort(-means, kind="stable")
        return means[best], places[best], counts[best]

    def _ranked(
        self, values: npt.NDArray[np.float64], first: Any, chosen: Sequence[int]
    ) -> list[int]:
        """Return the rows at the chosen places, those of one value in the order of their parameters."""
        groups: dict[float, list[int]] = {}
        found: list[int] = []
        for place in chosen:
            value = float(values[place])
            start = bisect_left(values, -value, key=lambda v: -v)
            if value not in groups:
                stop = bisect_right(values, -value, key=lambda v: -v)
                rows = range(start, stop)
                trials = self._trials
                groups[value] = (
                    sorted(rows, key=lambda i: _key(trials[first[i]])) if len(rows) > 1 else [start]
                )
            found.append(groups[value][place - start])
        return found

    def _failures(self) -> list[Trial]:
        """Return failed rows, an even choice of them."""
        chosen = nsmallest(self._limit // FAILED, self._failed)
        return sorted((self._trials[i] for _, i in chosen), key=_key)

    def _without(self, reason: str, places: Sequence[int]) -> Condensed:
        """Return a task that says nothing about good and bad; where trials fail it may say all the same."""
        kept = sorted((self._trials[i] for i in places[: self._limit]), key=_key)
        trials = (*kept, *self._failures())
        return self._made(trials, scores=(0.0,) * len(trials), reason=reason)

    def _made(self, trials: tuple[Trial, ...], **more: Any) -> Condensed:
        told = {f.name: getattr(self._source, f.name) for f in fields(self._source)}
        aside = {reason: n for reason, n in sorted(self._aside.items()) if n > 0}
        texts: dict[str, str] = {}
        own = tuple(_copied(trial, texts) for trial in trials)
        return Condensed(**(told | {"trials": own, "set_aside": aside} | more))


def _copied(trial: Trial, texts: dict[str, str]) -> Trial:
    """Return a trial that shares no number and no text with the caller's rows; `texts` are copied once.

    A few hundred objects among a million keep the memory of all from being given back.
    """

    def copied(value: Any) -> Any:
        if isinstance(value, str):
            return texts.setdefault(value, value[:1] + value[1:])
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return value - 0  # the same number (0.0 keeps its sign) in an object of its own

    told = {name: copied(getattr(trial, name)) for name in ("value", "value_sd", "cost")}
    return replace(trial, params={copied(n): copied(v) for n, v in trial.params.items()}, **told)


def _key(trial: Trial) -> str:
    return params_key(trial.params)


def _hash(trial: Trial) -> int:
    try:
        return hash(frozenset(trial.params.items()))
    except TypeError:  # a list or a mapping among the values
        return hash(_key(trial))


def scores(ordered: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return scores of mean 0 and standard deviation 1 for values with the best first, not all equal.

    The middle value and the best one give the unit, and what is worse than the middle counts at most one
    unit: that is how regret is measured, while ranks turn the noise among bad configurations into signal
    where few are good.
    """
    y = np.asarray(ordered, dtype=np.float64)
    y = y / max(abs(y[0]), abs(y[-1]))
    middle = y[len(y) // 2]
    span = y[0] - middle
    if span <= 0:  # half of them are best: what is left to tell is who is not
        span = middle - y[-1]
    units = np.maximum(-1.0, (y - middle) / span)
    found: npt.NDArray[np.float64] = (units - units.mean()) / units.std()
    return found


def spread(count: int, limit: int, *, best: int | None = None) -> list[int]:
    """Return `limit` of `count` positions: the `best` first (a third of them), and even steps over the rest."""
    if count <= limit:
        return list(range(count))
    first = limit // 3 if best is None else best
    rest = limit - first
    step = (count - first) / rest
    return [*range(first), *(first + int((k + 0.5) * step) for k in range(rest))]
