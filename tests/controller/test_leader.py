"""Waiting for the lease, keeping it, and what happens when it is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from tests.support.until import until

from foretune.controller.leader import DEADLINE_S, Leadership
from foretune.errors import ClusterUnavailableError, ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Lease:
    """A lease whose answers are given; an exception is raised, the last answer repeats."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.released = 0
        self.renewed_at: float | None = None
        self.holder = "another"

    def _next(self) -> bool:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def acquire(self) -> bool:
        return self._next()

    def renew(self) -> bool:
        return self._next()

    def release(self) -> None:
        self.released += 1


def leadership(lease: Lease, lost: list[str], now: Iterator[float] | None = None) -> Leadership:
    monotonic = {} if now is None else {"monotonic": lambda: next(now)}
    return Leadership(lease, lost=lost.append, retry_s=0.005, **monotonic)


def test_it_waits_while_another_leads_and_while_nobody_answers():
    """A held lease and a silent cluster are both waited for; a state is told once, not at each try."""
    lease = Lease(False, False, ClusterUnavailableError("no answer"), False, True)
    assert leadership(lease, []).wait(threading.Event()) is True
    assert lease.asked == 5


def test_waiting_ends_with_the_process():
    """A standby that shall end returns at once, and has nothing to give back."""
    lease, ending = Lease(False), threading.Event()
    made = leadership(lease, [])
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(made.wait(ending)))
    thread.start()
    until(lambda: lease.asked > 2, "some tries")
    ending.set()
    thread.join(30)
    made.stop()
    assert (answers, lease.released) == ([False], 0)


def test_without_the_right_it_says_so():
    """A missing right is not waited for: the process ends with the server's message."""
    with pytest.raises(ForbiddenError, match="leases"):
        leadership(Lease(ForbiddenError("leases")), []).wait(threading.Event())


def test_it_renews_until_it_is_stopped_and_gives_the_lease_back():
    """The lease is renewed again and again; the end releases it, so that the next one need not wait."""
    lease, lost = Lease(True), []
    made = leadership(lease, lost)
    assert made.wait(threading.Event())
    made.start()
    until(lambda: lease.asked > 5, "some renewals")
    made.stop()
    asked = lease.asked
    assert (lost, lease.released) == ([], 1)
    assert lease.asked == asked


def test_a_lost_lease_is_told_once():
    """The first refusal ends it: no further renewal may make a second holder."""
    lease, lost = Lease(True, True, False), []
    made = leadership(lease, lost)
    assert made.wait(threading.Event())
    made.start()
    until(lambda: lost, "the loss")
    made.stop()
    assert lost == ["the lease is lost to another"]
    assert lease.asked == 3


def test_errors_of_renewal_count_as_loss_only_after_the_deadline():
    """A right that was taken away is tried again until others may lead, and no longer."""
    lease, lost = Lease(True, ForbiddenError("leases")), []
    lease.renewed_at = 0.0
    ages = iter([DEADLINE_S / 2, DEADLINE_S - 0.1, DEADLINE_S + 0.1])
    made = leadership(lease, lost, ages)
    assert made.wait(threading.Event())
    made.start()
    until(lambda: lost, "the loss")
    made.stop()
    assert lease.asked == 4


def test_a_loss_ends_the_process_at_once():
    """`die` leaves with code 1 past everything that would clean up, and tells why."""
    code = (
        "import atexit, logging, threading\n"
        "from foretune.controller.leader import die\n"
        "logging.basicConfig()\n"
        "atexit.register(print, 'cleaned up')\n"
        "threading.Thread(target=die, args=['lost']).start()\n"
        "threading.Event().wait(60)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ending at once: lost" in run.stderr
    assert "cleaned up" not in run.stdout
