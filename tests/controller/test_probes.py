"""What ends a process that lives on without doing its work."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.support.until import until

from foretune.controller.probes import (
    HEARTBEAT_S,
    LEASE_S,
    QUIET_S,
    WAIT_S,
    Audit,
    Heartbeat,
    Stream,
    Watchdog,
    heartbeat_check,
    lease_check,
    queue_check,
)
from foretune.controller.queue import Done, KeyedQueue, Workers
from foretune.domain.job import JobKey
from foretune.errors import ClusterUnavailableError

KEY = JobKey("default", "demo")


class Clock:
    """A monotonic clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Kind:
    """A kind of object: what the cluster has, and what the watch has shown."""

    def __init__(self, name: str = "pods", **versions: int) -> None:
        self.name = name
        self.cluster = {uid: str(version) for uid, version in versions.items()}
        self.shown = dict(self.cluster)
        self.dropped: list[str] = []
        self.lists = 0
        self.on_list: Any = lambda: None

    def stream(self) -> Stream:
        return Stream(
            name=self.name, listed=self._list, versions=lambda: dict(self.shown), gone=self._gone
        )

    def _list(self) -> Any:
        self.lists += 1
        self.on_list()
        items = list(self.cluster.items())
        return ({"metadata": {"uid": uid, "resourceVersion": v}} for uid, v in items)

    def _gone(self, uids: Any) -> None:
        self.dropped.extend(uids)
        for uid in uids:
            del self.shown[uid]


def audit(*kinds: Kind) -> Audit:
    return Audit([kind.stream() for kind in kinds], lag_s=0.01)


def test_a_watch_that_shows_everything_is_well():
    """Equal versions, and versions newer than the list's, need no second look."""
    kind = Kind(a=1, b=2)
    kind.shown["b"] = "3"
    made = audit(kind)
    made.once()
    assert (made.wrong, kind.lists, kind.dropped) == (None, 1, [])


def test_a_watch_that_is_a_moment_late_is_well():
    """What was behind at the first look and has caught up since is no fault."""
    kind = Kind(a=1)
    kind.cluster = {"a": "2", "b": "5"}

    def catch_up() -> None:
        if kind.lists == 2:
            kind.shown = {"a": "2", "b": "5"}

    kind.on_list = catch_up
    made = audit(kind)
    made.once()
    assert (made.wrong, kind.lists) == (None, 2)


@pytest.mark.parametrize("cluster", [{"a": "2"}, {"a": "1", "new": "2"}])
def test_a_dead_watch_is_found(cluster):
    """A change or a new object that is not shown in time names the stream; the other kind is not blamed."""
    dead, well = Kind("pods", a=1), Kind("jobs", x=7)
    dead.cluster = cluster
    made = audit(well, dead)
    made.once()
    assert made.wrong is not None
    assert "watch of pods is dead: 1 objects" in made.wrong


def test_a_change_after_the_first_list_is_not_held_against_the_watch():
    """Only the version of the first list must be reached, however fast the object changes."""
    kind = Kind(a=1)
    kind.cluster["a"] = "2"

    def go_on() -> None:
        if kind.lists == 2:
            kind.shown["a"], kind.cluster["a"] = "2", "3"

    kind.on_list = go_on
    made = audit(kind)
    made.once()
    assert made.wrong is None


def test_objects_that_went_unheard_are_forgotten():
    """A deletion that fell into a gap of the watch is healed, and is no sign of a dead watch."""
    kind = Kind(a=1, b=2)
    del kind.cluster["a"]
    made = audit(kind)
    made.once()
    assert (kind.dropped, made.wrong) == (["a"], None)


def test_an_object_made_while_the_list_is_read_is_not_forgotten():
    """What the watch shows after the list began is newer than the list."""
    kind = Kind(a=1)
    kind.on_list = lambda: kind.shown.update(new="9")
    made = audit(kind)
    made.once()
    assert kind.dropped == []


