"""Spaces go through the manifest and back without a change."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foretune.api.space import FIELDS, MAX_PARAMETERS, TYPES, parse_space, render_space
from foretune.api.spec import Parameter
from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Scale, Space
from foretune.errors import InvalidInputError, InvalidJobError

SCALARS = st.one_of(
    st.text("abc=-. é", min_size=1, max_size=6),
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.booleans(),
)


@st.composite
def parameters(draw, name: str):
    """Any parameter of that name."""
    kind = draw(st.sampled_from(TYPES))
    if kind in {"float", "int"}:
        low = draw(st.integers(1, 1000))
        high = low + draw(st.integers(1, 1000))
        scale = draw(st.sampled_from(Scale))
        if kind == "int":
            return Int(name=name, low=low, high=high, scale=scale, default=low)
        step = draw(st.sampled_from([None, (high - low) / 4]))
        return Float(name=name, low=low / 7, high=high / 7, scale=scale, step=step and step / 7)
    if kind == "ordinal":
        numbers = st.integers(-50, 50) | st.floats(-50, 50, allow_nan=False).map(lambda x: x / 3)
        keys = draw(st.lists(numbers, min_size=1, max_size=6, unique_by=lambda x: f"{x:.12g}"))
        return Ordinal(name=name, options=tuple(sorted(keys)))
    if kind == "choice":
        options = draw(st.lists(SCALARS, min_size=1, max_size=6, unique_by=_key))
        return Choice(name=name, options=tuple(options), default=options[0])
    return Const(name=name, value=draw(SCALARS))


def _key(value):
    same = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{float(value):.12g}" if same else json.dumps(value)


@st.composite
def spaces(draw):
    """Any space."""
    names = draw(
        st.lists(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), min_size=1, unique=True)
    )
    return Space(tuple(draw(parameters(name)) for name in names))


@pytest.mark.slow
@given(spaces())
def test_a_space_comes_back_as_it_went(space):
    """Rendered, written as JSON, read and parsed, a space is equal to what it was."""
    assert parse_space(json.loads(json.dumps(render_space(space)))) == space


@pytest.mark.slow
@given(st.recursive(SCALARS | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_whatever_is_given_is_parsed_or_refused(anything):
    """No input makes anything but a space or a clear refusal."""
    entries = (anything, {"values": anything}, {"min": anything}, {"value": anything})
    for mapping in (anything, *({"x": entry} for entry in entries)):
        refused = _refusal(mapping)
        assert refused is None or refused
        assert all(problem.path.startswith("spec.space") for problem in refused or ())


def _refusal(mapping):
    try:
        parse_space(mapping)
    except InvalidJobError as error:
        return error.problems
    return None


@example(entry={"scale": []})
@example(entry={"type": {}})
@given(st.dictionaries(st.sampled_from(FIELDS), SCALARS | st.lists(SCALARS, max_size=3)))
def test_any_mixture_of_fields_is_parsed_or_refused(entry):
    """Fields that don't go together are refused, never crashed on."""
    try:
        space = parse_space({"x": entry})
    except InvalidJobError:
        return
    assert parse_space(render_space(space)) == space


def test_the_path_is_the_callers():
    """A caller that reads a space from elsewhere says where."""
    with pytest.raises(InvalidInputError, match=r"^space\.lr\.min: min \(2\) must be less"):
        parse_space({"lr": {"min": 2, "max": 1}}, "space")


def test_every_problem_of_a_space_is_said():
    """All parameters are read, whatever is wrong with the first."""
    with pytest.raises(InvalidJobError) as caught:
        parse_space({"a": {"min": 3, "max": 1}, "b": {"values": []}, "c d": {"value": 1}})
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["spec.space.c d", "spec.space.a.min", "spec.space.b.values"]


def test_a_key_that_is_no_text_is_explained():
    """YAML reads on, yes and 1 as something else: quotes are what helps."""
    with pytest.raises(InvalidJobError, match="put it in quotes"):
        parse_space({True: {"min": 1, "max": 5}})


def test_values_must_be_finite():
    """NaN and infinity are no values to train with."""
    with pytest.raises(InvalidJobError, match=r"values\[1\]: must be a finite number"):
        parse_space({"a": {"values": [1.0, float("nan")]}})
    with pytest.raises(InvalidJobError, match=r"a\.value: must be a finite number"):
        parse_space({"a": {"value": float("inf")}})


def test_long_texts_are_refused():
    """A text of a megabyte can't be an environment variable."""
    with pytest.raises(InvalidJobError, match="at most 1024 characters"):
        parse_space({"a": {"values": ["x" * 1025, "y"]}})


def test_the_schema_knows_the_same_fields():
    """The model for the CRD has the fields that the parser reads, in the same order of types."""
    assert set(Parameter.model_fields) == set(FIELDS)
    assert Parameter.model_json_schema()["properties"]["type"]["anyOf"][0]["enum"] == list(TYPES)


def test_the_bound_is_the_schemas():
    """A space of 64 parameters is read."""
    space = parse_space({f"p{i}": {"min": 1, "max": 5} for i in range(MAX_PARAMETERS)})
    assert len(space.parameters) == MAX_PARAMETERS


def test_something_that_is_no_parameter_can_not_be_rendered():
    """A parameter class without a form in the manifest is an error of ours, said at once."""
    with pytest.raises(TypeError, match="has no manifest form"):
        render_space(Space((type("Odd", (), {"name": "x", "default": None})(),)))
