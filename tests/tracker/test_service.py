"""TrackerService: proposals exactly once, fallbacks, and reports from the right pod."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.histories import an_attempt, an_outcome, epochs
from tests.support.suggesters import Scripted, by_index

from foretune.adapters.http.suggestions import HttpSuggestions
from foretune.contract import Action
from foretune.domain.trial import EndReason, TrialState
from foretune.errors import (
    ConflictError,
    ForbiddenError,
    HistoryUnavailableError,
    InvalidInputError,
    NotFoundError,
    SpaceExhaustedError,
    SuggestionUnavailableError,
)
from foretune.services.tracker.service import PodUnknownError, StalePodError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tracker.conftest import Bench

    from foretune.domain.job import Job
    from foretune.ports import SuggestionRequest

    MakeJob = Callable[..., Job]


def reports(*values: float, attempt: int = 0, pod: str = "pod-0", **more: Any) -> list[Any]:
    """Return reports as they come out of the contract's reader."""
    return [{**r, "attempt": attempt, "pod": pod, **more} for r in epochs(*values)]


def test_a_proposal_is_recorded_before_it_is_answered(bench: Bench, make_job: MakeJob) -> None:
    """A second request gets the recorded configuration; nobody is asked again, also after a restart."""
    service = bench.service()
    service.register(make_job())
    first = [service.propose("job-1", index) for index in range(3)]
    assert [bench.history.proposal("job-1", i) for i in range(3)] == first
    again = bench.service()
    assert [again.propose("job-1", index) for index in range(3)] == first
    assert len(bench.suggestions.asked) == 3


def test_a_request_says_all_that_a_designer_needs(bench: Bench, make_job: MakeJob) -> None:
    """The request has the job's space, objective and settings, and every trial so far."""
    job = make_job(search={"algorithm": "gp", "seed": 5, "timeoutSeconds": 9, "initial": 4})
    service = bench.service()
    service.register(job)
    service.propose("job-1", 0)
    service.propose("job-1", 1)
    request = bench.suggestions.asked[1]
    assert (request.algorithm, request.seed, request.timeout_s, request.initial) == ("gp", 5, 9, 4)
    assert (request.space, request.objective) == (job.spec.space, job.spec.objective)
    assert request.context == {"model": "cnn", "dataset": "digits"}
    assert [t.index for t in request.trials] == [0]


def test_the_default_seed_is_the_one_of_the_api(bench: Bench, make_job: MakeJob) -> None:
    """Without a seed the tracker and the operator derive the same one."""
    job = make_job(search={})
    service = bench.service()
    service.register(job)
    service.propose("job-1", 0)
    asked = bench.suggestions.asked[0]
    assert asked.seed == job.spec.search.seed
    assert (asked.algorithm, asked.timeout_s) == ("auto", job.spec.search.timeout_s)


def test_proposals_of_one_job_are_made_one_by_one(bench: Bench, make_job: MakeJob) -> None:
    """Eight requests at once are answered with eight configurations, each knowing those before it."""
    bench.suggestions = Scripted(lambda r: {"lr": 0.001 * (len(r.trials) + 1), "layers": 2})
    service = bench.service()
    service.register(make_job())
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda index: service.propose("job-1", index), range(8)))
    assert bench.suggestions.most_inside == 1
    assert len({p.config_hash for p in made}) == 8
    assert {p.proposer for p in made} == {"gp"}


def test_jobs_do_not_wait_for_each_other(bench: Bench, make_job: MakeJob) -> None:
    """A slow suggestion for one job does not hold up another's."""
    both = threading.Barrier(2, timeout=30)

    def meet(request: SuggestionRequest) -> Any:
        both.wait()
        return by_index(request)

    bench.suggestions = Scripted(meet)
    service = bench.service()
    service.register(make_job())
    service.register(make_job("job-2", "other"))
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda uid: service.propose(uid, 0), ["job-1", "job-2"]))
    assert [p.proposer for p in made] == ["gp", "gp"]


@pytest.mark.parametrize(
    "error", [SuggestionUnavailableError("late"), InvalidInputError("no such algorithm")]
)
def test_sobol_stands_in_when_there_is_no_suggestion(
    bench: Bench, make_job: MakeJob, error: Exception
) -> None:
    """A job never stalls: different Sobol points stand in, and say why."""

    def fail(_: SuggestionRequest) -> Any:
        raise error

    bench.suggestions = Scripted(fail)
    service = bench.service()
    job = make_job()
    service.register(job)
    made = [service.propose("job-1", index) for index in range(6)]
    assert {p.proposer for p in made} == {"sobol/fallback"}
    assert len({p.config_hash for p in made}) == 6
    assert all(not job.spec.space.problems(p.params) for p in made)
    assert made[0].detail["reason"] == str(error)


