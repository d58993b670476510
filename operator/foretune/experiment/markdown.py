"""Tables and numbers as Markdown and as plain columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foretune.experiment.statistics import Interval


def head(names: Sequence[str]) -> list[str]:
    """Return the first two lines of a table."""
    return [row(names), row(["---"] * len(names))]


def row(cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def aligned(table: Sequence[str]) -> list[str]:
    """Return a Markdown table as plain columns."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    rows = [[cell.replace("*", "") for cell in cells] for cells in rows if cells[0] != "---"]
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(rows[0]))]
    pad: Callable[[str, int], str] = str.rjust
    return [
        "  ".join([cells[0].ljust(widths[0]), *map(pad, cells[1:], widths[1:])]).rstrip()
        for cells in rows
    ]


def number(value: float) -> str:
    """Return a figure with three digits after the point, none before it where it is below 1."""
    return f"{value:.3f}".removeprefix("0") if abs(value) < 1 else f"{value:.3f}"


def p_value(value: float) -> str:
    """Return a p value as p values are told."""
    return "< .001" if value < 0.001 else number(value)  # noqa: PLR2004 - as p values are told


def difference(found: Interval) -> str:
    """Return a difference with its interval."""
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
