"""A trial's live figures for Prometheus at `:PORT/metrics`, while its process runs.

For looking on: what a trial comes to is in its reports, which a scrape that comes late can't miss. No label
holds a parameter's value or the name of a trial, so that a thousand trials are not a million series.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import start_http_server
from prometheus_client.registry import Collector

from foretune_report import Reporter
from foretune_trainer.checkpoint import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from foretune_report.reporter import Reply
    from foretune_trainer.config import TrialConfig
    from foretune_trainer.resources import Meter

PREFIX: Final = "foretune_trainer_"

BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds of a step, upper ends; one more bucket has the rest."""

MEMORY: Final = {
    "allocated": "gpu_mem_peak_bytes",
    "reserved": "gpu_mem_reserved_peak_bytes",
    "device": "gpu_mem_device_peak_bytes",
}
"""Kinds of the GPU's memory, and their names in a report."""


class Watched(Reporter):
    """Passes reports on, and keeps of the last one what is shown."""

    def __init__(self, reporter: Reporter, objective: str) -> None:
        """Take where reports go, and the metric that the trial is about."""
        super().__init__({})
        self._to, self._objective = reporter, objective
        self.made = 0
        """Reports so far."""
        self.epoch: float | None = None
        self.value: float | None = None
        """The objective, of the last report that had it as a finite number."""
        self.loss: float | None = None
        self.resources: Mapping[str, Any] = {}
        self.tags: Mapping[str, Any] = {}

    @property
    def reply(self) -> Reply:
        """What the tracker last asked for."""
        return self._to.reply

    @property
    def waiting(self) -> int:
        """Reports that did not arrive, so far."""
        return self._to.waiting

    def report(
        self,
        metrics: Mapping[str, Any],
        *,
        epoch: float | None = None,
        step: int | None = None,
        kind: str | None = None,
        **more: Any,
    ) -> Reply:
        """Report as `Reporter` does."""
        self.made += 1
        self.epoch = self.epoch if epoch is None else epoch
        self.value = _finite(metrics.get(self._objective), self.value)
        self.loss = _finite(metrics.get("val_loss"), self.loss)
        self.resources = more.get("resources") or self.resources
        self.tags = more.get("tags") or self.tags
        return self._to.report(metrics, epoch=epoch, step=step, kind=kind, **more)


