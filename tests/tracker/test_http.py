"""The tracker over a real socket: rights, limits, and an answer in words for everything that is wrong."""

from __future__ import annotations

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.support.histories import an_attempt, an_outcome, epochs
from tests.support.suggesters import Scripted, by_index
from tests.support.until import until

from foretune import contract
from foretune.adapters.http.tracker import HttpTracker
from foretune.app.tracker import LocalTracker, start_local_tracker
from foretune.errors import (
    ConflictError,
    ForbiddenError,
    HistoryUnavailableError,
    InvalidInputError,
    NotFoundError,
    SpaceExhaustedError,
)
from foretune.services.tracker import http as face
from foretune.services.tracker.auth import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.tracker.conftest import Bench

    from foretune.domain.job import Job
    from foretune.ports import SuggestionRequest

    MakeJob = Callable[..., Job]

pytestmark = pytest.mark.slow


@dataclass
class Served:
    """A tracker that listens, its operator's client, and the token of trial 0's first pod."""

    local: LocalTracker
    operator: HttpTracker
    token: str

    def post(self, body: object, *, token: str | None = None, **more: Any) -> httpx.Response:
        """Report as trial 0's pod, unless another token is given."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        url = self.local.url + contract.REPORTS_PATH
        return httpx.post(url, content=content, headers=headers, trust_env=False, **more)

    def get(self, path: str, token: str) -> httpx.Response:
        """Read as whoever the token belongs to."""
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(self.local.url + path, headers=headers, trust_env=False)

    def reader(self, **identity: Any) -> str:
        """Return a token of somebody else."""
        return self.local.authenticator.issue(Identity(username="reader", **identity))


@pytest.fixture
def served(bench: Bench, make_job: MakeJob) -> Iterator[Served]:
    """A tracker with one job and its trial 0, which nothing runs yet."""
    with start_local_tracker(bench.history, bench.suggestions, bench.clock) as local:
        token = local.authenticator.issue(Identity(username="operator", operator=True))
        operator = HttpTracker(local.url, lambda: token)
        operator.register(make_job())
        operator.propose("job-1", 0)
        yield Served(local, operator, local.issue_token("job-1", 0, 0, "pod-0"))
        operator.disconnect()


def reports(*values: float, **changes: Any) -> list[dict[str, Any]]:
    """Return reports of trial 0's first pod."""
    envelope = {"v": 1, "trial": "job-1/0", "attempt": 0, "pod": "pod-0", "ts": 1000.0}
    return [{**envelope, **report, **changes} for report in epochs(*values)]


def test_a_trial_from_proposal_to_value(served: Served) -> None:
    """The whole life of a trial over HTTP: proposal, attempt, reports, stop, outcome, close."""
    operator = served.operator
    made = operator.propose("job-1", 0)
    assert operator.propose("job-1", 0) == made
    assert operator.proposals("job-1") == [made]
    operator.record_attempt("job-1", 0, an_attempt())
    assert served.post(reports(0.1, 0.5)).json() == {
        "ack": 1,
        "action": "continue",
        "reason": None,
        "interval": None,
    }
    operator.request_stop("job-1", 0, rule="median")
    answer = served.post(reports(0.1, 0.5, 0.4)).json()
    assert (answer["ack"], answer["action"], answer["reason"]) == (2, "stop", "median")
    ended = operator.commit("job-1", an_outcome(message="done: 100 %"))
    assert (ended.value, ended.reports, ended.message) == (0.5, 3, "done: 100 %")
    assert operator.commit("job-1", an_outcome()) == ended
    assert operator.trials("job-1") == [ended]
    assert operator.trial("job-1", 0) == ended
    assert [p.metrics["accuracy"] for p in operator.curve("job-1", 0)] == [0.1, 0.5, 0.4]
    operator.close("job-1", phase="Complete", reason="MaxTrials", message="all trials have ended")
    (job,) = operator.find_jobs(namespace="team-a", name="demo")
    assert (job, job.phase) == (operator.job("job-1"), "Complete")
    assert operator.find_jobs(name="other") == []


