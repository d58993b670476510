"""Puts the suggestion service together as a process of a cluster."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Final

from foretune.adapters.telemetry.server import MetricsServer
from foretune.adapters.telemetry.suggestion import SuggestionMetrics
from foretune.app.starter import elsewhere
from foretune.app.web import ProcessServer, leave, web_config
from foretune.services.suggestion.http import create_app
from foretune.services.suggestion.service import SuggestionService

if TYPE_CHECKING:
    from foretune.settings import SuggestionSettings

log = logging.getLogger(__name__)

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that numerical libraries read, once, when they are imported."""


def serve_suggestion(settings: SuggestionSettings) -> None:
    """Run the suggestion service until SIGTERM; metrics and probes are on their own port.

    It listens at once and is ready when torch is imported and has computed something. Raises whatever
    hinders that, `ModuleNotFoundError` for one.
    """
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(settings.threads))
    metrics = SuggestionMetrics()
    service = SuggestionService(
        meter=metrics, prior=elsewhere(settings.prior), threads=settings.threads
    )
    probes = MetricsServer(
        registry=metrics.registry,
        port=settings.metrics_port,
        healthy=lambda: None,
        ready=lambda: None if service.ready else "warming up",
    )
    config = web_config(create_app(service), settings.host, settings.port)
    server = ProcessServer(config, on_end=service.close)
    warm_up = _WarmUp(service, server)
    probes.start()
    warm_up.start()
    try:
        server.run()
    finally:
        service.close()
        probes.stop()
    if warm_up.error is not None:
        raise warm_up.error
    leave()


class _WarmUp(threading.Thread):
    """Makes the service ready beside the server; ends the server if that fails."""

    def __init__(self, service: SuggestionService, server: ProcessServer) -> None:
        super().__init__(name="foretune-warm-up", daemon=True)
        self._service = service
        self._server = server
        self.error: BaseException | None = None
        """Why it failed, or None."""

    def run(self) -> None:
        """Warm up."""
        try:
            self._service.warm_up()
        except BaseException as error:  # noqa: BLE001 - told by `serve_suggestion`
            if not self._server.should_exit:
                self.error = error
                self._server.should_exit = True
        else:
            log.info("ready to suggest")
