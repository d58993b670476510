"""`KubeStatusSink`: a TuningJob's status by server-side apply, as seldom as can be.

One write per turn at most, none for a status that says nothing new, and at most one in two seconds but
when the phase changes. What has to wait is written by a thread of the sink; only the newest counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from foretune import constants
from foretune.adapters.kube.resources import TUNINGJOBS
from foretune.domain.job import JobKey
from foretune.errors import (
    ClusterUnavailableError,
    ConflictError,
    ForetuneError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune.adapters.kube.client import KubeApi
    from foretune.domain.job import Job

log = logging.getLogger(__name__)

INTERVAL_S: Final = 2.0
"""Seconds between two writes of one job's status, unless its phase changes."""

MAX_RETRY_S: Final = 60.0
"""Longest pause, in seconds, between two tries of a write that waits."""


TRIES: Final = 5
"""Tries of one write while others change the same object."""


@dataclass
class _Page:
    """What is known of one job's status."""

    key: JobKey
    uid: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    digest: str = ""
    """Of the status last written."""
    phase: str | None = None
    conditions: Sequence[Mapping[str, Any]] = ()
    version: str | None = None
    """Resource version under which the object was seen last; None: read it first."""
    waiting: Mapping[str, Any] | None = None
    due: float = 0.0
    """Not before this, monotonic seconds."""
    pause_s: float = INTERVAL_S


class KubeStatusSink:
    """Implements `ports.StatusSink`; may be called from several threads."""

    def __init__(self, api: KubeApi, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Write through `api`; the thread for what has to wait starts when it is needed."""
        self._api = api
        self._monotonic = monotonic
        self._wake = threading.Condition()
        self._pages: dict[JobKey, _Page] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def write(self, job: Job, status: Mapping[str, Any]) -> None:
        """Write the whole status, now or within two seconds; nothing if it says nothing new.

        Raises `InvalidInputError` for a status larger than `STATUS_LIMIT`, and what a write that is due
        now meets; a job that is gone is fine.
        """
        self._put(job.key, job.uid, status, job.status)

    def reject(
        self,
        key: JobKey,
        status: Mapping[str, Any],
        *,
        uid: str = "",
        observed: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the status of a TuningJob whose spec can't be read; as `write`.

        `uid` and `observed` (the status as it is) are the object's: without them a job that was made anew
        under an old name could be taken for the old one.
        """
        self._put(key, uid, status, observed or {})

    def forget(self, key: JobKey) -> None:
        """Drop what is kept of a job that was deleted."""
        with self._wake:
            self._pages.pop(key, None)

    def flush(self) -> None:
        """Write everything that waits, due or not; raises the first error after trying all."""
        errors = []
        for page in self._all():
            with page.lock:
                if page.waiting is None:
                    continue
                try:
                    self._send(page)
                except ForetuneError as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def close(self) -> None:
        """End the thread and write what waits, one try each; what fails is logged."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
        try:
            self.flush()
        except ForetuneError as error:
            log.warning("a status was not written before the end: %s", error)

    def _put(
        self, key: JobKey, uid: str, status: Mapping[str, Any], observed: Mapping[str, Any]
    ) -> None:
        page = self._page(key, uid, observed)
        with page.lock:
            status = {**status, "conditions": _steady(status, page.conditions)}
            size = len(_text(status).encode())
            if size > constants.STATUS_LIMIT:
                limit = constants.STATUS_LIMIT
                raise InvalidInputError(f"status of {key}: {size} bytes, at most {limit} are kept")
            if _digest(status) == page.digest:
                page.waiting = None
                return
            page.waiting = status
            if status.get("phase") != page.phase or self._monotonic() >= page.due:
                self._send(page)
                return
        self._defer()

    def _page(self, key: JobKey, uid: str, observed: Mapping[str, Any]) -> _Page:
        with self._wake:
            page = self._pages.get(key)
            if page is None or page.uid != uid:
                page = self._pages[key] = _Page(key, uid)
                if observed:
                    _written(page, observed)
            return page

    def _all(self) -> list[_Page]:
        with self._wake:
            return list(self._pages.values())

    def _send(self, page: _Page) -> None:
        """Write what waits; the caller holds the page's lock."""
        status = page.waiting
        assert status is not None
        try:
            if not self._apply(page, status):
                log.info("job %s is gone; its status was not written", page.key)
        except UnavailableError:
            page.due = self._monotonic() + page.pause_s
            page.pause_s = min(MAX_RETRY_S, page.pause_s * 2)
            raise
        except ForetuneError:
            page.waiting = None  # it won't get better; the next turn may have another
            raise
        page.waiting, page.pause_s = None, INTERVAL_S
        page.due = self._monotonic() + INTERVAL_S
        _written(page, status)

    def _apply(self, page: _Page, status: Mapping[str, Any]) -> bool:
        """Write into the object of this very uid; False when it is gone, or another has its name.

        An apply to a custom resource's status does not heed `metadata.uid`, so that the end of a job
        could become that of its namesake. Its version tells them apart, and costs a read when it is stale.
        """
        for _ in range(TRIES):
            if page.version is None and not self._look(page):
                return False
            body = {
                "apiVersion": constants.API_VERSION,
                "kind": constants.KIND,
                "metadata": {"name": page.key.name, "resourceVersion": page.version},
                "status": status,
            }
            try:
                answer = self._api.apply_status(
                    TUNINGJOBS, page.key.name, body, namespace=page.key.namespace
                )
            except NotFoundError:
                return False
            except ConflictError:
                page.version = None
            else:
                page.version = answer["metadata"]["resourceVersion"]
                return True
        raise ClusterUnavailableError(f"status of {page.key}: changed by others all the time")

    def _look(self, page: _Page) -> bool:
        """Read the version of the page's object; False when it is gone."""
        try:
            found = self._api.get(TUNINGJOBS, page.key.name, namespace=page.key.namespace)
        except NotFoundError:
            return False
        page.version = found["metadata"]["resourceVersion"]
        return page.uid in {"", found["metadata"]["uid"]}

    def _defer(self) -> None:
        with self._wake:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="status", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def _run(self) -> None:
        while (pages := self._next()) is not None:
            for page in pages:
                with page.lock:
                    if page.waiting is None:
                        continue
                    try:
                        self._send(page)
                    except UnavailableError as error:
                        log.info("status of %s waits: %s", page.key, error)
                    except ForetuneError:
                        log.exception("status of %s can't be written", page.key)

    def _next(self) -> list[_Page] | None:
        """Wait for pages that are due; None when the sink is closed."""
        with self._wake:
            while not self._closed:
                now = self._monotonic()
                waiting = [page for page in self._pages.values() if page.waiting is not None]
                due = [page for page in waiting if page.due <= now]
                if due:
                    return due
                self._wake.wait(min((page.due - now for page in waiting), default=None))
            return None


def _written(page: _Page, status: Mapping[str, Any]) -> None:
    page.digest = _digest(status)
    page.phase = status.get("phase")
    page.conditions = tuple(status.get("conditions") or ())


def _steady(status: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the conditions, with the times under which those that did not flip were written."""
    known = {(c.get("type"), c.get("status")): c.get("lastTransitionTime") for c in before}
    return [
        {
            **condition,
            "lastTransitionTime": known.get((condition["type"], condition["status"]))
            or condition["lastTransitionTime"],
        }
        for condition in status.get("conditions") or ()
    ]


def _text(status: Mapping[str, Any]) -> str:
    return json.dumps(status, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(status: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(status).encode()).hexdigest()