def _finite(value: float | None, before: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else before


class Figures(Collector):
    """All series but the histogram, read when they are asked for; what is unknown is left out."""

    def __init__(self, chosen: TrialConfig, meter: Meter, watched: Watched) -> None:
        """Take what is shown."""
        self._chosen, self._meter, self._watched = chosen, meter, watched

    def collect(self) -> Iterator[Metric]:
        """Read everything; called by a thread of the server."""
        told, meter, cpu = self._watched, self._meter, self._meter.cpu()
        if told.tags:
            yield _labelled(
                GaugeMetricFamily,
                "info",
                "What is trained, and on what. Always 1.",
                ("model", "dataset", "precision", "gpu_product"),
                {
                    (
                        self._chosen.model,
                        self._chosen.dataset,
                        str(told.tags.get("precision", self._chosen["precision"])),
                        str(told.tags.get("device", "")),
                    ): 1
                },
            )
        yield from _gauges(
            ("epoch", "Epochs done.", told.epoch),
            ("epochs_budget", "Epochs of this trial.", self._chosen["epochs"]),
            ("objective_value", "The objective after the last epoch.", told.value),
            ("validation_loss", "Loss on the validation part after the last epoch.", told.loss),
            ("reports_waiting", "Reports that did not reach the tracker so far.", told.waiting),
        )
        yield from _counters(
            ("samples", "Examples trained on by this process.", meter.samples),
            ("reports", "Reports made by this process.", told.made),
            ("cpu_throttled_seconds", "Time held up by the container's limit.", cpu.throttled),
        )
        yield _labelled(
            CounterMetricFamily,
            "phase_seconds",
            "Time of this process by what it went into.",
            ("phase",),
            {(name,): seconds for name, seconds in meter.phases().items()},
        )
        yield _labelled(
            CounterMetricFamily,
            "cpu_seconds",
            "CPU time of this process and its children.",
            ("mode",),
            {("user",): cpu.user, ("system",): cpu.system},
        )
        yield _labelled(
            CounterMetricFamily,
            "checkpoints",
            "Checkpoints of this process by what came of them.",
            ("result",),
            {(name,): count for name, count in dict(Checkpoints.results).items()},
        )
        yield from self._gpu()

    def _gpu(self) -> Iterator[Metric]:
        live = self._meter.gpu_live()
        yield from _counters(
            ("gpu_held_seconds", "GPUs times the time of this process.", live.get("gpu_held_s")),
        )
        if "gpu_busy_s" in live:
            yield _labelled(
                CounterMetricFamily,
                "gpu_busy_seconds",
                "Time in which the GPU was busy, by the source of the figure.",
                ("source",),
                {(str(live["gpu_busy_source"]),): float(live["gpu_busy_s"])},
            )
        if "energy_j" in live:
            yield _labelled(
                CounterMetricFamily,
                "energy_joules",
                "Energy of the whole board while this process held it.",
                ("scope",),
                {(str(live["energy_scope"]),): float(live["energy_j"])},
            )
        # CUDA itself is asked by the training's own thread alone: another one's call could spoil a graph
        # that is being captured. So these are of the last report.
        told = self._watched.resources
        known: dict[tuple[str, ...], float] = {
            (kind,): told[name] for kind, name in MEMORY.items() if name in told
        }
        if known:
            yield _labelled(
                GaugeMetricFamily,
                "gpu_memory_peak_bytes",
                "Most memory of the GPU: as PyTorch allocated and reserved it, and as the device had it.",
                ("kind",),
                known,
            )


class Exporter:
    """Serves the figures of one trial."""

    def __init__(self, chosen: TrialConfig, meter: Meter, reporter: Reporter) -> None:
        """Take what is shown; `watched` goes where the reporter would."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.watched = Watched(reporter, chosen.objective)
        self.registry = CollectorRegistry()
        self.registry.register(Figures(chosen, meter, self.watched))
        self._steps = Histogram(
            f"{PREFIX}step_seconds",
            "Time of a training step, evaluation and checkpoints left out.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._meter, self._trained = meter, 0.0
        meter.on_step = self._stepped

    def _stepped(self) -> None:
        trained = self._meter.phases().get("train", 0.0)
        self._steps.observe(trained - self._trained)
        self._trained = trained

    def serve(self, port: int) -> None:
        """Listen in a thread of its own; raises `OSError` when the port can't be had."""
        start_http_server(port, registry=self.registry)


def started(
    environ_port: str | None,
    rank: str | None,
    chosen: TrialConfig,
    meter: Meter,
    reporter: Reporter,
) -> Reporter:
    """Serve the figures at a port given as text; return the reporter to train with.

    Only the first process of several serves (`RANK`). A port that can't be had is told, and ends nothing.
    """
    if (rank or "0") != "0":
        return reporter
    exporter = Exporter(chosen, meter, reporter)
    try:
        port = int(environ_port or "")
        exporter.serve(port)
    except (OSError, ValueError, OverflowError) as error:
        text = f"foretune_trainer: no live metrics at port {environ_port}: {error}"
        print(text, file=sys.stderr, flush=True)
        meter.on_step = None
        return reporter
    return exporter.watched


def _gauges(*given: tuple[str, str, float | None]) -> Iterator[Metric]:
    for name, text, value in given:
        if value is not None:
            yield GaugeMetricFamily(PREFIX + name, text, value)


def _counters(*given: tuple[str, str, float | None]) -> Iterator[Metric]:
    for name, text, value in given:
        if value is not None:
            yield CounterMetricFamily(PREFIX + name, text, value)


def _labelled(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Mapping[tuple[str, ...], float],
) -> Metric:
    family = kind(PREFIX + name, text, labels=labels)
    for given, value in values.items():
        family.add_metric(given, value)
    return family
