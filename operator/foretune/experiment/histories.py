"""What a designer is given to learn from: some rows of the family's other tasks, sound or spoilt.

No row of the target's data set is ever among them, except where drift is asked for. The spoilt histories
are the battery of negative transfer: each is a way in which real histories mislead, and none may make a
designer much worse than one without a history.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from foretune.domain.space import Float, Int, Ordinal, Scale, Space
from foretune.experiment.tables import Table
from foretune.experiment.tasks import CHOOSING, half_of
from foretune.optimizer import Observation, TaskHistory

if TYPE_CHECKING:
    from foretune.domain.space import Parameter, Params

UNIT_SHIFT: Final = 100.0
"""N4: what a learning rate is multiplied by, as between a fraction and a percentage."""

ORDERS: Final = 10.0
"""N4: a list of numbers whose last is so many times its first is one of a quantity with a unit."""

CORRUPT: Final = 0.1
"""N5: share of rows that are spoilt."""

SMALL_TASK: Final = 20
"""N6: rows of each small task, and how many small tasks there are at most."""

DRIFT: Final = 0.2
"""N8: how far the optimum has moved, in units of a number's range."""


SPLIT: Final = "split"
"""A sound history of the tasks for choosing alone, for targets that are for reporting: no figure of such a run
has seen, by history or by a setting, anything of the tasks it is of."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """How much of the other tasks a designer sees."""

    rows: int = 200
    """Rows of each source task, drawn at random by seed."""
    sources: int = 0
    """Source tasks, drawn at random by seed; 0 takes all."""
    variant: str = ""
    """A name of `BATTERY`, `SPLIT`, or empty for the sound history."""


def others(tables: Sequence[Table], target: Table) -> list[Table]:
    """Return the tables of other data sets than the target's."""
    return [table for table in tables if table.dataset != target.dataset]


def history_for(
    tables: Sequence[Table],
    target: Table,
    given: Given,
    *,
    seed: int,
    strangers: Sequence[Table] = (),
) -> tuple[TaskHistory, ...]:
    """Return the history for one target; `strangers` are tables of another family, for N3.

    The same seed gives every method the same history.
    """
    rng = random.Random(f"{target.family}/{target.task}/{seed}")  # noqa: S311 - not cryptography
    found = others(tables, target)
    if given.variant == SPLIT:
        found = [table for table in found if half_of(table.family, table.task) == CHOOSING]
    if given.sources and given.sources < len(found):
        chosen = set(rng.sample([table.task for table in found], given.sources))
        found = [table for table in found if table.task in chosen]
    if given.variant in ("", SPLIT):
        return tuple(sampled(table, given.rows, seed) for table in found)
    spoil = BATTERY[given.variant]
    return spoil(Battery(found, target, given, seed, strangers, rng))


def sampled(table: Table, rows: int, seed: int) -> TaskHistory:
    """Return so many rows of a table as a finished task, each trained once."""
    count = min(rows, len(table))
    chosen = np.random.default_rng([seed, len(table)]).permutation(len(table))[:count]
    return TaskHistory(
        name=f"{table.family}/{table.task}",
        observations=[_observation(table, int(row), seed) for row in chosen],
        goal=table.objective.goal.value,
        metric=table.objective.metric,
        space=table.space,
        context=table.context,
    )


def _observation(table: Table, row: int, seed: int) -> Observation:
    value = table.observe(row, seed)
    cost = None if table.costs is None else float(table.costs[row])
    if np.isfinite(value):
        return Observation(table.params(row), value=value, cost=cost)
    return Observation(table.params(row), failure="diverged", cost=cost)


@dataclass(frozen=True)
class Battery:
    """What a spoilt history is made of."""

    sources: Sequence[Table]
    target: Table
    given: Given
    seed: int
    strangers: Sequence[Table]
    rng: random.Random

    def sound(self) -> list[TaskHistory]:
        """Return the history as it should be."""
        return [sampled(table, self.given.rows, self.seed) for table in self.sources]


def _changed(task: TaskHistory, change: Callable[[list[Observation]], list[Any]]) -> TaskHistory:
    return replace(task, observations=change(list(task.observations)))


def mirrored(observations: list[Observation]) -> list[Observation]:
    """Return the observations with the best value where the worst was."""
    values = [o.value for o in observations if o.value is not None]
    total = max(values) + min(values)
    return [o if o.value is None else replace(o, value=total - o.value) for o in observations]


def _negated(b: Battery) -> tuple[TaskHistory, ...]:
    return tuple(_changed(task, mirrored) for task in b.sound())


