"""`foretune status`, `trials` and `best` over a local history and over a tracker's HTTP API."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest
from tests.support.suggesters import Scripted, SetClock, by_index

from foretune.adapters.store import SqlHistory
from foretune.api.v1alpha1 import parse
from foretune.app.place import place
from foretune.app.tracker import start_local_tracker
from foretune.cli.main import run
from foretune.domain.trial import AttemptPhase, AttemptRecord, EndReason, Outcome, TrialState
from foretune.ports import ReportBatch
from foretune.services.tracker import TrackerService
from foretune.services.tracker.auth import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from foretune.domain.job import Job

SPACE = {"lr": {"min": 0.001, "max": 0.1}, "opt": {"values": ["adam", "sgd"]}}


def a_job(name: str, uid: str, created_at: float, namespace: str = "local") -> Job:
    """Return a job of four trials."""
    body = {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": name},
        "spec": {
            "objective": {"metric": "val_loss", "goal": "minimize"},
            "space": SPACE,
            "trial": {"image": "example.org/x:1"},
            "budget": {"trials": 4},
        },
    }
    job = parse(body).to_domain(namespace=namespace, uid=uid)
    object.__setattr__(job, "created_at", created_at)
    return job


def fill(history: SqlHistory) -> None:
    """Put in a job with a completed, a failed, a twice started and a proposed trial, and two others."""
    clock = SetClock()
    service = TrackerService(history=history, suggestions=Scripted(by_index), clock=clock)
    service.register(a_job("digits", "uid-1", 1000.0))
    service.register(a_job("digits", "uid-0", 900.0))
    service.register(a_job("letters", "uid-2", 2000.0, namespace="team-a"))
    for index in range(4):
        service.propose("uid-1", index)
    for index, end in enumerate((0.25, 0.125, None)):
        reports = [
            {"seq": n, "epoch": float(n + 1), "metrics": {"val_loss": value}}
            for n, value in enumerate((0.5, end))
            if value is not None
        ]
        attempt = AttemptRecord(
            number=0, state=AttemptPhase.RUNNING, pod_uid=f"p{index}", started_at=1000.0
        )
        service.record_attempt("uid-1", index, attempt)
        history.add_reports(
            ReportBatch(
                job_uid="uid-1", index=index, attempt=0, pod_uid=f"p{index}", reports=reports
            )
        )
    for index, ran, state, reason, message in (
        (0, 12.0, TrialState.COMPLETED, EndReason.DONE, ""),
        (1, 9.0, TrialState.FAILED, EndReason.ERROR, "Traceback\nValueError: no, really"),
        (2, 7.0, TrialState.RETRYING, EndReason.PREEMPTED, ""),
    ):
        record = AttemptRecord(
            number=0,
            state=AttemptPhase.SUCCEEDED,
            pod_uid=f"p{index}",
            started_at=1000.0,
            ended_at=1000.0 + ran,
            reason=reason,
        )
        outcome = Outcome(
            index=index,
            attempt=0,
            state=state,
            reason=reason,
            message=message,
            attempt_record=record,
        )
        service.commit("uid-1", outcome)
    again = AttemptRecord(
        number=1, state=AttemptPhase.RUNNING, pod_uid="p2b", started_at=5000.0, ended_at=5003.0
    )
    service.record_attempt("uid-1", 2, again)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlHistory]:
    """A history with three jobs."""
    history = SqlHistory(str(tmp_path_factory.mktemp("history") / "foretune" / "history.db"))
    history.migrate()
    fill(history)
    yield history
    history.close()


@pytest.fixture(scope="module")
def tracker(database: SqlHistory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The arguments that name a tracker of that history, over a real socket."""
    with start_local_tracker(database, Scripted(by_index), SetClock()) as started:
        token = started.authenticator.issue(Identity(username="operator", operator=True))
        file = tmp_path_factory.mktemp("token") / "token"
        file.write_text(token + "\n")
        yield ["--tracker", started.url, "--token-file", str(file)]


