"""The status writer: nothing twice, nothing too often, nothing lost, nothing too large."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from tests.kube.server import Answer, Server, refusal
from tests.support.until import until
from tests.support.world import make_job

from foretune.adapters.kube.status import INTERVAL_S, KubeStatusSink
from foretune.constants import STATUS_LIMIT
from foretune.domain.job import JobKey
from foretune.errors import ClusterUnavailableError, InvalidInputError

JOB = make_job
KEY = JobKey("default", "demo")
STAMP = "2026-11-25T12:00:{:02d}Z"


def status(
    phase: str = "Running", allocated: int = 1, *, second: int = 0, **more: Any
) -> dict[str, Any]:
    """Return a status; `second` is when its condition is said to have flipped."""
    condition = {
        "type": "Progressing",
        "status": "True" if phase == "Running" else "False",
        "reason": "TrialsRunning",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": STAMP.format(second),
    }
    return {"phase": phase, "allocated": allocated, "conditions": [condition], **more}


class Hand:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def written(server: Server) -> list[dict[str, Any]]:
    """Return the statuses that reached the API server."""
    return [request.body["status"] for request in server.requests]


def test_a_status_is_applied_to_its_very_object(server):
    """The write is an apply of the status of this name and uid, all of it."""
    sink = KubeStatusSink(server.api())
    sink.write(JOB(), status())
    (request,) = server.requests
    assert request.path.endswith("/namespaces/default/tuningjobs/demo/status")
    assert request.body == {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": "demo", "uid": "uid-demo"},
        "status": status(),
    }


def test_an_equal_status_is_not_written(server):
    """Turns that change nothing write nothing, however many."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    for _ in range(5):
        sink.write(JOB(), status())
        clock.now += 60
    assert len(server.requests) == 1


def test_the_status_in_the_cluster_is_not_written_again(server):
    """After a restart, a status that says what the object says already costs nothing."""
    sink = KubeStatusSink(server.api())
    sink.write(replace(JOB(), status=status()), status(second=9))
    assert server.requests == []


def test_a_time_alone_is_no_news(server):
    """A condition that did not flip keeps its time, even if the watch lags and the loop forgot it."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    sink.write(JOB(), status(second=1))
    clock.now += 60
    sink.write(JOB(), status(second=2))
    assert len(server.requests) == 1
    sink.write(JOB(), status(second=3, allocated=2))
    assert [s["conditions"][0]["lastTransitionTime"] for s in written(server)] == [
        STAMP.format(1)
    ] * 2
    sink.write(JOB(), status("Complete", second=4))
    assert written(server)[-1]["conditions"][0]["lastTransitionTime"] == STAMP.format(4)


def test_writes_of_one_job_keep_their_distance(server):
    """Within two seconds only the first and the last status are written, the last one by itself."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    for allocated in range(1, 6):
        sink.write(JOB(), status(allocated=allocated))
    assert [s["allocated"] for s in written(server)] == [1]
    clock.now += INTERVAL_S
    sink._defer()
    until(lambda: len(server.requests) == 2, "the second write")
    sink.close()
    assert [s["allocated"] for s in written(server)] == [1, 5]


def test_a_new_phase_does_not_wait(server):
    """The end of a job is told at once, and replaces what waited."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.write(JOB(), status())
    sink.write(JOB(), status(allocated=2))
    sink.write(JOB(), status("Complete", allocated=3))
    assert [(s["phase"], s["allocated"]) for s in written(server)] == [
        ("Running", 1),
        ("Complete", 3),
    ]
    sink.close()
    assert len(server.requests) == 2


def test_a_status_that_changes_back_is_dropped(server):
    """What waits and then equals what is written is not written."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.write(JOB(), status())
    sink.write(JOB(), status(allocated=2))
    sink.write(JOB(), status())
    sink.flush()
    sink.close()
    assert len(server.requests) == 1


def test_jobs_do_not_wait_for_each_other(server):
    """The distance is one job's own."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    for name in ("a", "b", "c"):
        sink.write(replace(JOB(), key=JobKey("default", name), uid=name), status())
    assert len(server.requests) == 3


def test_flush_and_close_write_what_waits(server):
    """Before the process ends, nothing is left unwritten."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.write(JOB(), status())
    sink.write(JOB(), status(allocated=2))
    sink.flush()
    assert [s["allocated"] for s in written(server)] == [1, 2]
    sink.write(JOB(), status(allocated=3))
    sink.close()
    assert [s["allocated"] for s in written(server)] == [1, 2, 3]


