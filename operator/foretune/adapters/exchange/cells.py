"""Values as the cells of a table hold them, and back: what is written is read as the same value of the same type."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from foretune.domain.space import Value

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a text starts that a spreadsheet would run."""

NUMBER: Final = re.compile(r"[-+]?(?:\d+(\.\d*)?|(\.\d+))([eE][-+]?\d+)?")
"""A number as programs write it: 1, -0.5, 1e-4, .5, 1."""

COMMA: Final = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
"""A number as it is written in much of Europe."""

NOT_FINITE: Final = frozenset({"nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})
"""Numbers that are none, in lower case."""

BOOLEANS: Final = {"true": True, "false": False}


def number(cell: Any) -> float | int | None:
    """Return the number that a cell holds, whole ones as int; None for anything else, booleans too."""
    if isinstance(cell, bool) or cell is None:
        return None
    if isinstance(cell, int):
        return cell
    if isinstance(cell, float):
        return cell
    text = str(cell).strip()
    match = NUMBER.fullmatch(text)
    if match is not None:
        return int(text) if match.lastindex is None else float(text)
    return float(text.lower()) if text.lower() in NOT_FINITE else None


def value(cell: Any) -> Value | None:
    """Return what a cell of any table holds: a number, a boolean or a text; None for an empty one."""
    if cell is None or isinstance(cell, bool):
        return cell
    found = number(cell)
    if found is not None:
        return int(found) if math.isfinite(found) and float(found).is_integer() else found
    text = str(cell).strip()
    return BOOLEANS.get(text.lower(), text) if text else None


def empty(cell: Any) -> bool:
    """Whether a cell holds nothing: no text, or the NaN with which a table marks a gap."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return isinstance(cell, str) and not cell.strip()


def refuse_comma(cell: Any, column: str, line: int) -> None:
    """Raise `InvalidInputError` for a number with a decimal comma: it can't be told from a list or thousands."""
    if isinstance(cell, str) and "," in cell and COMMA.fullmatch(cell.strip()):
        shown = cell.strip()
        raise InvalidInputError(
            f"line {line}: {column}: {shown!r} has a decimal comma; write {shown.replace(',', '.')!r}"
        )


def written(item: Any) -> str:
    """Return a value as the cell of an export: `read` returns the same, and no spreadsheet runs it.

    A text stands bare where nothing else reads like it, else as JSON: `adam`, but `"16"` and `"=1+1"`.
    """
    if item is None:
        return ""
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, int | float):
        return repr(item)
    text = str(item)
    bare = bool(text) and text == text.strip() and text.isprintable() and text[0] not in '"[{'
    bare = bare and not text.startswith(FORMULA) and number(text) is None
    return text if bare and text.lower() not in {*BOOLEANS, "null"} else json.dumps(text)


def read(cell: Any) -> Value | None:
    """Return the value of a cell that `written` wrote; of a table with types, the cell itself.

    Raises `ValueError` for what it never writes.
    """
    if not isinstance(cell, str):
        return None if empty(cell) else cell
    if not cell:
        return None
    if cell.startswith('"'):
        text = json.loads(cell)
        if not isinstance(text, str):
            raise ValueError(f"{cell!r} is no text")
        return text
    if cell in BOOLEANS:
        return BOOLEANS[cell]
    found = number(cell)
    return cell if found is None else found


def bare(item: Any) -> str:
    """Return a value as the cell of a table for people; a text that a spreadsheet would run stands as JSON."""
    if item is None:
        return ""
    if isinstance(item, bool | list | dict):
        return json.dumps(item)
    text = str(item)
    return json.dumps(text) if text.startswith(FORMULA) and number(text) is None else text
