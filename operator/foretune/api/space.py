"""`spec.space`: from the manifest's mapping to the domain's Space and back.

lr:         {min: 0.0001, max: 0.1, scale: log}     float: the bounds are not both whole
layers:     {min: 2, max: 5}                        int: both bounds are whole
batch_size: {values: [16, 32, 64, 128]}             ordinal: all values are numbers
optimizer:  {values: [adam, sgd, rmsprop]}          choice
epochs:     {value: 10}                             const

A bare `epochs: 10` is no parameter: the resource's schema knows objects only, and both must read alike. For
the same reason {min: 0, max: 1} needs its type: a cluster can't tell 0.0 from 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, get_args

from foretune.api.problems import listed, nearest, text_number
from foretune.contract import parameter_variable
from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Parameter, Scale, Space, Value
from foretune.errors import InvalidJobError, InvalidSpaceError, Problem

MAX_PARAMETERS: Final = 64
"""Parameters a space may have: the CRD's bound, and the Sobol sequence's."""

MAX_VALUES: Final = 256
"""Entries `values` may have."""

MAX_TEXT: Final = 1024
"""Characters of a text among `values`: it becomes part of an environment."""

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
"""What a parameter may be called."""

AMBIGUOUS: Final = "0 to 1 may mean real or whole numbers: say type: float or type: int"
"""What is said of a parameter whose bounds are 0 and 1, and which names no type."""

TYPES: Final = ("float", "int", "choice", "ordinal", "const")
FIELDS: Final = ("type", "min", "max", "step", "scale", "values", "value", "default")
_SCALARS: Final = get_args(Value)


def parse_space(mapping: object, path: str = "spec.space") -> Space:
    """Return the space of a manifest's mapping; `path` stands in front of each problem.

    Raises `InvalidJobError` (a `ValueError`) with everything that is wrong.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidJobError(
            [Problem(path, "must be a mapping from parameter name to {min, max} or {values}")]
        )
    problems: list[Problem] = []
    if not 1 <= len(mapping) <= MAX_PARAMETERS:
        problems.append(
            Problem(path, f"must have 1 to {MAX_PARAMETERS} parameters, not {len(mapping)}")
        )
    problems.extend(_names(mapping, path))
    parameters = []
    for name, entry in mapping.items():
        try:
            parameters.append(_parameter(str(name), entry, f"{path}.{name}"))
        except InvalidJobError as error:
            problems.extend(error.problems)
    if problems:
        raise InvalidJobError(problems)
    return Space(tuple(parameters))


def render_space(space: Space) -> dict[str, Any]:
    """Return the mapping that `parse_space` reads back as an equal space."""
    return {parameter.name: _render(parameter) for parameter in space.parameters}


def _names(mapping: Mapping[object, object], path: str) -> list[Problem]:
    problems, variables = [], dict[str, str]()
    for key in mapping:
        name = str(key)
        if not isinstance(key, str):
            message = f"a name must be a text, and YAML reads this one as {key!r}: put it in quotes"
            problems.append(Problem(f"{path}.{name}", message))
            continue
        if not NAME.fullmatch(name):
            rule = "a name starts with a letter or _, then letters, digits, _ . -, at most 63"
            problems.append(Problem(f"{path}.{name}", rule))
            continue
        variable = parameter_variable(name)
        if variable in variables:
            other = variables[variable]
            message = f"is the same variable, {variable}, as {other}: rename one of them"
            problems.append(Problem(f"{path}.{name}", message))
        variables[variable] = name
    return problems


def _parameter(name: str, entry: object, path: str) -> Parameter:
    if not isinstance(entry, Mapping):
        rule = "must be a mapping such as {min: 2, max: 5}, {values: [a, b]} or {value: 10}"
        raise InvalidJobError([Problem(path, f"{rule}, not {entry!r}")])
    problems = [
        Problem(
            f"{path}.{field}",
            f"unknown field{nearest(str(field), FIELDS)}; known here: {listed(FIELDS)}",
        )
        for field in entry
        if field not in FIELDS
    ]
    kind = entry.get("type", _inferred(entry))
    if kind not in TYPES:
        hint = nearest(str(kind), TYPES)
        problems.append(
            Problem(f"{path}.type", f"must be one of {listed(TYPES)}, not {kind!r}{hint}")
        )
        raise InvalidJobError(problems)
    if _ambiguous(entry):
        problems.append(Problem(path, AMBIGUOUS))
    allowed = {
        "float": ("min", "max", "step", "scale", "default"),
        "int": ("min", "max", "step", "scale", "default"),
        "choice": ("values", "default"),
        "ordinal": ("values", "default"),
        "const": ("value",),
    }[kind]
    problems += [
        Problem(f"{path}.{field}", f"does not go with type {kind}, which has {listed(allowed)}")
        for field in entry
        if field in FIELDS and field not in (*allowed, "type")
    ]
    build = {"float": _numeric, "int": _numeric, "const": _const}.get(kind, _listed)
    try:
        parameter = build(name, kind, entry, path, problems)
    except InvalidSpaceError as error:
        where, message = _place(str(error), name)
        problems.append(Problem(f"{path}{where}", message))
    if problems:
        raise InvalidJobError(problems)
    return parameter


