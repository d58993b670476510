"""What the loop does about a history that forgot, and in which order an end is told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.support.world import TrackerView, World, make_job

from foretune.app.loop import Reconciler
from foretune.contract import report_line
from foretune.domain.trial import TrialState
from foretune.errors import ClusterUnavailableError, HistoryUnavailableError, NotFoundError


class Forgetful(TrackerView):
    """A tracker whose database can be emptied."""

    known = False

    def register(self, job: Any) -> Any:
        """Know the job."""
        self.known = True
        return self._world.register(job)

    def trials(self, job_uid: str) -> Any:
        """Return the trials of a job that is known."""
        if not self.known:
            raise NotFoundError(f"no job {job_uid}")
        return super().trials(job_uid)


class Refusing:
    """A sink that keeps what was closed before each status, and may refuse to write."""

    def __init__(self, world: World) -> None:
        """Take the world that is closed."""
        self.world = world
        self.told: list[tuple[str, str | None]] = []
        self.seen: list[Any] = []
        self.refuse = False

    def write(self, job: Any, status: Any) -> None:
        """Keep the phase, and what the history was told."""
        self.told.append((status["phase"], self.world.closed))
        self.seen.append(job.status)
        if self.refuse:
            raise ClusterUnavailableError("no answer")


def turns(reconciler: Reconciler, world: World, job: Any) -> None:
    """Let every attempt start and succeed until the job is done."""
    while not reconciler.reconcile(job).done:
        for name in world.live():
            world.start(name)
            world.succeed(name, 0.5)


def test_a_history_that_lost_the_job_hears_of_it_anew():
    """When the tracker no longer knows a running job, the turn after registers it and goes on."""
    world, job = World(), make_job()
    tracker = Forgetful(world)
    reconciler = Reconciler(tracker=tracker, runner=world, sink=world, clock=world)
    reconciler.reconcile(job)
    tracker.known = False
    with pytest.raises(HistoryUnavailableError, match="does not know"):
        reconciler.reconcile(job)
    turns(reconciler, world, job)
    assert tracker.known
    assert len(world.launches) == len(set(world.launches)) == 6


def test_the_history_hears_of_the_end_before_the_status_does():
    """A status that says Complete makes a restart pass the job over, so it is written last."""
    world, job = World(), make_job()
    sink = Refusing(world)
    reconciler = Reconciler(tracker=TrackerView(world), runner=world, sink=sink, clock=world)
    turns(reconciler, world, job)
    assert sink.told[-1] == ("Complete", "Complete")


def test_the_status_last_written_counts_not_the_one_last_watched():
    """Until a watch shows it, a turn goes on from what the turn before it wrote; a failed write does not."""
    world, job = World(), make_job()
    sink = Refusing(world)
    reconciler = Reconciler(tracker=TrackerView(world), runner=world, sink=sink, clock=world)
    sink.refuse = True
    with pytest.raises(ClusterUnavailableError):
        reconciler.reconcile(job)
    sink.refuse = False
    reconciler.reconcile(job)
    paused = replace(job, spec=replace(job.spec, suspend=True), generation=2)
    reconciler.reconcile(paused)
    assert [status.get("observedGeneration") for status in sink.seen] == [None, None, 1]


REPORTS = [
    {"v": 1, "seq": seq, "kind": "epoch", "epoch": seq + 1.0, "metrics": {"accuracy": value}}
    for seq, value in enumerate((0.3, 0.6, 0.5))
]


def message(dropped: int) -> str:
    """Return the termination message of a trial that made `REPORTS`."""
    best, last = ({n: r[n] for n in ("epoch", "metrics")} for r in (REPORTS[1], REPORTS[2]))
    return json.dumps({"v": 1, "best": best, "last": last, "dropped": dropped})


@pytest.mark.parametrize(
    ("dropped", "arrived", "log", "recovered", "source"),
    [
        (0, 3.0, True, [], None),
        (0, None, True, [0, 1], "termination_message"),
        (2, None, True, [0, 1, 2], "log_tail"),
        (2, 1.0, True, [0, 1, 2], "log_tail"),
        (2, None, False, [0, 1], "termination_message"),
    ],
    ids=["all arrived", "seen late", "none arrived", "one arrived", "no log"],
)
def test_reports_that_did_not_arrive_are_read_from_the_log(
    dropped: int, arrived: float | None, log: bool, recovered: list[int], source: str | None
):
    """A trial that could not deliver all has its whole curve in the log; the rest of what is left does."""
    world, job = World(), make_job(parallelism=1)
    reconciler = Reconciler(tracker=TrackerView(world), runner=world, sink=world, clock=world)
    reconciler.reconcile(job)
    (name,) = world.live()
    world.start(name)
    if arrived is not None:
        world.trials[0] = replace(world.trials[0], value=0.3, epochs=arrived)
    if log:
        world.logs[name] = "\n".join(["starting", *map(report_line, REPORTS)])
    world.end(name, termination_message=message(dropped))
    reconciler.reconcile(job)
    outcome = world.outcomes[0]
    assert [record["seq"] for record in outcome.records] == recovered
    assert outcome.source == source
    assert world.trials[0].state is TrialState.COMPLETED


@pytest.mark.parametrize(("source", "read"), [("push", False), ("kubeflow", True)])
def test_the_log_fills_what_was_posted_to_kubeflow(source: str, read: bool):
    """Posts have gaps: the log is read though the objective is known, and only then."""
    world, job = World(), make_job(parallelism=1)
    reconciler = Reconciler(tracker=TrackerView(world), runner=world, sink=world, clock=world)
    reconciler.reconcile(job)
    (name,) = world.live()
    world.start(name)
    world.trials[0] = replace(world.trials[0], value=0.61234, epochs=2.0, source=source)
    world.logs[name] = "".join(
        f"{{'eval_accuracy': '{value}', 'epoch': '{epoch}'}}\n"
        for epoch, value in ((1, 0.5), (2, 0.6123))
    )
    world.end(name)
    reconciler.reconcile(job)
    found = [(r["epoch"], r["metrics"]["accuracy"]) for r in world.outcomes[0].records]
    assert found == ([(1.0, 0.5), (2.0, 0.6123)] if read else [])
    assert world.outcomes[0].source == ("log_tail" if read else None)


class Telling(TrackerView):
    """A tracker whose proposals have audits: the second one stood in for a designer."""

    def propose(self, job_uid: str, index: int) -> Any:
        """Return the world's proposal with an audit."""
        details = {0: {"prior": "used", "sources": {"a/b": 0.5}}, 1: {"reason": "timeout"}}
        return replace(self._world.propose(job_uid, index), detail=details.get(index, {}))


def test_the_status_tells_the_newest_audit_that_speaks_of_past_jobs():
    """A proposal that stood in for a designer says nothing of them, and leaves what was said."""
    world, job = World(), make_job()
    loop = Reconciler(tracker=Telling(world), runner=world, sink=world, clock=world)
    turn = loop.reconcile(job)
    assert turn.status["allocated"] == 2
    prior = {"decision": "used", "reason": "", "tasks": [{"ref": "a/b", "weight": 0.5}]}
    assert world.statuses[-1]["prior"] == prior
