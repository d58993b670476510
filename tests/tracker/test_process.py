"""The tracker as a process: SIGTERM, kill -9, and a suggestion service that never answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.support.histories import an_attempt, an_outcome, epochs
from tests.support.until import until

from foretune.adapters.http.tracker import HttpTracker
from foretune.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foretune.domain.job import Job

    MakeJob = Callable[..., Job]

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Process:
    """A tracker's process and the operator's client for it."""

    def __init__(self, folder: Path, suggestion_url: str) -> None:
        """Choose a port, and keep it over restarts."""
        self.port = free_port()
        self.operator = HttpTracker(f"http://127.0.0.1:{self.port}", lambda: "secret")
        self._database = f"sqlite:///{folder / 'history.db'}"
        self._environ = {
            **os.environ,
            "FORETUNE_HOST": "127.0.0.1",
            "FORETUNE_PORT": str(self.port),
            "FORETUNE_SUGGESTION_URL": suggestion_url,
        }

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, and return once it answers."""
        command = [sys.executable, "-m", "tests.support.tracker_process", self._database, "secret"]
        process = subprocess.Popen(command, cwd=ROOT, env=self._environ)

        def listens() -> bool:
            assert process.poll() is None, "the tracker ended at its start"
            try:
                self.operator.find_jobs()
            except UnavailableError:
                return False
            return True

        until(listens, "the tracker answers")
        return process

    def report(self, *values: float) -> dict[str, Any]:
        """Report as trial 0's pod; return the answer."""
        envelope = {"v": 1, "trial": "job-1/0", "attempt": 0, "pod": "pod-0"}
        body = [{**envelope, **report} for report in epochs(*values)]
        headers = {"Authorization": "Bearer pod:pod-0"}
        url = f"http://127.0.0.1:{self.port}/v1/reports"
        answer = httpx.post(url, json=body, headers=headers, trust_env=False)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Make sure that a process is gone after the block."""
    try:
        yield
    finally:
        process.kill()
        process.wait(30)


def test_a_killed_tracker_goes_on_where_it_was(tmp_path: Path, make_job: MakeJob) -> None:
    """After kill -9 a new tracker has every answered proposal, report and outcome."""
    tracker = Process(tmp_path, "http://127.0.0.1:9")
    process = tracker.start()
    with ended(process):
        tracker.operator.register(make_job())
        before = [tracker.operator.propose("job-1", index) for index in range(4)]
        tracker.operator.record_attempt("job-1", 0, an_attempt())
        assert tracker.report(0.1, 0.2)["ack"] == 1
    assert process.returncode == -signal.SIGKILL
    again = tracker.start()
    with ended(again):
        assert [tracker.operator.propose("job-1", index) for index in range(4)] == before
        assert tracker.report(0.1, 0.2, 0.3)["ack"] == 2
        trial = tracker.operator.commit("job-1", an_outcome())
        assert (trial.reports, trial.value) == (3, 0.3)
        again.send_signal(signal.SIGTERM)
        assert again.wait(30) == 0
    tracker.operator.disconnect()


def test_sigterm_ends_it_while_a_suggestion_is_awaited(tmp_path: Path, make_job: MakeJob) -> None:
    """A proposal under way, which may take 30 s, does not hold the process for so long."""
    with socket.create_server(("127.0.0.1", 0)) as mute, ThreadPoolExecutor(1) as pool:
        tracker = Process(tmp_path, f"http://127.0.0.1:{mute.getsockname()[1]}")
        process = tracker.start()
        with ended(process):
            tracker.operator.register(make_job())
            asked = pool.submit(tracker.operator.propose, "job-1", 0)
            mute.settimeout(60)
            connection, _ = mute.accept()
            with connection:
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
                assert time.monotonic() - began < 15
            with pytest.raises(UnavailableError):
                asked.result(60)
    tracker.operator.disconnect()


def test_a_suggestion_that_never_comes_is_replaced(tmp_path: Path, make_job: MakeJob) -> None:
    """A service that takes the request and stays silent past the deadline costs no more than that."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        tracker = Process(tmp_path, f"http://127.0.0.1:{mute.getsockname()[1]}")
        process = tracker.start()
        with ended(process):
            tracker.operator.register(make_job(search={"timeoutSeconds": 1}))
            proposal = tracker.operator.propose("job-1", 0)
            assert proposal.proposer == "sobol/fallback"
            assert tracker.operator.propose("job-1", 0) == proposal
    tracker.operator.disconnect()


def test_the_tracker_loads_no_torch() -> None:
    """The tracker stays small: what it imports brings neither torch nor numpy, kopf or kubernetes."""
    code = "import sys, foretune.app.tracker as t; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "kopf", "kubernetes"} & set(run.stdout.split())
