"""Helpers to say what is wrong: paths, nearest names, and pydantic's errors in our words."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from foretune.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic import ValidationError


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for a name close to a known one, else an empty text."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def listed(known: Iterable[str]) -> str:
    """Return names as a readable list."""
    return ", ".join(known)


def text_number(value: object) -> str:
    """Return a hint when `value` is a text that reads like a number, else an empty text."""
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    return (
        f"; {value!r} is a text: write the number {number!r} without quotes, as in 0.0001 or 1.0e-4"
    )


def from_pydantic(
    error: ValidationError, prefix: str, known: Mapping[str, Sequence[str]]
) -> list[Problem]:
    """Translate pydantic's errors; `known` maps a model's name to its fields, for nearest names."""
    problems = []
    for item in error.errors(include_url=False):
        path = ".".join(
            [prefix, *(_part(part) for part in item["loc"])] if prefix else map(_part, item["loc"])
        ).replace(".[", "[")
        problems.append(Problem(path, _message(item, known)))
    return problems


def _part(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else str(part)


def _message(item: Any, known: Mapping[str, Sequence[str]]) -> str:
    kind, value, context = item["type"], item.get("input"), item.get("ctx") or {}
    if kind == "extra_forbidden":
        name = str(item["loc"][-1])
        parent = str(item["loc"][-2]) if len(item["loc"]) > 1 else ""
        fields = known.get(parent, ())
        choices = f"; known here: {listed(fields)}" if fields else ""
        return f"unknown field{nearest(name, fields)}" + choices
    if kind == "missing":
        return "is required"
    if kind in {"enum", "literal_error"}:
        expected = str(context.get("expected", "")).replace(" or ", ", ").replace("'", "")
        hint = nearest(str(value), [part.strip() for part in expected.split(",")])
        return f"must be one of {expected}, not {value!r}{hint}"
    if kind == "value_error":
        return str(context.get("error", item["msg"]))
    words = {
        "int_type": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_type": "must be a number",
        "string_type": "must be a text",
        "bool_type": "must be true or false",
        "list_type": "must be a list",
        "tuple_type": "must be a list",
        "dict_type": "must be a mapping",
        "model_type": "must be a mapping",
        "mapping_type": "must be a mapping",
        "finite_number": "must be a finite number",
        "greater_than": f"must be greater than {context.get('gt')}",
        "greater_than_equal": f"must be at least {context.get('ge')}",
        "less_than_equal": f"must be at most {context.get('le')}",
        "too_long": f"may hold at most {context.get('max_length')} entries",
        "too_short": f"must hold at least {context.get('min_length')} entries",
        "string_too_long": f"may be at most {context.get('max_length')} characters long",
        "string_too_short": "must not be empty",
        "string_pattern_mismatch": f"must match {context.get('pattern')}",
    }
    message = words.get(kind)
    if message is None:
        return str(item["msg"])
    shown = "" if kind in {"too_long", "too_short"} else f", not {_short(value)}"
    return message + shown + text_number(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - a line's worth
