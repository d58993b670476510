"""Past tasks on their way to the suggestion service: named, sent once, and the same object while unchanged."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.testclient import TestClient
from tests.support.designs import MIXED, completed, valley
from tests.support.sources import source

from foretune.adapters.http import tasks as wire
from foretune.adapters.http.suggestions import HttpSuggestions
from foretune.domain.job import Algorithm, Goal, Objective, PriorMode, Reduce
from foretune.domain.trial import EndReason, TrialState
from foretune.errors import InvalidInputError, SuggestionUnavailableError
from foretune.ports import SuggestionRequest
from foretune.search.designer import Problem, Suggestion
from foretune.services.suggestion import SuggestionService
from foretune.services.suggestion.http import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foretune.domain.history import SourceTask


class Looking:
    """A designer that keeps the problems it is asked for."""

    name = "looking"

    def __init__(self) -> None:
        """Start with none."""
        self.problems: list[Problem] = []

    def suggest(self, problem: Problem, completed: Any, pending: Any, deadline: Any) -> Suggestion:
        """Propose the number of the request."""
        self.problems.append(problem)
        return Suggestion(params={"x": float(len(self.problems))}, proposer="looking")


class Rig:
    """A client and one or several services behind one address, and every body that went between them."""

    def __init__(self, processes: int = 1, **service: Any) -> None:
        """Start them."""
        self.designer = Looking()
        self.services = [
            SuggestionService(designers=lambda _: self.designer, **service)
            for _ in range(processes)
        ]
        self.faces = [TestClient(create_app(one)) for one in self.services]
        self.bodies: list[dict[str, Any]] = []

        def answer(request: httpx.Request) -> httpx.Response:
            self.bodies.append(json.loads(request.content))
            face = self.faces[len(self.bodies) % processes]
            told = face.post(request.url.path, content=request.content)
            return httpx.Response(told.status_code, content=told.content)

        self.client = HttpSuggestions("http://test", transport=httpx.MockTransport(answer))

    def ask(self, history: Sequence[SourceTask], **changes: Any) -> Problem:
        """Ask for a suggestion; return the problem that the designer was given."""
        self.client.suggest(a_request(history, **changes))
        return self.designer.problems[-1]

    @property
    def sent(self) -> list[int]:
        """How many tasks each body brought along."""
        return [len(body.get("tasks", [])) for body in self.bodies]


@pytest.fixture
def rig() -> Iterator[Rig]:
    """One service."""
    made = Rig()
    yield made
    made.client.close()


def a_request(history: Sequence[SourceTask], **changes: Any) -> SuggestionRequest:
    """Return the request of a job that has no trial yet."""
    values: dict[str, Any] = {
        "job_uid": "j",
        "index": 0,
        "space": MIXED,
        "objective": Objective(metric="accuracy"),
        "algorithm": Algorithm.AUTO,
        "seed": 0,
        "trials": [],
        "history": tuple(history),
    }
    return SuggestionRequest(**values | changes)


def a_task(name: str, *, count: int = 6, seed: int = 0) -> SourceTask:
    """Return a past task."""
    return replace(source(name, MIXED, valley, count=count, seed=seed), space=MIXED)


def test_a_task_survives_the_way(rig: Rig) -> None:
    """Everything that designers look at arrives as it was, failures and deviations included."""
    good = dataclasses.replace(
        completed(0, MIXED.default() or dict(a_task("x").trials[0].params), 0.25),
        value_sd=0.125,
        epochs=3.0,
        cpu_s=1.5,
        gpu_s=2.5,
        cost=2.5,
        proposer="gp",
    )
    bad = replace(good, index=1, state=TrialState.INFEASIBLE, reason=EndReason.OUT_OF_MEMORY)
    nan = replace(good, index=2, value=None, nonfinite=True)
    loss = Objective(metric="loss", goal=Goal.MINIMIZE, target=0.1, reduce=Reduce.LAST)
    task = replace(a_task("a/b"), objective=loss, trials=(good, bad, nan), context={"model": "cnn"})
    odd = replace(task, name="a/c", space=None)
    assert rig.ask([task, odd]).history == tuple(
        replace(t, trials=tuple(replace(trial, job_uid="") for trial in t.trials))
        for t in (task, odd)
    )


def test_tasks_are_sent_once(rig: Rig) -> None:
    """Later requests only name them, and the designer sees the very same tuple."""
    history = [a_task(f"t{i}", seed=i) for i in range(3)]
    first = rig.ask(history)
    assert rig.sent == [0, 3]
    second = rig.ask(history, index=1)
    assert rig.sent == [0, 3, 0]
    assert second.history is first.history
    grown = replace(history[1], trials=a_task("t1", count=9, seed=1).trials)
    third = rig.ask([history[0], grown, history[2]])
    assert rig.sent == [0, 3, 0, 0, 1]
    assert [len(task.trials) for task in third.history] == [6, 9, 6]
    assert third.history[0] is first.history[0]
    assert rig.ask([]).history == ()


def test_a_service_that_was_started_anew_asks_again(rig: Rig) -> None:
    """What a service keeps only spares sending: without it the problem is the same."""
    history = [a_task("t")]
    first = rig.ask(history)
    rig.faces = [TestClient(create_app(one)) for one in rig.services]
    assert rig.ask(history).history == first.history
    assert rig.sent == [0, 1, 0, 1]


def test_who_asks_for_ever_gets_nothing(rig: Rig) -> None:
    """A service that never has enough is a service that does not answer: Sobol can stand in."""
    told = {"error": "give", "code": "tasks_missing", "missing": ["f" * 64]}
    never = httpx.MockTransport(lambda _: httpx.Response(409, json=told))
    client = HttpSuggestions("http://test", transport=never)
    with pytest.raises(SuggestionUnavailableError, match="409"):
        client.suggest(a_request([a_task("t")]))
    client.close()


def test_the_share_of_the_budget_reaches_the_designer(rig: Rig) -> None:
    """What is left of the budget goes along, nothing left included, and so does that there is none."""
    assert [rig.ask([], budget=share).budget for share in (None, 0.0, 0.25)] == [None, 0.0, 0.25]


def test_any_of_several_processes_may_answer() -> None:
    """Behind one address each process asks for what it lacks; no request is left without an answer."""
    rig = Rig(processes=3)
    history = [a_task(f"t{i}", seed=i) for i in range(2)]
    for index in range(6):
        assert len(rig.ask(history, index=index).history) == 2
    assert set(rig.sent) == {0, 2}


def test_a_cache_that_is_full_forgets_the_oldest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks beyond the limit are sent again when they are needed, and none is mistaken for another."""
    monkeypatch.setattr(wire, "KEPT_TASKS", 2)
    monkeypatch.setattr(wire, "KEPT_HISTORIES", 1)
    tasks = [a_task(f"t{i}", seed=i) for i in range(3)]
    for chosen in (tasks[:2], tasks[1:], tasks[:2], tasks):
        assert [t.name for t in rig.ask(chosen).history] == [t.name for t in chosen]


