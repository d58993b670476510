"""What the suggestion service tells Prometheus."""

from __future__ import annotations

from typing import Final

from foretune.adapters.telemetry.catalogue import Process
from foretune.adapters.telemetry.instruments import Instruments, bounded
from foretune.domain.job import Algorithm

MODELS: Final = (*Algorithm, "default")
"""Names of designers and models."""

ERRORS: Final = ("timeout", "error", "exhausted", "invalid")
"""Why a designer gave no answer."""

FALLBACKS: Final = ("timeout", "error", "cholesky", "nan")
"""Why another stood in."""


class SuggestionMetrics:
    """The suggestion service's metrics; implements `services.suggestion.service.Meter`. Thread-safe."""

    def __init__(self) -> None:
        """Make the registry."""
        self._instruments = Instruments(Process.SUGGESTION)
        self.registry = self._instruments.registry
        """What a `MetricsServer` shows."""

    def answered(self, algorithm: str, seconds: float) -> None:
        """A request was answered after `seconds`, fallbacks included."""
        name = bounded(algorithm, Algorithm)
        self._instruments.observe("foretune_suggestion_duration_seconds", name, value=seconds)

    def failed(self, algorithm: str, reason: str) -> None:
        """The designer of a request gave no answer."""
        labels = (bounded(algorithm, Algorithm), bounded(reason, ERRORS))
        self._instruments.count("foretune_suggestion_errors_total", *labels)

    def fitted(self, model: str, seconds: float) -> None:
        """A surrogate was fitted."""
        name = bounded(model, MODELS)
        self._instruments.observe("foretune_surrogate_fit_duration_seconds", name, value=seconds)

    def fell_back(self, source: str, target: str, reason: str) -> None:
        """A designer could not answer and another stood in."""
        labels = (bounded(source, MODELS), bounded(target, MODELS), bounded(reason, FALLBACKS))
        self._instruments.count("foretune_surrogate_fallbacks_total", *labels)
