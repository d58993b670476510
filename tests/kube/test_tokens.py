"""Reviews whose answers a real cluster does not give on demand."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kube.server import Answer, Server, refusal

from foretune.adapters.kube.tokens import POD_UID, KubeTokenReviews
from foretune.errors import ClusterUnavailableError


def answered(server: Server, **status: Any) -> Any:
    """Return what becomes of a TokenReview's status."""
    server.answers = [Answer(status=201, body={"status": status})]
    return KubeTokenReviews(server.api()).review("token")


USER = {"username": "system:serviceaccount:ns:default", "groups": ["g"]}


def test_the_question_names_our_audience(server):
    """A token is asked about for audience foretune, in the body and never in the URL."""
    answered(server, authenticated=False)
    (request,) = server.requests
    assert request.body["spec"] == {"token": "token", "audiences": ["foretune"]}
    assert "token" not in str(request.query)


def test_an_accepted_token_gives_its_user_and_pod(server):
    """User, groups and the one pod that the token is bound to are read."""
    user = {**USER, "extra": {POD_UID: ["p-1"]}}
    found = answered(server, authenticated=True, audiences=["foretune"], user=user)
    assert (found.username, found.groups, found.pod_uid) == (USER["username"], ("g",), "p-1")


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"authenticated": False, "error": "expired"},
        {"authenticated": True, "user": USER},  # a server that does not know audiences
        {"authenticated": True, "user": USER, "audiences": ["https://kubernetes.default.svc"]},
    ],
)
def test_a_token_that_is_not_for_us_is_refused(server, status):
    """Accepted for no audience or another one is refused, as the API asks of us."""
    assert answered(server, **status) is None


@pytest.mark.parametrize("extra", [None, {}, {POD_UID: []}, {POD_UID: ["a", "b"]}])
def test_a_token_of_no_one_pod_reports_nothing(server, extra):
    """Without exactly one pod there is no pod: such a token may read, never report."""
    user = {**USER, "extra": extra}
    found = answered(server, authenticated=True, audiences=["foretune"], user=user)
    assert found.pod_uid is None


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_cluster_that_can_not_tell_is_no_refusal(server, status):
    """Nobody is called unknown because the cluster did not answer, or does not let us ask."""
    server.answers = [refusal(status, "no")] * 2
    reviews = KubeTokenReviews(server.api())
    with pytest.raises(ClusterUnavailableError):
        reviews.review("token")
    with pytest.raises(ClusterUnavailableError):
        reviews.may_read("user", (), "ns")


def test_rights_are_asked_for_user_and_groups(server):
    """The question is `get tuningjobs.foretune.io` in the namespace, for the user and all groups."""
    server.answers = [Answer(status=201, body={"status": {"allowed": True}})]
    assert KubeTokenReviews(server.api()).may_read("u", ("a", "b"), "ns") is True
    (request,) = server.requests
    assert request.path == "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert request.body["spec"] == {
        "user": "u",
        "groups": ["a", "b"],
        "resourceAttributes": {
            "namespace": "ns",
            "verb": "get",
            "group": "foretune.io",
            "resource": "tuningjobs",
        },
    }