def test_sobol_stands_in_for_a_service_that_refuses_connections(
    bench: Bench, make_job: MakeJob
) -> None:
    """Nobody listening at the suggestion service's address is the same as no answer."""
    bench.suggestions = HttpSuggestions("http://127.0.0.1:9")
    service = bench.service()
    service.register(make_job())
    assert service.propose("job-1", 0).proposer == "sobol/fallback"
    bench.suggestions.close()


@pytest.mark.parametrize("params", [{"lr": 0.001, "layers": 3}, {"lr": 7.0, "layers": 3}, {}])
def test_a_suggestion_that_can_not_be_used_is_replaced(
    bench: Bench, make_job: MakeJob, params: dict[str, Any]
) -> None:
    """A configuration that was proposed before, or lies outside the space, costs no GPU."""
    service = bench.service()
    service.register(make_job())
    first = service.propose("job-1", 0)
    assert first.params == {"lr": 0.001, "layers": 3}
    bench.suggestions = Scripted(lambda _: params)
    second = bench.service().propose("job-1", 1)
    assert second.proposer == "sobol/fallback"
    assert second.config_hash != first.config_hash
    assert bench.meter.duplicates == (["sobol"] if params == first.params else [])


def test_a_finite_space_runs_out(bench: Bench, make_job: MakeJob) -> None:
    """Once every configuration was proposed, the next request says so and records nothing."""
    bench.suggestions = Scripted(lambda _: {"layers": 2})
    service = bench.service()
    service.register(make_job(space={"layers": {"values": [2, 3, 4]}}))
    made = [service.propose("job-1", index).params["layers"] for index in range(3)]
    assert sorted(made) == [2, 3, 4]
    with pytest.raises(SpaceExhaustedError):
        service.propose("job-1", 3)
    assert len(service.trials("job-1")) == 3


def test_immutable_parts_of_a_job_stay(bench: Bench, make_job: MakeJob) -> None:
    """Another space under one uid is refused; a raised budget is not."""
    service = bench.service()
    service.register(make_job())
    assert service.register(make_job(budget={"trials": 50})).manifest["budget"] == {"trials": 50}
    with pytest.raises(ConflictError, match=r"spec\.space"):
        service.register(make_job(space={"layers": {"values": [2, 3]}}))
    assert "layers" in service.job("job-1").manifest["space"]


def test_a_closed_job_stays_closed_until_it_changes(bench: Bench, make_job: MakeJob) -> None:
    """An operator that starts again registers every job; only a new budget opens an ended one."""
    service = bench.service()
    service.register(make_job())
    service.close("job-1", phase="Complete", reason="MaxTrials", message="")
    closed = service.job("job-1")
    bench.clock.at += 99
    assert service.register(make_job()) == closed
    opened = service.register(make_job(budget={"trials": 50}))
    assert (opened.phase, opened.closed_at) == ("Running", None)
    service.close("job-1", phase="Deleted", reason="Deleted", message="")
    assert service.register(make_job(budget={"trials": 60})).phase == "Deleted"


def running(bench: Bench, make_job: MakeJob) -> Any:
    """Return a tracker with a trial that runs in `pod-0`."""
    service = bench.service()
    service.register(make_job())
    service.propose("job-1", 0)
    service.record_attempt("job-1", 0, an_attempt())
    return service


def test_reports_are_stored_once(bench: Bench, make_job: MakeJob) -> None:
    """A batch sent again is acknowledged again and stored once."""
    service = running(bench, make_job)
    for _ in range(2):
        reply = service.receive("job-1", 0, "pod-0", reports(0.1, 0.2))
        assert (reply.ack, reply.action, reply.reason) == (1, Action.CONTINUE, None)
    assert service.trial("job-1", 0).reports == 2
    assert service.counts()["reports"] == 2
    assert set(bench.meter.writes) == {"ok"}


def test_a_pod_is_heard_once_it_is_known(bench: Bench, make_job: MakeJob) -> None:
    """A pod faster than the watch is told to come back, and is heard once the operator named it."""
    service = bench.service()
    service.register(make_job())
    service.propose("job-1", 0)
    with pytest.raises(PodUnknownError):
        service.receive("job-1", 0, "pod-0", reports(0.1))
    assert service.trial("job-1", 0).reports == 0
    service.record_attempt("job-1", 0, an_attempt())
    assert service.receive("job-1", 0, "pod-0", reports(0.1)).ack == 0