def test_the_job_that_arrives_is_the_job_that_was_sent(
    served: Served, bench: Bench, make_job: MakeJob
) -> None:
    """Registering over HTTP records what registering in process records."""
    job = replace(make_job("job-2", "other", task={"labels": {"team": "a"}}), created_at=123.5)
    sent = served.operator.register(job)
    bench.history.close_job("job-2", phase="Failed", reason="", message="", at=1.0)
    assert sent.created_at == 123.5
    assert sent.manifest == job.spec.manifest
    assert sent.objective == job.spec.objective
    assert sent.context == job.spec.context
    assert served.local.service.register(job).uid == sent.uid


def test_a_pod_that_is_not_known_yet_comes_back(served: Served) -> None:
    """503 with Retry-After while the operator has not named the pod; accepted right after it has."""
    answer = served.post(reports(0.1))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    served.operator.record_attempt("job-1", 0, an_attempt())
    assert served.post(reports(0.1)).status_code == 200


def test_an_older_pod_is_told_to_stop(served: Served) -> None:
    """409 with action stop for a pod whose trial runs in a newer one."""
    served.operator.record_attempt("job-1", 0, an_attempt())
    served.operator.record_attempt("job-1", 0, an_attempt(pod_uid="pod-b"))
    answer = served.post(reports(0.1))
    assert answer.status_code == 409
    assert answer.json()["action"] == "stop"


def test_reports_again_late_and_out_of_order(served: Served) -> None:
    """However reports arrive, each is stored once and the curve is the trial's."""
    served.operator.record_attempt("job-1", 0, an_attempt())
    sent = reports(0.1, 0.2, 0.3, 0.4)
    for batch in (sent[2:], sent[:1], sent, sent[1:2]):
        assert served.post(batch).status_code == 200
    curve = served.operator.curve("job-1", 0)
    assert [p.metrics["accuracy"] for p in curve] == [0.1, 0.2, 0.3, 0.4]
    assert served.operator.trial("job-1", 0).reports == 4
    served.operator.commit("job-1", an_outcome())
    late = served.post(reports(0.1, 0.2, 0.3, 0.4, 0.99))
    assert (late.status_code, late.json()["action"]) == (200, "stop")
    assert served.operator.trial("job-1", 0).value == 0.4


def test_a_trial_without_a_finite_loss_is_seen(served: Served) -> None:
    """Names under `nonfinite` reach the trial; bare NaN is refused, since it is no JSON."""
    served.operator.record_attempt("job-1", 0, an_attempt())
    bad = reports(0.1, 0.2, metrics={}, nonfinite=["accuracy"])
    assert served.post(bad).status_code == 200
    assert served.operator.trial("job-1", 0).nonfinite
    answer = served.post(json.dumps(reports(float("nan"))).encode())
    assert answer.status_code == 422
    assert "metrics" in answer.json()["error"]


