"""Which past jobs a job learns from: scope, relevance, limits, and the same objects while nothing changed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.histories import SPEC, a_job, a_proposal, an_outcome, epochs, tuned
from tests.support.suggesters import Scripted, SetClock

from foretune.domain.history import SourceTask
from foretune.domain.job import Goal, Objective, PriorMode, PriorSpec, Scope
from foretune.domain.trial import EndReason, TrialState
from foretune.errors import HistoryUnavailableError, SuggestionUnavailableError
from foretune.ports import SuggestionAnswer
from foretune.search.fallback import sobol_proposal
from foretune.services.tracker import catalogue, service
from foretune.services.tracker.catalogue import REFRESH_S, Catalogue, Past, Sharing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tracker.conftest import Bench

    from foretune.adapters.store import SqlHistory
    from foretune.domain.history import JobRecord
    from foretune.domain.job import Job
    from foretune.ports import SuggestionRequest

    MakeJob = Callable[..., Job]

VALUES = [0.1, 0.5, 0.3, 0.9, 0.7]
"""Of a job that has just enough trials."""


def job(uid: str, **changes: Any) -> JobRecord:
    """Return a job that is called as its uid."""
    said = changes.pop("history", None)
    manifest = {**SPEC, **({"history": said} if said else {})}
    return a_job(uid, **{"name": uid, "manifest": manifest, **changes})


def names(
    history: SqlHistory, asking: JobRecord, sharing: Sharing | None = None, **prior: Any
) -> list[str]:
    """Return the names of the tasks that a job is given, without the namespace of team-a."""
    past = Catalogue(history, SetClock(), sharing).past(asking, PriorSpec(**prior))
    assert past.tasks or past.reason
    return [task.name.removeprefix("team-a/") for task in past.tasks]


@pytest.fixture
def two_teams(history: SqlHistory) -> SqlHistory:
    """Jobs of two namespaces: one kept back, one published to the cluster in each."""
    for number, team in enumerate(("a", "b")):
        at = 10.0 * number
        where = {"namespace": f"team-{team}"}
        tuned(history, job(f"own-{team}", created_at=at + 1, **where), VALUES)
        tuned(
            history,
            job(f"kept-{team}", created_at=at + 2, history={"publish": False}, **where),
            VALUES,
        )
        shared = {"scope": "cluster"}
        tuned(history, job(f"shared-{team}", created_at=at + 3, history=shared, **where), VALUES)
    return history


@pytest.mark.slow
def test_a_job_sees_what_it_may(two_teams: SqlHistory) -> None:
    """Its own namespace's jobs; others' only if both sides and the administrator want it; never those kept back."""
    asking, both = job("new"), Sharing(publishers=frozenset({"team-a", "team-b"}))
    own = ["shared-a", "own-a"]
    assert names(two_teams, asking) == own
    assert names(two_teams, asking, both) == own
    assert names(two_teams, asking, scope=Scope.CLUSTER) == own
    only_a = Sharing(publishers=frozenset({"team-a"}))
    assert names(two_teams, asking, only_a, scope=Scope.CLUSTER) == own
    assert names(two_teams, asking, both, scope=Scope.CLUSTER) == ["team-b/shared-b", *own]
    everybody = Sharing(scope=Scope.CLUSTER, publishers=frozenset({"*"}))
    assert names(two_teams, asking, everybody) == ["team-b/shared-b", *own]
    assert names(two_teams, asking, everybody, scope=Scope.NAMESPACE) == own
    stranger = job("new", namespace="team-c")
    assert names(two_teams, stranger) == []
    assert names(two_teams, stranger, everybody) == ["team-b/shared-b", "shared-a"]
    mine = Sharing(everywhere=True)
    assert len(names(two_teams, job("new", namespace="local"), mine)) == 4


@pytest.mark.slow
def test_named_jobs_and_none(two_teams: SqlHistory) -> None:
    """Named jobs are those of the namespace with these names; off is none; each says why there is nothing."""
    asking = job("new")
    named = {"mode": PriorMode.NAMED}
    assert names(two_teams, asking, names=("own-a", "own-b", "nobody"), **named) == ["own-a"]
    assert names(two_teams, asking, names=("kept-a",), **named) == []
    assert names(two_teams, asking, mode=PriorMode.OFF) == []
    look = Catalogue(two_teams, SetClock())
    off = look.past(asking, PriorSpec(mode=PriorMode.OFF))
    assert off.reason == "spec.prior.mode is off"
    nobody = look.past(asking, PriorSpec(mode=PriorMode.NAMED, names=("x", "y")))
    assert nobody.reason.endswith("5 ended trials: x, y")


@pytest.mark.slow
def test_the_most_relevant_come_first(history: SqlHistory) -> None:
    """Namesakes and twins, then the same metric, context, parameters, and the newest; never itself."""
    context = {"model": "cnn", "dataset": "digits"}
    loss = Objective(metric="loss", goal=Goal.MINIMIZE)
    other = {"batch_size": {"min": 1, "max": 9}, "lr": {"min": 0.1, "max": 1.0}}
    strange = {"temperature": {"min": 1.0, "max": 9.5}}
    made: list[JobRecord] = [
        job("namesake", name="new", objective=loss),
        job("twin", context=context),
        job("same-model", context={"model": "cnn", "dataset": "mnist"}),
        job("newest"),
        job("older"),
        job("half", manifest={"space": other}),
        job("other-metric", objective=loss),
        job("strange", manifest={"space": strange}),
        job("new"),
    ]
    for at, one in enumerate(reversed(made)):
        tuned(history, replace(one, created_at=float(at)), VALUES)
    asking = job("new", context=context)
    wanted = ["twin", "new", "same-model", "newest", "older", "half", "other-metric"]
    assert names(history, asking) == wanted
    assert names(history, asking, max_tasks=3) == wanted[:3]


def test_a_job_with_too_few_trials_is_left_out(history: SqlHistory) -> None:
    """Fewer than five ended trials say too little; failures count as ended, and teach."""
    tuned(history, job("four"), VALUES[:4])
    tuned(history, job("failed"), [*VALUES[:3], None, None])
    look = Catalogue(history, SetClock())
    (task,) = look.past(job("new"), PriorSpec()).tasks
    assert task.name == "team-a/failed"
    assert [t.value for t in task.trials] == [*VALUES[:3], None, None]
    assert task.space is not None


def test_jobs_made_anew_under_one_name_stay_apart(history: SqlHistory) -> None:
    """Two jobs of one name are two tasks with two names."""
    for uid in ("uid-1", "uid-2"):
        tuned(history, job(uid, name="digits"), VALUES)
    found = names(history, job("new"))
    assert len(set(found)) == 2
    assert all(name.startswith("digits#") for name in found)


@pytest.mark.slow
def test_what_has_not_changed_is_the_same_object(history: SqlHistory) -> None:
    """The tuple is the same until a job has ended or grown by a tenth, and for a minute in any case."""
    clock = SetClock()
    look, asking, prior = Catalogue(history, clock), job("new"), PriorSpec()
    tuned(history, job("one"), VALUES * 4)
    tuned(history, job("two", created_at=2000.0), VALUES)
    first = look.past(asking, prior).tasks
    tuned(history, job("two", created_at=2.0), [0.2], first=5)
    assert look.past(asking, prior).tasks is first
    clock.at += REFRESH_S
    second = look.past(asking, prior).tasks
    assert [len(task.trials) for task in second] == [6, 20]
    assert second[1] is first[1]
    tuned(history, job("one"), [0.2], first=20)
    clock.at += REFRESH_S
    assert look.past(asking, prior).tasks is second
    history.close_job("one", phase="Complete", reason="", message="", at=9.0)
    clock.at += REFRESH_S
    third = look.past(asking, prior).tasks
    assert [len(task.trials) for task in third] == [6, 21]
    assert look.past(asking, replace(prior, max_tasks=1)).tasks == third[:1]


def test_a_restart_reads_the_same_history(history: SqlHistory) -> None:
    """What a tracker knows of past jobs is in the database: another one gives equal tasks."""
    for uid in ("one", "two"):
        tuned(history, job(uid, context={"model": uid}), [*VALUES, None])
    asked = [Catalogue(history, SetClock()).past(job("new"), PriorSpec()).tasks for _ in range(2)]
    assert asked[0] == asked[1]
    assert len(asked[0]) == 2


@pytest.mark.slow
def test_threads_share_what_one_has_read(history: SqlHistory) -> None:
    """Jobs that ask at once are given the same tasks, the very same objects."""
    for number in range(4):
        tuned(history, job(f"job-{number}"), VALUES)
    look = Catalogue(history, SetClock())
    both = threading.Barrier(4, timeout=30)

    def ask(number: int) -> Any:
        both.wait()
        return look.past(job(f"new-{number}"), PriorSpec()).tasks

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    later = look.past(job("later"), PriorSpec()).tasks
    assert all(len(tasks) == 4 for tasks in found)
    assert {t.name for t in later} == {t.name for t in found[0]}
    assert look.past(job("last"), PriorSpec()).tasks[0] is later[0]


@pytest.mark.slow
def test_memory_is_bounded(history: SqlHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks and jobs beyond the limits are forgotten, and read again when they are needed."""
    monkeypatch.setattr(catalogue, "KEPT_TASKS", 1)
    monkeypatch.setattr(catalogue, "KEPT_JOBS", 1)
    for uid in ("one", "two"):
        tuned(history, job(uid), VALUES)
    look = Catalogue(history, SetClock())
    for asking in ("new", "newer", "new"):
        assert len(look.past(job(asking), PriorSpec()).tasks) == 2
        assert (len(look._tasks), len(look._jobs)) == (1, 1)


