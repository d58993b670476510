"""`foretune explain`, over a local history and over a tracker's HTTP API."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.histories import a_job, a_proposal, an_attempt, an_outcome, epochs
from tests.support.suggesters import Scripted, SetClock, by_index

from foretune.adapters.store import SqlHistory
from foretune.app.tracker import start_local_tracker
from foretune.cli.main import run
from foretune.domain.trial import EndReason, TrialState
from foretune.services.tracker.auth import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

USED: dict[str, Any] = {
    "expert": "meta",
    "prior": "used",
    "tasks": 2,
    "weights": {"meta": 0.5, "plain": 0.5},
    "sources": {"team-a/one": 0.25, "team-a/two": 0.75},
    "mean": 0.5,
    "sd": 0.1,
    "incumbent": 0.4,
    "set_aside": {"per cent": 12},
    "rejected": {"team-a/flat": "all values are equal"},
}

AUDITS: list[tuple[str, dict[str, Any]]] = [
    ("default", {"expert": "meta", "prior": "used", "tasks": 2}),
    ("meta-gp", USED),
    ("gp", {**USED, "expert": "plain", "mean": 0.5, "sd": 0.03, "noise_sd": 0.04}),
    ("sobol/fallback", {"reason": "timeout"}),
    (
        "gp",
        {"expert": "plain", "prior": "rejected", "reason": "they misled", "mean": 0.2, "sd": 0.1},
    ),
    (
        "gp/fallback",
        {"fallbacks": [{"from": "meta-gp", "to": "gp", "reason": "cholesky", "message": "no"}]},
    ),
    ("sobol", {"prior": "none", "reason": "spec.prior.mode is off"}),
]
"""Proposer and audit of each trial."""

VALUES = [0.4, 0.55, 0.6, 0.1, 0.9, None, None]
"""What came of them: the last but one failed, the last one runs."""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlHistory]:
    """A history with a job of every kind of proposal, and one without any."""
    opened = SqlHistory(str(tmp_path_factory.mktemp("history") / "h.db"))
    opened.migrate()
    opened.put_job(a_job())
    opened.put_job(a_job("job-2", name="empty"))
    for index, ((proposer, detail), value) in enumerate(zip(AUDITS, VALUES, strict=True)):
        opened.put_proposal(a_proposal(index=index, proposer=proposer, detail=detail))
        if value is not None:
            opened.commit("job-1", an_outcome(index, records=tuple(epochs(value))), at=50.0)
    ends = {"state": TrialState.FAILED, "reason": EndReason.ERROR}
    opened.commit("job-1", an_outcome(5, **ends), at=50.0)
    opened.put_attempt("job-1", 6, replace(an_attempt(), pod_uid="pod-6"))
    yield opened
    opened.close()


@pytest.fixture(params=["history", "tracker"])
def source(
    request: pytest.FixtureRequest, history: SqlHistory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """The arguments that name the same jobs: a file, or a tracker over a real socket."""
    if request.param == "history":
        yield ["--history", str(history._database._engine.url.database)]
        return
    with start_local_tracker(history, Scripted(by_index), SetClock()) as started:
        identity = Identity(username="reader", reads_all=True)
        monkeypatch.setenv("FORETUNE_TOKEN", started.authenticator.issue(identity))
        yield ["--tracker", started.url]


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Run a command, and return what it printed."""
    assert run(arguments) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_every_proposal_as_json(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A program gets who proposed, what past jobs had to do with it, the interval, and what came of it."""
    rows = json.loads(said(capsys, "explain", "demo", "-o", "json", *source))
    assert [row["index"] for row in rows] == list(range(7))
    assert [row["proposer"] for row in rows] == [proposer for proposer, _ in AUDITS]
    assert [row["prior"] for row in rows] == [
        *("used", "used", "used", None, "rejected", None, "none"),
    ]
    assert [row["value"] for row in rows] == VALUES
    assert [row["inside"] for row in rows] == [None, True, False, None, False, None, None]
    assert rows[1]["low"] == pytest.approx(0.5 - 1.6449 * 0.1, abs=1e-4)
    # The plain model says how noisy a value is: the interval of a value has both.
    assert rows[2]["high"] == pytest.approx(0.5 + 1.6449 * 0.05, abs=1e-4)
    two, one = {"task": "team-a/two", "share": 0.75}, {"task": "team-a/one", "share": 0.25}
    assert rows[1]["sources"] == [two, one]
    assert rows[1]["detail"] == USED


def test_every_proposal_as_a_table(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """People get a line a trial, how often the intervals held, and why past jobs were left out."""
    lines = said(capsys, "explain", "demo", *source).splitlines()
    head = ["TRIAL", "BY", "EXPERT", "PRIOR", "META", "SOURCES", "EXPECTED", "90", "%", "VALUE"]
    assert lines[0].split() == [*head, "INSIDE"]
    assert lines[2].split() == [
        *("1", "meta-gp", "meta", "used", "50", "%", "team-a/two", "75", "%,", "team-a/one", "25"),
        *("%", "0.5", "0.33551", "to", "0.66449", "0.55", "yes"),
    ]
    assert lines[4].split() == ["3", "sobol/fallback", *["-"] * 6, "0.1", "-"]
    assert lines[8] == "1 of 3 values lie in their interval of 90 %"
    assert lines[9:] == ["past jobs: they misled", "past jobs: spec.prior.mode is off"]


STORIES = [
    (0, ["It is the space's default configuration.", "Past jobs were used: 2 tasks."]),
    (
        1,
        [
            "It was proposed by meta-gp, the model that knows past jobs (past jobs have 50 % of the say, this job alone 50 %).",
            "What they say comes from team-a/two (75 %), team-a/one (25 %).",
            "Rows of past jobs that were set aside: 12 per cent.",
            "Past job team-a/flat says nothing: all values are equal.",
            "accuracy 0.5 was expected, with 90 % between 0.33551 and 0.66449.",
            "Of the best trial so far 0.4 was expected.",
            "It came out at accuracy 0.55, within the interval.",
        ],
    ),
    (2, ["It came out at accuracy 0.6, above the interval."]),
    (
        3,
        [
            "It is a point of the Sobol sequence, which fills the space evenly; it stood in: timeout."
        ],
    ),
    (4, ["Past jobs are not used any more: they misled."]),
    (
        5,
        [
            "It was proposed by gp; it stood in: meta-gp (cholesky).",
            "It has no value: it is Failed.",
        ],
    ),
    (6, ["No past job was used: spec.prior.mode is off.", "It has no value: it is Running."]),
]


@pytest.mark.parametrize(("index", "sentences"), STORIES)
def test_the_story_of_a_trial(
    history: SqlHistory, capsys: pytest.CaptureFixture[str], index: int, sentences: list[str]
) -> None:
    """One trial is told in sentences, from who proposed it to what came of it."""
    where = ["--history", str(history._database._engine.url.database)]
    lines = said(capsys, "explain", "demo", str(index), *where).splitlines()
    assert lines[0].startswith(f"Trial {index} of team-a/demo: lr=")
    assert [line for line in sentences if line not in lines] == []
    row = json.loads(said(capsys, "explain", "demo", str(index), "-o", "json", *where))
    assert row["index"] == index


def test_what_is_not_there_is_told(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown trial or job ends with one line and code 2; a job without proposals has an empty table."""
    text = said(capsys, "explain", "demo", "7", *source, code=2)
    assert text == "foretune: job 'demo' has no trial 7: it has 7\n"
    assert "there is no job 'demmo'" in said(capsys, "explain", "demmo", *source, code=2)
    assert "must be the number of a trial" in said(capsys, "explain", "demo", "x", *source, code=2)
    assert said(capsys, "explain", "empty", *source).split()[0] == "TRIAL"


def test_the_status_of_a_job_says_it_too(
    source: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`foretune status` has what past jobs are good for, by the newest proposal that tells."""
    row = json.loads(said(capsys, "status", "demo", "-o", "json", *source))
    prior = {"decision": "none", "reason": "spec.prior.mode is off", "tasks": []}
    assert row["prior"] == prior
    assert "\nprior   none: spec.prior.mode is off\n" in said(capsys, "status", "demo", *source)
    assert json.loads(said(capsys, "status", "empty", "-o", "json", *source))["prior"] is None
    assert "prior.tasks" in said(capsys, "status", "demo", "-o", "csv", *source)
