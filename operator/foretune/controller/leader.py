"""One replica acts, the others stand by. It saves work; that two act at once does no harm.

Names of Jobs are deterministic, proposals are recorded once, and outcomes are committed once: what two
leaders do is the same thing twice.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from foretune.errors import ForetuneError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0
"""Seconds between two tries, to acquire or to renew."""

DEADLINE_S: Final = 10.0
"""Seconds without a successful renewal after which we must stop acting."""

TELL_S: Final = 60.0
"""Seconds between two lines of the log that say the same of a wait."""


class Lease(Protocol):
    """The lease of `adapters.kube.lease`."""

    @property
    def renewed_at(self) -> float | None:
        """When it was last acquired or renewed, monotonic seconds; None while not held."""

    @property
    def holder(self) -> str:
        """Who held it when it was last looked at."""

    def acquire(self) -> bool:
        """Try once to take it."""

    def renew(self) -> bool:
        """Renew once; False when it is lost."""

    def release(self) -> None:
        """Give it back."""


def die(reason: str) -> None:
    """End the process at once, without cleaning up: somebody else may act already."""
    log.critical("ending at once: %s", reason)
    logging.shutdown()
    os._exit(1)


class Leadership:
    """Waits for the lease, and renews it from a thread until it is given back or lost."""

    def __init__(
        self,
        lease: Lease,
        *,
        lost: Callable[[str], None] = die,
        retry_s: float = RETRY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the lease, and what to do when it is lost, which must end the process."""
        self._lease = lease
        self._lost = lost
        self._retry_s = retry_s
        self._monotonic = monotonic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._acquired = False

    def wait(self, ending: threading.Event) -> bool:
        """Return True once the lease is ours, False when `ending` was set first.

        A cluster that does not answer is waited for. Raises `ForbiddenError` without the rights.
        """
        told_at, told = 0.0, ""
        while not ending.is_set():
            try:
                if self._lease.acquire():
                    self._acquired = True
                    log.info("leading")
                    return True
                text = f"standing by while {self._lease.holder or 'somebody'} leads"
            except UnavailableError as error:
                text = f"the lease can't be asked for: {error}"
            now = self._monotonic()
            if text != told or now - told_at >= TELL_S:
                log.info("%s", text)
                told, told_at = text, now
            ending.wait(self._retry_s)
        return False

    def start(self) -> None:
        """Renew from now on."""
        self._thread.start()

    def stale_s(self) -> float:
        """Return the seconds since the last renewal; 0 when nothing is held."""
        renewed = self._lease.renewed_at
        return 0.0 if renewed is None else self._monotonic() - renewed

    def stop(self) -> None:
        """Stop renewing, and give back what is held."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._acquired:
            self._lease.release()

    def _renew(self) -> None:
        while not self._stop.wait(self._retry_s):
            try:
                held = self._lease.renew()
            except ForetuneError as error:
                log.warning("the lease can't be renewed: %s", error)
                held = self.stale_s() < DEADLINE_S
            if not held:
                self._lost(f"the lease is lost to {self._lease.holder or 'nobody'}")
                return
