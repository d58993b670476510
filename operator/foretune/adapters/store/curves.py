"""What the reports of one trial add up to: its curve, its value so far, whether it diverges."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from foretune.domain.trial import KUBEFLOW, PUSH, Point
from foretune.domain.usage import added_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Row

    from foretune.domain.job import Objective

SENT: Final = frozenset({PUSH, KUBEFLOW})
"""Sources of what the trial sent itself; everything else was recovered at its end."""

ROUNDING: Final = 5e-4
"""Largest relative difference of a value and what the Trainer of `transformers` logs of it: four digits."""

TRAIN_LOSS: Final = "train_loss"
"""Metric whose divergence counts besides the objective's."""

DIVERGED_AFTER: Final = 2
"""Reports in a row that must name a non-finite objective or training loss."""

CURVE_KINDS: Final = frozenset({"epoch", "final"})
"""Kinds of report that say something of a whole epoch; a `step` inside one does not."""


@dataclass
class _Epoch:
    """One epoch, its reports merged metric by metric: the last one that names a metric counts."""

    metrics: dict[str, float] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    at: float = 0.0
    resources: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, value: float, source: str) -> None:
        self.metrics[name] = value
        self.sources[name] = source

    def drop(self, name: str) -> None:
        del self.metrics[name], self.sources[name]

    def add(self, row: Row[Any]) -> None:
        for name, value in row.metrics.items():
            # What was read from a log is rounded: it fills gaps, it replaces nothing.
            if row.source in SENT or self.sources.get(name) not in SENT:
                self.put(name, value, row.source)
        for name in row.nonfinite:
            self.metrics.pop(name, None)
        self.at = row.received_at
        self.resources = row.resources or self.resources


def in_order(rows: Iterable[Row[Any]]) -> list[Row[Any]]:
    """Return reports as the trial made them, however they arrived: by attempt, pod, and seq.

    Pods go by their first report; what was recovered without a pod comes behind.
    """
    rows = list(rows)
    first: dict[tuple[int, str], float] = {}
    for row in rows:
        if row.source in SENT:
            key = (row.attempt, row.pod_uid)
            first[key] = min(first.get(key, math.inf), row.received_at)

    def place(row: Row[Any]) -> tuple[int, float, str, int]:
        at = first.get((row.attempt, row.pod_uid), math.inf)
        return row.attempt, at, row.pod_uid, row.seq

    return sorted(rows, key=place)


def _same(value: float, logged: float | None) -> bool:
    """Whether a log may show `value` as `logged`."""
    return logged is not None and math.isclose(value, logged, rel_tol=ROUNDING)


