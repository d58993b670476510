"""`foretune run` as a process, with trials that are processes: to the end, broken off, and gone on."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.support.local_jobs import (
    FORETUNE,
    environ,
    foretune,
    shown,
    start,
    told,
    trials,
    write_job,
)
from tests.support.until import until as until_within

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

GATED = """
    tell(event="start")
    report(1, accuracy=params["x"] / 2)
    if index >= 2:
        wait_for(out + ".open")
    report(2, accuracy=params["x"])
    tell(event="end")
    """
"""Trials 0 and 1 end at once, later ones when a file is there."""


until = partial(until_within, limit_s=180.0)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Make sure that a process is gone after the block."""
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def change(path: Path, **spec: object) -> None:
    """Change parts of a manifest's spec."""
    body = yaml.safe_load(path.read_text())
    body["spec"].update(spec)
    path.write_text(yaml.safe_dump(body))


def test_a_job_runs_to_its_end(tmp_path: Path) -> None:
    """A line for each trial, the chart, the best configuration; run again it says so, and starts nothing."""
    job = write_job(tmp_path)
    code, out, err = foretune(tmp_path, "run", str(job))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "mine: 4 trials, 2 at once"
    assert "the image example.org/none:1 is not used" in lines[1]
    ends = [line for line in lines if re.match(r"\[\d/4\] trial \d completed: accuracy ", line)]
    assert [line[:5] for line in ends] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    rows = trials(tmp_path)
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert row["state"] == "Completed"
        assert row["epochs"] == 2
        assert row["value"] == pytest.approx(0.95 - (row["params"]["x"] - 0.3) ** 2)
        assert row["seconds"] > 0
        assert row["proposer"] == "sobol"
    winner = max(rows, key=lambda row: row["value"])
    assert f"best: accuracy {winner['value']:.5g} after 2 epochs, trial {winner['index']}" in lines
    assert any("best so far" in line for line in lines)
    assert "mine: complete: 4 trials have ended" in lines
    assert any("foretune trials mine" in line for line in lines)
    assert json.loads(shown(tmp_path, "best", "mine", "-o", "json")) == winner

    code, out, err = foretune(tmp_path, "run", str(job))
    assert (code, err) == (0, "")
    assert "mine: was complete already: 4 trials have ended" in out
    assert len(told(tmp_path, event="start")) == 4

    change(job, budget={"trials": 5})
    code, out, err = foretune(tmp_path, "run", str(job), "--parallel", "1")
    assert (code, err) == (0, "")
    assert "going on: 4 of 5 trials have ended" in out
    assert trials(tmp_path)[:4] == rows
    assert [one["index"] for one in told(tmp_path, event="start")][4:] == [4]


def test_another_space_is_another_job(tmp_path: Path) -> None:
    """With a changed space the old job stays as it was, and the user is told; `--new` begins anew too."""
    job = write_job(tmp_path, parallelism=1, budget={"trials": 1})
    code, out, err = foretune(tmp_path, "run", str(job))
    assert (code, err) == (0, "")
    change(job, space={"x": {"type": "float", "min": 0, "max": 2}})
    code, out, _ = foretune(tmp_path, "run", str(job))
    assert code == 0
    assert "the history has a job 'mine' with another spec.space: this is a new job" in out
    code, out, _ = foretune(tmp_path, "run", str(job), "--new")
    assert code == 0
    assert "[1/1] trial 0 completed" in out
    listed = json.loads(shown(tmp_path, "status", "-o", "json"))
    assert [(one["name"], one["phase"], one["ended"]) for one in listed] == [
        ("mine", "Complete", 1)
    ] * 3