# --- in the tracker ---------------------------------------------------------------------------------


def asked(bench: Bench, make_job: MakeJob, **spec: Any) -> SuggestionRequest:
    """Return what the suggestion service is asked for the first trial of a job with this spec."""
    made = bench.service()
    made.register(make_job(**{"search": {"algorithm": "auto"}, **spec}))
    made.propose("job-1", 0)
    request: SuggestionRequest = bench.suggestions.asked[-1]
    return request


def judged(history: SqlHistory, uid: str, at: float, word: str, **changes: Any) -> None:
    """Record a past job whose last proposal said `word` of its own past jobs."""
    tuned(history, job(uid, created_at=at, **changes), VALUES)
    history.put_proposal(a_proposal(uid, len(VALUES), detail={"prior": word}))


@pytest.mark.slow
def test_past_jobs_that_misled_a_family_three_times_are_left_out(history: SqlHistory) -> None:
    """Only the family's own jobs since then are used, until one of them does not reject what it has."""
    cnn = {"context": {"model": "cnn"}}
    for number in range(3):
        tuned(history, job(f"old-{number}", created_at=number), VALUES)
    asking = job("new", **cnn)
    for number in range(2):
        judged(history, f"tripped-{number}", 10.0 + number, "rejected", **cnn)
    judged(history, "elsewhere", 12.0, "rejected", context={"model": "lstm"})
    assert len(names(history, asking)) == 6, "two of this family, and one of another"
    judged(history, "tripped-2", 13.0, "rejected", **cnn)
    past = Catalogue(history, SetClock()).past(asking, PriorSpec())
    assert [t.name for t in past.tasks] == [f"team-a/tripped-{n}" for n in (2, 1, 0)]
    assert past.reason == catalogue.MISLED
    other = job("other", context={"model": "lstm"})
    assert len(Catalogue(history, SetClock()).past(other, PriorSpec()).tasks) == 7
    wanted = PriorSpec(mode=PriorMode.NAMED, names=("old-1",))
    assert len(Catalogue(history, SetClock()).past(asking, wanted).tasks) == 1
    judged(history, "fine", 14.0, "used", **cnn)
    assert len(names(history, asking)) == 8


