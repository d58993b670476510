"""Prometheus instruments of one process, made from the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from foretune.adapters.telemetry.catalogue import BY_NAME, METRICS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics import MetricWrapperBase

    from foretune.adapters.telemetry.catalogue import Metric, Process

OTHER: Final = "other"
"""Label value of everything outside a bounded set."""


class Instruments:
    """The counters, gauges and histograms of a process, by name, in a registry of its own.

    A name that is not in the table, or belongs to another process, raises `KeyError`.
    """

    def __init__(self, process: Process) -> None:
        """Make the process's instruments, and those of the interpreter (`process_*`, `python_*`)."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a `_created` series for each other one would double the load
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._made: dict[str, MetricWrapperBase] = {
            metric.name: _make(metric, self.registry)
            for metric in METRICS
            if metric.process is process and not metric.collected
        }

    def count(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Add `by` to a counter."""
        found = self._labelled(name, labels)
        assert isinstance(found, Counter)
        found.inc(by)

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Add a value to a histogram; clocks that disagree make negative durations, which count as 0."""
        found = self._labelled(name, labels)
        assert isinstance(found, Histogram)
        found.observe(max(0.0, value))

    def set(self, name: str, *labels: str, value: float) -> None:
        """Set a gauge."""
        found = self._labelled(name, labels)
        assert isinstance(found, Gauge)
        found.set(value)

    def gauge(self, name: str) -> Gauge:
        """Return a gauge without labels."""
        found = self._made[name]
        assert isinstance(found, Gauge)
        return found

    def _labelled(self, name: str, labels: tuple[str, ...]) -> MetricWrapperBase:
        made = self._made[name]
        assert len(labels) == len(BY_NAME[name].labels), f"{name} takes {BY_NAME[name].labels}"
        return made.labels(*labels) if labels else made


def _make(metric: Metric, registry: CollectorRegistry) -> MetricWrapperBase:
    if metric.kind is Kind.HISTOGRAM:
        return Histogram(
            metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry
        )
    made = Counter if metric.kind is Kind.COUNTER else Gauge
    return made(metric.name, metric.help, metric.labels, registry=registry)


def bounded(value: str, known: Iterable[str]) -> str:
    """Return `value` if it is a known one, else `OTHER`: a label must not grow without limit."""
    return value if value in set(known) else OTHER
