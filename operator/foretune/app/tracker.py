"""Puts the tracker together: as a process of a cluster, or as a thread of local mode."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import uvicorn

from foretune.adapters.http.suggestions import HttpSuggestions
from foretune.adapters.store import SqlHistory
from foretune.errors import ForetuneError
from foretune.services.tracker.auth import Identity, KubeAuthenticator, LocalAuthenticator
from foretune.services.tracker.http import create_app
from foretune.services.tracker.service import TrackerService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.applications import Starlette

    from foretune.ports import Clock, History, Suggestions
    from foretune.services.tracker.auth import Authenticator
    from foretune.services.tracker.service import Meter
    from foretune.settings import TrackerSettings

GRACE_S: Final = 3
"""Seconds that open requests have to end after SIGTERM."""

KEEP_ALIVE_S: Final = 75
"""Seconds an idle connection is kept: longer than clients keep theirs, so that none sends into it."""

ENDS: Final = (signal.SIGTERM, signal.SIGINT)
"""Signals that end the server."""

START_S: Final = 30.0
"""Seconds the local server has to start listening."""


class SystemClock:
    """The operating system's clock."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()


def serve_tracker(settings: TrackerSettings) -> None:
    """Run the tracking server of a cluster until SIGTERM; metrics and probes are on their own port.

    Raises `InvalidInputError` outside a cluster, `HistoryUnavailableError` without a database.
    """
    from foretune.adapters.kube.client import KubeApi, connection  # noqa: PLC0415 - not in local mode
    from foretune.adapters.kube.tokens import KubeTokenReviews  # noqa: PLC0415 - not in local mode
    from foretune.adapters.telemetry.server import MetricsServer  # noqa: PLC0415 - see above
    from foretune.adapters.telemetry.tracker import TrackerMetrics  # noqa: PLC0415 - see above

    clock = SystemClock()
    authenticator = KubeAuthenticator(
        reviews=KubeTokenReviews(KubeApi(connection()[0])),
        clock=clock,
        operator_users=frozenset(settings.operator_users),
    )
    history = SqlHistory(settings.database_url)
    metrics = TrackerMetrics(history.counts)
    server = MetricsServer(
        registry=metrics.registry,
        port=settings.metrics_port,
        healthy=lambda: None,
        ready=lambda: answers(history),
    )
    server.start()
    try:
        run_tracker(settings, history=history, authenticator=authenticator, meter=metrics)
    finally:
        server.stop()


def run_tracker(
    settings: TrackerSettings,
    *,
    history: SqlHistory,
    authenticator: Authenticator,
    meter: Meter | None = None,
) -> None:
    """Migrate the history, and serve it until SIGTERM or SIGINT."""
    history.migrate()
    service = TrackerService(
        history=history,
        suggestions=HttpSuggestions(settings.suggestion_url),
        clock=SystemClock(),
        meter=meter,
    )
    config = _config(create_app(service, authenticator), settings.host, settings.port)
    try:
        _Server(config).run()
    finally:
        history.close()
    if threading.active_count() > 1:
        # A thread that still waits for a suggestion would keep the process for as long as that may
        # take. Whatever was answered is committed: there is nothing to lose.
        logging.shutdown()
        os._exit(0)


def answers(history: History) -> str | None:
    """Return why the database does not answer, or None when it does: what readiness asks."""
    try:
        history.counts()
    except ForetuneError as error:
        return str(error)
    return None


def _config(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
    )


@dataclass(frozen=True)
class LocalTracker:
    """The tracker of one local run."""

    url: str
    service: TrackerService
    authenticator: LocalAuthenticator

    def issue_token(self, job_uid: str, index: int, attempt: int, pod_uid: str) -> str:
        """Return a token with which one attempt may report, and do nothing else."""
        name = f"{job_uid}/{index}"
        identity = Identity(username=f"trial:{name}:{attempt}", pod_uid=pod_uid, trial=name)
        return self.authenticator.issue(identity)


@contextlib.contextmanager
def start_local_tracker(
    history: History, suggestions: Suggestions, clock: Clock
) -> Iterator[LocalTracker]:
    """Serve the tracker on a free port of the loopback interface while the block runs."""
    service = TrackerService(history=history, suggestions=suggestions, clock=clock)
    authenticator = LocalAuthenticator()
    server = _ThreadServer(_config(create_app(service, authenticator)))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(
        target=server.run, args=([listener],), name="foretune-tracker", daemon=True
    )
    thread.start()
    try:
        server.wait_started(thread)
        port = listener.getsockname()[1]
        yield LocalTracker(f"http://127.0.0.1:{port}", service, authenticator)
    finally:
        server.should_exit = True
        thread.join(GRACE_S + START_S)
        listener.close()


class _Server(uvicorn.Server):
    """A server that ends with its process's SIGTERM or SIGINT, without raising it once more."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {kind: signal.signal(kind, self.handle_exit) for kind in ENDS}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


class _ThreadServer(uvicorn.Server):
    """A server beside the main thread: signals are the main thread's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def wait_started(self, thread: threading.Thread) -> None:
        """Return once it listens; raises `RuntimeError` when its thread ended instead."""
        end = time.monotonic() + START_S
        while not self.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise RuntimeError("the local tracker did not start")
            time.sleep(0.01)
