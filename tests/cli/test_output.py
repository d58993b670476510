"""Words, tables and the chart: pure functions from values to text."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.support.world import make_job

from foretune.cli import words
from foretune.cli.chart import COLUMNS, ROWS, chart
from foretune.cli.live import eta, picture
from foretune.cli.output import as_csv, as_json, table
from foretune.domain.job import Goal, Objective
from foretune.domain.trial import AttemptPhase, AttemptRecord, EndReason, Trial, TrialState

OBJECTIVE = Objective(metric="accuracy")


def trial(index: int, value: float | None = None, **changes: Any) -> Trial:
    """Return a completed trial."""
    made = Trial(
        job_uid="uid",
        index=index,
        params={"lr": 0.0123456, "opt": "adam"},
        state=TrialState.COMPLETED,
        config_hash="",
        value=value,
        epochs=3.0,
        ended_at=float(index),
    )
    return replace(made, **changes)


def attempt(started: float, ended: float | None) -> AttemptRecord:
    """Return an attempt's times."""
    return AttemptRecord(number=0, state=AttemptPhase.RUNNING, started_at=started, ended_at=ended)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.0 s"),
        (8.24, "8.2 s"),
        (59.94, "59.9 s"),
        (185.2, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7625.0, "2 h 07 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    """Seconds are told in the unit that people use."""
    assert words.duration(seconds) == text


def test_the_end_of_a_trial_in_one_line() -> None:
    """A trial's line has its value, its time and its configuration, or why it has no value."""
    done = trial(3, 0.98125, attempts=(attempt(10.0, 15.0), attempt(100.0, 103.2)))
    assert words.end_of(done, OBJECTIVE) == (
        "trial 3 completed: accuracy 0.98125, 3 epochs, 8.2 s  lr=0.01235 opt=adam"
    )
    message = "Traceback\n  File x\nValueError: " + "long " * 100
    failed = trial(4, state=TrialState.FAILED, reason=EndReason.ERROR, message=message)
    line = words.end_of(failed, OBJECTIVE)
    assert line.startswith("trial 4 failed (Error): ValueError: long long")
    assert len(line) < 300
    assert "\n" not in line


def test_a_programs_words_do_not_move_the_cursor() -> None:
    """Of a log's last line only what can be read is told."""
    assert words.one_line("fine\n\x1b[2Jgone\x07!\n \n") == " [2Jgone !"
    assert words.one_line("\n") == ""
    assert words.one_line("x" * 300) == "x" * 197 + "..."


def test_a_table_is_aligned() -> None:
    """Columns are as wide as their widest cell, numbers end at the same place."""
    text = table(["NAME", "N"], [["a", "100"], ["longer", "2"]], right=["N"])
    assert text.splitlines() == ["NAME      N", "a       100", "longer    2"]


def test_csv_has_every_column_once() -> None:
    """Rows with different nested keys share one head; None is empty."""
    rows = [{"a": 1, "p": {"x": 1}}, {"a": None, "p": {"y": 'q"'}}]
    assert as_csv(rows, ["a", "b"]) == 'a,b,p.x,p.y\n1,,1,\n,,,"q"""'
    assert as_csv([], ["a", "b"]) == "a,b"


def test_json_refuses_what_json_has_not() -> None:
    """NaN never reaches a program that reads JSON."""
    with pytest.raises(ValueError, match="Out of range"):
        as_json({"value": float("nan")})


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=200),
    st.sampled_from(list(Goal)),
    st.sampled_from(["utf-8", "ascii", "latin-1", "no-such-encoding"]),
)
def test_any_values_make_a_chart(values: list[float], goal: Goal, encoding: str) -> None:
    """Whatever the values, the chart has its size, and can be written in the output's encoding."""
    objective = Objective(metric="loss", goal=goal)
    lines = chart([trial(i, v) for i, v in enumerate(values)], objective, encoding=encoding)
    assert len(lines) == ROWS + 3
    assert all(len(line) <= COLUMNS + 20 for line in lines)
    if encoding != "no-such-encoding":
        "\n".join(lines).encode(encoding)
    best = max(values) if goal is Goal.MAXIMIZE else min(values)
    assert any(words.number(best) in line for line in lines)


def test_the_chart_climbs() -> None:
    """The line of the best so far goes up where a trial was better, and never down."""
    trials = [trial(i, v) for i, v in enumerate((0.1, 0.5, 0.3, 0.9))]
    lines = chart([*trials, trial(9), trial(10, 0.95, state=TrialState.FAILED)], OBJECTIVE)
    plot = [
        line.partition("┤" if "┤" in line else "│")[2].ljust(16) for line in lines[1 : ROWS + 1]
    ]
    drawn = ["".join(row[column] for row in plot) for column in range(16)]
    heights = [ROWS - column.index("━") for column in drawn if "━" in column]
    assert heights == sorted(heights)
    assert (heights[0], heights[-1]) == (1, ROWS)
    assert sum(column.count("•") for column in drawn) == 4
    assert lines[-1].endswith("4 trials")


def test_one_value_is_no_chart() -> None:
    """Fewer than two values are not drawn."""
    assert chart([trial(0, 0.5), trial(1)], OBJECTIVE) == []


def test_what_is_left_is_estimated() -> None:
    """The mean of ended trials, for the open ones side by side, less what the running ones have run."""
    spec = make_job(parallelism=2, trials=6).spec
    assert eta(spec, [], 0.0) is None
    ended = [trial(i, 0.5, attempts=(attempt(0.0, 10.0),)) for i in range(2)]
    assert eta(spec, ended, 100.0) == pytest.approx(20.0)
    running = trial(2, state=TrialState.RUNNING, attempts=(attempt(96.0, None),))
    assert eta(spec, [*ended, running], 100.0) == pytest.approx(18.0)
    stuck = replace(running, attempts=(attempt(0.0, None),))
    assert eta(spec, [*ended, stuck], 1000.0) == pytest.approx(15.0)


def test_a_picture_of_many_running_trials() -> None:
    """The picture names the first running trials and counts the others, whatever the width."""
    running = [
        trial(i, 0.5, state=TrialState.RUNNING, reports=1, attempts=(attempt(0.0, None),))
        for i in range(20)
    ]
    done = trial(20, 0.75, attempts=(attempt(0.0, 10.0),))
    job = make_job(parallelism=20, trials=40)
    run: Any = SimpleNamespace(job=job, trials=lambda: [*running, done])
    for width in (40, 120):
        console = Console(file=io.StringIO(), width=width, force_terminal=False)
        console.print(picture(run, 30.0, 0.0))
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert "trial 11" in text
        assert "trial 12" not in text
        assert "and 8 more" in text
        assert "best: accuracy 0.75, trial 20" in " ".join(text.split())
    assert "1/40 trials · 20 running" in text
