"""The work queue: which TuningJob is looked at next, by whom, and when again.

Level-triggered: a key says only "look at this job". However often it is added while it waits, it is
looked at once; added while it is looked at, it is looked at once more. So nothing that was added is
lost, and no two workers look at one job.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from foretune.errors import ForetuneError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foretune.domain.job import JobKey

log = logging.getLogger(__name__)

WORKERS: Final = 8
"""Threads. A turn of the loop waits for the network, and for a proposal up to its time limit."""

BACKOFF_S: Final = 1.0
"""Seconds until a key that failed is tried again; doubled each time that it fails once more."""

ERROR_S: Final = 300.0
"""Longest back-off, in seconds, after an error that trying again may not mend."""

AWAY_S: Final = 30.0
"""Longest back-off, in seconds, while something does not answer: once it does, GPUs wait for us."""

RESYNC_S: Final = 300.0
"""Mean seconds between two looks at every job, whether or not something was heard."""

JITTER: Final = 0.2
"""Share by which a time of resync varies, so that restarts do not march in step."""


@dataclass
class _Key:
    """What is known of a key that waits, is worked on, or has failed."""

    due: float | None = None
    """When it is to be worked on; None: nothing is asked of it."""
    running: bool = False
    failures: int = 0
    ticket: int = field(default=0)
    """Of its newest entry in the heap; older entries are passed over."""


class KeyedQueue:
    """Keys that are due, each at most once, never one that is being worked on. Thread-safe."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start empty; `monotonic` is replaced in tests."""
        self._monotonic = monotonic
        self._wake = threading.Condition()
        self._keys: dict[JobKey, _Key] = {}
        self._heap: list[tuple[float, int, JobKey]] = []
        self._tickets = itertools.count(1)
        self._closed = False

    def add(self, key: JobKey, *, after_s: float = 0.0) -> None:
        """Ask for a look at `key` in `after_s` seconds; an earlier look that was asked for suffices."""
        with self._wake:
            entry = self._keys.setdefault(key, _Key())
            due = self._monotonic() + after_s
            if entry.due is not None and entry.due <= due:
                return
            entry.due = due
            if not entry.running:
                self._push(key, entry)

    def take(self, *, wait: bool = True) -> JobKey | None:
        """Return a key that is due, and hold it until `done`; the longest due first.

        Waits for one, unless told not to; None then, and when the queue is closed.
        """
        with self._wake:
            while not self._closed:
                now = self._monotonic()
                key, due = self._first()
                if key is not None and due <= now:
                    heapq.heappop(self._heap)
                    entry = self._keys[key]
                    entry.running, entry.due = True, None
                    if self._heap:
                        self._wake.notify()  # somebody else waits for the next one now
                    return key
                if not wait:
                    return None
                self._wake.wait(due - now if key is not None else None)
            return None

    def done(self, key: JobKey, *, after_s: float | None = None) -> None:
        """Let go of a key that was taken and went well; look again in `after_s` seconds, if given."""
        with self._wake:
            self._keys[key].failures = 0
            self._release(key, after_s)

    def failed(self, key: JobKey, *, most_s: float = ERROR_S) -> float:
        """Let go of a key that was taken and failed; return the seconds until it is tried again.

        They double with each failure in a row, up to `most_s`. What is heard of it meanwhile brings it back at once: it may be what it failed for.
        """
        with self._wake:
            entry = self._keys[key]
            pause = min(most_s, BACKOFF_S * 2.0 ** min(entry.failures, 30))
            entry.failures += 1
            self._release(key, pause)
            return pause

    def oldest_s(self) -> float:
        """Return for how many seconds the longest due key waits for a worker; 0 when none does."""
        with self._wake:
            key, due = self._first()
            return max(0.0, self._monotonic() - due) if key is not None else 0.0

    def running(self) -> int:
        """Return how many keys are being worked on."""
        with self._wake:
            return sum(entry.running for entry in self._keys.values())

    def close(self) -> None:
        """Hand out no more keys."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def _release(self, key: JobKey, after_s: float | None) -> None:
        entry = self._keys[key]
        entry.running = False
        if after_s is not None:
            due = self._monotonic() + after_s
            entry.due = due if entry.due is None else min(due, entry.due)
        if entry.due is not None:
            self._push(key, entry)
        elif not entry.failures:
            del self._keys[key]

    def _push(self, key: JobKey, entry: _Key) -> None:
        assert entry.due is not None
        entry.ticket = next(self._tickets)
        heapq.heappush(self._heap, (entry.due, entry.ticket, key))
        self._wake.notify()

    def _first(self) -> tuple[JobKey | None, float]:
        """Return the first entry of the heap that counts, and when it is due."""
        while self._heap:
            due, ticket, key = self._heap[0]
            entry = self._keys.get(key)
            if entry is not None and entry.ticket == ticket and not entry.running:
                return key, due
            heapq.heappop(self._heap)
        return None, 0.0


class Meter(Protocol):
    """Hears how runs of a worker ended; must not raise."""

    def reconciled(self, handler: str, result: str, seconds: float) -> None:
        """A run of `handler` ended as `success`, `temporary_error` or `error`."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a run that went well ended."""

    handler: str
    """What was done: `reconcile`, `forget`, `reject`."""
    after_s: float | None = None
    """Seconds after which to look again though nothing is heard."""


