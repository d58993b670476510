"""Rows of one task held against each other: those of another unit, sign or direction are found.

Designers ask the same of a history when they read it (`foretune.search.suspects`); here such rows do not get in,
and whoever imports them is told.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from foretune.domain.job import Goal
from foretune.search.registry import dimension
from foretune.search.suspects import suspects

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foretune.domain.space import Params, Value

MAJORITY: Final = 0.6
"""Share of a parameter's values that must lie where its name says before the others are set aside."""

NEARLY: Final = 0.9
"""Share of a parameter's values that must be numbers before the others are set aside."""

LOSSES: Final = frozenset(
    {"loss", "losses", "error", "err", "rmse", "mse", "mae", "crps", "perplexity", "ppl"}
    | {"wer", "cer", "nll", "crossentropy", "logloss", "brier"}
)
"""Words of a metric's name that say: less is better."""

GAINS: Final = frozenset(
    {"accuracy", "acc", "auc", "auroc", "auprc", "f1", "precision", "recall", "bleu"}
    | {"ndcg", "r2", "reward", "iou", "dice", "mcc"}
)
"""Words of a metric's name that say: more is better."""

UNBOUNDED: Final = LOSSES - {"error", "err", "wer", "cer", "brier"}
"""Losses that are no share of anything: a value of 23 among fractions is bad, and not per cent."""

SHARES: Final = frozenset({"per cent", "fraction"})
"""Reasons for a row to be suspected that go with shares only."""

NEGATED: Final = frozenset({"neg", "negative", "negated", "minus", "inverse"})
"""Words of a metric's name that turn its direction round."""

_CAMEL: Final = re.compile(r"([a-z0-9])([A-Z])")


def words(name: str) -> list[str]:
    """Return the words of a name in lower case: `valLoss_best` is val, loss, best."""
    parted = _CAMEL.sub(r"\1 \2", name).lower()
    return [word for word in re.split(r"[^a-z0-9]+", parted) if word]


def goal_of(metric: str) -> Goal | None:
    """Return the direction that a metric's name tells, or None."""
    told = set(words(metric))
    if bool(LOSSES & told) == bool(GAINS & told) or NEGATED & told:
        return None
    return Goal.MINIMIZE if LOSSES & told else Goal.MAXIMIZE


class Comparison:
    """The rows of one task, seen one by one and then judged together: 16 bytes a number are kept."""

    def __init__(self) -> None:
        """Begin without rows."""
        self._count = 0
        self._values = _Column()
        self._params: dict[str, _Column] = {}

    def see(self, params: Mapping[str, Value], value: float | None) -> None:
        """Take the next row."""
        for name, told in params.items():
            self._params.setdefault(name, _Column()).add(self._count, told)
        if value is not None:
            self._values.add(self._count, value)
        self._count += 1

    def against(self, metric: str, goal: Goal) -> str:
        """Say what speaks against the goal of all rows, or return an empty text.

        A negated metric is best where the plain one is worst: its values are not positive.
        """
        told, values = goal_of(metric), self._values.numbers
        if told in {None, goal} or all(value <= 0 for value in values):
            return ""
        return f"wrong direction: {metric} is something to {told}, and the goal is {goal}"

    def misplaced(self, metric: str, goal: Goal) -> dict[int, str]:
        """Return which rows, counted from 0, can't be meant as the others are, and why."""
        rows = self._values.rows
        odd = suspects(
            self._values.numbers,
            lambda place: self._configuration(rows[place]),
            maximize=goal is Goal.MAXIMIZE,
            metric=metric,
        )
        if UNBOUNDED & set(words(metric)):
            odd = {i: reason for i, reason in odd.items() if reason not in SHARES}
        found = {rows[i]: f"{metric}: {reason}, unlike the others" for i, reason in odd.items()}
        for name, column in self._params.items():
            found |= {row: f"{name}: {reason}" for row, reason in column.misplaced(name).items()}
        return found

    def _configuration(self, row: int) -> Params:
        told = {name: column.at(row) for name, column in self._params.items()}
        return {name: value for name, value in told.items() if value is not None}


class _Column:
    """The values of one column."""

    def __init__(self) -> None:
        self.numbers, self.rows = array("d"), array("q")
        self.others: dict[int, Value] = {}

    def add(self, row: int, value: Value) -> None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers.append(value)
            self.rows.append(row)
        else:
            self.others[row] = value

    def at(self, row: int) -> Value | None:
        place = bisect_left(self.rows, row)
        if place < len(self.rows) and self.rows[place] == row:
            return self.numbers[place]
        return self.others.get(row)

    def misplaced(self, name: str) -> dict[int, str]:
        """Return which rows have no number where nearly all have one, or one that the name can't mean."""
        found: dict[int, str] = {}
        numbers: Sequence[float] = self.numbers
        if len(numbers) >= NEARLY * (len(numbers) + len(self.others)):
            found |= {row: f"{value!r} is not a number" for row, value in self.others.items()}
        low, high = dimension(name).low, dimension(name).high
        outside = [i for i, value in enumerate(numbers) if not low <= value <= high]
        # Where most lie outside, the whole column has another unit, which designers can tell.
        if outside and len(numbers) - len(outside) >= MAJORITY * len(numbers):
            where = f"outside [{low:g}, {high:g}], where the others lie"
            found |= {self.rows[i]: f"{numbers[i]:g} is {where}" for i in outside}
        return found
