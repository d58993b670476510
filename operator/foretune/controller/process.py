"""The operator as a process: leads, watches, works the queue off, and ends within 25 seconds of SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

import kopf

from foretune import constants
from foretune.adapters.kube.resources import JOBS, PODS, TUNINGJOBS
from foretune.adapters.telemetry.server import MetricsServer
from foretune.app.operator import assemble
from foretune.controller.jobs import Controller, JobStore
from foretune.controller.leader import Leadership
from foretune.controller.probes import (
    Audit,
    Heartbeat,
    Stream,
    Watchdog,
    heartbeat_check,
    lease_check,
    queue_check,
)
from foretune.controller.queue import KeyedQueue, Resync, Workers
from foretune.controller.watch import watch_registry, watch_settings
from foretune.domain.job import JobKey
from foretune.errors import (
    ClusterUnavailableError,
    ForbiddenError,
    ForetuneError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from foretune.adapters.kube.resources import Resource
    from foretune.app.operator import OperatorParts
    from foretune.settings import OperatorSettings

log = logging.getLogger(__name__)

BEAT_S: Final = 1.0
"""Seconds between two beats of the event loop."""

RETRY_S: Final = 5.0
"""Seconds between two tries of what the start needs: the CRD, the cluster, the tracker."""

WORKERS_END_S: Final = 10.0
"""Seconds that turns under way have to end; whatever they leave undone, the next start does."""

END_S: Final = 22.0
"""Seconds after SIGTERM at which the process ends in any case."""

ENDS: Final = (signal.SIGTERM, signal.SIGINT)
"""Signals that end the process."""


def serve_operator(settings: OperatorSettings) -> None:
    """Run the operator of a cluster until SIGTERM; metrics and probes are on their own port.

    Raises `InvalidInputError` where there is no cluster, `ForbiddenError` without its rights,
    `ClusterUnavailableError` when a watch ends that can't be begun again.
    """
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger("kopf").setLevel(logging.WARNING)  # a line an event, else
    OperatorProcess(settings, assemble(settings)).run()


class OperatorProcess:
    """Everything that runs in the operator, in the order in which it starts and ends."""

    def __init__(self, settings: OperatorSettings, parts: OperatorParts) -> None:
        """Put the pieces together; only the port for probes is bound."""
        self._settings = settings
        self._parts = parts
        self._ending = threading.Event()
        self._listed = threading.Event()
        self._standby = settings.leader_election
        self._waits_for = "the first lists"
        self._store = JobStore()
        self._queue = KeyedQueue()
        controller = Controller(
            store=self._store,
            loop=parts.loop,
            sink=parts.sink,
            attempts=parts.cache,
            metrics=parts.metrics,
            clock=parts.clock,
        )
        self._workers = Workers(self._queue, controller.look, meter=parts.metrics)
        self._resync = Resync(self._queue, self._store.keys)
        self._heartbeat = Heartbeat()
        self._leadership = Leadership(parts.lease)
        self._audit = Audit(list(self._streams()), stop=self._ending)
        self._watchdog = Watchdog(
            (
                heartbeat_check(self._heartbeat),
                lambda: self._audit.wrong,
                queue_check(self._queue, self._workers),
                lease_check(self._leadership.stale_s),
            )
        )
        self._server = MetricsServer(
            registry=parts.metrics.registry,
            port=settings.metrics_port,
            healthy=self._watchdog.wrong,
            ready=self._ready,
        )

    def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        for kind in ENDS:
            signal.signal(kind, lambda *_: self._end())
        self._server.start()
        self._watchdog.start()
        try:
            if self._lead() and self._crd():
                asyncio.run(self._watch())
        finally:
            self._close()

    # ------------------------------------------------------------------ start
    def _lead(self) -> bool:
        """Return True once this replica acts; False when it shall end before."""
        if self._settings.leader_election:
            if not self._leadership.wait(self._ending):
                return False
            self._leadership.start()
        self._standby = False
        self._parts.metrics.leading(True)
        return True

    def _crd(self) -> bool:
        """Return True once TuningJobs can be listed; False when it shall end before.

        kopf would wait for ever, and say nothing, for a kind that the cluster does not know. It looks
        the kind up elsewhere, where it appears a moment later: so one that has just come is asked for
        twice.
        """
        told, missing = "", False
        while not self._ending.is_set():
            try:
                for namespace in self._namespaces():
                    next(self._parts.api.pages(TUNINGJOBS, namespace=namespace))
            except NotFoundError:
                kind = f"{constants.PLURAL}.{constants.GROUP}"
                text, missing = f"the cluster does not know {kind}: kubectl apply -f crds/", True
            except UnavailableError as error:
                text = str(error)
            else:
                self._waits_for = "the first lists"
                if not missing:
                    return True
                missing = False
                text = "TuningJobs have come to be known"
            if text != told:
                log.warning("%s", text)
            self._waits_for = told = text
            self._ending.wait(RETRY_S)
        return False

    async def _watch(self) -> None:
        """Run kopf until the end is asked for, or one of its streams ends."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        beat = asyncio.create_task(self._beat(stop), name="heartbeat")
        others = asyncio.all_tasks()
        starting = threading.Thread(target=self._begin, name="start", daemon=True)
        try:
            tasks = await kopf.spawn_tasks(
                registry=watch_registry(
                    connect=self._parts.connect,
                    tuningjob=self._hear_tuningjob,
                    job=lambda body, gone: self._hear_attempt(JOBS, body, gone=gone),
                    pod=lambda body, gone: self._hear_attempt(PODS, body, gone=gone),
                ),
                settings=watch_settings(),
                # Else kopf asks for the user's name, which a pod's user 65532 has none of.
                identity=self._settings.identity,  # type: ignore[arg-type]  # its NewType is private
                clusterwide=not self._settings.namespaces,
                namespaces=self._settings.namespaces,
                stop_flag=stop,
            )
            for kind in ENDS:  # in place of kopf's, which know nothing of our own end
                loop.add_signal_handler(kind, self._end)
            starting.start()
            await kopf.run_tasks(tasks, ignored=others)
        except Exception as error:
            if self._ending.is_set():
                log.warning("the watches ended badly: %r", error)
                return
            raise ClusterUnavailableError(f"the watches have ended: {error!r}") from error
        finally:
            self._heartbeat.end()
            beat.cancel()
        if not self._ending.is_set():
            raise ClusterUnavailableError("the watches have ended, though nobody asked for it")

    async def _beat(self, stop: asyncio.Event) -> None:
        while True:
            self._heartbeat.beat()
            if self._ending.is_set():
                stop.set()
            await asyncio.sleep(BEAT_S)

    def _begin(self) -> None:
        """Start the work once the watches have shown all that is there."""
        if not self._audit.first():
            return
        self._workers.start()
        self._listed.set()
        self._resync.start()
        self._audit.start()
        log.info("ready: %d jobs", len(self._store.keys()))
        self._sweep()

    def _sweep(self) -> None:
        """Close in the history the jobs that were deleted while no operator ran."""
        while not self._ending.is_set():
            known = self._store.by_uid()
            try:
                records = [
                    record
                    for namespace in self._namespaces()
                    for record in self._parts.tracker.find_jobs(namespace=namespace)
                ]
            except UnavailableError as error:
                log.info("the tracker can't be asked for jobs that were deleted: %s", error)
                self._ending.wait(RETRY_S)
                continue
            except ForetuneError as error:
                log.warning("the tracker does not tell which jobs were deleted: %s", error)
                return
            for record in records:
                ours = record.namespace != constants.LOCAL_NAMESPACE
                if ours and record.closed_at is None and record.uid not in known:
                    key = JobKey(record.namespace, record.name)
                    self._queue.add(self._store.vanished(key, record.uid))
            return

    # ------------------------------------------------------------------ hear
    def _hear_tuningjob(self, body: Mapping[str, Any], gone: bool) -> None:  # noqa: FBT001 - `Hear`
        key = self._store.drop(body) if gone else self._store.put(body)
        if key is not None:
            self._queue.add(key)

    def _hear_attempt(self, resource: Resource, body: Mapping[str, Any], *, gone: bool) -> None:
        cache = self._parts.cache
        key = cache.drop(resource, body) if gone else cache.put(resource, body)
        if key is not None:
            self._queue.add(key)

    # ----------------------------------------------------------------- audit
    def _namespaces(self) -> Sequence[str | None]:
        return self._settings.namespaces or (None,)

    def _streams(self) -> Iterator[Stream]:
        cache = self._parts.cache
        yield Stream(
            name=TUNINGJOBS.plural,
            listed=functools.partial(self._metadata, TUNINGJOBS),
            versions=self._store.versions,
            gone=self._tuningjobs_gone,
        )
        for resource in (JOBS, PODS):
            yield Stream(
                name=resource.plural,
                listed=functools.partial(self._metadata, resource),
                versions=functools.partial(cache.versions, resource),
                gone=functools.partial(self._attempts_gone, resource),
            )

    def _metadata(self, resource: Resource) -> Iterator[Mapping[str, Any]]:
        selector = "" if resource == TUNINGJOBS else constants.LABEL_JOB
        for namespace in self._namespaces():
            for page in self._parts.api.pages(
                resource, namespace=namespace, selector=selector, metadata_only=True
            ):
                yield from page.get("items") or ()

    def _tuningjobs_gone(self, uids: Sequence[str]) -> None:
        known = self._store.by_uid()
        for uid in uids:
            if uid in known:
                self._queue.add(self._store.vanished(known[uid], uid))

    def _attempts_gone(self, resource: Resource, uids: Sequence[str]) -> None:
        for uid in uids:
            self._parts.cache.drop(resource, {"metadata": {"uid": uid}})
        self._resync.once()

    # ------------------------------------------------------------------- end
    def _ready(self) -> str | None:
        return None if self._standby or self._listed.is_set() else f"waits for {self._waits_for}"

    def _end(self) -> None:
        """End soon, and in any case in `END_S`."""
        if self._ending.is_set():
            return
        self._ending.set()
        log.info("ending")
        limit = threading.Timer(END_S, _leave)
        limit.daemon = True
        limit.start()

    def _close(self) -> None:
        self._ending.set()
        self._watchdog.stop()
        self._resync.stop()
        if not self._workers.stop(within_s=WORKERS_END_S):
            log.warning("turns under way are left to the next start")
        self._parts.sink.close()
        with contextlib.suppress(ForbiddenError, UnavailableError):
            self._leadership.stop()
        self._parts.close()
        self._server.stop()
        log.info("ended")


def _leave() -> None:
    """End the process although something still runs: all of it can be done again."""
    log.warning("ending with work under way")
    logging.shutdown()
    os._exit(0)
