"""Who speaks: tokens reviewed by the cluster, remembered for a while, and never past their end."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.support.suggesters import SetClock

from foretune.errors import ClusterUnavailableError
from foretune.services.tracker.auth import (
    NEGATIVE_TTL_S,
    POSITIVE_TTL_S,
    Identity,
    KubeAuthenticator,
    LocalAuthenticator,
    UnknownCallerError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

OPERATOR = "system:serviceaccount:foretune:foretune-operator"


@dataclass(frozen=True)
class Reviewed:
    """What the cluster says of a token."""

    username: str
    groups: tuple[str, ...] = ("system:authenticated",)
    pod_uid: str | None = None


@dataclass
class Cluster:
    """Reviews tokens from a list, and counts."""

    known: dict[str, Reviewed] = field(default_factory=dict)
    rights: set[tuple[str, str]] = field(default_factory=set)
    reviews: int = 0
    down: bool = False

    def review(self, token: str) -> Reviewed | None:
        """Return whom a token belongs to."""
        if self.down:
            raise ClusterUnavailableError("the API server does not answer")
        self.reviews += 1
        return self.known.get(token)

    def may_read(self, username: str, groups: Sequence[str], namespace: str) -> bool:
        """Whether a user may read."""
        self.reviews += 1
        return (username, namespace) in self.rights


def a_token(expires_at: float) -> str:
    """Return a token in the form of a service account's."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires_at}).encode()).rstrip(b"=")
    return f"e30.{claims.decode()}.signature"


@pytest.fixture
def clock() -> SetClock:
    """A clock at 1000 s."""
    return SetClock()


@pytest.fixture
def cluster() -> Cluster:
    """A cluster that knows the operator and a pod."""
    pod = Reviewed("system:serviceaccount:team-a:default", pod_uid="pod-0")
    return Cluster({"operator": Reviewed(OPERATOR), "pod": pod, a_token(1030.0): pod})


@pytest.fixture
def authenticator(cluster: Cluster, clock: SetClock) -> KubeAuthenticator:
    """An authenticator over the cluster."""
    return KubeAuthenticator(cluster, clock, frozenset({OPERATOR}))


def test_the_cluster_says_who_speaks(authenticator: KubeAuthenticator) -> None:
    """The operator is known by its user name, a pod by what its token is bound to."""
    operator, pod = authenticator.identify("operator"), authenticator.identify("pod")
    assert (operator.operator, operator.pod_uid) == (True, None)
    assert (pod.operator, pod.pod_uid, pod.trial) == (False, "pod-0", None)


def test_an_accepted_token_is_reviewed_once_a_minute(
    authenticator: KubeAuthenticator, cluster: Cluster, clock: SetClock
) -> None:
    """A token that was withdrawn is refused a minute later, and not before."""
    authenticator.identify("pod")
    del cluster.known["pod"]
    clock.at += POSITIVE_TTL_S - 1
    assert authenticator.identify("pod").pod_uid == "pod-0"
    assert cluster.reviews == 1
    clock.at += 2
    with pytest.raises(UnknownCallerError):
        authenticator.identify("pod")


def test_a_refused_token_is_reviewed_again_soon(
    authenticator: KubeAuthenticator, cluster: Cluster, clock: SetClock
) -> None:
    """Somebody who tries a wrong token again and again costs one review in five seconds."""
    for _ in range(50):
        with pytest.raises(UnknownCallerError):
            authenticator.identify("new")
    assert cluster.reviews == 1
    cluster.known["new"] = Reviewed("late")
    clock.at += NEGATIVE_TTL_S + 1
    assert authenticator.identify("new").username == "late"


def test_a_token_is_not_remembered_past_its_end(
    authenticator: KubeAuthenticator, cluster: Cluster, clock: SetClock
) -> None:
    """A token that ends within the minute is refused when it has ended, without a review."""
    token = a_token(1030.0)
    assert authenticator.identify(token).pod_uid == "pod-0"
    clock.at = 1029.0
    assert authenticator.identify(token).pod_uid == "pod-0"
    clock.at = 1031.0
    with pytest.raises(UnknownCallerError, match="expired"):
        authenticator.identify(token)
    assert cluster.reviews == 1


@pytest.mark.parametrize("token", ["a.b.c", "..", "a.e30.c", "a.W10.c", "ü.ü.ü"])
def test_odd_tokens_are_left_to_the_cluster(authenticator: KubeAuthenticator, token: str) -> None:
    """What looks like a service account's token and is none is refused like any other."""
    with pytest.raises(UnknownCallerError):
        authenticator.identify(token)


def test_a_cluster_that_does_not_answer_refuses_nobody(
    authenticator: KubeAuthenticator, cluster: Cluster
) -> None:
    """An outage is an outage, is not remembered, and does not touch what is remembered."""
    authenticator.identify("pod")
    cluster.down = True
    assert authenticator.identify("pod").pod_uid == "pod-0"
    with pytest.raises(ClusterUnavailableError):
        authenticator.identify("operator")
    cluster.down = False
    assert authenticator.identify("operator").operator


def test_rights_are_asked_for_once(authenticator: KubeAuthenticator, cluster: Cluster) -> None:
    """Reading needs the right to get tuningjobs in that namespace; the operator has it anyway."""
    cluster.rights.add(("ann", "team-a"))
    ann = Identity(username="ann", groups=("dev",))
    assert [authenticator.may_read(ann, "team-a") for _ in range(3)] == [True] * 3
    assert not authenticator.may_read(ann, "team-b")
    assert cluster.reviews == 2
    assert authenticator.may_read(Identity(username="x", operator=True), "team-b")


def test_the_cache_is_bounded(
    authenticator: KubeAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random tokens do not fill the memory."""
    monkeypatch.setattr("foretune.services.tracker.auth.CACHE_LIMIT", 10)
    for number in range(100):
        with pytest.raises(UnknownCallerError):
            authenticator.identify(f"guess-{number}")
    assert len(authenticator._cache) <= 10


def test_tokens_are_not_kept_in_clear(authenticator: KubeAuthenticator) -> None:
    """The cache knows hashes of tokens only."""
    authenticator.identify("pod")
    assert "pod" not in {key.partition(":")[2] for key in authenticator._cache}


def test_local_tokens_are_of_one_run() -> None:
    """A token of a local run names its trial, and another run does not know it."""
    here, there = LocalAuthenticator(), LocalAuthenticator()
    token = here.issue(Identity(username="trial", trial="job-1/0", pod_uid="p"))
    assert here.identify(token).trial == "job-1/0"
    assert not here.may_read(here.identify(token), "local")
    with pytest.raises(UnknownCallerError):
        there.identify(token)
