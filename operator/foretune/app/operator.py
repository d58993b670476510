"""Picks the adapters of the operator: the Kubernetes API, the tracker over HTTP, Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretune.adapters.http.tracker import HttpTracker
from foretune.adapters.kube.cache import Cache
from foretune.adapters.kube.client import KubeApi, connection
from foretune.adapters.kube.lease import Lease
from foretune.adapters.kube.runner import KubeRunner
from foretune.adapters.kube.status import KubeStatusSink
from foretune.adapters.telemetry.recorder import OperatorMetrics
from foretune.app.clock import SystemClock
from foretune.app.loop import Reconciler

if TYPE_CHECKING:
    from foretune.settings import OperatorSettings


@dataclass(frozen=True, kw_only=True)
class OperatorParts:
    """What the operator acts through."""

    connect: Callable[[], Any]
    """Returns how to reach the API server now; tokens and certificates are read anew."""
    api: KubeApi
    cache: Cache
    sink: KubeStatusSink
    tracker: HttpTracker
    loop: Reconciler
    metrics: OperatorMetrics
    lease: Lease
    clock: SystemClock

    def close(self) -> None:
        """Release connections."""
        self.tracker.disconnect()
        self.api.close()


def assemble(settings: OperatorSettings) -> OperatorParts:
    """Put the operator together; raises `InvalidInputError` where there is no cluster."""
    metrics, cache, clock = OperatorMetrics(), Cache(), SystemClock()
    api = KubeApi(
        connection()[0],
        qps=settings.api_qps,
        burst=settings.api_burst,
        on_request=metrics.api_request,
    )
    token = Path(settings.token_file)
    tracker = HttpTracker(settings.tracker_url, lambda: token.read_text().strip())
    sink = KubeStatusSink(api)
    loop = Reconciler(
        tracker=tracker,
        runner=KubeRunner(
            api,
            cache,
            report_url=settings.report_url,
            trainer_image=settings.trainer_image,
            sdk_image=settings.sdk_image,
            trial_metrics_port=settings.trial_metrics_port,
        ),
        sink=sink,
        clock=clock,
        telemetry=metrics,
    )
    return OperatorParts(
        connect=lambda: connection()[0],
        api=api,
        cache=cache,
        sink=sink,
        tracker=tracker,
        loop=loop,
        metrics=metrics,
        lease=Lease(api, namespace=settings.namespace, identity=settings.identity),
        clock=clock,
    )
