"""The port for Prometheus and for probes: /metrics, /healthz, /readyz.

A thread of its own answers, so that a busy event loop shows as unhealthy by what `healthy` says, not by
a scrape that hangs.
"""

from __future__ import annotations

import logging
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from prometheus_client.exposition import choose_encoder

from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

log = logging.getLogger(__name__)

SILENCE_S: Final = 10.0
"""Seconds of silence after which a connection is closed."""

POLL_S: Final = 0.1
"""Seconds between looks whether to end; a scrape does not wait for it."""

PLAIN: Final = "text/plain; charset=utf-8"
"""Content type of the probes' answers."""


class MetricsServer:
    """Serves a registry and two probes from a background thread.

    `healthy` and `ready` return None, or what is wrong, which is answered with 503. They may block for
    a moment; one that raises counts as wrong.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        port: int,
        *,
        healthy: Callable[[], str | None],
        ready: Callable[[], str | None],
        host: str = "0.0.0.0",  # noqa: S104 - Prometheus and the kubelet come from outside the pod
    ) -> None:
        """Bind the port (0: a free one); raises `InvalidInputError` when it can't be had."""
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            raise InvalidInputError(
                f"metrics port {port}: {error.strerror}; set FORETUNE_METRICS_PORT to a free one"
            ) from error
        self._server.registry = registry
        self._server.probes = {"/healthz": healthy, "/readyz": ready}
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": POLL_S},
            name="foretune-metrics",
            daemon=True,
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port; a server that was never started is fine."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: CollectorRegistry
    probes: dict[str, Callable[[], str | None]]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's
        """Log what a connection ended with, rather than print it."""
        log.debug("connection of %s ended: %r", client_address, sys.exception())


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SILENCE_S
    server_version = "foretune"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        url = urlsplit(self.path)
        if url.path == "/metrics":
            self._metrics(parse_qs(url.query).get("name[]", []))
        elif url.path in self.server.probes:
            self._probe(self.server.probes[url.path])
        else:
            known = ", ".join(("/metrics", *self.server.probes))
            self._answer(HTTPStatus.NOT_FOUND, f"there are {known}\n".encode())

    def _metrics(self, names: list[str]) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        registry: Any = self.server.registry
        if names:
            registry = registry.restricted_registry(names)
        try:
            body = encode(registry)
        except Exception:
            log.exception("the metrics could not be collected")
            message = b"the metrics could not be collected; see the log\n"
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, message)
            return
        self._answer(HTTPStatus.OK, body, content_type)

    def _probe(self, probe: Callable[[], str | None]) -> None:
        try:
            wrong = probe()
        except Exception as error:
            log.exception("a probe failed")
            wrong = f"{type(error).__name__}: {error}"
        if wrong is None:
            self._answer(HTTPStatus.OK, b"ok\n")
        else:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{wrong}\n".encode())

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = PLAIN) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Log requests for whoever debugs; probes come every few seconds."""
        log.debug(format, *args)