def _inferred(entry: Mapping[Any, Any]) -> str:
    if "value" in entry:
        return "const"
    if "values" in entry:
        values = entry["values"]
        numbers = isinstance(values, list | tuple) and all(_number(value) for value in values)
        return "ordinal" if numbers and values else "choice"
    bounds = [entry.get("min"), entry.get("max"), entry.get("step", 1)]
    return "int" if all(isinstance(b, int) and not isinstance(b, bool) for b in bounds) else "float"


def _ambiguous(entry: Mapping[Any, Any]) -> bool:
    """Whether the bounds are 0 and 1, which mean a float far more often than two whole numbers."""
    bounds = (entry.get("min"), entry.get("max"))
    return bounds == (0, 1) and not {"type", "step"} & set(entry) and _inferred(entry) == "int"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numeric(
    name: str, kind: str, entry: Mapping[Any, Any], path: str, problems: list[Problem]
) -> Parameter:
    numbers: dict[str, float] = {}
    for field, required in (("min", True), ("max", True), ("step", False), ("default", False)):
        value = entry.get(field)
        if value is None:
            if required:
                problems.append(Problem(f"{path}.{field}", "is required (or give values)"))
        elif not _number(value):
            message = f"must be a number, not {value!r}{text_number(value)}"
            problems.append(Problem(f"{path}.{field}", message))
        else:
            numbers[field] = value
    scale = entry.get("scale", Scale.LINEAR.value)
    choices = [s.value for s in Scale]
    if scale not in choices:
        message = f"must be one of {listed(choices)}, not {scale!r}{nearest(str(scale), choices)}"
        problems.append(Problem(f"{path}.scale", message))
    if problems:
        raise InvalidJobError(problems)
    low, high = numbers.pop("min"), numbers.pop("max")
    if kind == "int":
        return Int(name=name, low=low, high=high, scale=Scale(scale), **{"step": 1, **numbers})
    return Float(name=name, low=low, high=high, scale=Scale(scale), **numbers)


def _listed(
    name: str, kind: str, entry: Mapping[Any, Any], path: str, problems: list[Problem]
) -> Parameter:
    values = entry.get("values")
    if values is None:
        problems.append(Problem(f"{path}.values", "is required"))
        raise InvalidJobError(problems)
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= MAX_VALUES:
        shown = f"{len(values)} entries" if isinstance(values, list | tuple) else repr(values)
        problems.append(
            Problem(f"{path}.values", f"must be a list of 1 to {MAX_VALUES} values, not {shown}")
        )
        raise InvalidJobError(problems)
    for position, value in enumerate(values):
        problems.extend(_scalar(value, f"{path}.values[{position}]"))
    if problems:
        raise InvalidJobError(problems)
    default = entry.get("default")
    if kind == "ordinal":
        ordered = all(_number(value) for value in values)
        options = tuple(sorted(values)) if ordered else tuple(values)
        return Ordinal(name=name, options=options, default=default)
    return Choice(name=name, options=tuple(values), default=default)


def _const(
    name: str, _kind: str, entry: Mapping[Any, Any], path: str, problems: list[Problem]
) -> Parameter:
    problems.extend(_scalar(entry.get("value"), f"{path}.value"))
    if problems:
        raise InvalidJobError(problems)
    return Const(name=name, value=entry["value"])


def _scalar(value: object, path: str) -> list[Problem]:
    """Return what is wrong with an entry of `values`, or with `value`."""
    if not isinstance(value, _SCALARS):
        return [Problem(path, f"must be a text, a number or a boolean, not {value!r}")]
    if isinstance(value, float) and not math.isfinite(value):
        return [Problem(path, f"must be a finite number, not {value!r}")]
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return [Problem(path, f"may be at most {MAX_TEXT} characters long, not {len(value)}")]
    return []


def _place(message: str, name: str) -> tuple[str, str]:
    """Return the field that a domain error speaks of, and its message without the name."""
    text = message.removeprefix(f"{name}: ")
    for start, field in (
        ("min (", ".min"),
        ("scale log", ".min"),
        ("step", ".step"),
        ("max - min", ".step"),
        ("default", ".default"),
        ("values", ".values"),
        ("min and max", ".min"),
    ):
        if text.startswith(start):
            return field, text
    return "", text


def _render(parameter: Parameter) -> dict[str, Any]:
    if isinstance(parameter, Float | Int):
        entry: dict[str, Any] = {
            "type": "int" if isinstance(parameter, Int) else "float",
            "min": parameter.low,
            "max": parameter.high,
            "scale": parameter.scale.value,
        }
        if parameter.step is not None:
            entry["step"] = parameter.step
    elif isinstance(parameter, Ordinal | Choice):
        kind = "ordinal" if isinstance(parameter, Ordinal) else "choice"
        entry = {"type": kind, "values": list(parameter.options)}
    elif isinstance(parameter, Const):
        return {"type": "const", "value": parameter.value}
    else:
        raise TypeError(f"{type(parameter).__name__} has no manifest form")
    if parameter.default is not None:
        entry["default"] = parameter.default
    return entry
