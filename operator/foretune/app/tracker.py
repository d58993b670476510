"""Puts the tracker together: as a process of a cluster, or as a thread of local mode."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foretune.adapters.http.suggestions import HttpSuggestions
from foretune.adapters.store import SqlHistory
from foretune.app.clock import SystemClock
from foretune.app.web import GRACE_S, START_S, ProcessServer, ThreadServer, leave, web_config
from foretune.domain.job import Scope
from foretune.errors import ForetuneError
from foretune.services.tracker.auth import Identity, KubeAuthenticator, LocalAuthenticator
from foretune.services.tracker.catalogue import Sharing
from foretune.services.tracker.http import create_app
from foretune.services.tracker.service import TrackerService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foretune.ports import Clock, History, Suggestions
    from foretune.services.tracker.auth import Authenticator
    from foretune.services.tracker.service import Meter
    from foretune.settings import TrackerSettings


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
        sharing=Sharing(
            scope=Scope(settings.prior_scope), publishers=frozenset(settings.publishers)
        ),
    )
    config = web_config(create_app(service, authenticator), settings.host, settings.port)
    try:
        ProcessServer(config).run()
    finally:
        history.close()
    leave()  # a thread may still wait for a suggestion; whatever was answered is committed


def answers(history: History) -> str | None:
    """Return why the database does not answer, or None when it does: what readiness asks."""
    try:
        history.counts()
    except ForetuneError as error:
        return str(error)
    return None


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
    service = TrackerService(
        history=history,
        suggestions=suggestions,
        clock=clock,
        sharing=Sharing(everywhere=True),  # the file of one user
    )
    authenticator = LocalAuthenticator()
    server = ThreadServer(web_config(create_app(service, authenticator)))
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
