"""Delivers reports: in order, in batches, again and again until they are acknowledged.

Two threads: one sends, the other writes the spool's file while a request hangs, so that a kill loses
nothing that was reported before it.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from foretune import contract
from foretune_report.transport import Answer, UnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from foretune_report.spool import Spool
    from foretune_report.transport import Transport

TIMEOUT_S: Final = 10.0
"""Seconds one request may take to connect, and again to answer."""

GAP_S: Final = 0.1
"""Seconds left between two requests, so that a report a step becomes ten requests a second."""

BACKOFF_S: Final = (0.25, 30.0)
"""First and longest pause after a failure; each is twice the one before, less a random half."""

BATCH: Final = 200
"""Reports in one request."""

OK, STALE, TOO_LARGE = 200, 409, 413

WRONG: Final = frozenset({400, TOO_LARGE, 422})
"""Answers to a body that will never be right."""


class Sender:
    """Owns the spool's lock. `put` is for the training thread; it never waits for network or disk."""

    def __init__(self, transport: Transport, spool: Spool) -> None:
        """Take where reports go and where they wait."""
        self._transport = transport
        self._spool = spool
        self._wake = threading.Condition()
        self._file = threading.Lock()
        self._until: float | None = None
        self._limit = BATCH
        self._pause = BACKOFF_S[0]
        self._told: set[str] = set()
        self._retired: list[Path] = []
        self._silent = False
        self._thread: threading.Thread | None = None
        self.action = contract.Action.CONTINUE
        self.reason: str | None = None
        self.refused = False
        """Whether the tracker speaks another contract: nothing more is sent."""

    @property
    def lost(self) -> int:
        """Reports that did not arrive: dropped, or still waiting."""
        with self._wake:
            return self._spool.dropped + len(self._spool)

    def put(self, seq: int, line: bytes) -> None:
        """Hand over a report; starts the thread with the first one."""
        with self._wake:
            self._spool.put(seq, line)
            self._wake.notify_all()
        if self._thread is None:
            keeper = threading.Thread(target=self._keep, name="foretune-spool", daemon=True)
            keeper.start()
            self._thread = threading.Thread(target=self._run, name="foretune-report", daemon=True)
            self._thread.start()

    def retire(self, files: list[Path]) -> None:
        """Remove files of earlier pods, once what they held stands in this pod's own."""
        with self._wake:
            self._retired += files

    def close(self, limit_s: float) -> None:
        """Wait until everything is delivered, at most `limit_s`."""
        if self._thread is None:
            return
        with self._wake:
            self._until = time.monotonic() + limit_s
            self._wake.notify_all()
        self._thread.join(limit_s)
        self._save()
        with self._wake:
            self._silent = True
            self._wake.notify_all()

    # ------------------------------------------------------------- the two threads
    def _keep(self) -> None:
        try:
            while not self._silent:
                with self._wake:
                    self._wake.wait_for(lambda: self._spool.fresh or self._silent)
                self._save()
        except Exception as error:  # noqa: BLE001 - the training goes on whatever is wrong here
            self._tell("spool", f"reports are kept in memory only: {error!r}")

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._save()
                until = self._until
                pause = 0.0 if self.refused else self._deliver()
                self._save()
                self._sleep(pause, until)
        except Exception as error:  # noqa: BLE001 - the training goes on whatever is wrong here
            self._tell("stopped", f"reports are no longer sent: {error!r}")

    def _wait_for_work(self) -> bool:
        """Block until there is something to send; False once there is not and the program ends."""
        with self._wake:
            while not len(self._spool) or self.refused:
                if self._until is not None:
                    return False
                self._wake.wait()
            return self._until is None or time.monotonic() < self._until

    def _sleep(self, seconds: float, limit: float | None) -> None:
        """Pause between requests; the program's end cuts it short, once, and bounds later ones.

        `limit` is the end as it was known before the request that this pause follows: one that was
        asked for since then must not be slept through.
        """
        end = time.monotonic() + seconds
        with self._wake:
            while True:
                if self._until != limit or (limit is not None and not len(self._spool)):
                    return
                left = (end if limit is None else min(end, limit)) - time.monotonic()
                if left <= 0:
                    return
                self._wake.wait(left)

    def _save(self) -> None:
        with self._file:
            with self._wake:
                content, whole = self._spool.unsaved()
                retired, self._retired = self._retired, []
            try:
                self._spool.save(content, whole=whole)
                for path in retired:
                    path.unlink(missing_ok=True)
            except OSError as error:
                self._tell("spool", f"reports are kept in memory only: {error}")

    def _deliver(self) -> float:
        """Send the oldest reports, and return the seconds to leave until the next request."""
        with self._wake:
            batch = self._spool.batch(contract.BODY_LIMIT, self._limit)
            left = TIMEOUT_S if self._until is None else self._until - time.monotonic()
        if not batch:
            return 0.0
        body = b"[" + b",".join(batch.values()) + b"]"
        try:
            answer = self._transport.post(body, max(0.1, min(TIMEOUT_S, left)))
        except UnreachableError as error:
            self._tell("unreachable", f"reports wait for the tracker: {error}")
            return self._back_off()
        return self._read(answer, batch)

    def _read(self, answer: Answer, batch: dict[int, bytes]) -> float:
        status, said = answer.status, str(answer.body.get("error", ""))
        if status == OK and answer.body:
            with self._wake:
                for seq in batch:
                    self._spool.remove(seq)
            self._limit, self._pause = BATCH, BACKOFF_S[0]
            self._obey(answer)
            interval = answer.body.get("interval")
            if isinstance(interval, (int, float)) and self._until is None:
                return max(GAP_S, float(interval))
            return GAP_S
        if status == STALE:
            self._obey(answer)
            if self.action is contract.Action.CONTINUE:
                self._tell("contract", f"reports are refused: {said}")
            self.refused = True
            return 0.0
        if status in WRONG:
            if len(batch) > 1:
                self._limit = max(1, len(batch) // 2)
            else:
                with self._wake:
                    self._spool.drop(next(iter(batch)))
                self._tell("wrong", f"a report was refused: {status} {said}")
            return 0.0
        # 503: this pod is not known yet, or the history is away. 401, 403, 404: the token may be rotated,
        # the trial may be named. None of it is the reports' fault: they are kept.
        if status != 503:  # noqa: PLR2004
            self._tell(str(status), f"reports wait: the tracker answers {status} {said}")
        return self._back_off(answer.retry_after_s)

    def _back_off(self, asked_s: float | None = None) -> float:
        pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads senders, keeps no secret
        self._pause = min(2 * self._pause, BACKOFF_S[1])
        return max(pause, min(asked_s, BACKOFF_S[1])) if asked_s is not None else pause

    def _obey(self, answer: Answer) -> None:
        try:
            action = contract.Action(answer.body.get("action", contract.Action.CONTINUE))
        except ValueError:
            return
        if action is not contract.Action.CONTINUE:
            reason = answer.body.get("reason") or answer.body.get("error")
            self.reason = str(reason) if reason else None
            self.action = action

    def _tell(self, kind: str, text: str) -> None:
        """Print a line on stderr, the first time something of its kind happens; nothing at the very end.

        A log's last line is what people are shown of a trial that failed: it belongs to the program.
        """
        if kind not in self._told and not self._silent:
            self._told.add(kind)
            print(f"foretune_report: {text}", file=sys.stderr, flush=True)
