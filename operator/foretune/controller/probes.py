"""Whether this process still does its work: the watchdog, and the audit of what the watches have shown.

A watch may die without a word while the process lives on and answers its probes. So the cluster itself is
asked from time to time, and a process that lags behind ends: its restart costs three lists.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foretune.controller.leader import die
from foretune.errors import ForetuneError

if TYPE_CHECKING:
    from foretune.controller.queue import KeyedQueue, Workers

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 15.0
"""Seconds that the event loop may be busy with something else."""

LEASE_S: Final = 15.0
"""Seconds since the last renewal after which another replica may lead."""

WAIT_S: Final = 120.0
"""Seconds that a key may wait while a worker has nothing to do."""

QUIET_S: Final = 900.0
"""Seconds without an end of a run while keys wait: more than the longest wait for a proposal (600 s)."""

AUDIT_S: Final = 300.0
"""Seconds between two audits."""

LAG_S: Final = 60.0
"""Seconds after which the watch must have shown what a list has shown."""

LOOK_S: Final = 5.0
"""Seconds between two looks of the watchdog; what is wrong twice in a row ends the process."""

Listed = dict[str, dict[str, Any]]
"""Metadata by uid."""


class Heartbeat:
    """Time since the event loop last had a moment."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start silent: a loop that has not begun is not late."""
        self._monotonic = monotonic
        self._at: float | None = None

    def beat(self) -> None:
        """Say that the loop runs."""
        self._at = self._monotonic()

    def end(self) -> None:
        """Say that the loop has ended as it should."""
        self._at = None

    def silent_s(self) -> float:
        """Return the seconds since the last beat; 0 while no loop is meant to run."""
        at = self._at
        return 0.0 if at is None else self._monotonic() - at


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One kind that is watched."""

    name: str
    listed: Callable[[], Iterator[Mapping[str, Any]]]
    """Asks the cluster: the objects' metadata, under `metadata`."""
    versions: Callable[[], Mapping[str, str]]
    """What the watch has shown: resource version by uid."""
    gone: Callable[[Sequence[str]], None]
    """Takes uids that are not in the cluster any more, though no event said so."""


class Audit:
    """Compares what the cluster lists with what the watches have shown."""

    def __init__(
        self,
        streams: Sequence[Stream],
        *,
        every_s: float = AUDIT_S,
        lag_s: float = LAG_S,
        stop: threading.Event | None = None,
    ) -> None:
        """Take the streams; nothing is asked before `first` or `start`."""
        self._streams = streams
        self._every_s = every_s
        self._lag_s = lag_s
        self._stop = stop or threading.Event()
        self._wrong: str | None = None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    @property
    def wrong(self) -> str | None:
        """Which stream is dead, or None."""
        return self._wrong

    def first(self, *, poll_s: float = 0.1, relist_s: float = 10.0) -> bool:
        """Return True once the watches have shown all that is there, False when stopped first.

        What ends meanwhile is never shown, so the cluster is asked again after `relist_s`.
        """
        for stream in self._streams:
            while not self._stop.is_set():
                try:
                    wanted = set(self._list(stream))
                except ForetuneError as error:
                    log.warning("%s can't be listed: %s", stream.name, error)
                    self._stop.wait(relist_s)
                    continue
                limit = time.monotonic() + relist_s
                while not (there := wanted <= set(stream.versions())):
                    if time.monotonic() > limit or self._stop.wait(poll_s):
                        break
                if there:
                    break
        return not self._stop.is_set()

    def start(self) -> None:
        """Audit from now on."""
        self._thread.start()

    def once(self) -> None:
        """Audit every stream: forget what has gone unheard, and find a stream that lags."""
        late = {stream.name: self._behind(stream) for stream in self._streams}
        if not any(late.values()) or self._stop.wait(self._lag_s):
            return
        for stream in self._streams:
            still = self._still(stream, late[stream.name]) if late[stream.name] else ()
            if still:
                count = len(still)
                self._wrong = (
                    f"the watch of {stream.name} is dead: {count} objects {self._lag_s:g} s behind"
                )

    def _behind(self, stream: Stream) -> dict[str, str]:
        """Return the objects of which a newer version is listed than was shown: listed version by uid."""
        before = set(stream.versions())
        listed = self._list(stream)
        vanished = sorted(before - set(listed))
        if vanished:
            log.warning("%d %s went unheard: %s", len(vanished), stream.name, vanished[:5])
            stream.gone(vanished)
        shown = stream.versions()
        return {
            uid: meta["resourceVersion"]
            for uid, meta in listed.items()
            if _newer(meta["resourceVersion"], shown.get(uid))
        }

    def _still(self, stream: Stream, late: Mapping[str, str]) -> list[str]:
        """Return those that are there and have not caught up with the version they had."""
        there, shown = self._list(stream), stream.versions()
        return [uid for uid, old in late.items() if uid in there and _newer(old, shown.get(uid))]

    @staticmethod
    def _list(stream: Stream) -> Listed:
        return {item["metadata"]["uid"]: dict(item["metadata"]) for item in stream.listed()}

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.once()
            except ForetuneError as error:
                log.warning("the watches could not be audited: %s", error)


def _newer(version: str, known: str | None) -> bool:
    if known is None:
        return True
    if version.isdecimal() and known.isdecimal():
        return int(version) > int(known)
    return version != known


class Watchdog:
    """Ends a process that has stopped doing its work. A plain thread: it does not depend on what it checks."""

    def __init__(
        self,
        checks: Sequence[Callable[[], str | None]],
        *,
        bite: Callable[[str], None] = die,
        every_s: float = LOOK_S,
    ) -> None:
        """Take checks that return what is wrong; `bite` must end the process."""
        self._checks = checks
        self._bite = bite
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def wrong(self) -> str | None:
        """Return what is wrong now, or None: what liveness asks."""
        found = [text for check in self._checks if (text := check()) is not None]
        return "; ".join(found) if found else None

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more: the process ends as it should."""
        self._stop.set()

    def _run(self) -> None:
        before: str | None = None
        while not self._stop.wait(self._every_s):
            now = self.wrong()
            if now is not None:
                log.error("unhealthy: %s", now)
                if before is not None:
                    # Twice: a machine that was asleep wakes up with every clock far ahead.
                    self._bite(now)
                    return
            before = now


def heartbeat_check(heartbeat: Heartbeat) -> Callable[[], str | None]:
    """Return the check that the event loop runs."""

    def check() -> str | None:
        silent = heartbeat.silent_s()
        return f"the event loop is stuck for {silent:.0f} s" if silent > HEARTBEAT_S else None

    return check


def lease_check(stale_s: Callable[[], float]) -> Callable[[], str | None]:
    """Return the check that the lease is renewed."""

    def check() -> str | None:
        stale = stale_s()
        return f"the lease was renewed {stale:.0f} s ago" if stale > LEASE_S else None

    return check


def queue_check(queue: KeyedQueue, workers: Workers) -> Callable[[], str | None]:
    """Return the check that keys are worked off.

    While all workers wait for proposals, keys wait rightly; so they may for as long as proposals may take.
    """

    def check() -> str | None:
        waits = queue.oldest_s()
        if waits > WAIT_S and workers.idle() > 0:
            return f"a job waits for {waits:.0f} s though a worker is idle"
        if waits > QUIET_S and workers.quiet_s() > QUIET_S:
            return f"no worker has ended a turn for {workers.quiet_s():.0f} s"
        return None

    return check
