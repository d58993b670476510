"""Configurations as rows of a matrix, and back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.designs import MIXED, SMALL

from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Scale, Space
from foretune.search.encode import MAX_LEVELS, Encoding

if TYPE_CHECKING:
    from foretune.domain.space import Parameter

bounds = st.tuples(st.integers(-50, 50), st.integers(1, 60)).map(lambda b: (b[0], b[0] + b[1]))


@st.composite
def parameters(draw: st.DrawFn, name: str) -> Parameter:
    """Any parameter."""
    kind = draw(
        st.sampled_from(["float", "log", "step", "int", "logint", "choice", "ordinal", "const"])
    )
    low, high = draw(bounds)
    match kind:
        case "float":
            return Float(name=name, low=low / 7, high=high / 7)
        case "log":
            return Float(
                name=name, low=10.0 ** (low / 10), high=10.0 ** (high / 10), scale=Scale.LOG
            )
        case "step":
            return Float(name=name, low=low * 0.1, high=low * 0.1 + (high - low) * 0.25, step=0.25)
        case "int":
            return Int(name=name, low=low, high=high)
        case "logint":
            return Int(name=name, low=1, high=high - low + 1, scale=Scale.LOG)
        case "choice":
            words = st.one_of(st.booleans(), st.text("abcd", min_size=1), st.integers(0, 9))
            options = draw(
                st.lists(words, min_size=1, max_size=5, unique_by=lambda v: (type(v) is bool, v))
            )
            return Choice(name=name, options=tuple(options))
        case "ordinal":
            values = draw(st.lists(st.integers(-9, 99), min_size=1, max_size=6, unique=True))
            return Ordinal(name=name, options=tuple(sorted(values)))
        case _:
            return Const(name=name, value=low)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Any space of one to five parameters."""
    count = draw(st.integers(1, 5))
    return Space(tuple(draw(parameters(f"p{i}")) for i in range(count)))


@given(space=spaces(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_decoding_what_was_encoded_gives_the_same_configuration(
    space: Space, data: st.DataObject
) -> None:
    """Encode and decode are inverse on legal configurations, up to the key of a configuration."""
    unit = st.floats(0.0, 1.0)
    params = space.from_unit([data.draw(unit) for _ in space.parameters])
    encoding = Encoding(space)
    rows = encoding.encode([params])
    assert rows.shape == (1, encoding.width)
    assert bool(((rows >= 0) & (rows <= 1)).all())
    found = encoding.decode(rows[0])
    assert space.key(found) == space.key(params)
    assert space.problems(found) == []
    assert list(found) == list(space.names)


@pytest.mark.slow
@given(space=spaces(), seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_snapping_any_row_gives_a_legal_one(space: Space, seed: int) -> None:
    """Any matrix snaps to rows that stay put, and decode to legal configurations that encode to them."""
    encoding = Encoding(space)
    generator = torch.Generator().manual_seed(seed)
    rows = 2 * torch.rand(4, encoding.width, generator=generator, dtype=torch.float64) - 0.5
    snapped = encoding.snap(rows)
    assert torch.equal(encoding.snap(snapped), snapped)
    for row in snapped:
        params = encoding.decode(row)
        assert space.problems(params) == []
        torch.testing.assert_close(encoding.encode([params])[0], row, atol=1e-9, rtol=0)


@given(space=spaces(), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_drawn_rows_are_legal(space: Space, seed: int) -> None:
    """Uniform numbers become rows that snapping leaves alone."""
    encoding = Encoding(space)
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(8, len(encoding.columns), generator=generator, dtype=torch.float64)
    rows = encoding.draw(uniform)
    assert torch.equal(encoding.snap(rows), rows)


def test_the_columns_of_a_mixed_space() -> None:
    """Numbers take a column each, a choice of three takes three, a constant none."""
    encoding = Encoding(MIXED)
    names = [(c.parameter.name, c.width) for c in encoding.columns]
    assert names == [
        ("lr", 1),
        ("batch_size", 1),
        ("layers", 1),
        ("dropout", 1),
        ("optimizer", 3),
        ("epochs", 1),
    ]
    assert encoding.smooth == [0, 7], "lr and epochs have small steps"


def test_two_options_are_one_apart() -> None:
    """Any two options of a choice have distance 1, whether there are two or five."""
    for options in (("a", "b"), ("a", "b", "c", "d", "e")):
        encoding = Encoding(Space((Choice(name="c", options=options),)))
        rows = encoding.encode([{"c": option} for option in options])
        apart = torch.cdist(rows, rows)[~torch.eye(len(options), dtype=torch.bool)]
        torch.testing.assert_close(apart, torch.ones_like(apart))


def test_the_grid_is_every_configuration() -> None:
    """A finite space is enumerated without repetition."""
    encoding = Encoding(SMALL)
    rows = encoding.grid()
    assert len(rows) == 12
    assert {SMALL.key(encoding.decode(row)) for row in rows} == {SMALL.key(p) for p in SMALL.grid()}
    with pytest.raises(ValueError, match="continuous"):
        Encoding(MIXED).grid()


def test_draws_are_fair_to_every_value() -> None:
    """Even numbers of draws fall on every value of an ordinal and a whole number."""
    space = Space((Ordinal(name="o", options=(1, 10, 100, 1000)), Int(name="i", low=1, high=4)))
    encoding = Encoding(space)
    even = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    rows = encoding.draw(torch.stack([even, even], dim=1))
    for j in range(2):
        _, counts = rows[:, j].unique(return_counts=True)
        assert counts.tolist() == [100, 100, 100, 100]


def test_huge_whole_numbers_are_rounded_at_the_end() -> None:
    """A whole number with millions of values is searched as if continuous, and decodes to a legal one."""
    space = Space((Int(name="n", low=1, high=100 * MAX_LEVELS),))
    encoding = Encoding(space)
    assert encoding.smooth == [0]
    found = encoding.decode(torch.tensor([1 / math.pi], dtype=torch.float64))
    assert space.problems(found) == []
    assert isinstance(found["n"], int)