WRONG: dict[str, tuple[object, str]] = {
    "no json": (b"accuracy=0.9", "body"),
    "not a list": ({"v": 1}, "body"),
    "empty": ([], "body"),
    "unknown field": (reports(0.1, colour="red"), "0.colour"),
    "missing field": ([{"v": 1, "trial": "job-1/0", "attempt": 0, "seq": 0}], "0.pod"),
    "metric is text": (reports(0.1, metrics={"accuracy": "0.9"}), "0.metrics.accuracy"),
    "metric is a list": (reports(0.1, metrics={"accuracy": [0.9]}), "0.metrics.accuracy"),
    "metric is true": (reports(0.1, metrics={"accuracy": True}), "0.metrics.accuracy"),
    "metric without name": (reports(0.1, metrics={"": 1.0}), "0.metrics"),
    "too many metrics": (reports(0.1, metrics={f"m{i}": 0.1 for i in range(257)}), "0.metrics"),
    "huge resources": (reports(0.1, resources={"cpu_s": float("inf")}), "0.resources"),
    "hidden nan": (reports(0.1, tags={"a": [{"b": float("nan")}]}), "0.tags"),
    "negative seq": (reports(0.1, seq=-1), "0.seq"),
    "huge seq": (reports(0.1, seq=2**31), "0.seq"),
    "huge step": (reports(0.1, step=2**31), "0.step"),
    "unknown kind": (reports(0.1, kind="batch"), "0.kind"),
    "negative epoch": (reports(0.1, epoch=-1), "0.epoch"),
    "no trial": (reports(0.1, trial="job-1"), "0.trial"),
    "index is no number": (reports(0.1, trial="job-1/one"), "0.trial"),
    "huge index": (reports(0.1, trial="job-1/99999999999999999999"), "0.trial"),
    "fingerprint with NUL": (reports(0.1, data_fingerprint="a\0b"), "0.data_fingerprint"),
    "two trials": ([*reports(0.1), *reports(0.1, trial="job-1/1")], "body"),
    "deep": (b"[" * 5000 + b"]" * 5000, "body"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_report_that_breaks_the_contract(served: Served, case: str) -> None:
    """422 that names the field; nothing of the batch is stored."""
    body, where = WRONG[case]
    served.operator.record_attempt("job-1", 0, an_attempt())
    answer = served.post(body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "invalid"
    assert answer.json()["error"].startswith(f"{where}"), answer.text
    assert served.operator.trial("job-1", 0).reports == 0


def test_a_body_of_the_smallest_reports_is_stored(served: Served) -> None:
    """As many reports as fit in a body can be stored at once."""
    served.operator.record_attempt("job-1", 0, an_attempt())
    envelope = {"v": 1, "trial": "job-1/0", "attempt": 0, "pod": "pod-0"}
    many = [{**envelope, "seq": seq} for seq in range(1000)]
    body = json.dumps(many, separators=(",", ":")).encode()
    assert len(body) > contract.BODY_LIMIT * 0.8
    assert served.post(body).json()["ack"] == 999
    assert served.operator.trial("job-1", 0).reports == 1000


def test_another_version_of_the_contract(served: Served) -> None:
    """409 that names the versions this tracker speaks."""
    answer = served.post(reports(0.1, v=2))
    assert (answer.status_code, answer.json()["code"]) == (409, "contract_version")
    assert "contract version 2; this tracker speaks 1 to 1" in answer.json()["error"]


def test_a_body_over_the_limit(served: Served) -> None:
    """413 above 64 KiB, told or not told beforehand; a body just below is read."""
    served.operator.record_attempt("job-1", 0, an_attempt())
    one = json.dumps(reports(0.1)).encode()
    fits = one + b" " * (contract.BODY_LIMIT - len(one))
    assert served.post(fits).status_code == 200
    assert served.post(fits + b" ").status_code == 413
    url = served.local.url + contract.REPORTS_PATH
    chunks = (b" " * 1024 for _ in range(100))
    headers = {"Authorization": f"Bearer {served.token}"}
    answer = httpx.post(url, content=chunks, headers=headers, trust_env=False)
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"


def test_a_body_that_never_ends(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """408 for a sender that does not send what it announced."""
    monkeypatch.setattr(face, "BODY_S", 0.2)
    host, port = served.local.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.putrequest("POST", contract.REPORTS_PATH)
    connection.putheader("Authorization", f"Bearer {served.token}")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"[")
    assert connection.getresponse().status == 408
    connection.close()


def test_who_may_report(served: Served) -> None:
    """401 without a valid token; 403 for a token of no pod, of another trial, of another pod."""
    served.operator.record_attempt("job-1", 0, an_attempt())
    bare = httpx.post(served.local.url + contract.REPORTS_PATH, json=reports(0.1), trust_env=False)
    assert (bare.status_code, bare.json()["code"]) == (401, "unknown_caller")
    assert served.post(reports(0.1), token="stolen").status_code == 401
    assert served.post(reports(0.1), token=served.reader()).status_code == 403
    other_trial = served.local.issue_token("job-1", 1, 0, "pod-0")
    assert served.post(reports(0.1), token=other_trial).status_code == 403
    other_pod = served.local.issue_token("job-1", 0, 0, "pod-x")
    assert served.post(reports(0.1), token=other_pod).status_code == 403
    assert served.operator.trial("job-1", 0).reports == 0


def test_an_unknown_trial(served: Served) -> None:
    """404 for a trial that was never proposed."""
    token = served.local.issue_token("job-1", 7, 0, "pod-0")
    assert served.post(reports(0.1, trial="job-1/7"), token=token).status_code == 404


def test_who_may_act_and_read(served: Served) -> None:
    """A trial's token can do nothing but report; a reader reads, and can't act."""
    for part in ("", "/trials", "/proposals", "/trials/0/curve"):
        path = f"/v1/jobs/job-1{part}"
        assert served.get(path, served.token).status_code == 403
        assert served.get(path, served.reader(reads_all=True)).status_code == 200
    assert served.get("/v1/jobs", served.token).json() == []
    assert served.get("/v1/jobs?namespace=void", served.token).status_code == 403
    for client_token in (served.token, served.reader(reads_all=True)):
        client = HttpTracker(served.local.url, lambda token=client_token: token)
        with pytest.raises(ForbiddenError):
            client.propose("job-1", 1)
        with pytest.raises(ForbiddenError):
            client.commit("job-1", an_outcome())
        with pytest.raises(ForbiddenError):
            client.request_stop("job-1", 0, rule="user")
        with pytest.raises(ForbiddenError):
            client.record_attempt("job-1", 0, an_attempt())
        with pytest.raises(ForbiddenError):
            client.close("job-1", phase="Failed", reason="", message="")
        client.disconnect()
    assert served.operator.job("job-1").phase == "Running"


def test_what_is_not_there(served: Served, make_job: MakeJob) -> None:
    """404 and 405 are JSON too, and the client raises the error that the service raised."""
    operator = served.operator
    with pytest.raises(NotFoundError):
        operator.trials("nobody")
    with pytest.raises(NotFoundError):
        operator.trial("job-1", 2**40)
    answer = served.get("/v2/anything", served.token)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    answer = served.get(contract.REPORTS_PATH, served.token)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    with pytest.raises(ConflictError, match="space"):
        operator.register(make_job(space={"layers": {"values": [2]}}))
    with pytest.raises(InvalidInputError, match="index"):
        operator._send("POST", "/v1/jobs/job-1/trials/0/outcome", {"index": "x"})
    with pytest.raises(InvalidInputError, match="rule"):
        operator._send("POST", "/v1/jobs/job-1/trials/0/stop", {"rule": 7})
    with pytest.raises(InvalidInputError, match="JSON"):
        operator._send("POST", "/v1/jobs/job-1/close", [1])


def test_an_invalid_manifest_is_refused_field_by_field(served: Served) -> None:
    """What the API refuses the tracker refuses: 422 with the field's path."""
    body = {"namespace": "a", "name": "demo", "spec": {"space": {"lr": {"min": 2, "max": 1}}}}
    with pytest.raises(InvalidInputError, match=r"spec\.space\.lr"):
        served.operator._send("PUT", "/v1/jobs/job-9", body)


def test_a_space_that_runs_out(served: Served, make_job: MakeJob) -> None:
    """409 code exhausted becomes SpaceExhaustedError at the client."""
    served.operator.register(make_job("job-2", "small", space={"layers": {"values": [2]}}))
    served.operator.propose("job-2", 0)
    with pytest.raises(SpaceExhaustedError):
        served.operator.propose("job-2", 1)


def test_a_restart_in_the_middle(bench: Bench, make_job: MakeJob) -> None:
    """A new tracker over the same database gives the same proposals and goes on with the reports."""
    seen = []
    for epoch in (1, 2):
        with start_local_tracker(bench.history, bench.suggestions, bench.clock) as local:
            token = local.authenticator.issue(Identity(username="operator", operator=True))
            operator = HttpTracker(local.url, lambda token=token: token)
            operator.register(make_job())
            seen.append([operator.propose("job-1", index) for index in range(3)])
            operator.record_attempt("job-1", 0, an_attempt())
            served = Served(local, operator, local.issue_token("job-1", 0, 0, "pod-0"))
            answer = served.post(reports(0.1, 0.2)[:epoch])
            assert answer.json()["ack"] == epoch - 1
            operator.disconnect()
    assert seen[0] == seen[1]
    assert bench.history.trial("job-1", 0).reports == 2


def test_reports_do_not_wait_for_slow_proposals(bench: Bench, make_job: MakeJob) -> None:
    """While more proposals are computed than there are threads for other work, reports are answered."""
    release, waiting = threading.Event(), threading.Semaphore(0)
    count = face.THREADS + 4

    def slow(request: SuggestionRequest) -> Any:
        waiting.release()
        assert release.wait(60)
        return by_index(request)

    bench.suggestions = Scripted(slow)
    with (
        start_local_tracker(bench.history, bench.suggestions, bench.clock) as local,
        ThreadPoolExecutor(count) as pool,
    ):
        token = local.authenticator.issue(Identity(username="operator", operator=True))
        operator = HttpTracker(local.url, lambda: token)
        for number in range(count):
            operator.register(make_job(f"job-{number}", f"demo-{number}"))
        asked = [pool.submit(operator.propose, f"job-{n}", 0) for n in range(count)]
        for _ in range(count):
            assert waiting.acquire(timeout=60)
        try:
            assert len(operator.find_jobs()) == count
        finally:
            release.set()
        assert {done.result().proposer for done in asked} == {"gp"}
        operator.disconnect()


def test_too_many_at_once_are_told_to_come_back(
    bench: Bench, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit of open requests the answer is 503 with Retry-After, for nobody else's harm."""
    monkeypatch.setattr(face, "OPEN_LIMIT", 1)
    release = threading.Event()

    def slow(request: SuggestionRequest) -> Any:
        assert release.wait(60)
        return by_index(request)

    bench.suggestions = scripted = Scripted(slow)
    with (
        start_local_tracker(bench.history, bench.suggestions, bench.clock) as local,
        ThreadPoolExecutor(1) as pool,
    ):
        token = local.authenticator.issue(Identity(username="operator", operator=True))
        operator = HttpTracker(local.url, lambda: token)
        operator.register(make_job())
        asked = pool.submit(operator.propose, "job-1", 0)
        until(lambda: scripted.inside == 1, "the proposal is being computed")
        try:
            with pytest.raises(HistoryUnavailableError, match="open already"):
                operator.trials("job-1")
        finally:
            release.set()
        assert asked.result().index == 0
        assert operator.trials("job-1")[0].index == 0
        operator.disconnect()


def test_a_tracker_that_is_not_there() -> None:
    """Nobody listening, or no token to show, is an outage to the client."""
    away = HttpTracker("http://127.0.0.1:9", lambda: "token")
    with pytest.raises(HistoryUnavailableError, match=r"127\.0\.0\.1:9"):
        away.trials("job-1")
    away.disconnect()

    def no_file() -> str:
        raise FileNotFoundError("/var/run/secrets/foretune/token")

    mute = HttpTracker("http://127.0.0.1:9", no_file)
    with pytest.raises(HistoryUnavailableError, match="token"):
        mute.trials("job-1")
    mute.disconnect()