def test_an_older_pod_is_told_to_stop(bench: Bench, make_job: MakeJob) -> None:
    """Of two pods of one trial only the newest is heard, within an attempt and across attempts."""
    service = running(bench, make_job)
    service.record_attempt("job-1", 0, an_attempt(0, pod_uid="pod-b"))
    with pytest.raises(StalePodError):
        service.receive("job-1", 0, "pod-0", reports(0.1))
    assert service.receive("job-1", 0, "pod-b", reports(0.2, pod="pod-b")).ack == 0
    service.record_attempt("job-1", 0, an_attempt(1))
    with pytest.raises(StalePodError):
        service.receive("job-1", 0, "pod-b", reports(0.3, pod="pod-b"))
    with pytest.raises(StalePodError):
        service.receive("job-1", 0, "never-seen", reports(0.3, pod="never-seen"))
    assert service.trial("job-1", 0).value == 0.2


def test_a_pod_speaks_for_itself_only(bench: Bench, make_job: MakeJob) -> None:
    """Reports that name another pod, another attempt or another trial's pod are refused."""
    service = running(bench, make_job)
    service.propose("job-1", 1)
    with pytest.raises(ForbiddenError, match="pod"):
        service.receive("job-1", 0, "pod-0", reports(0.9, pod="pod-9"))
    with pytest.raises(ForbiddenError, match="attempt"):
        service.receive("job-1", 0, "pod-0", reports(0.9, attempt=1))
    with pytest.raises(PodUnknownError):
        service.receive("job-1", 1, "pod-0", reports(0.9))
    with pytest.raises(NotFoundError):
        service.receive("job-1", 2, "pod-0", reports(0.9))
    assert service.counts()["reports"] == 0


def test_the_reply_says_stop(bench: Bench, make_job: MakeJob) -> None:
    """A stop that was asked for, an ended trial and an ended job are told in the reply."""
    service = running(bench, make_job)
    service.request_stop("job-1", 0, rule="median")
    reply = service.receive("job-1", 0, "pod-0", reports(0.1))
    assert (reply.action, reply.reason) == (Action.STOP, "median")
    service.propose("job-1", 1)
    service.record_attempt("job-1", 1, an_attempt())
    service.close("job-1", phase="Complete", reason="TargetReached", message="")
    reply = service.receive("job-1", 1, "pod-0", reports(0.1))
    assert (reply.action, reply.reason) == (Action.STOP, "the job has ended")
    service.commit("job-1", an_outcome(1, attempt_record=an_attempt(reason=EndReason.DONE)))
    reply = service.receive("job-1", 1, "pod-0", reports(0.1, 0.9))
    assert (reply.action, reply.reason) == (Action.STOP, "the trial is Completed")
    assert service.trial("job-1", 1).value == 0.1


def test_a_pod_of_an_ended_trial_does_not_wait_to_be_known(bench: Bench, make_job: MakeJob) -> None:
    """A pod nobody named is told to stop once its trial has ended, or it would try for ever."""
    service = running(bench, make_job)
    service.commit("job-1", an_outcome())
    with pytest.raises(StalePodError, match="ended"):
        service.receive("job-1", 0, "late", reports(0.1, attempt=1, pod="late"))


def test_what_a_log_held_is_cleaned(bench: Bench, make_job: MakeJob) -> None:
    """Records of a log are anybody's text: what is no report is left out, NaN is named."""
    service = running(bench, make_job)
    records: tuple[Any, ...] = (
        {"v": 1, "metrics": {"accuracy": 0.1}},
        {"v": 1, "seq": "x", "epoch": 1.0, "metrics": {"accuracy": 0.2}},
        {"v": 1, "seq": 2, "epoch": 1.0, "metrics": "none"},
        {"v": 1, "seq": 3, "epoch": 1.0, "metrics": {"accuracy": 0.4, "loss": float("nan")}},
        {"v": 1, "seq": 4, "epoch": 2.0, "metrics": {"accuracy": "0.9", "f1": True}},
        {"v": 1, "seq": 5, "epoch": 3.0, "metrics": {}, "resources": {"a": float("inf")}},
        {"v": 1, "seq": 2**40, "epoch": 3.0, "metrics": {"accuracy": 0.8}},
    )
    outcome = replace(an_outcome(), records=records, source="log_tail")
    trial = service.commit("job-1", outcome)
    assert (trial.state, trial.value, trial.reports) == (TrialState.COMPLETED, 0.4, 3)
    assert trial.metrics_seen == ("accuracy", "loss")


def test_writes_that_fail_are_counted(bench: Bench, make_job: MakeJob) -> None:
    """A database that does not answer is heard as an error, by the caller and by the meter."""
    service = running(bench, make_job)
    bench.meter.writes.clear()
    path = bench.history._database._engine.url.database
    bench.history.close()
    Path(path).write_bytes(b"not a database any more" * 1000)
    with pytest.raises(HistoryUnavailableError):
        service.request_stop("job-1", 0, rule="user")
    assert bench.meter.writes == ["error"]
