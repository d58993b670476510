"""Trials are stopped upon their reports, by what the history holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.histories import an_attempt, an_outcome, epochs

from foretune.contract import Action
from foretune.domain.trial import EndReason, TrialState
from foretune.services.tracker import TrackerService

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tracker.conftest import Bench

    from foretune.domain.job import Job
    from foretune.domain.trial import Trial
    from foretune.services.tracker.service import Reply

    MakeJob = Callable[..., Job]

EPOCHS = 10


def saturating(final: float, count: int = EPOCHS) -> list[float]:
    """Return `count` epochs of an accuracy that nears `final`."""
    return [final * (1 - math.exp(-0.5 * e)) for e in range(1, count + 1)]


@dataclass
class Played:
    """A job whose trials are played through a tracker."""

    service: TrackerService
    uid: str
    index: int = -1

    def start(self) -> int:
        """Start the next trial."""
        self.index += 1
        self.service.propose(self.uid, self.index)
        self.service.record_attempt(self.uid, self.index, an_attempt())
        return self.index

    def say(self, index: int, values: list[float]) -> Reply:
        """Report all epochs so far."""
        told = [{**r, "attempt": 0, "pod": "pod-0"} for r in epochs(*values)]
        return self.service.receive(self.uid, index, "pod-0", told)

    def whole(self, *finals: float) -> None:
        """Run trials to their end; none of them may be stopped."""
        for final in finals:
            index = self.start()
            assert self.say(index, saturating(final)).action is Action.CONTINUE
            self.service.commit(
                self.uid, an_outcome(index, attempt_record=an_attempt(reason=EndReason.DONE))
            )

    def stop(self, index: int) -> Trial:
        """Commit the end of a trial that was asked to stop."""
        ended = an_outcome(
            index,
            state=TrialState.EARLY_STOPPED,
            reason=EndReason.STOPPED_BY_RULE,
            attempt_record=an_attempt(reason=EndReason.STOPPED_BY_RULE),
        )
        return self.service.commit(self.uid, ended)


@pytest.fixture
def play(bench: Bench, make_job: MakeJob) -> Any:
    """Return a function that begins a job."""

    def begin(uid: str = "job-1", service: TrackerService | None = None, **spec: Any) -> Played:
        service = service or bench.service()
        bench.clock.at += 10
        service.register(make_job(uid, uid, **spec))
        return Played(service, uid)

    return begin


def a_past(play: Any, bench: Bench, *, jobs: int = 5) -> None:
    """Finish jobs whose curves teach what a curve will come to."""
    for number in range(jobs):
        past = play(f"past-{number}", earlyStopping={"method": "none"})
        past.whole(*(0.4 + 0.04 * i + 0.002 * number for i in range(13)))
        bench.clock.at += 10
        past.service.close(past.uid, phase="Complete", reason="MaxTrials", message="")


MEDIAN = {"method": "median", "max": EPOCHS}


def test_the_reply_to_a_report_stops_a_trial(play: Any, bench: Bench) -> None:
    """A trial below the median is told to stop, with the rule; one above it goes on."""
    job = play(earlyStopping=MEDIAN)
    job.whole(0.5, 0.6, 0.7, 0.8, 0.9)
    bad, good = job.start(), job.start()
    assert job.say(bad, saturating(0.2, 1)).action is Action.CONTINUE  # one report decides nothing
    reply = job.say(bad, saturating(0.2, 3))
    assert (reply.action, reply.reason) == (Action.STOP, "median")
    assert job.service.trial("job-1", bad).stop_requested == "median"
    assert job.say(good, saturating(0.85, 5)).action is Action.CONTINUE
    assert job.say(bad, saturating(0.2, 4)).action is Action.STOP
    assert bench.meter.stops == []


@pytest.mark.slow
def test_a_stopped_trial_is_kept_with_what_it_would_have_had(play: Any, bench: Bench) -> None:
    """Its value is predicted with a deviation, its curve is what it was, and the spared epochs are counted."""
    job = play(earlyStopping=MEDIAN)
    job.whole(*(0.3 + 0.06 * i for i in range(10)))
    bad = job.start()
    assert job.say(bad, saturating(0.45, 3)).action is Action.STOP
    trial = job.stop(bad)
    assert trial.state is TrialState.EARLY_STOPPED
    assert trial.value == pytest.approx(saturating(0.45)[-1], abs=0.05)
    assert trial.value > saturating(0.45, 3)[-1]
    assert 0 < trial.value_sd < 0.1
    assert trial.epochs == 3
    assert bench.meter.stops == [("median", EPOCHS - 3)]
    assert job.stop(bad) == trial  # said again
    assert len(bench.meter.stops) == 1


@pytest.mark.slow
def test_a_trial_that_ended_all_the_same_has_its_value(play: Any) -> None:
    """A trial that was asked to stop and reached its last epoch has what it reported, for certain."""
    job = play(earlyStopping=MEDIAN)
    job.whole(0.5, 0.6, 0.7, 0.8, 0.9)
    bad = job.start()
    assert job.say(bad, saturating(0.2, 3)).action is Action.STOP
    job.say(bad, saturating(0.2))
    trial = job.stop(bad)
    assert (trial.value, trial.value_sd) == (pytest.approx(saturating(0.2)[-1]), 0.0)


def test_without_anything_to_tell_from_there_is_no_value(play: Any) -> None:
    """A trial stopped with its job before any other has ended has no value."""
    job = play()
    only = job.start()
    job.say(only, saturating(0.4, 3))
    job.service.request_stop("job-1", only, rule="target")
    trial = job.stop(only)
    assert (trial.value, trial.value_sd, trial.epochs) == (None, 0.0, 3.0)


@pytest.mark.slow
def test_by_default_past_jobs_say_when_to_stop(play: Any, bench: Bench) -> None:
    """With the curves of five past jobs a hopeless trial is stopped; without past jobs it goes on."""
    alone = play("alone")
    alone.whole(0.5, 0.6, 0.7, 0.8)
    assert alone.say(alone.start(), saturating(0.3, 4)).action is Action.CONTINUE
    a_past(play, bench)
    job = play("taught")
    job.whole(0.5, 0.6, 0.7, 0.8)
    hopeless, hopeful = job.start(), job.start()
    reply = job.say(hopeless, saturating(0.3, 4))
    assert (reply.action, reply.reason) == (Action.STOP, "curve")
    assert job.say(hopeful, saturating(0.9, 4)).action is Action.CONTINUE
    off = play("off", prior={"mode": "off"})
    off.whole(0.5, 0.6, 0.7, 0.8)
    assert off.say(off.start(), saturating(0.3, 4)).action is Action.CONTINUE


@pytest.mark.slow
def test_a_restarted_tracker_decides_alike(play: Any, bench: Bench) -> None:
    """What is decided depends on the history alone, and not on jobs that ended since the job began."""
    a_past(play, bench)
    job = play("taught")
    job.whole(0.5, 0.6, 0.7, 0.8)
    later = play("later", earlyStopping={"method": "none"})
    later.whole(*(0.1 + 0.01 * i for i in range(30)))
    later.service.close("later", phase="Complete", reason="MaxTrials", message="")
    before = [job.start() for _ in range(6)]
    finals = [0.3, 0.5, 0.6, 0.7, 0.75, 0.85]
    for upto in (2, 4, 7):
        for index, final in zip(before, finals, strict=True):
            again = Played(bench.service(), "taught")  # knows nothing but the history
            trial, record = job.service.trial("taught", index), job.service.job("taught")
            if trial.stop_requested is None:
                job.say(index, saturating(final, upto))
                trial = job.service.trial("taught", index)
                decided = again.service._early.decide(record, trial)
                assert (decided.rule if decided else None) == trial.stop_requested
    stopped = [job.service.trial("taught", index).stop_requested for index in before]
    assert stopped[0] == "curve"
    assert stopped[-1] is None


def test_how_long_a_training_is(play: Any) -> None:
    """Without `max` the parameter `epochs` says it, or else the trials that ran to their end."""
    told = play("told", earlyStopping={"method": "median", "min": 1})
    told.whole(0.5, 0.6, 0.7, 0.8, 0.9)
    bad = told.start()
    assert told.say(bad, saturating(0.2, EPOCHS)).action is Action.CONTINUE  # it is over
    other = told.start()
    assert told.say(other, saturating(0.2, EPOCHS - 1)).action is Action.STOP


def test_none_stops_nothing(play: Any) -> None:
    """`none` is none, however bad a trial is."""
    job = play(earlyStopping={"method": "none"})
    job.whole(0.5, 0.6, 0.7, 0.8, 0.9)
    assert job.say(job.start(), saturating(0.01, 8)).action is Action.CONTINUE


def test_asha_compares_with_trials_that_run(play: Any) -> None:
    """The worst of many at a rung is stopped, though the others still run."""
    job = play(earlyStopping={"method": "asha", "graceTrials": 1, "max": EPOCHS})
    job.whole(0.9)
    running = [job.start() for _ in range(6)]
    replies = [job.say(i, saturating(0.85 - 0.1 * n, 4)) for n, i in enumerate(running)]
    assert replies[0].action is Action.STOP  # of two one goes on, and that one has ended
    assert replies[-1].action is Action.STOP
    assert replies[-1].reason == "asha"