@pytest.fixture(params=["history", "tracker"])
def source(
    request: pytest.FixtureRequest, database: SqlHistory, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The arguments that name the same jobs: none for the user's own history, or the tracker's."""
    if request.param == "tracker":
        arguments: list[str] = request.getfixturevalue("tracker")
        return arguments
    path = database._database._engine.url.database
    assert path is not None
    monkeypatch.setenv("XDG_DATA_HOME", path.removesuffix("/foretune/history.db"))
    return []


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Run a command, and return what it printed: on stdout, or on stderr when it ends badly."""
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert (err if code == 0 else out) == ""
    return out if code == 0 else err


def test_trials_as_json(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every trial of the job that was active last, with all that a program needs; null is unknown."""
    rows = json.loads(said(capsys, "trials", "digits", "-o", "json", *source))
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert [row["state"] for row in rows] == ["Completed", "Failed", "Running", "Proposed"]
    assert [row["value"] for row in rows] == [0.25, 0.125, 0.5, None]
    assert [row["epochs"] for row in rows] == [2, 2, 1, 0]
    assert [row["seconds"] for row in rows] == [12, 9, 10, None]
    assert [row["attempts"] for row in rows] == [1, 1, 2, 0]
    assert rows[1]["reason"] == "Error"
    assert rows[1]["message"].endswith("ValueError: no, really")
    assert all(set(row["params"]) == {"lr", "opt"} for row in rows)


def test_trials_as_csv(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """CSV has a column for each parameter, and messages of several lines stay one field."""
    text = said(capsys, "trials", "local/digits", "-o", "csv", *source)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["state"] for row in rows] == ["Completed", "Failed", "Running", "Proposed"]
    assert [row["value"] for row in rows] == ["0.25", "0.125", "0.5", ""]
    assert rows[1]["message"] == "Traceback\nValueError: no, really"
    assert all(row["params.opt"] in {"adam", "sgd"} for row in rows)


def test_trials_as_a_table(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The table has a line for each trial, failures with their reason."""
    lines = said(capsys, "trials", "digits", *source).splitlines()
    assert lines[0].split() == ["TRIAL", "STATE", "VALUE", "EPOCHS", "TIME", "lr", "opt"]
    assert [line.split()[1] for line in lines[1:]] == ["Completed", "Failed", "Running", "Proposed"]
    assert "Failed (Error)" in lines[2]
    assert lines[1].split()[2:6] == ["0.25", "2", "12.0", "s"]
    assert lines[4].split()[2] == "-"


def test_best(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The best trial is the best of those that succeeded: a failed one with a better value is not."""
    row = json.loads(said(capsys, "best", "digits", "-o", "json", *source))
    assert (row["index"], row["value"], row["state"]) == (0, 0.25, "Completed")
    (row,) = csv.DictReader(io.StringIO(said(capsys, "best", "digits", "-o", "csv", *source)))
    assert row["index"] == "0"
    lines = said(capsys, "best", "digits", *source).splitlines()
    assert lines[0] == "val_loss 0.25 after 2 epochs, trial 0"
    assert [line.split()[0] for line in lines[1:]] == ["lr", "opt"]


def test_no_best_yet(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """While no trial has ended with a value there is none, which is no bad input: exit code 1."""
    text = said(capsys, "best", "team-a/letters", *source, code=1)
    assert text == "foretune: no trial of 'letters' has ended with a value\n"


def test_status_of_a_job(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """How a job stands; nobody runs the local one, which the user's own history knows."""
    row = json.loads(said(capsys, "status", "digits", "-o", "json", *source))
    phase = "Running" if source else "Stopped"
    assert (row["namespace"], row["name"], row["uid"]) == ("local", "digits", "uid-1")
    assert (row["phase"], row["ended"], row["budget"]) == (phase, 2, 4)
    assert row["counts"] == {"Completed": 1, "Failed": 1, "Proposed": 1, "Running": 1}
    assert (row["best"]["index"], row["metric"], row["goal"]) == (0, "val_loss", "minimize")
    assert row["created"] == "1970-01-01T00:16:40Z"
    text = said(capsys, "status", "digits", *source)
    assert text.splitlines()[0] == f"local/digits: {phase}"
    assert "2 of 4 have ended; 1 Completed, 1 Failed, 1 Proposed, 1 Running" in text


def test_a_list_of_jobs(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name every job is listed, the newest first."""
    rows = json.loads(said(capsys, "status", "-o", "json", *source))
    assert [row["uid"] for row in rows] == ["uid-2", "uid-1", "uid-0"]
    lines = said(capsys, "status", *source).splitlines()
    assert lines[0].split()[:3] == ["NAMESPACE", "NAME", "PHASE"]
    assert lines[1].split()[:4] == ["team-a", "letters", "Running", "0/4"]
    text = said(capsys, "status", "-o", "csv", *source)
    assert [row["name"] for row in csv.DictReader(io.StringIO(text))] == [
        "letters",
        "digits",
        "digits",
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("digit", "; did you mean 'digits'?"),
        ("local/letters", "; did you mean 'letters'?"),
        ("zzz", "; it holds letters, digits"),
    ],
)
def test_an_unknown_job_is_told_with_near_names(
    source: list[str], capsys: pytest.CaptureFixture[str], name: str, hint: str
) -> None:
    """A job that is not there is told with the names that come near, and exit code 2."""
    for command in ("status", "trials", "best"):
        text = said(capsys, command, name, *source, code=2)
        assert text.startswith(f"foretune: there is no job {name!r} in the ")
        assert text.endswith(hint + "\n")
        assert text.count("\n") == 1


def test_no_history_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first run the user is told where the history would be; none is made."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    text = said(capsys, "status", code=2)
    assert text.startswith(f"foretune: there is no history at {tmp_path}/foretune/history.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said_of_it"),
    [
        (["--tracker", "localhost:8080"], "--tracker: must be a URL as http://127.0.0.1:8080"),
        (["--tracker", "http://[x"], "--tracker: must be a URL"),
        (["--tracker", "http://x:99999"], "--tracker: must be a URL"),
        (["--tracker", "http://x"], "needs a token, from --token-file or FORETUNE_TOKEN"),
        (["--tracker", "http://x", "--token-file", "/no/such"], "can't be read: No such file"),
        (["--tracker", "http://x", "--token-file", "/dev/null"], "/dev/null: holds no token"),
        (["--token-file", "/dev/null"], "--token-file: goes with --tracker only"),
    ],
)
def test_a_wrong_source_is_told(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said_of_it: str,
) -> None:
    """What is wrong with a tracker's address or token is one line and exit code 2."""
    monkeypatch.delenv("FORETUNE_TOKEN", raising=False)
    text = said(capsys, "status", *arguments, code=2)
    assert said_of_it in text
    assert text.count("\n") == 1


def test_a_tracker_that_refuses_or_is_not_there(
    database: SqlHistory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown token is bad input (2); a tracker that does not answer may answer later (1)."""
    monkeypatch.setenv("FORETUNE_TOKEN", "unknown")
    with start_local_tracker(database, Scripted(by_index), SetClock()) as tracker:
        url = tracker.url
        assert "GET /v1/jobs" in said(capsys, "status", "--tracker", url, code=2)
    text = said(capsys, "status", "--tracker", url, code=1)
    assert text.startswith(f"foretune: {url}: ")


def test_a_history_has_its_own_folder_of_attempts(tmp_path: Path) -> None:
    """Two histories of one name have different folders; one has the same by any path to it."""
    environ = {"XDG_DATA_HOME": str(tmp_path / "data")}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    one = place(str(tmp_path / "a" / "history.db"), environ)
    assert one == place(str(tmp_path / "b" / "history.db"), environ)
    other = place(str(tmp_path / "history.db"), environ)
    assert one.state != other.state
    assert one.state.parent == tmp_path / "data" / "foretune" / "runs"
    assert place(None, environ).history == tmp_path / "data" / "foretune" / "history.db"
    assert place(None, {"HOME": "/x"}).history.parts[-4:] == (
        ".local",
        "share",
        "foretune",
        "history.db",
    )


def test_a_user_without_a_home_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no home folder the user is told which variable to set."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    text = said(capsys, "status", "--history", "~nobody-of-this-name/h.db", code=2)
    assert text.startswith("foretune: Could not determine home directory.")
    assert "Set XDG_DATA_HOME" in text
    assert text.count("\n") == 1
