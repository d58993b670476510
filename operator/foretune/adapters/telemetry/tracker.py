"""What the tracker tells Prometheus."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from foretune.adapters.telemetry.catalogue import BY_NAME, Process
from foretune.adapters.telemetry.instruments import Instruments, bounded
from foretune.domain.history import NINETY
from foretune.domain.job import Algorithm, StopMethod
from foretune.errors import ForetuneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

log = logging.getLogger(__name__)

RESULTS: Final = ("ok", "error")
"""How a write to the history may end."""

MODELS: Final = ("gp", "meta-gp")
"""Proposers that predict."""

SCORED: Final = 200
"""Predictions of a model that its scores are of."""

EXPERTS: Final = ("meta", "plain", "starter", "none")
"""Who makes a proposal."""

RULES: Final = (StopMethod.CURVE.value, StopMethod.MEDIAN.value, StopMethod.ASHA.value)
"""Rules that stop a trial for its own curve; a job that has ended stops its trials, too: `other`."""

DECISIONS: Final = ("used", "rejected", "none")
"""What past jobs are good for."""


class TrackerMetrics:
    """The tracker's metrics; implements `services.tracker.service.Meter`. Thread-safe."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Make the registry; `counts` is asked for the history's totals at each scrape."""
        self._instruments = Instruments(Process.TRACKER)
        self.registry = self._instruments.registry
        """What a `MetricsServer` shows."""
        self.registry.register(_HistorySize(counts))
        self._quality = _Quality()
        self.registry.register(self._quality)
        for result in RESULTS:
            self._instruments.count("foretune_history_writes_total", result, by=0.0)

    def written(self, result: str) -> None:
        """The history was written to: `ok` or `error`."""
        self._instruments.count("foretune_history_writes_total", bounded(result, RESULTS))

    def duplicate(self, algorithm: str) -> None:
        """A suggestion was refused, being equal to an earlier one."""
        name = bounded(algorithm, Algorithm)
        self._instruments.count("foretune_duplicate_suggestions_total", name)

    def proposed(self, expert: str, prior: str) -> None:
        """A proposal was recorded: who made it, and what past jobs were good for."""
        labels = (bounded(expert, EXPERTS), bounded(prior, DECISIONS))
        self._instruments.count("foretune_transfer_proposals_total", *labels)

    def guard_tripped(self) -> None:
        """From now on a job does without past jobs."""
        self._instruments.count("foretune_transfer_guard_trips_total")

    def stopped(self, rule: str, spared: float) -> None:
        """A trial that `rule` stopped has ended, `spared` epochs before its time."""
        name = bounded(rule, RULES)
        self._instruments.count("foretune_trials_stopped_total", name)
        self._instruments.count("foretune_epochs_spared_total", name, by=spared)

    def came_out(self, model: str, mean: float, sd: float, value: float) -> None:
        """A trial completed of which a model had expected a mean and a standard deviation."""
        self._quality.add(bounded(model, MODELS), held=abs(value - mean) <= NINETY * sd)


class _Quality(Collector):
    """How often the latest predictions of each model held. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, deque[bool]] = {}

    def add(self, model: str, *, held: bool) -> None:
        """Add a prediction whose value is known now."""
        with self._lock:
            self._held.setdefault(model, deque(maxlen=SCORED)).append(held)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        count, coverage = self._families()
        with self._lock:
            for model, held in self._held.items():
                count.add_metric([model], len(held))
                coverage.add_metric([model, "0.9"], sum(held) / len(held))
        return count, coverage

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        count = BY_NAME["foretune_surrogate_scored_predictions"]
        coverage = BY_NAME["foretune_surrogate_interval_coverage_ratio"]
        return (
            GaugeMetricFamily(count.name, count.help, labels=count.labels),
            GaugeMetricFamily(coverage.name, coverage.help, labels=coverage.labels),
        )


class _HistorySize(Collector):
    """Asks the history at each scrape; while it does not answer there is no series, rather than 0."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [self._family()]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = self._family()
        try:
            family.add_metric([], self._counts()["observations"])
        except ForetuneError:
            log.warning("the history does not answer: its size is not exported", exc_info=True)
            return []
        return [family]

    def _family(self) -> GaugeMetricFamily:
        metric = BY_NAME["foretune_history_observations"]
        return GaugeMetricFamily(metric.name, metric.help)
