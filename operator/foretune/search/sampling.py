"""From sequences of points to configurations nobody has tried yet. No torch, no numpy."""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING, Final

from foretune.domain.space import Float, Int, Scale
from foretune.errors import SpaceExhaustedError
from foretune.search import sobol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from foretune.domain.space import Parameter, Params, Space

SPARE_POINTS: Final = 256
"""Points tried beyond the number of known configurations before a space is enumerated: a sequence hits
few duplicates while most of the space is free."""


def tunable(space: Space) -> tuple[Parameter, ...]:
    """Return the parameters that have more than one value."""
    return tuple(p for p in space.parameters if p.cardinality != 1)


def sobol_points(space: Space, seed: int) -> Iterator[Params]:
    """Yield configurations of the scrambled Sobol sequence, without end; constants use no dimension."""
    parameters = tunable(space)
    for point in sobol.points(len(parameters), seed=seed):
        yield configuration(space, parameters, point)


def random_points(space: Space, seed: int) -> Iterator[Params]:
    """Yield independent uniform configurations, without end."""
    parameters = tunable(space)
    rng = random.Random(f"foretune-random/{seed}")  # noqa: S311 - not cryptography
    while True:
        yield configuration(space, parameters, [rng.random() for _ in parameters])


def configuration(space: Space, parameters: Sequence[Parameter], point: Sequence[float]) -> Params:
    """Map one coordinate for each of `parameters` to a configuration; the others have one value each."""
    drawn = {p.name: draw(p, u) for p, u in zip(parameters, point, strict=True)}
    return {
        p.name: drawn[p.name] if p.name in drawn else p.from_unit(0.5) for p in space.parameters
    }


def draw(parameter: Parameter, u: float) -> str | int | float | bool:
    """Map uniform `u` in [0, 1) to a value so that each value of a grid has its fair share.

    `Parameter.from_unit` rounds to the nearest value, which gives the two ends half a share only.
    """
    if not isinstance(parameter, Float | Int) or parameter.step is None:
        return parameter.from_unit(u)
    half = parameter.step / 2
    low, high = parameter.low - half, parameter.high + half
    if parameter.scale is Scale.LOG and low > 0:
        value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    elif parameter.scale is Scale.LOG:
        return parameter.from_unit(u)
    else:
        value = low + u * (high - low)
    return parameter.from_unit(parameter.to_unit(min(parameter.high, max(parameter.low, value))))


def first_untried(
    space: Space, stream: Iterable[Params], used: AbstractSet[str], *, seed: int
) -> Params:
    """Return the first configuration of `stream` whose key is not in `used`.

    When the stream keeps hitting known ones, a finite space is walked in a seeded order instead, so that
    every configuration is found. Raises `SpaceExhaustedError` when none is left.
    """
    for params in itertools.islice(stream, len(used) + SPARE_POINTS):
        if space.key(params) not in used:
            return params
    for params in shuffled(space, limit=len(used) + 1, seed=seed):
        if space.key(params) not in used:
            return params
    raise exhausted(space)


def default_or(
    space: Space, stream: Iterable[Params], used: AbstractSet[str], *, seed: int
) -> tuple[Params, bool]:
    """Return the space's default configuration and True, else the first untried one and False."""
    default = space.default()
    if default is not None and space.key(default) not in used:
        return default, True
    return first_untried(space, stream, used, seed=seed), False


def exhausted(space: Space) -> SpaceExhaustedError:
    """Return the error that says how many configurations there were."""
    count = space.cardinality
    what = "every configuration that differs" if count is None else f"all {count} configurations"
    return SpaceExhaustedError(f"space: {what} of the space were proposed; widen it or end the job")


def shuffled(space: Space, *, limit: int, seed: int) -> Iterator[Params]:
    """Yield up to `limit` different configurations of a finite space in a seeded order.

    By the pigeonhole principle one more than the number of known configurations is enough. An infinite
    space yields nothing.
    """
    count = space.cardinality
    if count is None:
        return
    rng = random.Random(f"foretune-shuffled/{seed}")  # noqa: S311 - not cryptography
    start, stride = rng.randrange(count), rng.randrange(1, count + 1)
    while math.gcd(stride, count) != 1:
        stride += 1
    for step in range(min(limit, count)):
        yield at(space, (start + step * stride) % count)


def at(space: Space, index: int) -> Params:
    """Return configuration number `index` of a finite space, in the order of `Space.grid`."""
    digits: dict[str, int] = {}
    for parameter in reversed(space.parameters):
        assert parameter.cardinality is not None
        index, digits[parameter.name] = divmod(index, parameter.cardinality)
    return {p.name: value_at(p, digits[p.name]) for p in space.parameters}


def value_at(parameter: Parameter, index: int) -> str | int | float | bool:
    """Return value number `index` of a parameter with finitely many."""
    if isinstance(parameter, Float | Int) and parameter.step is not None:
        return parameter.from_unit(parameter.to_unit(parameter.low + index * parameter.step))
    return next(itertools.islice(parameter.values(), index, None))
