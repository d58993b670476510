"""The client: what it sends, what each answer means, its limits and its patience."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest
from kubernetes.client import Configuration
from tests.kube.server import Answer, Request, refusal

from foretune.adapters.kube import client as client_module
from foretune.adapters.kube.client import KubeApi, TokenBucket, connection
from foretune.adapters.kube.failures import failure
from foretune.adapters.kube.resources import JOBS, LEASES, PODS, TOKEN_REVIEWS, TUNINGJOBS
from foretune.errors import (
    ClusterUnavailableError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    InvalidJobError,
    NotFoundError,
    QuotaExceededError,
    UnavailableError,
)

BODY = {"metadata": {"name": "x", "resourceVersion": "1"}}

CALLS = {
    "create": lambda api: api.create(JOBS, BODY, namespace="ns"),
    "get": lambda api: api.get(JOBS, "x", namespace="ns"),
    "list": lambda api: api.list(PODS, namespace="ns"),
    "patch": lambda api: api.patch(JOBS, "x", BODY, namespace="ns"),
    "replace": lambda api: api.replace(LEASES, "x", BODY, namespace="ns"),
    "apply": lambda api: api.apply_status(TUNINGJOBS, "x", BODY, namespace="ns"),
    "delete": lambda api: api.delete(JOBS, "x", namespace="ns", uid="u"),
}
"""One call of each kind."""

REQUESTS = {
    "create": ("POST", "/apis/batch/v1/namespaces/ns/jobs", {}),
    "get": ("GET", "/apis/batch/v1/namespaces/ns/jobs/x", {}),
    "list": ("GET", "/api/v1/namespaces/ns/pods", {"limit": "500"}),
    "patch": (
        "PATCH",
        "/apis/batch/v1/namespaces/ns/jobs/x",
        {"fieldManager": "foretune-operator"},
    ),
    "replace": ("PUT", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/x", {}),
    "apply": (
        "PATCH",
        "/apis/foretune.io/v1alpha1/namespaces/ns/tuningjobs/x/status",
        {"fieldManager": "foretune-operator", "force": "true"},
    ),
    "delete": ("DELETE", "/apis/batch/v1/namespaces/ns/jobs/x", {}),
}
TYPES = {
    "patch": "application/merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


@pytest.mark.parametrize("call", CALLS)
def test_each_call_is_one_request(server, call):
    """Method, path, query, content type, token and user agent are what the API server expects."""
    CALLS[call](server.api())
    (request,) = server.requests
    assert (request.method, request.path, request.query) == REQUESTS[call]
    assert request.headers["authorization"] == "Bearer secret-token"
    assert request.headers["user-agent"] == "foretune-operator"
    if request.body is not None:
        assert request.headers["content-type"] == TYPES.get(call, "application/json")


def test_a_deletion_is_of_one_object_only():
    """Deleting names the uid, so that a new object of the same name survives; what it owns goes later."""
    from tests.kube.server import running

    with running() as server:
        server.api().delete(JOBS, "x", namespace="ns", uid="u-1")
        assert server.requests[0].body == {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": "u-1"},
        }


def test_reviews_have_no_namespace_and_a_dry_run_says_so(server):
    """Cluster-wide kinds and dry runs have their own URLs."""
    api = server.api()
    api.create(TOKEN_REVIEWS, {})
    api.create(JOBS, {}, namespace="ns", dry_run=True)
    assert server.requests[0].path == "/apis/authentication.k8s.io/v1/tokenreviews"
    assert server.requests[1].query == {"dryRun": "All"}


ANSWERS: list[tuple[int, str, type[Exception]]] = [
    (400, "bad", InvalidInputError),
    (401, "Unauthorized", ClusterUnavailableError),
    (403, "may not", ForbiddenError),
    (403, 'pods "x" is forbidden: exceeded quota: gpus', QuotaExceededError),
    (404, "not found", NotFoundError),
    (405, "method not allowed", InvalidInputError),
    (408, "timeout", ClusterUnavailableError),
    (409, "already exists", ConflictError),
    (410, "too old resource version", ClusterUnavailableError),
    (413, "too large", InvalidInputError),
    (415, "media type", InvalidInputError),
    (422, "invalid", InvalidInputError),
    (429, "too many requests", ClusterUnavailableError),
    (500, "etcdserver: request timed out", ClusterUnavailableError),
    (502, "bad gateway", ClusterUnavailableError),
    (503, "not ready", ClusterUnavailableError),
    (504, "timeout", ClusterUnavailableError),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("status", "message", "error"), ANSWERS)
def test_each_answer_has_its_error(server, call, status, message, error):
    """Status codes become our errors, the server's message and the request in them, on every verb."""
    server.answers = [refusal(status, message)]
    with pytest.raises(error, match=message[:20]) as told:
        CALLS[call](server.api())
    assert type(told.value) is error
    assert issubclass(error, UnavailableError) == (
        error in (ClusterUnavailableError, QuotaExceededError)
    )
    if error is not QuotaExceededError:
        assert str(told.value).startswith(" ".join(REQUESTS[call][:2]))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