def test_a_huge_history_is_cut(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit in bytes the least relevant tasks stay behind, rather than the request be refused."""
    history = [a_task(f"t{i}", seed=i) for i in range(4)]
    size = len(wire.task_to_wire(history[0]).text())
    monkeypatch.setattr(wire, "HISTORY_LIMIT", int(2.5 * size))
    assert [t.name for t in rig.ask(history).history] == ["t0", "t1"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"history": ["x"] * 65}, "history"),
        ({"tasks": [{"name": "t"}]}, "tasks.0.objective"),
        (
            {"tasks": [{"name": "t", "objective": {"metric": "y"}, "trials": [{"index": -1}]}]},
            "index",
        ),
        ({"prior": "maybe"}, "prior"),
    ],
)
def test_bad_tasks_are_refused(rig: Rig, change: dict[str, Any], word: str) -> None:
    """What is no task is refused with the field, and nothing of it is kept."""
    rig.ask([])
    body = {**rig.bodies[0], **change}
    told = TestClient(create_app(rig.services[0])).post("/v1/suggestions", json=body)
    assert told.status_code == 422
    assert word in told.json()["error"]


def test_a_running_trial_is_no_lesson(rig: Rig) -> None:
    """A task with a trial that has not ended is refused, whoever made it up."""
    task = wire.task_to_wire(a_task("t"))
    running = [{**t.model_dump(mode="json"), "state": "Running"} for t in task.trials]
    with pytest.raises(InvalidInputError, match="has not ended"):
        wire.TaskCache().history([], [wire.WireTask(**{**dict(task), "trials": running})])


class Adding:
    """A prior that adds one task, and may fail."""

    def __init__(self) -> None:
        """Work at first."""
        self.works = True

    def extend(self, problem: Problem) -> Problem:
        """Add it."""
        if not self.works:
            raise RuntimeError("the artefact is gone")
        return replace(problem, history=(*problem.history, a_task("shipped")))


def test_a_prior_adds_what_it_knows_where_it_may() -> None:
    """Only a job that leaves it open what it learns from is given more; a prior that fails is left out."""
    prior = Adding()
    rig = Rig(prior=prior)
    names = lambda problem: [task.name for task in problem.history]  # noqa: E731 - three words
    own = [a_task("own")]
    assert names(rig.ask(own)) == ["own", "shipped"]
    assert names(rig.ask(own, prior=PriorMode.NAMED)) == ["own"]
    assert names(rig.ask([], prior=PriorMode.OFF)) == []
    assert names(rig.ask([], algorithm=Algorithm.GP)) == []
    prior.works = False
    assert names(rig.ask(own)) == ["own"]


@pytest.mark.slow
def test_the_way_changes_no_answer() -> None:
    """With real designers a proposal over HTTP is the one that would be made in this process, audit included."""
    service = SuggestionService()
    face = TestClient(create_app(service))

    def answer(request: httpx.Request) -> httpx.Response:
        told = face.post(request.url.path, content=request.content)
        return httpx.Response(told.status_code, content=told.content)

    client = HttpSuggestions("http://test", transport=httpx.MockTransport(answer))
    history = [a_task(f"t{i}", count=12, seed=i) for i in range(2)]
    trials = [completed(i, t.params, valley(t.params)) for i, t in enumerate(history[0].trials[:3])]
    request = a_request(history, trials=trials, index=3, timeout_s=300.0)
    here, there = service.suggest(request), client.suggest(request)
    assert (here.params, here.proposer) == (there.params, there.proposer)
    timings = {name for name in here.detail if name.endswith("_s")}
    assert {n: v for n, v in here.detail.items() if n not in timings} == {
        n: v for n, v in there.detail.items() if n not in timings
    }
    assert here.detail["prior"] == "used"
    client.close()
    service.close()