def test_the_audit_says_that_past_jobs_were_left_out(
    bench: Bench, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal that used what was left has the reason beside it."""
    given = Past((SourceTask("one", Objective(metric="accuracy", goal=Goal.MAXIMIZE), ()),), "so")
    monkeypatch.setattr(Catalogue, "past", lambda *_: given)
    asked(bench, make_job)
    assert bench.history.proposal("job-1", 0).detail["reason"] == "so"


def test_a_request_carries_past_jobs(bench: Bench, make_job: MakeJob) -> None:
    """The past jobs of the spec's scope go along; without any the audit says why."""
    tuned(bench.history, job("one"), VALUES)
    request = asked(bench, make_job)
    assert [task.name for task in request.history] == ["team-a/one"]
    assert request.prior is PriorMode.AUTO
    assert "prior" not in bench.history.proposal("job-1", 0).detail


def test_a_request_tells_the_share_of_the_gpu_hours_that_is_left(
    bench: Bench, make_job: MakeJob
) -> None:
    """Cost counts once the hours won't pay for all trials; before, and without a limit, it does not."""
    made = bench.service()
    made.register(make_job(budget={"trials": 10, "gpuHours": 0.1}))
    made.propose("job-1", 0)
    made.commit("job-1", an_outcome())
    made.propose("job-1", 1)
    budgets = [request.budget for request in bench.suggestions.asked]
    assert budgets == [None, pytest.approx(1 - 120 / 360)]
    made.register(make_job("job-2", "free"))
    made.propose("job-2", 0)
    assert bench.suggestions.asked[-1].budget is None


@pytest.mark.parametrize(
    ("spec", "mode", "reason"),
    [
        ({"prior": {"mode": "off"}}, PriorMode.OFF, "spec.prior.mode is off"),
        (
            {"prior": {"mode": "named", "from": ["nobody"]}},
            PriorMode.NAMED,
            "5 ended trials: nobody",
        ),
        ({"space": {"other": {"min": 1.5, "max": 2.0}}}, PriorMode.AUTO, "a parameter in common"),
        ({"search": {"algorithm": "gp"}}, PriorMode.OFF, None),
    ],
)
def test_without_past_jobs_the_audit_says_why(
    bench: Bench, make_job: MakeJob, spec: dict[str, Any], mode: PriorMode, reason: str | None
) -> None:
    """Nothing is learned from other jobs: the request has none, and the proposal says for what reason."""
    bench.suggestions = Scripted(lambda r: sobol_proposal(r.space, r.trials, 0).params)
    tuned(bench.history, job("one"), VALUES)
    request = asked(bench, make_job, **spec)
    assert (request.history, request.prior) == ((), mode)
    detail = bench.history.proposal("job-1", 0).detail
    if reason is None:
        assert "prior" not in detail
    else:
        assert detail["prior"] == "none"
        assert detail["reason"].endswith(reason)


class Broken:
    """A catalogue whose database has just gone."""

    def __init__(self, *_: Any) -> None:
        """Take what the real one takes."""

    def past(self, *_: Any) -> Any:
        """Fail."""
        raise HistoryUnavailableError("the history's database: disk I/O error")


def test_a_catalogue_that_fails_stalls_nothing(
    bench: Bench, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job goes on without past jobs, and its audit says why."""
    monkeypatch.setattr(service, "Catalogue", Broken)
    assert asked(bench, make_job).history == ()
    made = bench.history.proposal("job-1", 0)
    assert made.proposer == "gp"
    assert made.detail["prior"] == "none"
    assert made.detail["reason"].endswith("disk I/O error")


@dataclass
class Audited:
    """Suggestions with the audits that a test wants."""

    details: list[dict[str, Any]]

    def suggest(self, request: SuggestionRequest) -> SuggestionAnswer:
        """Answer with the audit of the request's index, or not at all."""
        detail = self.details[request.index]
        if not detail:
            raise SuggestionUnavailableError("late")
        params = {"lr": 0.001 * (request.index + 1), "layers": 3}
        return SuggestionAnswer(params=params, proposer="meta-gp", detail=detail)


def test_proposals_and_trips_are_counted_once(bench: Bench, make_job: MakeJob) -> None:
    """Each new proposal counts by expert and decision; a guard counts when it switches, also after a restart."""
    used = {"expert": "meta", "prior": "used"}
    rejected = {"expert": "plain", "prior": "rejected", "reason": "misled"}
    bench.suggestions = Audited([used, rejected, rejected, {}, used, rejected])
    bench.service().register(make_job(search={"algorithm": "auto"}))
    for index in range(6):
        for _ in range(2):
            bench.service().propose("job-1", index)
    ends = [("meta", "used"), ("plain", "rejected"), ("plain", "rejected")]
    assert bench.meter.proposals == [*ends, ("none", "none"), ("meta", "used"), ends[1]]
    assert bench.meter.trips == 2
    assert len(bench.service().proposals("job-1")) == 6


def test_a_prediction_is_scored_once_its_value_is_known(bench: Bench, make_job: MakeJob) -> None:
    """Each completed trial counts once; one that failed, or of which nothing was expected, does not."""
    expected = {"mean": 0.5, "sd": 0.3, "noise_sd": 0.4}
    bench.suggestions = Audited([expected, expected, {"expert": "plain"}])
    bench.service().register(make_job())
    for index in range(3):
        bench.service().propose("job-1", index)
    for index in (0, 0, 2):
        done = an_outcome(index, records=tuple(epochs(0.75)))
        bench.service().commit("job-1", done)
    failed = {"state": TrialState.INFEASIBLE, "reason": EndReason.OUT_OF_MEMORY}
    bench.service().commit("job-1", an_outcome(1, **failed))
    assert bench.meter.outcomes == [("meta-gp", 0.5, 0.5, 0.75)]
