"""What a trial's process is given, and a real tracker that it reports to."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.histories import SPEC, an_attempt
from tests.support.suggesters import Scripted, by_index

from foretune import contract
from foretune.adapters.store import SqlHistory
from foretune.api.v1alpha1 import parse
from foretune.app.tracker import LocalTracker, SystemClock, start_local_tracker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from foretune.domain.trial import Point

JOB = "job-1"


def trial_json(**changes: Any) -> dict[str, Any]:
    """Return the content of a trial.json: a CNN on digits; keyword arguments replace parts."""
    return {
        "version": 1,
        "trial": {"namespace": "team-a", "job": "demo", "jobUid": JOB, "index": 0, "attempt": 0},
        "params": {"lr": 0.01, "epochs": 3, "batch_size": 64},
        "objective": {"metric": "accuracy", "goal": "maximize"},
        "workload": {"model": "cnn", "dataset": "digits", "extras": {"max_samples": 400}},
        "seed": 7,
        **changes,
    }


@dataclass(frozen=True)
class Pod:
    """The environment of one process of a trial."""

    folder: Path
    env: dict[str, str]

    @property
    def message(self) -> str:
        """Return its termination message."""
        return (self.folder / "termination.txt").read_text()

    def command(self, *argv: str) -> subprocess.Popen[str]:
        """Start Python in it with these arguments."""
        return subprocess.Popen(
            [sys.executable, *argv],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *argv: str) -> tuple[int, str, str]:
        """Run Python in it and return exit code, stdout and stderr."""
        process = self.command(*argv)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def train(self) -> tuple[int, str, str]:
        """Run the built-in trainer in it."""
        return self.run("-m", "foretune_trainer")


def a_pod(
    folder: Path,
    *,
    url: str | None = None,
    uid: str = "pod-0",
    attempt: int = 0,
    token: str = "secret",
    config: Mapping[str, Any] | None = None,
) -> Pod:
    """Return a process's surroundings below `folder`; the checkpoints are the trial's, not the pod's."""
    own = folder / uid
    own.mkdir(parents=True)
    (own / "token").write_text(token)
    (own / "termination.txt").touch()
    (own / "trial.json").write_text(json.dumps(config or trial_json()))
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FORETUNE_") and name != "PYTHONWARNINGS"
    }
    env |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        contract.ENV_CONFIG: str(own / "trial.json"),
        contract.ENV_TRIAL: f"{JOB}/0",
        contract.ENV_ATTEMPT: str(attempt),
        contract.ENV_POD_UID: uid,
        contract.ENV_TOKEN_FILE: str(own / "token"),
        contract.ENV_CHECKPOINT_DIR: str(folder / "checkpoints"),
        contract.ENV_TERMINATION_LOG: str(own / "termination.txt"),
    }
    if url is not None:
        env[contract.ENV_REPORT_URL] = url
        env[contract.ENV_KUBEFLOW_URL] = f"{url}{contract.KUBEFLOW_PATH}/{JOB}/0"
        env[contract.ENV_KUBEFLOW_TOKEN] = str(own / "token")
    return Pod(own, env)


@dataclass(frozen=True)
class Tracked:
    """Trial 0 of a job that a real tracker holds."""

    folder: Path
    tracker: LocalTracker

    def pod(self, number: int = 0, *, named: bool = True, **changes: Any) -> Pod:
        """Return the surroundings of attempt `number`; unless `named`, the tracker does not know it yet."""
        uid = f"pod-{number}"
        token = self.tracker.issue_token(JOB, 0, number, uid)
        if named:
            self.name(number)
        values = {"url": self.tracker.url, "uid": uid, "attempt": number, "token": token}
        return a_pod(self.folder, **{**values, **changes})

    def name(self, number: int = 0) -> None:
        """Tell the tracker which pod runs attempt `number`."""
        self.tracker.service.record_attempt(JOB, 0, an_attempt(number))

    def stop(self) -> None:
        """Ask the trial to stop."""
        self.tracker.service.request_stop(JOB, 0, rule="median")

    def curve(self) -> Sequence[Point]:
        """Return what the tracker has of the trial."""
        return self.tracker.service.curve(JOB, 0)

    def reports(self) -> int:
        """Return how many reports the tracker has."""
        return self.tracker.service.trial(JOB, 0).reports


@contextlib.contextmanager
def tracked_trial(folder: Path) -> Iterator[Tracked]:
    """Serve a tracker over HTTP that knows one job and the proposal of its trial 0."""
    history = SqlHistory(str(folder / "history.db"))
    history.migrate()
    manifest = {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": "demo", "namespace": "team-a", "uid": JOB},
        "spec": SPEC,
    }
    try:
        with start_local_tracker(history, Scripted(by_index), SystemClock()) as tracker:
            tracker.service.register(parse(manifest).to_domain())
            tracker.service.propose(JOB, 0)
            yield Tracked(folder, tracker)
    finally:
        history.close()
