"""A trial that the tracker asks to stop: it has its grace, and ends early stopped however it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from tests.support.world import TrackerView, World, make_job

from foretune.app.loop import Reconciler
from foretune.domain.trial import TrialState
from foretune.planner.prune import STOP_GRACE_S


@dataclass
class Played:
    """A world and its loop, which remembers when it saw a stop."""

    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        view = TrackerView(self.world)
        self._loop = Reconciler(tracker=view, runner=self.world, sink=self.world, clock=self.world)

    def turn(self) -> None:
        """Run a turn."""
        self._loop.reconcile(make_job(parallelism=1))


@pytest.fixture
def asked() -> Played:
    """Trial 0 runs, has reported, and was asked to stop by the tracker."""
    played = Played()
    world = played.world
    played.turn()
    world.start(world.live()[0])
    played.turn()
    told = {"value": 0.4, "epochs": 3.0, "reports": 3}
    world.trials[0] = replace(world.trials[0], **told, stop_requested="curve")
    played.turn()
    return played


def test_one_that_does_not_look_is_deleted_after_its_grace(asked: Played) -> None:
    """Until the grace is over the Job stays; then it goes, and the trial is no failure."""
    world = asked.world
    (name,) = world.live()
    world.now_s += STOP_GRACE_S - 1
    asked.turn()
    assert name in world.runs
    world.now_s += 2
    asked.turn()
    assert name not in world.runs
    asked.turn()
    assert world.trials[0].state is TrialState.EARLY_STOPPED
    assert not world.trials[0].counts_as_failure
    assert world.statuses[-1]["counts"]["stopped"] == 1


def test_one_that_stops_by_itself_ends_at_once(asked: Played) -> None:
    """Exit code 0 after a stop is an early end, and the next trial begins."""
    world = asked.world
    (name,) = world.live()
    world.end(name)
    asked.turn()
    assert world.trials[0].state is TrialState.EARLY_STOPPED
    assert 1 in world.trials
