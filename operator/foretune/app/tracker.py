"""Puts the tracker together: as a process of a cluster, or as a thread of local mode."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import uvicorn

from foretune.adapters.http.suggestions import HttpSuggestions
from foretune.adapters.store import SqlHistory
from foretune.services.tracker.auth import Identity, KubeAuthenticator, LocalAuthenticator
from foretune.services.tracker.http import create_app
from foretune.services.tracker.service import TrackerService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.applications import Starlette

    from foretune.ports import Clock, History, Suggestions
    from foretune.settings import TrackerSettings

log = logging.getLogger(__name__)

GRACE_S: Final = 3
"""Seconds that open requests have to end after SIGTERM."""

KEEP_ALIVE_S: Final = 75
"""Seconds an idle connection is kept: longer than clients keep theirs, so that none sends into it."""

START_S: Final = 30.0
"""Seconds the local server has to start listening."""


class SystemClock:
    """The operating system's clock."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()


def serve_tracker(settings: TrackerSettings) -> None:
    """Run the tracking server until SIGTERM."""
    from foretune.adapters.kube.client import KubeApi  # noqa: PLC0415 - not in local mode
    from foretune.adapters.kube.tokens import KubeTokenReviews  # noqa: PLC0415 - not in local mode
    from foretune.adapters.telemetry.server import MetricsServer  # noqa: PLC0415 - see above
    from foretune.adapters.telemetry.tracker import TrackerMetrics  # noqa: PLC0415 - see above

    clock = SystemClock()
    history = SqlHistory(settings.database_url)
    history.migrate()
    metrics = TrackerMetrics(history.counts)
    service = TrackerService(
        history=history,
        suggestions=HttpSuggestions(settings.suggestion_url),
        clock=clock,
        meter=metrics,
    )
    authenticator = KubeAuthenticator(
        reviews=KubeTokenReviews(KubeApi.from_environment()),
        clock=clock,
        operator_users=frozenset(settings.operator_users),
    )
    metrics_server = MetricsServer(
        registry=metrics.registry,
        port=settings.metrics_port,
        healthy=lambda: None,
        ready=lambda: _answers(history),
    )
    metrics_server.start()
    config = _config(create_app(service, authenticator))
    config.host, config.port = settings.host, settings.port
    try:
        uvicorn.Server(config).run()
    finally:
        metrics_server.stop()
        history.close()


def _answers(history: History) -> str | None:
    """Return why the database does not answer, or None."""
    try:
        history.counts()
    except Exception as error:  # noqa: BLE001 - the probe's answer is the error itself
        return str(error)
    return None


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
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
