"""The Lease when the cluster does not answer: how long a holder may go on."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kube.cases import Hand
from tests.kube.server import Answer, Request, Server, refusal

from foretune.adapters.kube.lease import DEADLINE_S, DURATION_S, RETRY_S, Lease
from foretune.errors import ClusterUnavailableError, ForbiddenError


class Record:
    """The Lease as an API server keeps it."""

    def __init__(self, server: Server) -> None:
        self.body: dict[str, Any] | None = None
        self.version = 0
        server.default = self

    def __call__(self, request: Request) -> Answer:
        """Answer like an API server."""
        if request.method == "GET":
            return Answer(body=self.body) if self.body else refusal(404, "not found")
        if request.method == "POST" and self.body is not None:
            return refusal(409, "already exists")
        sent = request.body["metadata"].get("resourceVersion")
        if request.method == "PUT" and sent != str(self.version):
            return refusal(409, "the object has been modified")
        self.version += 1
        meta = {**request.body["metadata"], "resourceVersion": str(self.version)}
        self.body = {**request.body, "metadata": meta}
        return Answer(body=self.body)


@pytest.fixture
def record(server: Server) -> Record:
    """An API server without a Lease."""
    return Record(server)


def lease_of(server: Server, clock: Hand, identity: str = "a") -> Lease:
    """Return a candidate."""
    return Lease(server.api(), namespace="ns", identity=identity, monotonic=clock)


def test_the_deadline_comes_before_the_takeover():
    """Whoever can't renew stops acting before anybody else may begin, with tries to spare."""
    assert RETRY_S * 3 < DEADLINE_S < DURATION_S - RETRY_S


def test_a_holder_goes_on_until_its_deadline(server, record):
    """Failing renewals are no loss for ten seconds, and one at once after that."""
    clock = Hand()
    lease = lease_of(server, clock)
    assert lease.acquire() is True
    server.answers = [refusal(503, "no"), Answer(fault="reset"), refusal(429, "no")]
    for _ in range(3):
        clock.now += 3
        assert lease.renew() is True
    assert lease.renewed_at == 100.0
    server.answers = [refusal(500, "no")]
    clock.now += 1
    assert lease.renew() is False
    assert lease.renewed_at is None
    assert lease.renew() is False  # lost is lost: only acquire begins anew
    assert lease.acquire() is True


def test_one_renewal_in_time_is_enough(server, record):
    """A renewal that succeeds starts the ten seconds anew."""
    clock = Hand()
    lease = lease_of(server, clock)
    lease.acquire()
    for _ in range(5):
        server.answers = [refusal(503, "no")]
        clock.now += DEADLINE_S - 1
        assert lease.renew() is True
        assert lease.renew() is True
        assert lease.renewed_at == clock.now


def test_a_renewal_whose_answer_was_lost_still_counts(server, record):
    """The record was written, the answer was not read: the next try finds our own name and goes on."""
    clock = Hand()
    lease = lease_of(server, clock)
    lease.acquire()

    def lost(request: Request) -> Answer:
        record(request)
        return Answer(fault="reset")

    server.default = lost
    assert lease.renew() is True
    server.default = record
    clock.now += 2
    assert lease.renew() is True
    assert lease.renewed_at == clock.now


def test_a_cluster_that_is_silent_is_told_to_the_candidate(server, record):
    """Who has no lease hears why it can't be asked for."""
    lease = lease_of(server, Hand())
    server.answers = [refusal(503, "no"), refusal(403, "may not")]
    with pytest.raises(ClusterUnavailableError):
        lease.acquire()
    with pytest.raises(ForbiddenError):
        lease.acquire()


def test_of_two_who_create_the_lease_one_has_it(server, record):
    """Both found none, both create: the second is refused and waits."""
    first, second = lease_of(server, Hand()), lease_of(server, Hand(), "b")
    server.answers = [refusal(404, "not found")]
    assert first.acquire() is True
    server.answers = [refusal(404, "not found")]
    assert second.acquire() is False


def test_of_two_who_take_an_expired_lease_one_has_it(server, record):
    """Both saw it expire: the version lets one write pass."""
    clock = Hand()
    lease_of(server, clock, "old").acquire()
    first, second = lease_of(server, clock), lease_of(server, clock, "b")
    assert (first.acquire(), second.acquire()) == (False, False)
    clock.now += DURATION_S
    stale = Answer(body=dict(record.body or {}))
    assert first.acquire() is True
    server.answers = [stale]
    assert second.acquire() is False


def test_giving_back_never_fails(server, record):
    """On the way out, an unreachable cluster is no reason to hang or to raise."""
    lease = lease_of(server, Hand())
    lease.release()
    assert server.requests == []
    lease.acquire()
    server.answers = [refusal(500, "no")]
    lease.release()
    assert lease.renewed_at is None
