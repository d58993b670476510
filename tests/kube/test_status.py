"""The status writer: nothing twice, nothing too often, nothing lost, nothing too large."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from tests.kube.cases import Hand
from tests.kube.server import Answer, Request, Server, refusal
from tests.support.until import until
from tests.support.world import make_job

from foretune.adapters.kube.status import INTERVAL_S, TRIES, KubeStatusSink
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


class Objects:
    """TuningJobs as an API server keeps them: a uid and a version each."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.there: dict[str, dict[str, str]] = {}
        self.written: list[tuple[str, dict[str, Any]]] = []
        server.default = self

    def make(self, name: str, uid: str) -> None:
        """Create an object, perhaps anew under its name."""
        self.there[name] = {"name": name, "uid": uid, "resourceVersion": "1"}

    def __call__(self, request: Request) -> Answer:
        """Answer a GET, or an apply that names the version it is for."""
        parts = request.path.split("/")
        meta = self.there.get(parts[7])
        if meta is None:
            return refusal(404, "not found")
        if request.method == "PATCH":
            if request.body["metadata"]["resourceVersion"] != meta["resourceVersion"]:
                return refusal(409, "the object has been modified")
            meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
            self.written.append((meta["uid"], request.body["status"]))
        return Answer(body={"metadata": dict(meta)})


@pytest.fixture
def objects(server: Server) -> Objects:
    """An API server with the TuningJob of `make_job`."""
    made = Objects(server)
    made.make("demo", "uid-demo")
    return made


def writes(server: Server) -> list[Request]:
    """Return the requests to write a status, whatever came of them."""
    return [request for request in server.requests if request.method == "PATCH"]


def written(server: Server) -> list[dict[str, Any]]:
    """Return the statuses that were sent."""
    return [request.body["status"] for request in writes(server)]


def test_a_status_is_applied_to_its_very_object(server, objects):
    """The write is an apply of the whole status, to the version that was seen under this uid."""
    sink = KubeStatusSink(server.api())
    sink.write(JOB(), status())
    (request,) = writes(server)
    assert request.path.endswith("/namespaces/default/tuningjobs/demo/status")
    assert request.body == {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": "demo", "resourceVersion": "1"},
        "status": status(),
    }


def test_an_equal_status_is_not_written(server, objects):
    """Turns that change nothing write nothing, however many."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    for _ in range(5):
        sink.write(JOB(), status())
        clock.now += 60
    assert len(writes(server)) == 1


def test_the_status_in_the_cluster_is_not_written_again(server, objects):
    """After a restart, a status that says what the object says already costs nothing."""
    sink = KubeStatusSink(server.api())
    sink.write(replace(JOB(), status=status()), status(second=9))
    assert server.requests == []


def test_a_time_alone_is_no_news(server, objects):
    """A condition that did not flip keeps its time, even if the watch lags and the loop forgot it."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    sink.write(JOB(), status(second=1))
    clock.now += 60
    sink.write(JOB(), status(second=2))
    assert len(writes(server)) == 1
    sink.write(JOB(), status(second=3, allocated=2))
    assert [s["conditions"][0]["lastTransitionTime"] for s in written(server)] == [
        STAMP.format(1)
    ] * 2
    sink.write(JOB(), status("Complete", second=4))
    assert written(server)[-1]["conditions"][0]["lastTransitionTime"] == STAMP.format(4)


def test_writes_of_one_job_keep_their_distance(server, objects):
    """Within two seconds only the first and the last status are written, the last one by itself."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    for allocated in range(1, 6):
        sink.write(JOB(), status(allocated=allocated))
    assert [s["allocated"] for s in written(server)] == [1]
    clock.now += INTERVAL_S
    sink._defer()
    until(lambda: len(writes(server)) == 2, "the second write")
    sink.close()
    assert [s["allocated"] for s in written(server)] == [1, 5]


def test_a_new_phase_does_not_wait(server, objects):
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
    assert len(writes(server)) == 2


def test_a_status_that_changes_back_is_dropped(server, objects):
    """What waits and then equals what is written is not written."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.write(JOB(), status())
    sink.write(JOB(), status(allocated=2))
    sink.write(JOB(), status())
    sink.flush()
    sink.close()
    assert len(writes(server)) == 1


def test_jobs_do_not_wait_for_each_other(server, objects):
    """The distance is one job's own."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    for name in ("a", "b", "c"):
        objects.make(name, name)
        sink.write(replace(JOB(), key=JobKey("default", name), uid=name), status())
    assert len(writes(server)) == 3


def test_flush_and_close_write_what_waits(server, objects):
    """Before the process ends, nothing is left unwritten."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.write(JOB(), status())
    sink.write(JOB(), status(allocated=2))
    sink.flush()
    assert [s["allocated"] for s in written(server)] == [1, 2]
    sink.write(JOB(), status(allocated=3))
    sink.close()
    assert [s["allocated"] for s in written(server)] == [1, 2, 3]


def test_a_write_that_fails_is_told_and_tried_again(server, objects):
    """The turn hears of an unreachable cluster; the next one, saying the same, writes it."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    server.answers = [refusal(500, "no"), refusal(429, "slowly")]  # to the first look
    for _ in range(2):
        with pytest.raises(ClusterUnavailableError):
            sink.write(JOB(), status())
        clock.now += 10
    server.answers = [Answer(body={"metadata": objects.there["demo"]}), refusal(504, "no")]
    with pytest.raises(ClusterUnavailableError):
        sink.write(JOB(), status())
    clock.now += 10
    for _ in range(2):
        sink.write(JOB(), status())
    assert len(objects.written) == 1


def test_what_waits_survives_an_unreachable_cluster(server, objects):
    """The thread tries again by itself until the cluster answers; nothing newer is needed."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    sink.write(JOB(), status())
    sink.write(JOB(), status(allocated=2))
    server.answers = [refusal(503, "no"), refusal(429, "no")]

    def done() -> bool:
        clock.now += 1
        sink._defer()  # wakes the thread, which reckons by the hand's clock and waits by the real one
        return len(writes(server)) == 4

    until(done, "the third try")
    sink.close()
    assert [s["allocated"] for s in written(server)] == [1, 2, 2, 2]