def test_the_first_lists_are_waited_for_and_asked_for_again():
    """It returns once all is shown; an object that ended meanwhile, and an error, don't block it."""
    kind = Kind(a=1, b=2)
    kind.shown = {}

    def show() -> None:
        if kind.lists == 1:
            raise ClusterUnavailableError("no answer")
        if kind.lists == 3:
            del kind.cluster["b"]
            kind.shown["a"] = "1"

    kind.on_list = show
    made = audit(kind)
    assert made.first(poll_s=0.005, relist_s=0.02) is True
    assert kind.lists == 3


def test_the_first_lists_are_not_waited_for_after_the_end():
    """A process that shall end leaves a list that never comes."""
    kind, stop = Kind(a=1), threading.Event()
    kind.shown = {}
    made = Audit([kind.stream()], stop=stop)
    kind.on_list = stop.set
    assert made.first() is False


def test_the_loop_the_lease_and_the_queue_are_checked():
    """Each check is silent up to its limit and says what is wrong beyond it."""
    clock = Clock()
    heartbeat = Heartbeat(monotonic=clock)
    beats = heartbeat_check(heartbeat)
    clock.now += 2 * HEARTBEAT_S
    assert beats() is None  # no loop has begun
    heartbeat.beat()
    clock.now += HEARTBEAT_S
    assert beats() is None
    clock.now += 1
    assert beats() == "the event loop is stuck for 16 s"
    heartbeat.end()
    assert beats() is None
    assert lease_check(lambda: LEASE_S)() is None
    assert lease_check(lambda: LEASE_S + 1)() == "the lease was renewed 16 s ago"


def test_a_key_may_wait_as_long_as_all_workers_are_busy():
    """An idle worker must take a waiting key; busy ones may take as long as a proposal may."""
    clock, go, began = Clock(), threading.Event(), threading.Event()
    queue = KeyedQueue(monotonic=clock)

    def work(key: JobKey) -> Done:
        began.set()
        go.wait(60)
        return Done(handler="reconcile")

    class Meter:
        def reconciled(self, handler: str, result: str, seconds: float) -> None: ...

    workers = Workers(queue, work, meter=Meter(), count=1, monotonic=clock)
    check = queue_check(queue, workers)
    queue.add(JobKey("default", "other"))
    workers.start()
    assert began.wait(30)
    queue.add(KEY)
    clock.now += WAIT_S + 1
    assert check() is None
    clock.now += QUIET_S
    assert check() == f"no worker has ended a turn for {QUIET_S + WAIT_S + 1:.0f} s"
    queue.close()
    go.set()
    until(lambda: queue.running() == 0, "the turn to end")
    workers.stop(within_s=30)


def test_an_idle_worker_beside_a_waiting_key_is_a_fault():
    """A worker that sleeps through a key that is due would sleep for ever."""
    clock = Clock()
    queue = KeyedQueue(monotonic=clock)

    class Sleeping(Workers):
        def idle(self) -> int:
            return 1

    workers = Sleeping(queue, lambda key: Done(handler="x"), meter=None, count=0, monotonic=clock)
    queue.add(KEY)
    clock.now += WAIT_S
    assert queue_check(queue, workers)() is None
    clock.now += 1
    assert queue_check(queue, workers)() == "a job waits for 121 s though a worker is idle"


def test_the_watchdog_bites_at_the_second_look():
    """What was wrong once, as after a machine's sleep, is forgiven; twice in a row ends the process."""
    answers = iter(["asleep", None, "dead", "dead", "never asked"])
    bitten: list[str] = []
    dog = Watchdog((lambda: None, lambda: next(answers)), bite=bitten.append, every_s=0.005)
    dog.start()
    until(lambda: bitten, "the bite")
    assert bitten == ["dead"]
    assert next(answers) == "never asked"


def test_liveness_tells_everything_that_is_wrong():
    """The probe answers with all faults, or None."""
    assert Watchdog((lambda: "a", lambda: None, lambda: "b")).wrong() == "a; b"
    assert Watchdog((lambda: None,)).wrong() is None


def test_a_watchdog_that_is_stopped_does_not_bite():
    """The end of a process is no fault."""
    bitten: list[str] = []
    looks: list[int] = []
    dog = Watchdog((lambda: looks.append(1) or None,), bite=bitten.append, every_s=0.005)
    dog.start()
    until(lambda: looks, "a look")
    dog.stop()
    until(lambda: not dog._thread.is_alive(), "its end")
    assert bitten == []
