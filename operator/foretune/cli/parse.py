"""`foretune parse`: what would be read from the log of a program that does not report."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune.cli.exits import COMPLETE, FAILED
from foretune.cli.output import as_json, table
from foretune.cli.words import number
from foretune.contract import parse_report_lines
from foretune.domain.logs import parse_log
from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    import argparse

COLUMNS: Final = 8
"""Metrics shown beside each other; all are named below the table."""

TAIL: Final = 64 * 1024
"""Bytes at the end of a log that are read of a trial."""


def parse(arguments: argparse.Namespace) -> int:
    """Show the points of a log; 1 when there is none, or none of the metric that is asked for."""
    text = _read(arguments.log)
    raw = text.encode()
    cut = len(raw) - TAIL
    if cut > 0:  # whole lines, as of a trial
        text = raw[cut:].partition(b"\n")[2].decode(errors="replace")
    points = parse_log(text)
    names = sorted({n for p in points for n in (*p.get("metrics", {}), *p.get("nonfinite", ()))})
    if arguments.output == "json":
        print(as_json([_shown(point) for point in points]))
    elif points:
        print(_table(points, names, arguments.metric))
        marked = parse_report_lines(text)
        print(f"{len(points)} points from {'marked' if marked else 'plain'} lines")
        print(f"metrics: {', '.join(names)}")
    if cut > 0:
        told = f"only the last {TAIL // 1024} KiB are read of a trial's log, as here"
        print(f"foretune: {told}: {cut // 1024} KiB were left out", file=sys.stderr)
    if not points:
        print(
            "foretune: no metric was found; docs/guides/own-script.md lists forms", file=sys.stderr
        )
        return FAILED
    if arguments.metric is not None and arguments.metric not in names:
        close = difflib.get_close_matches(arguments.metric, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"foretune: {arguments.metric!r} is not among the metrics{hint}", file=sys.stderr)
        return FAILED
    return COMPLETE


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.buffer.read().decode(errors="replace")
        return Path(path).read_bytes().decode(errors="replace")
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from error


def _shown(point: dict[str, Any]) -> dict[str, Any]:
    kept = ("epoch", "step", "metrics", "nonfinite")
    return {name: point[name] for name in kept if point.get(name) is not None}


def _table(points: list[dict[str, Any]], names: list[str], first: str | None) -> str:
    chosen = sorted(names, key=lambda name: (name != first, name))[:COLUMNS]

    def cell(point: dict[str, Any], name: str) -> str:
        return "nan" if name in point.get("nonfinite", ()) else number(point["metrics"].get(name))

    rows = [
        [f"{point['epoch']:g}" if "epoch" in point else "-", *(cell(point, n) for n in chosen)]
        for point in points
    ]
    return table(["epoch", *chosen], rows, right=["epoch", *chosen])