def test_a_refused_job_is_the_templates_fault(server, status):
    """What the cluster says against a trial's Job stands at spec.trial; a quota is told apart."""
    api = server.api()
    server.answers = [
        refusal(status, "violates PodSecurity"),
        refusal(403, "forbidden: exceeded quota: pods"),
    ]
    with pytest.raises(InvalidJobError) as told:
        api.create(JOBS, BODY, namespace="ns", creates_job=True)
    (problem,) = told.value.problems
    assert problem.path == "spec.trial"
    assert problem.message == "the cluster refuses its Job: violates PodSecurity"
    with pytest.raises(QuotaExceededError, match="exceeded quota"):
        api.create(JOBS, BODY, namespace="ns", creates_job=True)


def test_a_job_that_meets_an_overloaded_server_is_tried_again(server):
    """429, 5xx and 409 mean the same for a Job as for anything else."""
    for status, error in (
        (429, ClusterUnavailableError),
        (500, ClusterUnavailableError),
        (409, ConflictError),
    ):
        server.answers = [refusal(status, "no")]
        with pytest.raises(error):
            server.api().create(JOBS, BODY, namespace="ns", creates_job=True)


def test_an_answer_that_is_no_status_is_shown():
    """The text of a proxy between us and the API server is in the message, shortened."""
    error = failure("GET /x", 502, b"<html>" + b"x" * 1000)
    assert str(error).startswith("GET /x: 502: <html>xxx")
    assert len(str(error)) < 600


@pytest.mark.parametrize("raw", [b"<html>", b"[]", b"", b'"text"'])
def test_a_success_without_an_object_is_no_success(server, raw):
    """A 200 whose body is no object (a proxy's page, say) is a cluster that can't be reached."""
    server.answers = [Answer(body=raw)]
    with pytest.raises(ClusterUnavailableError):
        server.api().get(JOBS, "x", namespace="ns")


@pytest.mark.parametrize("fault", ["reset", "torn", "cut"])
@pytest.mark.parametrize("call", CALLS)
def test_a_lost_connection_is_temporary(server, call, fault):
    """A connection that is cut before or within the answer is UnavailableError; writes are not repeated."""
    server.default = lambda _: Answer(fault=fault, body={"kind": "x" * 4000})
    with pytest.raises(ClusterUnavailableError, match=REQUESTS[call][1]):
        CALLS[call](server.api())
    assert len(server.requests) in ((1, 2) if REQUESTS[call][0] == "GET" else (1,))


def test_a_read_over_a_connection_that_was_closed_meanwhile_succeeds(server):
    """A kept connection that the server has closed costs a read nothing: it is asked once more."""
    api = server.api()
    api.get(JOBS, "x", namespace="ns")
    server.answers = [Answer(fault="reset"), Answer(body={"kind": "Job"})]
    assert api.get(JOBS, "x", namespace="ns") == {"kind": "Job"}
    assert len(server.requests) == 3


def test_a_server_that_is_silent_is_given_up(server):
    """No answer within the time limit is UnavailableError; nothing hangs."""
    server.answers = [Answer(fault="hang")]
    began = time.monotonic()
    with pytest.raises(ClusterUnavailableError, match="Timeout"):
        server.api(timeout_s=(1.0, 0.3)).create(JOBS, BODY, namespace="ns")
    assert time.monotonic() - began < 8


def test_what_is_urgent_waits_less(server, monkeypatch):
    """A Lease is not renewed by a request that hangs for half a minute."""
    monkeypatch.setattr(client_module, "URGENT_TIMEOUT_S", (1.0, 0.3))
    server.answers = [Answer(fault="hang")]
    with pytest.raises(ClusterUnavailableError, match="Timeout"):
        server.api(timeout_s=(1.0, 60.0)).replace(LEASES, "x", BODY, namespace="ns")


def test_a_server_that_is_not_there_is_temporary():
    """A refused connection is UnavailableError."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ClusterUnavailableError, match="refused"):
            KubeApi(Configuration(host=url)).get(JOBS, "x", namespace="ns")


def test_a_redirect_is_not_followed(server):
    """A token is sent to the API server only, whatever it answers."""
    elsewhere = {"Location": "http://127.0.0.1:1/"}
    server.answers = [Answer(status=302, headers=elsewhere, body=b"moved")]
    with pytest.raises(ClusterUnavailableError, match="redirect"):
        server.api().get(JOBS, "x", namespace="ns")
    assert len(server.requests) == 1


def test_a_list_comes_in_pages(server):
    """All pages are asked for, with the selector on each; the version is the list's."""

    def page(request: Request) -> Answer:
        number = int(request.query.get("continue", "0"))
        meta = {"resourceVersion": "77", **({"continue": str(number + 1)} if number < 2 else {})}
        return Answer(body={"metadata": meta, "items": [{"number": number}]})

    server.default = page
    found, version = server.api().list(PODS, selector="a=b")
    assert ([one["number"] for one in found], version) == ([0, 1, 2], "77")
    assert {request.query["labelSelector"] for request in server.requests} == {"a=b"}
    assert {request.path for request in server.requests} == {"/api/v1/pods"}


