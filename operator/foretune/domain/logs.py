"""Metrics in the log of a program that knows nothing of Foretune.

Read once, from the tail, when a trial ended without a report of the objective: JSON and Python dicts,
`name=value`, `name: value`, Keras' `- val_accuracy: 0.36 -`, XGBoost's and LightGBM's lines, percentages.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from foretune.contract import CONTRACT_VERSION, evaluation_names, parse_report_lines

_NUMBER: Final = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf|NaN|Infinity)"
_PAIR: Final = re.compile(
    rf"(?P<quote>['\"]?)(?P<name>[A-Za-z_][\w./@'-]*?)(?P=quote)\s*[=:]\s*"
    rf"['\"]?(?P<value>{_NUMBER})['\"]?(?P<percent>\s?%)?(?![\w./])"
)
_EPOCH: Final = re.compile(r"\b[Ee]poch\s*[:=#]?\s*\[?(\d+(?:\.\d+)?)|^\[(\d+)\]")
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NOT_METRICS: Final = frozenset({"epoch", "step", "lr", "eta", "time", "iteration"})

PERCENT: Final = 100.0
"""A value written with a percent sign is divided by this."""


def parse_line(line: str) -> tuple[float | None, dict[str, float]]:
    """Return the epoch (or None) and the metrics that one line of a log names."""
    line = _ANSI.sub("", line.rsplit("\r", 1)[-1])
    epoch_match = _EPOCH.search(line)
    epoch = float(next(g for g in epoch_match.groups() if g)) if epoch_match else None
    metrics: dict[str, float] = {}
    for match in _PAIR.finditer(line):
        name, value = match["name"], float(match["value"])
        if name.lower() == "epoch":
            epoch = value
        elif name.lower() not in _NOT_METRICS:
            metrics[name] = value / PERCENT if match["percent"] else value
    return epoch, evaluation_names(metrics)


def parse_log(text: str) -> list[dict[str, Any]]:
    """Return reports for a log tail: its marked lines if it has any, else what its lines print.

    Plain lines become one report an epoch (the last value counts); lines without an epoch belong to the
    epoch before. Values that are not finite are named under `nonfinite`.
    """
    marked = parse_report_lines(text)
    if marked:
        return marked
    by_epoch: dict[float, dict[str, float]] = {}
    epoch = 0.0
    for line in text.splitlines():
        seen, metrics = parse_line(line)
        epoch = epoch if seen is None else seen
        if metrics:
            by_epoch.setdefault(epoch, {}).update(metrics)
    return [
        {
            "v": CONTRACT_VERSION,
            "seq": seq,
            "kind": "epoch",
            "epoch": epoch,
            "metrics": {name: v for name, v in metrics.items() if math.isfinite(v)},
            "nonfinite": sorted(name for name, v in metrics.items() if not math.isfinite(v)),
        }
        for seq, (epoch, metrics) in enumerate(sorted(by_epoch.items()))
    ]


def parse_termination(message: str) -> list[dict[str, Any]]:
    """Return reports for a termination message of the contract; empty for any other text."""
    try:
        summary = json.loads(message)
    except ValueError:
        return []
    if not isinstance(summary, dict) or summary.get("v") != CONTRACT_VERSION:
        return []
    reports = []
    for seq, name in enumerate(("best", "last")):
        point = summary.get(name)
        if isinstance(point, dict) and isinstance(point.get("metrics"), dict):
            report = {"v": CONTRACT_VERSION, "seq": seq, "kind": "epoch", **point}
            report["metrics"] = {
                k: float(v) for k, v in point["metrics"].items() if _finite_number(v)
            }
            reports.append(report)
    return reports


def undelivered(message: str) -> int:
    """Return how many reports a termination message says did not arrive; 0 for any other text."""
    try:
        count = json.loads(message)["dropped"]
    except (ValueError, TypeError, KeyError):
        return 0
    return count if isinstance(count, int) else 0


def _finite_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