def test_a_job_that_is_gone_is_no_error(server, objects):
    """Deleted, before or after the first write: there is nobody left to tell."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    sink.write(replace(JOB(), key=JobKey("default", "never")), status())
    sink.write(JOB(), status())
    objects.there.clear()
    clock.now += 10
    sink.write(JOB(), status(allocated=2))
    sink.close()
    assert len(objects.written) == 1


def test_a_status_is_never_written_to_a_namesake(server, objects):
    """A job deleted and made anew under its name is not told the end of the old one."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    sink.write(JOB(), status())
    objects.make("demo", "uid-new")
    objects.there["demo"]["resourceVersion"] = "40"
    sink.write(JOB(), status("Complete"))
    sink.write(replace(JOB(), uid="uid-new"), status())
    assert objects.written == [("uid-demo", status()), ("uid-new", status())]


def test_others_may_change_the_object_meanwhile(server, objects):
    """A label or a spec edit makes our version stale: it is read again, and the status is written."""
    clock = Hand()
    sink = KubeStatusSink(server.api(), monotonic=clock)
    sink.write(JOB(), status())
    objects.there["demo"]["resourceVersion"] = "40"
    clock.now += 10
    sink.write(JOB(), status(allocated=2))
    assert [s["allocated"] for _, s in objects.written] == [1, 2]
    server.answers = [refusal(409, "modified")]
    clock.now += 10
    sink.write(JOB(), status(allocated=3))
    assert [s["allocated"] for _, s in objects.written] == [1, 2, 3]


def test_an_object_that_changes_all_the_time_is_tried_again_later(server, objects):
    """After a few conflicts in a row the turn is told to come again, instead of trying for ever."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    seen = Answer(body={"metadata": objects.there["demo"]})
    server.answers = [seen, refusal(409, "modified")] * TRIES
    with pytest.raises(ClusterUnavailableError, match="changed by others"):
        sink.write(JOB(), status())
    assert objects.written == []


def test_a_refused_status_is_told_and_not_repeated(server, objects):
    """What the API server finds invalid would be refused again: it is dropped, and the turn hears it."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    seen = Answer(body={"metadata": objects.there["demo"]})
    server.answers = [seen, refusal(422, "status.phase: too long")]
    with pytest.raises(InvalidInputError, match="too long"):
        sink.write(JOB(), status())
    sink.flush()
    sink.close()
    assert len(writes(server)) == 1


def test_a_status_above_the_limit_is_refused(server, objects):
    """The cluster is spared whatever happens: more than 32 KiB is an error, and the last status stays."""
    sink = KubeStatusSink(server.api())
    with pytest.raises(InvalidInputError, match=f"at most {STATUS_LIMIT} are kept"):
        sink.write(JOB(), status(note="x" * STATUS_LIMIT))
    assert server.requests == []


def test_a_bad_spec_is_told_once(server, objects):
    """`reject` writes for an object without a domain job, once, and again for a new object."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    bad = status("Failed")
    objects.make("demo", "u1")
    sink.reject(KEY, bad, uid="u1")
    sink.reject(KEY, status("Failed", second=30), uid="u1")
    objects.make("demo", "u2")
    sink.reject(KEY, bad, uid="u2")
    objects.make("demo", "u3")
    sink.reject(KEY, bad, uid="u3", observed=bad)
    assert [uid for uid, _ in objects.written] == ["u1", "u2"]


def test_a_spec_that_was_mended_goes_on_from_its_refusal(server, objects):
    """Rejected, then accepted: the same page, so that the new phase is written at once."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.reject(KEY, status("Failed"), uid="uid-demo")
    sink.write(JOB(), status("Running"))
    assert [s["phase"] for s in written(server)] == ["Failed", "Running"]


def test_a_deleted_job_is_forgotten(server, objects):
    """What waits for a deleted job is not written, and nothing of it stays."""
    sink = KubeStatusSink(server.api(), monotonic=Hand())
    sink.write(JOB(), status())
    sink.write(JOB(), status(allocated=2))
    sink.forget(KEY)
    sink.flush()
    sink.close()
    assert len(writes(server)) == 1
    assert sink._pages == {}


def test_writing_changes_nothing_of_what_is_given(server, objects):
    """The loop's status stays as it is."""
    sink = KubeStatusSink(server.api())
    sink.write(JOB(), status(second=1))
    given = status(allocated=2, second=2)
    before = copy.deepcopy(given)
    sink.write(JOB(), given)
    assert given == before
    sink.close()


@pytest.mark.slow
def test_many_threads_write_many_jobs(server, objects):
    """Eight workers over forty jobs: each job's last status is the one that stands at the end."""
    sink = KubeStatusSink(server.api(qps=10_000, burst=10_000))
    jobs = [replace(JOB(), key=JobKey("default", f"j{n}"), uid=f"u{n}") for n in range(40)]
    for job in jobs:
        objects.make(job.key.name, job.uid)

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
    last = {uid: told["allocated"] for uid, told in objects.written}
    assert last == {job.uid: 5 for job in jobs}
    assert len(writes(server)) < 40 * 5
    assert len(json.dumps(status())) < STATUS_LIMIT