class Workers:
    """Threads that work a queue off. What a run raises is logged and tried again with back-off."""

    def __init__(
        self,
        queue: KeyedQueue,
        work: Callable[[JobKey], Done],
        *,
        meter: Meter,
        count: int = WORKERS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what to do with a key; nothing runs before `start`."""
        self._queue = queue
        self._work = work
        self._meter = meter
        self._monotonic = monotonic
        self._ended_at = monotonic()
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Start working."""
        self._ended_at = self._monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self, *, within_s: float) -> bool:
        """Take no more keys; return whether all that ran ended within so many seconds."""
        self._queue.close()
        deadline = self._monotonic() + within_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - self._monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def quiet_s(self) -> float:
        """Return for how many seconds no run has ended."""
        return self._monotonic() - self._ended_at

    def idle(self) -> int:
        """Return how many threads have nothing to do."""
        return sum(thread.is_alive() for thread in self._threads) - self._queue.running()

    def _run(self) -> None:
        while (key := self._queue.take()) is not None:
            self._one(key)

    def _one(self, key: JobKey) -> None:
        began = self._monotonic()
        handler, result = "reconcile", "error"
        try:
            ended = self._work(key)
        except UnavailableError as error:
            result, pause = "temporary_error", self._queue.failed(key, most_s=AWAY_S)
            log.warning("job %s: %s; again in %g s", key, error, pause)
        except ForetuneError as error:
            pause = self._queue.failed(key)
            log.error("job %s: %s; again in %g s", key, error, pause)  # noqa: TRY400 - it says what
        except Exception:
            pause = self._queue.failed(key)
            log.exception("job %s: unexpected; again in %g s", key, pause)
        else:
            self._queue.done(key, after_s=ended.after_s)
            handler, result = ended.handler, "success"
        self._ended_at = self._monotonic()
        self._meter.reconciled(handler, result, self._ended_at - began)


class Resync:
    """A thread that asks for a look at every job from time to time, spread over the time in between."""

    def __init__(
        self,
        queue: KeyedQueue,
        keys: Callable[[], Iterable[JobKey]],
        *,
        every_s: float = RESYNC_S,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Take where the keys come from; `uniform` is replaced in tests."""
        self._queue = queue
        self._keys = keys
        self._every_s = every_s
        self._uniform = uniform
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resync", daemon=True)

    def start(self) -> None:
        """Start; the first look is one interval from now, since all was looked at when it was listed."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()

    def once(self) -> None:
        """Ask for a look at every job, at any time of the next fifth of an interval."""
        for key in self._keys():
            self._queue.add(key, after_s=self._uniform(0.0, JITTER * self._every_s))

    def _run(self) -> None:
        spread = JITTER * self._every_s
        while not self._stop.wait(self._every_s + self._uniform(-spread, spread)):
            self.once()
