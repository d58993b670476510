"""Scrambled Sobol points in pure Python.

The tracker answers from here when the suggestion service is down, in an image without torch or numpy.
Scrambling is a random linear matrix scramble followed by a digital shift (Matousek, "On the
L2-discrepancy for anchored boxes", J. Complexity 14, 1998): it keeps the sequence's equidistribution
and makes every seed another sequence.
"""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING, Final

from foretune.search.direction_numbers import JOE_KUO

if TYPE_CHECKING:
    from collections.abc import Iterator

BITS: Final = 32
"""Binary digits of a coordinate; the sequence repeats after 2^32 points."""

MAX_DIMENSIONS: Final = len(JOE_KUO) + 1
"""Dimensions with direction numbers; further coordinates are seeded uniform noise."""


def points(dimensions: int, *, seed: int | None, start: int = 0) -> Iterator[tuple[float, ...]]:
    """Yield points of [0, 1)^dimensions from number `start` on, without end.

    `seed` chooses the scrambling; None gives the plain sequence, whose point 0 is the origin.
    """
    tables, shifts = _generators(min(dimensions, MAX_DIMENSIONS), seed)
    extra = dimensions - len(tables)
    index = start
    state = list(shifts)
    gray = index ^ (index >> 1)
    for bit in range(gray.bit_length()):
        if gray >> bit & 1:
            state = [x ^ table[bit] for x, table in zip(state, tables, strict=True)]
    while True:
        point = tuple(x * 2.0**-BITS for x in state)
        yield point + _noise(extra, seed, index) if extra > 0 else point
        # Gray code order: going to the next point flips one digit, that of the lowest zero bit.
        bit = (~index & (index + 1)).bit_length() - 1
        index += 1
        state = [x ^ table[bit % BITS] for x, table in zip(state, tables, strict=True)]


def _noise(count: int, seed: int | None, index: int) -> tuple[float, ...]:
    rng = random.Random(f"foretune-sobol-extra/{seed}/{index}")  # noqa: S311 - not cryptography
    return tuple(rng.random() for _ in range(count))


@functools.lru_cache(maxsize=64)
def _generators(
    dimensions: int, seed: int | None
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Return the scrambled direction numbers of each dimension, and its digital shift."""
    plain = tuple(_direction_numbers(dimension) for dimension in range(dimensions))
    if seed is None:
        return plain, (0,) * dimensions
    rng = random.Random(f"foretune-sobol/{seed}")  # noqa: S311 - not cryptography
    # One dimension after the other from one stream: more dimensions leave the first ones as they are.
    tables: list[tuple[int, ...]] = []
    shifts: list[int] = []
    for numbers in plain:
        rows = _lower_triangular(rng)
        tables.append(tuple(_apply(rows, number) for number in numbers))
        shifts.append(rng.getrandbits(BITS))
    return tuple(tables), tuple(shifts)


def _direction_numbers(dimension: int) -> tuple[int, ...]:
    """Return the `BITS` direction numbers of a dimension, the first digit in the highest bit."""
    if dimension == 0:
        return tuple(1 << (BITS - 1 - k) for k in range(BITS))
    polynomial, initial = JOE_KUO[dimension - 1]
    degree = polynomial.bit_length() - 1
    m = list(initial)
    for k in range(degree, BITS):
        new = m[k - degree] ^ (m[k - degree] << degree)
        for i in range(1, degree):
            if polynomial >> (degree - i) & 1:
                new ^= m[k - i] << i
        m.append(new)
    return tuple(m[k] << (BITS - 1 - k) for k in range(BITS))


def _lower_triangular(rng: random.Random) -> tuple[int, ...]:
    """Return rows of a random lower triangular bit matrix with ones on the diagonal."""
    return tuple(
        (rng.getrandbits(k) << (BITS - k) if k else 0) | 1 << (BITS - 1 - k) for k in range(BITS)
    )


def _apply(rows: tuple[int, ...], number: int) -> int:
    """Return matrix times digit vector over GF(2)."""
    product = 0
    for k, row in enumerate(rows):
        product |= ((row & number).bit_count() & 1) << (BITS - 1 - k)
    return product
