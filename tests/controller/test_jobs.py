"""The store of TuningJobs, and what a look at one does: forget, refuse, pass over, or run a turn."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from foretune.app.loop import Turn
from foretune.controller.jobs import SETTLE_S, Controller, JobStore
from foretune.controller.queue import Done
from foretune.domain.job import JobKey
from foretune.domain.trial import AttemptPhase, ObservedAttempt
from foretune.errors import HistoryUnavailableError

KEY = JobKey("team", "demo")


def body(version: int = 1, *, uid: str = "uid-1", generation: int = 1, **more: Any) -> dict:
    """Return a TuningJob as an API server shows it."""
    found = {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {
            "name": "demo",
            "namespace": "team",
            "uid": uid,
            "generation": generation,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {}}],
        },
        "spec": {
            "objective": {"metric": "accuracy"},
            "space": {"lr": {"min": 0.001, "max": 0.1}},
            "trial": {"builtin": {"model": "cnn", "dataset": "digits"}},
        },
    }
    return {**found, **more}


def ended(phase: str = "Complete", generation: int = 1) -> dict:
    """Return the status of a job that has ended."""
    condition = {"type": phase, "status": "True", "reason": "MaxTrials", "message": ""}
    return {"phase": phase, "observedGeneration": generation, "conditions": [condition]}


class Everything:
    """The loop, the sink, the metrics and the cache: keeps what it is told, answers as set."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.turn = Turn(status={}, done=False, requeue_after_s=None)
        self.fails: Exception | None = None
        self.found: list[ObservedAttempt] = []
        self.open: list[Any] = []
        self.statuses: list[dict] = []

    def reconcile(self, job: Any) -> Turn:
        self.told.append(("reconcile", job.uid, job.generation))
        return self.turn

    def forget(self, key: JobKey, uid: str = "") -> None:
        if self.fails is not None:
            raise self.fails
        self.told.append(("forget", uid) if uid else ("sink forgets",))

    def reject(self, key: JobKey, status: Any, *, uid: str, observed: Any) -> None:
        self.told.append(("reject", uid))
        self.statuses.append(dict(status))

    def job_rejected(self, key: JobKey, *, uid: str, created_at: float) -> None:
        assert created_at == 1767225600.0

    def job_settled(self, job: Any, status: Any) -> None:
        self.told.append(("settled", status["phase"]))

    def job_gone(self, key: JobKey) -> None:
        self.told.append(("gone",))

    def attempts(self, job_uid: str) -> list[ObservedAttempt]:
        return self.found

    def unsettled(self, job_uid: str) -> list[Any]:
        return self.open


def controller(store: JobStore) -> tuple[Controller, Everything]:
    """Return a controller and what it acts through."""
    seen = Everything()
    clock = SimpleNamespace(now=lambda: 1767225700.0)
    made = Controller(store=store, loop=seen, sink=seen, attempts=seen, metrics=seen, clock=clock)
    return made, seen


def test_only_what_the_user_wants_asks_for_a_look():
    """A new spec and a deletion under way do; our own status, a list's repeat and an old event do not."""
    store = JobStore()
    assert store.put(body(10)) == KEY
    assert store.put(body(11, status=ended())) is None
    assert store.get(KEY)["status"] == ended()
    assert store.put(body(11, status=ended())) is None
    assert store.put(body(10)) is None
    assert store.get(KEY)["status"] == ended()
    assert store.put(body(12, generation=2)) == KEY
    deleting = body(13, generation=3)
    deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    assert store.put(deleting) == KEY


def test_managed_fields_are_not_kept_and_the_event_is_not_changed():
    """The largest part of the metadata is dropped from what is kept, not from what came."""
    store, event = JobStore(), body()
    before = copy.deepcopy(event)
    store.put(event)
    assert "managedFields" not in store.get(KEY)["metadata"]
    assert event == before


def test_a_list_item_without_kind_is_a_tuningjob():
    """Items of a list may lack kind and version, which parsing needs."""
    store, event = JobStore(), body()
    del event["kind"], event["apiVersion"]
    store.put(event)
    made, seen = controller(store)
    made.look(KEY)
    assert seen.told == [("reconcile", "uid-1", 1)]


def test_a_turn_says_when_to_look_again():
    """The earlier of the loop's own time and that of an ended Job whose pod's end was not seen."""
    store = JobStore()
    store.put(body())
    made, seen = controller(store)
    assert made.look(KEY) == Done(handler="reconcile", after_s=None)
    seen.turn = replace(seen.turn, requeue_after_s=90.0)
    assert made.look(KEY).after_s == 90.0
    seen.open = ["a Job"]
    assert made.look(KEY).after_s == SETTLE_S


