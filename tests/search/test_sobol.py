"""Scrambled Sobol points in pure Python."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.search import sobol


def first(
    count: int, dimensions: int, *, seed: int | None, start: int = 0
) -> list[tuple[float, ...]]:
    """Return the first points from `start` on."""
    return list(itertools.islice(sobol.points(dimensions, seed=seed, start=start), count))


def test_the_plain_sequence_is_that_of_joe_and_kuo() -> None:
    """All 64 dimensions agree with SciPy's implementation of the same direction numbers."""
    qmc = pytest.importorskip("scipy.stats").qmc
    theirs = qmc.Sobol(sobol.MAX_DIMENSIONS, scramble=False, bits=sobol.BITS).random(1024)
    ours = first(1024, sobol.MAX_DIMENSIONS, seed=None)
    assert all(tuple(row) == point for row, point in zip(theirs.tolist(), ours, strict=True))


@given(seed=st.integers(-(2**70), 2**70), dimensions=st.integers(1, 64), level=st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_scrambling_keeps_every_coordinate_stratified(
    seed: int, dimensions: int, level: int
) -> None:
    """Of the first 2^k points, each of the 2^k equal slices of a coordinate holds exactly one."""
    count = 2**level
    points = first(count, dimensions, seed=seed)
    for j in range(dimensions):
        assert sorted(int(point[j] * count) for point in points) == list(range(count))


@given(seed=st.integers(0, 2**32), pair=st.sampled_from([(0, 1), (1, 2), (0, 2)]))
@settings(max_examples=20, deadline=None)
def test_scrambling_keeps_the_first_planes_stratified(seed: int, pair: tuple[int, int]) -> None:
    """The first three coordinates, two by two, put one of 64 points into each 8 x 8 square up to t = 1."""
    points = first(64, 3, seed=seed)
    squares = [(int(p[pair[0]] * 8), int(p[pair[1]] * 8)) for p in points]
    most = max(squares.count(square) for square in set(squares))
    assert most <= 2
    if pair == (0, 1):
        assert most == 1


@given(seed=st.integers(0, 1000), start=st.integers(0, 5000), dimensions=st.integers(1, 70))
@settings(max_examples=30, deadline=None)
def test_a_start_is_a_jump(seed: int, start: int, dimensions: int) -> None:
    """Starting at point i gives the points from i on, more than 64 dimensions included."""
    whole = first(start % 97 + 5, dimensions, seed=seed)
    assert first(5, dimensions, seed=seed, start=start % 97) == whole[-5:]


def test_seeds_make_other_sequences() -> None:
    """The same seed repeats, another one differs, and every coordinate lies in [0, 1)."""
    one = first(256, 8, seed=1)
    assert one == first(256, 8, seed=1)
    assert one != first(256, 8, seed=2)
    assert all(0.0 <= u < 1.0 for point in one for u in point)


def test_more_dimensions_leave_the_first_ones_as_they_are() -> None:
    """A coordinate depends on the seed and its own number only."""
    narrow, wide = first(16, 3, seed=5), first(16, 9, seed=5)
    assert [point[:3] for point in wide] == narrow


def test_the_fallback_needs_no_numerical_library() -> None:
    """The tracker's image has no torch, numpy or scipy: importing the fallback loads none of them."""
    code = (
        "import sys, foretune.search.fallback, foretune.search.simple\n"
        "print([m for m in ('torch', 'numpy', 'scipy', 'gpytorch', 'botorch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