class Curve:
    """The curve of one trial."""

    def __init__(self, rows: Iterable[Row[Any]]) -> None:
        """Add up reports, given in any order."""
        ordered = in_order(rows)
        self._reports = len(ordered)
        pushed = {row.attempt for row in ordered if row.source == PUSH}
        # What a program posts that reports by itself is the same again, with gaps.
        self._rows = [r for r in ordered if r.source != KUBEFLOW or r.attempt not in pushed]
        sharpened: set[int] = set()
        logged = [r for r in self._rows if r.source not in SENT and r.epoch is not None]
        self._epochs: dict[float, _Epoch] = {}
        self._loose: list[Row[Any]] = []
        sender: tuple[int, str] | None = None
        for row in self._rows:
            if row.kind not in CURVE_KINDS or row.epoch is None:
                if row.metrics:
                    self._loose.append(row)
                continue
            if row.source in SENT and (row.attempt, row.pod_uid) != sender:
                # Another process goes on from a checkpoint, or starts anew: what the one before it
                # reached beyond that point is not part of this run.
                sender = (row.attempt, row.pod_uid)
                self._epochs = {e: p for e, p in self._epochs.items() if e < row.epoch}
            if row.source not in SENT and row.attempt not in sharpened:
                sharpened.add(row.attempt)
                self._sharpen(r for r in logged if r.attempt == row.attempt)
            self._epochs.setdefault(row.epoch, _Epoch()).add(row)

    def _sharpen(self, logged: Iterable[Row[Any]]) -> None:
        """Move posted values, whose epochs are guesses, to where the log has them, rounded."""
        log: dict[float, Mapping[str, float]] = {}
        for row in logged:
            log[row.epoch] = {**log.get(row.epoch, {}), **row.metrics}
        guessed = [
            (at, name, value)
            for at, epoch in self._epochs.items()
            for name, value in epoch.metrics.items()
            if epoch.sources[name] == KUBEFLOW and not _same(value, log.get(at, {}).get(name))
        ]
        for at, name, value in guessed:
            found = [e for e in log if abs(e - at) <= 1 and _same(value, log[e].get(name))]
            if found:
                self._epochs[at].drop(name)
                place = self._epochs.setdefault(min(found, key=lambda e: abs(e - at)), _Epoch())
                if name not in place.metrics:
                    place.put(name, value, KUBEFLOW)

    def points(self) -> list[Point]:
        """Return one point an epoch; a trial that names none has a point a report, by step or number."""
        if not any(epoch.metrics for epoch in self._epochs.values()):
            steps = [row.step for row in self._loose]
            axis = range(1, len(steps) + 1) if None in steps else steps
            return [
                Point(
                    epoch=float(at),
                    metrics=row.metrics,
                    at=row.received_at,
                    resources=row.resources,
                )
                for at, row in zip(axis, self._loose, strict=True)
            ]
        return [
            Point(epoch=at, metrics=e.metrics, at=e.at, resources=e.resources)
            for at, e in sorted(self._epochs.items())
            if e.metrics
        ]

    def summary(self, objective: Objective) -> dict[str, Any]:
        """Return the columns of the trials table that reports decide."""
        metric = objective.metric
        found = [
            (epoch.metrics[metric], epoch.sources[metric])
            for _, epoch in sorted(self._epochs.items())
            if metric in epoch.metrics
        ] or [(row.metrics[metric], row.source) for row in self._loose if metric in row.metrics]
        value = objective.reduced([value for value, _ in found])
        return {
            "value": value,
            "epochs": max(self._epochs, default=0.0),
            "reports": self._reports,
            "nonfinite": self._diverges(metric),
            "metrics_seen": sorted({n for r in self._rows for n in (*r.metrics, *r.nonfinite)}),
            # Of a best or last value its own carrier; a mean has many, the last one stands for them.
            "source": next((s for v, s in found if v == value), found[-1][1]) if found else None,
            "cpu_s": self.cpu_s(),
            "resources": self.resources(),
        }

    def resources(self) -> dict[str, Any]:
        """Return what all processes of the trial used; each one's last report has all of it."""
        by_process = {
            (row.attempt, row.pod_uid): row.resources
            for row in self._rows
            if row.resources and row.source in SENT
        }
        # A process whose reports all got lost left its log or its last words.
        for row in self._rows:
            if row.resources and row.attempt not in {attempt for attempt, _ in by_process}:
                by_process[row.attempt, row.pod_uid] = row.resources
        return added_up(list(by_process.values()))

    def cpu_s(self, attempt: int | None = None) -> float | None:
        """Return CPU seconds of all attempts, or of one; each process's report is cumulative."""
        by_process: dict[tuple[int, str], float] = {}
        for row in self._rows:
            cpu = row.resources.get("cpu_s")
            if isinstance(cpu, int | float) and attempt in {None, row.attempt}:
                key = (row.attempt, row.pod_uid)
                by_process[key] = max(by_process.get(key, 0.0), float(cpu))
        return sum(by_process.values()) if by_process else None

    def _diverges(self, metric: str) -> bool:
        bad: list[bool] = []
        posted: int | None = None
        for row in self._rows:
            if not (row.metrics or row.nonfinite):
                continue
            at = int(row.epoch) if row.source == KUBEFLOW and row.epoch is not None else None
            if at is not None and at == posted:
                del bad[-1:]  # of one epoch: most likely the same evaluation, posted again
            posted = at
            bad.append(metric in row.nonfinite or TRAIN_LOSS in row.nonfinite)
        recent = bad[-DIVERGED_AFTER:]
        return len(recent) == DIVERGED_AFTER and all(recent)