def _shuffled(b: Battery) -> tuple[TaskHistory, ...]:
    def shuffle(observations: list[Observation]) -> list[Observation]:
        outcomes = [(o.value, o.failure) for o in observations]
        b.rng.shuffle(outcomes)
        pairs = zip(observations, outcomes, strict=True)
        return [replace(o, value=value, failure=failure) for o, (value, failure) in pairs]

    return tuple(_changed(task, shuffle) for task in b.sound())


def _strange(b: Battery) -> tuple[TaskHistory, ...]:
    return tuple(sampled(table, b.given.rows, b.seed) for table in b.strangers)


def _other_units(b: Battery) -> tuple[TaskHistory, ...]:
    """Multiply every real number that spans orders of magnitude, as a learning rate in another unit."""
    space = b.target.space
    moved = {p.name for p in space.parameters if _has_unit(p)}
    shifted = Space(tuple(_wider(p) if p.name in moved else p for p in space.parameters))

    def move(params: Params) -> Params:
        return {
            name: _legal(shifted[name], float(value) * UNIT_SHIFT) if name in moved else value
            for name, value in params.items()
        }

    return tuple(
        replace(
            task,
            space=shifted,
            observations=[replace(o, params=move(dict(o.params))) for o in task.observations],
        )
        for task in b.sound()
    )


def _has_unit(parameter: Parameter) -> bool:
    if isinstance(parameter, Ordinal):
        low, high = float(parameter.options[0]), float(parameter.options[-1])
        fractions = any(not float(option).is_integer() for option in parameter.options)
        return fractions and 0 < ORDERS * low <= high
    return isinstance(parameter, Float) and parameter.scale is Scale.LOG


def _wider(parameter: Parameter) -> Parameter:
    if isinstance(parameter, Ordinal):
        options = tuple(float(option) * UNIT_SHIFT for option in parameter.options)
        return Ordinal(name=parameter.name, options=options)
    assert isinstance(parameter, Float)
    low, high = parameter.low * UNIT_SHIFT, parameter.high * UNIT_SHIFT
    return replace(parameter, low=low, high=high, default=None)


def _legal(parameter: Parameter, value: float) -> float:
    """Return the value; a float of a range stays within it whatever rounding did."""
    if isinstance(parameter, Float):
        return min(parameter.high, max(parameter.low, value))
    return value


def _corrupt(b: Battery) -> tuple[TaskHistory, ...]:
    """Spoil rows in turn: as a percentage, as a failure, mirrored."""

    def spoil(observations: list[Observation]) -> list[Observation]:
        bad = b.rng.sample(range(len(observations)), round(CORRUPT * len(observations)))
        upside_down = mirrored(observations)
        for turn, i in enumerate(bad):
            value = observations[i].value
            if value is None:
                continue
            observations[i] = (
                replace(observations[i], value=100.0 * value),
                replace(observations[i], value=None, failure="diverged"),
                upside_down[i],
            )[turn % 3]
        return observations

    return tuple(_changed(task, spoil) for task in b.sound())


def _one_huge(b: Battery) -> tuple[TaskHistory, ...]:
    """One task with all its rows (5,000 at most), the others with a few."""
    huge, *small = b.rng.sample(list(b.sources), len(b.sources))
    few = [sampled(table, SMALL_TASK, b.seed) for table in small[:SMALL_TASK]]
    return (sampled(huge, 5000, b.seed), *few)


def _one_only(b: Battery) -> tuple[TaskHistory, ...]:
    return (sampled(b.rng.choice(list(b.sources)), b.given.rows, b.seed),)


def _drifted(b: Battery) -> tuple[TaskHistory, ...]:
    """Add an earlier version of the target's own data set, whose optimum lay elsewhere."""
    before = sampled(b.target, b.given.rows, b.seed)
    space = b.target.space

    def move(params: Params) -> Params:
        return {p.name: _moved(p, params[p.name]) for p in space.parameters}

    earlier = replace(
        before,
        name=f"{before.name}/v1",
        observations=[replace(o, params=move(dict(o.params))) for o in before.observations],
    )
    return (*b.sound(), earlier)


def _moved(parameter: Parameter, value: Any) -> Any:
    if not isinstance(parameter, Float | Int):
        return value
    u = parameter.to_unit(value) + DRIFT
    return parameter.from_unit(u if u <= 1 else 2 - u)


BATTERY: Final[dict[str, Callable[[Battery], tuple[TaskHistory, ...]]]] = {
    "N1": _negated,
    "N2": _shuffled,
    "N3": _strange,
    "N4": _other_units,
    "N5": _corrupt,
    "N6": _one_huge,
    "N7": _one_only,
    "N8": _drifted,
}
"""Negated, shuffled, another family's, other units, one row in ten corrupt, one huge task among small
ones, one task only, an earlier version of the same data set whose optimum has moved."""
