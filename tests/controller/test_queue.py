"""The work queue: no key is lost, none is worked on twice at once, failures wait longer and longer."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.until import until

from foretune.controller.queue import AWAY_S, BACKOFF_S, ERROR_S, Done, KeyedQueue, Resync, Workers
from foretune.domain.job import JobKey
from foretune.errors import ConflictError, HistoryUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = [JobKey("default", name) for name in "abcd"]
A, B, C, _ = KEYS


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Meter:
    """Keeps how runs ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def reconciled(self, handler: str, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.ended.append((handler, result))


class QueueMachine(RuleBasedStateMachine):
    """Adds, takes and lets go of keys in any order; the model is when each was promised a look."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = KeyedQueue(monotonic=self.clock)
        self.promised: dict[JobKey, float] = {}
        self.running: set[JobKey] = set()
        self.failures: Counter[JobKey] = Counter()

    def promise(self, key: JobKey, due: float) -> None:
        self.promised[key] = min(due, self.promised.get(key, due))

    @rule(key=st.sampled_from(KEYS), after=st.sampled_from([0.0, 0.0, 1.0, 7.0]))
    def add(self, key: JobKey, after: float) -> None:
        self.queue.add(key, after_s=after)
        self.promise(key, self.clock.now + after)

    @rule(seconds=st.sampled_from([0.5, 1.0, 30.0, 400.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def take(self) -> None:
        key = self.queue.take(wait=False)
        due = {k: at for k, at in self.promised.items() if at <= self.clock.now}
        free = {k: at for k, at in due.items() if k not in self.running}
        if key is None:
            assert not free
            return
        assert key not in self.running, "two workers of one key"
        assert free[key] == min(free.values()), "the longest due comes first"
        del self.promised[key]
        self.running.add(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), after=st.sampled_from([None, 0.0, 5.0]))
    def done(self, data: st.DataObject, after: float | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.done(key, after_s=after)
        self.running.discard(key)
        self.failures[key] = 0
        if after is not None:
            self.promise(key, self.clock.now + after)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), most=st.sampled_from([ERROR_S, AWAY_S]))
    def fail(self, data: st.DataObject, most: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        pause = self.queue.failed(key, most_s=most)
        assert pause == min(most, BACKOFF_S * 2 ** self.failures[key])
        self.failures[key] += 1
        self.running.discard(key)
        self.promise(key, self.clock.now + pause)

    @invariant()
    def the_oldest_wait_is_known(self) -> None:
        waits = [self.clock.now - at for k, at in self.promised.items() if k not in self.running]
        assert self.queue.oldest_s() == max([0.0, *waits])
        assert self.queue.running() == len(self.running)

    def teardown(self) -> None:
        """Whatever was promised is handed out once everything is let go."""
        for key in sorted(self.running):
            self.queue.done(key)
        self.clock.now += 1000.0
        handed = []
        while (key := self.queue.take(wait=False)) is not None:
            handed.append(key)
        assert sorted(handed) == sorted(self.promised)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def workers(
    queue: KeyedQueue, work: Callable[[JobKey], Done], count: int = 4
) -> tuple[Workers, Meter]:
    """Return workers that have started."""
    meter = Meter()
    made = Workers(queue, work, meter=meter, count=count)
    made.start()
    return made, meter


def test_many_threads_never_share_a_key():
    """Under threads that add all the time, each key has one worker at most and is looked at last of all."""
    queue, lock = KeyedQueue(), threading.Lock()
    busy: set[JobKey] = set()
    asked, seen, clashes = Counter(), {}, []

    def work(key: JobKey) -> Done:
        with lock:
            clashes.extend([key] if key in busy else [])
            busy.add(key)
            seen[key] = asked[key]
        with lock:
            busy.discard(key)
        return Done(handler="reconcile")

    made, _ = workers(queue, work)

    def ask(key: JobKey) -> None:
        for _ in range(500):
            with lock:
                asked[key] += 1
            queue.add(key)

    threads = [threading.Thread(target=ask, args=(key,)) for key in KEYS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: seen == asked, "every key to be looked at after it was last added")
    assert made.stop(within_s=30)
    assert not clashes


def test_a_later_time_does_not_hide_an_earlier_one():
    """Whoever sleeps until a far key is woken for one that is due before, and the far one comes too."""
    queue, seen = KeyedQueue(), []
    made, _ = workers(queue, lambda key: seen.append(key) or Done(handler="reconcile"), count=2)
    queue.add(A, after_s=0.6)
    queue.add(B, after_s=0.3)
    queue.add(C)
    until(lambda: len(seen) == 3, "all three")
    assert sorted(seen) == [A, B, C]
    assert made.stop(within_s=30)


@pytest.mark.parametrize(
    ("error", "result", "level"),
    [
        (HistoryUnavailableError("no answer"), "temporary_error", "WARNING"),
        (ConflictError("another one"), "error", "ERROR"),
        (ZeroDivisionError("a bug"), "error", "ERROR"),
    ],
)
def test_what_a_run_raises_is_told_and_tried_again(error, result, level, caplog):
    """Every error is logged, counted, and followed by another run; a bug with its traceback."""
    runs = []

    def work(key: JobKey) -> Done:
        runs.append(key)
        if len(runs) == 1:
            queue.add(key)  # heard meanwhile: tried again at once, not after the back-off
            raise error
        return Done(handler="forget")

    queue = KeyedQueue()
    made, meter = workers(queue, work)
    queue.add(A)
    until(lambda: len(meter.ended) == 2, "the second run")
    assert sorted(meter.ended) == sorted([("reconcile", result), ("forget", "success")])
    (record,) = [r for r in caplog.records if "default/a" in r.message]
    assert record.levelname == level
    assert bool(record.exc_info) is isinstance(error, ZeroDivisionError)
    assert made.stop(within_s=30)


def test_stop_waits_for_what_runs_and_no_longer_than_told():
    """Keys that wait are not begun; a run under way is waited for, up to the limit."""
    queue, began, go = KeyedQueue(), threading.Event(), threading.Event()
    seen = []

    def work(key: JobKey) -> Done:
        seen.append(key)
        began.set()
        go.wait(60)
        return Done(handler="reconcile")

    made, meter = workers(queue, work, count=1)
    queue.add(A)
    assert began.wait(30)
    queue.add(B)
    assert made.idle() == 0
    assert made.stop(within_s=0.05) is False
    go.set()
    assert made.stop(within_s=30) is True
    assert (seen, meter.ended) == ([A], [("reconcile", "success")])


def test_a_resync_asks_for_every_job_within_a_fifth_of_its_interval():
    """Every key comes once, spread in time; keys that wait already are not asked for twice."""
    clock = Clock()
    queue = KeyedQueue(monotonic=clock)
    spread = iter([0.0, 60.0, 30.0, 12.0])
    resync = Resync(queue, lambda: KEYS, every_s=300.0, uniform=lambda low, high: next(spread))
    queue.add(B)
    resync.once()
    assert [queue.take(wait=False) for _ in range(3)] == [B, A, None]
    clock.now += 60.0
    assert [queue.take(wait=False) for _ in range(3)] == [KEYS[3], C, None]


def test_a_resync_comes_again_and_again_until_it_is_stopped():
    """The thread asks for all keys after each interval."""
    queue, rounds = KeyedQueue(), []
    resync = Resync(queue, lambda: rounds.append(1) or [A], every_s=0.02)
    resync.start()
    until(lambda: len(rounds) >= 3, "three rounds")
    resync.stop()


@pytest.mark.parametrize(
    ("error", "most"),
    [(HistoryUnavailableError("no answer"), AWAY_S), (ValueError("bug"), ERROR_S)],
)
def test_what_does_not_answer_is_asked_sooner_than_what_is_wrong(error, most, caplog):
    """After a long outage a job is looked at within half a minute; a bug is tried every five minutes."""
    clock, seen = Clock(), []

    def work(key: JobKey) -> Done:
        seen.append(clock.now)
        raise error

    queue = KeyedQueue(monotonic=clock)
    made = Workers(queue, work, meter=Meter(), count=0, monotonic=clock)
    queue.add(A)
    for _ in range(12):
        key = queue.take(wait=False)
        if key is None:
            clock.now += most
            key = queue.take(wait=False)
        made._one(key)
    pauses = [later - earlier for earlier, later in pairwise(seen)]
    assert max(pauses) == most