def test_a_deleted_job_is_forgotten_once():
    """Its history is closed, its series and its status page end, and a second look does nothing."""
    store = JobStore()
    store.put(body())
    assert store.drop(body()) == KEY
    made, seen = controller(store)
    assert made.look(KEY) == Done(handler="forget")
    assert seen.told == [("forget", "uid-1"), ("sink forgets",), ("gone",)]
    made.look(KEY)
    assert len(seen.told) == 3
    assert store.keys() == []


def test_a_deletion_that_the_history_does_not_hear_is_kept():
    """While the tracker is away the key stays known, so that the next look tells it."""
    store = JobStore()
    store.put(body())
    store.drop(body())
    made, seen = controller(store)
    seen.fails = HistoryUnavailableError("no answer")
    with pytest.raises(HistoryUnavailableError):
        made.look(KEY)
    assert store.keys() == [KEY]
    seen.fails = None
    made.look(KEY)
    assert ("forget", "uid-1") in seen.told


@pytest.mark.parametrize("heard", [True, False])
def test_a_job_made_anew_under_its_name_closes_the_old_one(heard):
    """The old uid is forgotten, with or without its DELETED event; the new one is run and keeps its page."""
    store = JobStore()
    store.put(body(1))
    if heard:
        store.drop(body(2))
    store.put(body(3, uid="uid-2"))
    made, seen = controller(store)
    made.look(KEY)
    assert seen.told == [("forget", "uid-1"), ("reconcile", "uid-2", 1)]
    assert store.gone(KEY) == ()


def test_a_late_event_of_the_old_job_does_not_bring_it_back():
    """Versions grow over all objects, so that an old object's last words come too late."""
    store = JobStore()
    store.put(body(5, uid="uid-2"))
    assert store.put(body(4)) is None
    assert store.versions() == {"uid-2": "5"}
    assert store.by_uid() == {"uid-2": KEY}


def test_a_job_that_is_being_deleted_is_left_alone():
    """Nothing is started for an object that waits for its finalizers."""
    store, deleting = JobStore(), body()
    deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    store.put(deleting)
    made, seen = controller(store)
    made.look(KEY)
    assert seen.told == []


def test_a_spec_that_can_not_be_read_is_told_with_its_path():
    """The status names the field, keeps the time of a condition that did not change, and nothing runs."""
    store, wrong = JobStore(), body()
    wrong["spec"]["trial"]["builtin"]["model"] = "cnnn"
    wrong["status"] = {
        "conditions": [
            {
                "type": "Accepted",
                "status": "False",
                "lastTransitionTime": "2026-01-01T00:00:01Z",
                "reason": "InvalidSpec",
                "message": "older",
            }
        ]
    }
    store.put(wrong)
    made, seen = controller(store)
    assert made.look(KEY) == Done(handler="reject")
    assert seen.told == [("reject", "uid-1")]
    accepted = seen.statuses[0]["conditions"][0]
    assert "spec.trial.builtin.model" in accepted["message"]
    assert accepted["lastTransitionTime"] == "2026-01-01T00:00:01Z"


@pytest.mark.parametrize("phase", ["Complete", "Failed"])
def test_an_ended_job_costs_nothing_after_a_restart(phase):
    """It is shown by its status; neither the tracker nor the cluster is asked."""
    store = JobStore()
    store.put(body(status=ended(phase)))
    made, seen = controller(store)
    made.look(KEY)
    assert seen.told == [("settled", phase)]


def test_an_ended_job_whose_spec_changed_is_looked_at():
    """More trials than before is a new generation, which the status does not speak of."""
    store = JobStore()
    store.put(body(generation=2, status=ended(generation=1)))
    made, seen = controller(store)
    made.look(KEY)
    assert seen.told == [("reconcile", "uid-1", 2)]


def test_a_refused_template_has_not_ended():
    """Its phase is Failed for printing, but no condition says so: it is tried again."""
    status = {**ended("Failed"), "conditions": [{"type": "Accepted", "status": "False"}]}
    store = JobStore()
    store.put(body(status=status))
    made, seen = controller(store)
    made.look(KEY)
    assert seen.told == [("reconcile", "uid-1", 1)]


@pytest.mark.parametrize(
    ("change", "looked_at"),
    [
        ({}, True),
        ({"ttl_set": True}, False),
        ({"deleting": True}, False),
        ({"phase": AttemptPhase.RUNNING}, True),
    ],
)
def test_an_ended_job_with_something_left_is_looked_at(change, looked_at):
    """A Job that still runs, or would stay for want of a TTL, is not passed over."""
    attempt = ObservedAttempt(
        name="a", index=0, number=0, config_hash="", phase=AttemptPhase.SUCCEEDED
    )
    store = JobStore()
    store.put(body(status=ended()))
    made, seen = controller(store)
    seen.found = [replace(attempt, **change)]
    made.look(KEY)
    assert (seen.told[0][0] == "reconcile") is looked_at