def test_an_expired_list_is_begun_anew_by_the_caller(server):
    """410 in the middle of a list is temporary: half a list is never returned."""
    first = Answer(body={"metadata": {"continue": "more"}, "items": [{}]})
    server.answers = [first, refusal(410, "The provided continue parameter is too old")]
    with pytest.raises(ClusterUnavailableError, match="too old"):
        server.api().list(PODS)


@pytest.mark.parametrize("status", [400, 404])
def test_a_log_that_is_not_there_is_empty(server, status):
    """A pod that is gone (404) or has not started (400) has no log; that is no error."""
    server.answers = [refusal(status, "is waiting to start")]
    log = {"namespace": "ns", "container": "trainer", "lines": 10, "limit_bytes": 100}
    assert server.api().log_tail(PODS, "p", **log) == ""
    (request,) = server.requests
    assert request.path == "/api/v1/namespaces/ns/pods/p/log"
    assert request.query == {"container": "trainer", "tailLines": "10", "limitBytes": "100"}


def test_a_log_is_text_whatever_its_bytes(server):
    """Bytes that are no UTF-8 are replaced; an unreachable kubelet is an error, not an empty log."""
    log = {"namespace": "ns", "container": "trainer", "lines": 10, "limit_bytes": 100}
    server.answers = [Answer(body=b"ok \xff\n"), refusal(500, "dial tcp: no route to host")]
    assert server.api().log_tail(PODS, "p", **log) == "ok �\n"
    with pytest.raises(ClusterUnavailableError, match="no route"):
        server.api().log_tail(PODS, "p", **log)


def test_every_request_is_counted(server):
    """The hook hears verb, resource, code and seconds of each request, failed ones too."""
    heard: list[tuple[str, str, str, float]] = []
    api = server.api(on_request=lambda *told: heard.append(told), timeout_s=(1.0, 0.3))
    server.answers = [Answer(), refusal(409, "no"), Answer(fault="hang")]
    api.create(JOBS, BODY, namespace="ns")
    with pytest.raises(ConflictError):
        api.apply_status(TUNINGJOBS, "x", BODY, namespace="ns")
    with pytest.raises(ClusterUnavailableError):
        api.delete(JOBS, "x", namespace="ns", uid="u")
    assert [told[:3] for told in heard] == [
        ("create", "jobs", "200"),
        ("apply", "tuningjobs/status", "409"),
        ("delete", "jobs", "error"),
    ]
    assert all(seconds >= 0 for *_, seconds in heard)


@pytest.mark.slow
def test_many_threads_share_one_client(server):
    """Thirty-two threads get their own answers over the pool of connections."""
    server.default = lambda request: Answer(body={"name": request.path.rsplit("/", 1)[-1]})
    api, wrong = server.api(qps=10_000, burst=10_000), []

    def ask(number: int) -> None:
        for turn in range(10):
            name = f"j{number}-{turn}"
            if api.get(JOBS, name, namespace="ns")["name"] != name:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(server.requests) == 320


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.now += seconds


def bucket(qps: float, burst: int) -> tuple[TokenBucket, Time]:
    """Return a bucket and its clock."""
    clock = Time()
    return TokenBucket(qps, burst, monotonic=clock.monotonic, sleep=clock.sleep), clock


def test_a_burst_passes_and_then_the_rate_holds():
    """`burst` calls pass at once, later ones one by one at `qps`."""
    tokens, clock = bucket(10.0, 5)
    assert [tokens.take() for _ in range(5)] == [0.0] * 5
    assert [round(tokens.take(), 6) for _ in range(3)] == [0.1] * 3
    assert round(clock.now, 6) == 0.3


def test_a_rest_fills_the_bucket_up_to_its_burst():
    """After a long rest only `burst` calls pass at once, not more."""
    tokens, clock = bucket(10.0, 5)
    for _ in range(5):
        tokens.take()
    clock.now += 3600
    assert [tokens.take() for _ in range(5)] == [0.0] * 5
    assert tokens.take() > 0


def test_waiting_threads_are_spread():
    """Calls that have to wait get later and later turns, so that no second sees more than `qps`."""
    slept: list[float] = []
    tokens = TokenBucket(10.0, 1, monotonic=lambda: 0.0, sleep=slept.append)
    for _ in range(6):
        tokens.take()
    assert [round(seconds, 6) for seconds in slept] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_what_is_urgent_passes_an_empty_bucket(server):
    """A Lease's renewal does not queue behind a thousand statuses."""
    slept: list[Any] = []
    api = server.api()
    api._bucket = TokenBucket(0.001, 1, sleep=slept.append)
    api.get(JOBS, "x", namespace="ns")
    api.replace(LEASES, "x", BODY, namespace="ns")
    api.get(LEASES, "x", namespace="ns", urgent=True)
    assert slept == []
    api.get(JOBS, "x", namespace="ns")
    assert len(slept) == 1


def test_without_a_cluster_the_message_says_what_to_set(monkeypatch, tmp_path):
    """Neither a pod's service account nor a kubeconfig: the error names KUBECONFIG."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidInputError, match="set KUBECONFIG"):
        connection()
