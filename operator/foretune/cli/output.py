"""Rows as a table for people, as JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> str:
    """Return an aligned table; columns named in `right` are aligned to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    on_right = {column for column, name in enumerate(head) if name in set(right)}
    return "\n".join(
        "  ".join(
            text.rjust(widths[column]) if column in on_right else text.ljust(widths[column])
            for column, text in enumerate(line)
        ).rstrip()
        for line in lines
    )


def as_json(value: Any) -> str:
    """Return indented JSON, in ASCII: valid whatever the output's encoding."""
    return json.dumps(value, indent=2, allow_nan=False)


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return CSV with a head; of nested mappings `a: {b: 1}` the column is `a.b`, None is empty."""
    flat = [flattened(row) for row in rows]
    more = dict.fromkeys(name for row in flat for name in row if name not in columns)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *more], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().rstrip("\n")


def flattened(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dots in the names; an empty one has no column, a list is JSON."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            found[f"{prefix}{name}"] = json.dumps(value)
        else:
            found[f"{prefix}{name}"] = value
    return found