def test_a_write_that_fails_is_told_and_tried_again(server):
    """The turn hears of an unreachable cluster; the next one, saying the same, writes it."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    server.answers = [refusal(500, "no"), refusal(429, "slowly")]
    for _ in range(2):
        with pytest.raises(ClusterUnavailableError):
            sink.write(JOB(), status())
        clock.now += 10
    sink.write(JOB(), status())
    assert len(server.requests) == 3
    sink.write(JOB(), status())
    assert len(server.requests) == 3


def test_what_waits_survives_an_unreachable_cluster(server):
    """The thread tries again by itself until the cluster answers; nothing newer is needed."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    sink.write(JOB(), status())
    sink.write(JOB(), status(allocated=2))
    server.answers = [refusal(503, "no"), refusal(429, "no")]

    def done() -> bool:
        clock.now += 1
        sink._defer()  # wakes the thread, which reckons by the hand's clock and waits by the real one
        return len(server.requests) == 4

    until(done, "the third try")
    sink.close()
    assert [s["allocated"] for s in written(server)] == [1, 2, 2, 2]


def test_a_job_that_is_gone_is_no_error(server):
    """404, and 409 for another object of the name: there is nobody left to tell."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    server.answers = [refusal(404, "not found"), refusal(409, "uid mismatch")]
    sink.write(JOB(), status())
    sink.write(replace(JOB(), uid="other"), status())
    sink.flush()
    sink.close()
    assert len(server.requests) == 2


def test_a_job_made_anew_gets_its_own_status(server):
    """The same status of a new object under an old name is written: it has none yet."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.write(JOB(), status())
    sink.write(replace(JOB(), uid="uid-new"), status())
    assert [r.body["metadata"]["uid"] for r in server.requests] == ["uid-demo", "uid-new"]


def test_a_refused_status_is_told_and_not_repeated(server):
    """What the API server finds invalid would be refused again: it is dropped, and the turn hears it."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    server.answers = [refusal(422, "status.phase: too long")]
    with pytest.raises(InvalidInputError, match="too long"):
        sink.write(JOB(), status())
    sink.flush()
    sink.close()
    assert len(server.requests) == 1


def test_a_status_above_the_limit_is_refused(server):
    """The cluster is spared whatever happens: more than 32 KiB is an error, and the last status stays."""
    sink = KubeStatusSink(server.api())
    with pytest.raises(InvalidInputError, match=f"at most {STATUS_LIMIT} are kept"):
        sink.write(JOB(), status(note="x" * STATUS_LIMIT))
    assert server.requests == []


def test_a_bad_spec_is_told_once(server):
    """`reject` writes for an object without a domain job, once, and again for a new object."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    bad = status("Failed")
    sink.reject(KEY, bad, uid="u1")
    sink.reject(KEY, status("Failed", second=30), uid="u1")
    assert [r.body["metadata"] for r in server.requests] == [{"name": "demo", "uid": "u1"}]
    sink.reject(KEY, bad, uid="u2")
    sink.reject(KEY, bad, uid="u3", observed=bad)
    assert [r.body["metadata"]["uid"] for r in server.requests] == ["u1", "u2"]


def test_a_spec_that_was_mended_goes_on_from_its_refusal(server):
    """Rejected, then accepted: the same page, so that the new phase is written at once."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.reject(KEY, status("Failed"), uid="uid-demo")
    sink.write(JOB(), status("Running"))
    assert [s["phase"] for s in written(server)] == ["Failed", "Running"]


def test_a_deleted_job_is_forgotten(server):
    """What waits for a deleted job is not written, and nothing of it stays."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.write(JOB(), status())
    sink.write(JOB(), status(allocated=2))
    sink.forget(KEY)
    sink.flush()
    sink.close()
    assert len(server.requests) == 1
    assert sink._pages == {}


def test_writing_changes_nothing_of_what_is_given(server):
    """The loop's status stays as it is."""
    sink = KubeStatusSink(server.api())
    sink.write(JOB(), status(second=1))
    given = status(allocated=2, second=2)
    before = copy.deepcopy(given)
    sink.write(JOB(), given)
    assert given == before
    sink.close()


@pytest.mark.slow
def test_many_threads_write_many_jobs(server):
    """Eight workers over forty jobs: each job's last status is the one that stands at the end."""
    server.default = lambda request: Answer(body=request.body)
    sink = KubeStatusSink(server.api(qps=10_000, burst=10_000))
    jobs = [replace(JOB(), key=JobKey("default", f"j{n}"), uid=f"u{n}") for n in range(40)]

    def work(worker: int) -> None:
        for allocated in range(1, 6):
            for job in jobs[worker::8]:
                sink.write(job, status(allocated=allocated))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    last = {r.body["metadata"]["name"]: r.body["status"]["allocated"] for r in server.requests}
    assert last == {job.key.name: 5 for job in jobs}
    assert len(server.requests) < 40 * 5
    assert len(json.dumps(status())) < STATUS_LIMIT
