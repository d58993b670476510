"""Proposals among given configurations only, as among the rows of a recorded table. No torch, no numpy.

A table drawn at random holds no point of a Sobol sequence; so a start point is the untried candidate
nearest to the sequence's next point, which spreads the start as the sequence would.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Final

from foretune.domain.space import Choice
from foretune.errors import SpaceExhaustedError
from foretune.search.sampling import sobol_points, tunable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from foretune.domain.space import Parameter, Params, Space, Value

UNLIKE: Final = 1.0
"""Distance between two options of a choice, where a number's whole range is 1 long."""


def untried(
    space: Space, candidates: Sequence[Params], used: AbstractSet[str]
) -> list[tuple[int, Params]]:
    """Return the candidates whose key is not in `used`, with their places.

    Raises `SpaceExhaustedError` when none is left.
    """
    left = [(i, params) for i, params in enumerate(candidates) if space.key(params) not in used]
    if not left:
        raise SpaceExhaustedError(f"candidates: all {len(candidates)} were proposed")
    return left


def spread(
    space: Space, candidates: Sequence[Params], used: AbstractSet[str], *, seed: int
) -> Params:
    """Return the untried candidate nearest to the next point of the seed's Sobol sequence."""
    left = untried(space, candidates, used)
    (point,) = itertools.islice(sobol_points(space, seed), len(used), len(used) + 1)
    return nearest(space, (params for _, params in left), point)


def drawn(
    space: Space, candidates: Sequence[Params], used: AbstractSet[str], *, seed: int
) -> Params:
    """Return the first untried candidate in the seed's random order."""
    left = untried(space, candidates, used)
    order = random.Random(f"foretune-candidates/{seed}").sample(  # noqa: S311 - not cryptography
        range(len(candidates)), len(candidates)
    )
    place = {index: rank for rank, index in enumerate(order)}
    return min(left, key=lambda pair: place[pair[0]])[1]


def nearest(space: Space, candidates: Iterable[Params], point: Params) -> Params:
    """Return the candidate nearest to `point`, the earlier of equals."""
    parameters = tunable(space)
    return min(candidates, key=lambda params: _squared(parameters, params, point))


def _squared(
    parameters: Iterable[Parameter], one: Mapping[str, Value], other: Mapping[str, Value]
) -> float:
    total = 0.0
    for parameter in parameters:
        a, b = one[parameter.name], other[parameter.name]
        if a == b:
            continue
        if isinstance(parameter, Choice):
            total += UNLIKE
        else:
            total += (parameter.to_unit(a) - parameter.to_unit(b)) ** 2
    return total
