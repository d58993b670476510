"""What a trial leaves as its termination message: the best and the last point, in 4096 bytes."""

from __future__ import annotations

import json
from typing import Any

from foretune.contract import CONTRACT_VERSION, TERMINATION_LIMIT


class Summary:
    """Follows the reports of one process."""

    def __init__(self, metric: str | None, goal: str = "maximize") -> None:
        """Take the objective of `trial.json`; without one there is no best point."""
        self._metric = metric
        self._maximize = goal == "maximize"
        self._best: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None
        self._epochs = 0.0
        self._resources: dict[str, Any] = {}

    def add(self, record: dict[str, Any]) -> None:
        """Take a report into account."""
        epoch, metrics = record.get("epoch"), record["metrics"]
        self._resources = record.get("resources") or self._resources
        if epoch is not None:
            self._epochs = max(self._epochs, epoch)
        if not metrics:
            return
        point: dict[str, Any] = {name: record[name] for name in ("epoch", "step") if name in record}
        if self._last and epoch is not None and self._last.get("epoch") == epoch:
            metrics = {**self._last["metrics"], **metrics}
        self._last = {**point, "metrics": metrics}
        if self._metric in metrics and self._better(metrics[self._metric]):
            self._best = self._last

    def _better(self, value: float) -> bool:
        if self._best is None:
            return True
        best = self._best["metrics"][self._metric]
        return bool(value > best if self._maximize else value < best)

    def message(self, reason: str, dropped: int) -> str:
        """Return the message; metrics other than the objective go first where there is no room."""
        for kept in (None, 16, 0):
            text = json.dumps(
                {
                    "v": CONTRACT_VERSION,
                    "reason": reason[:256],
                    "epochs": self._epochs,
                    "best": self._cut(self._best, kept),
                    "last": self._cut(self._last, kept),
                    "resources": self._resources if kept is None else {},
                    "dropped": dropped,
                },
                separators=(",", ":"),
                allow_nan=False,
            )
            if len(text) <= TERMINATION_LIMIT:
                break
        return text

    def _cut(self, point: dict[str, Any] | None, kept: int | None) -> dict[str, Any] | None:
        if point is None or kept is None:
            return point
        names = sorted(point["metrics"], key=lambda name: (name != self._metric, name))
        metrics = {name: point["metrics"][name] for name in names[: kept + 1]}
        return {**point, "metrics": metrics}