def goes_on(tmp_path: Path, number: signal.Signals) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a job, end its run by a signal while two trials wait; return the ended process and lines."""
    job = write_job(tmp_path, GATED, budget={"trials": 5})
    process = start(tmp_path, "run", str(job))
    with ended(process):
        until(lambda: len(told(tmp_path, event="start")) == 4, "two trials ended, two wait")
        until(
            lambda: [row["epochs"] for row in trials(tmp_path)] == [2, 2, 1, 1],
            "the reports of the waiting trials",
        )
        rows = trials(tmp_path)
        assert [row["state"] for row in rows] == ["Completed", "Completed", "Running", "Running"]
        assert rows[3]["value"] == pytest.approx(rows[3]["params"]["x"] / 2)
        assert shown(tmp_path, "status", "mine").startswith("local/mine: Running\n")
        code, out, err = foretune(tmp_path, "run", str(job))
        assert (code, out) == (2, "")
        assert f"job 'mine' is being run by process {process.pid}" in err
        process.send_signal(number)
        out, err = process.communicate(timeout=180)
        assert err == ""
    assert shown(tmp_path, "status", "mine").startswith("local/mine: Stopped\n")
    return process, out.splitlines()


def finished(tmp_path: Path) -> None:
    """Run the job of `goes_on` to its end, and check that no trial was lost, repeated or changed."""
    before = {row["index"]: row["params"] for row in trials(tmp_path)}
    (tmp_path / "mine.out.open").touch()
    code, out, err = foretune(tmp_path, "run", str(tmp_path / "mine.yaml"))
    assert (code, err) == (0, "")
    assert "going on: 2 of 5 trials have ended" in out
    rows = trials(tmp_path)
    assert [row["state"] for row in rows] == ["Completed"] * 5
    assert {row["index"]: row["params"] for row in rows[:4]} == before
    assert [row["attempts"] for row in rows] == [1, 1, 2, 2, 1]
    ends = [(one["index"], one["attempt"]) for one in told(tmp_path, event="end")]
    assert sorted(ends) == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 0)]
    assert len({row["params"]["x"] for row in rows}) == 5
    assert all(row["value"] == pytest.approx(row["params"]["x"]) for row in rows)


def test_ctrl_c_stops_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Ctrl-C ends with 130 and says how to go on; trials that were running are run once more."""
    process, lines = goes_on(tmp_path, signal.SIGINT)
    assert process.returncode == 130
    assert "stopping 2 running trials; Ctrl-C again kills at once" in lines
    again = f"foretune run {tmp_path / 'mine.yaml'}"
    assert lines[-1] == (
        f"mine: stopped, 2 of 5 trials have ended; the same command goes on: {again}"
    )
    assert [row["state"] for row in trials(tmp_path)][2:] == ["Retrying", "Retrying"]
    finished(tmp_path)


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    """After kill -9 the same command goes on, and no trial is lost or repeated."""
    process, _ = goes_on(tmp_path, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    finished(tmp_path)


def test_sigterm_stops_as_ctrl_c_does(tmp_path: Path) -> None:
    """Whoever ends the process politely gets 143, and the trials are ended with it."""
    job = write_job(tmp_path, STUBBORN, parallelism=1)
    process = start(tmp_path, "run", str(job), "--grace", "0")
    with ended(process):
        until(lambda: told(tmp_path, event="start"), "a running trial")
        process.terminate()
        out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (143, "")
    assert "stopped, 0 of 4 trials have ended; the same command goes on" in out
    (one,) = told(tmp_path, event="start")
    with pytest.raises(ProcessLookupError):
        os.kill(one["pid"], 0)


STUBBORN = """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report(1, accuracy=0.5)
    tell(event="start", pid=os.getpid())
    time.sleep(600)
    """


def test_a_terminal_shows_what_runs_and_ctrl_c_twice_kills(tmp_path: Path) -> None:
    """In a terminal running trials are drawn with their values; a second Ctrl-C waits for no grace."""
    job = write_job(tmp_path, STUBBORN)
    command = [*FORETUNE, "run", str(job), "--grace", "3000"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe(FORETUNE[0], command, environ(tmp_path, TERM="xterm"))
    os.set_blocking(terminal, False)
    screen = bytearray()

    def shows(text: str) -> bool:
        try:
            while chunk := os.read(terminal, 65536):
                screen.extend(chunk)
        except BlockingIOError:
            pass
        except OSError:  # it has ended
            return text.encode() in screen
        return text.encode() in screen

    try:
        until(lambda: shows("accuracy 0.5"), "the value of a running trial")
        assert b"trial 0" in screen
        assert b"0/4 trials" in screen
        assert b"epoch 1" in screen
        os.write(terminal, b"\x03")
        until(lambda: shows("Ctrl-C again kills at once"), "the answer to Ctrl-C")
        os.write(terminal, b"\x03")
        until(lambda: shows("the same command goes on"), "the last word")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 130
    finally:
        os.close(terminal)
    for one in told(tmp_path, event="start"):
        with pytest.raises(ProcessLookupError):
            os.kill(one["pid"], 0)


BROKEN_UNTIL_MENDED = """
    if not os.path.exists(out + ".mended"):
        print("the data set is not prepared: run prepare.py")
        sys.exit(64)
    report(1, accuracy=0.5)
    """


def test_a_failed_job_ends_with_1_until_it_is_begun_anew(tmp_path: Path) -> None:
    """A job whose trials can't run fails at once with their words; mended, `--new` runs it."""
    job = write_job(tmp_path, BROKEN_UNTIL_MENDED, parallelism=1)
    code, out, err = foretune(tmp_path, "run", str(job))
    assert code == 1
    assert err.startswith("mine: failed: trial 0 can't run as configured")
    assert "the data set is not prepared: run prepare.py" in err
    assert err.count("\n") == 1
    assert f"once the cause is mended: foretune run {job} --new" in out
    assert [row["state"] for row in trials(tmp_path)] == ["Failed"]
    (log,) = [line.partition(": ")[2] for line in out.splitlines() if "its log: " in line]
    with open(log) as file:  # noqa: PTH123
        assert file.read() == "the data set is not prepared: run prepare.py\n"
    code, out, err = foretune(tmp_path, "run", str(job))
    assert (code, len(told(tmp_path))) == (1, 0)
    (tmp_path / "mine.out.mended").touch()
    code, out, err = foretune(tmp_path, "run", str(job), "--new")
    assert (code, err) == (0, "")
    assert len(trials(tmp_path)) == 4


def test_the_model_takes_over_from_the_start(tmp_path: Path) -> None:
    """With the default algorithm the start is Sobol and the rest is the model's, nobody standing in."""
    job = write_job(tmp_path, search={"seed": 1}, budget={"trials": 6})
    code, out, err = foretune(tmp_path, "run", str(job))
    assert (code, err) == (0, "")
    assert "warning" not in out
    assert [row["proposer"] for row in trials(tmp_path)] == ["sobol"] * 3 + ["gp"] * 3
