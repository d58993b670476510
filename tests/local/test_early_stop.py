"""Trials of a local job are stopped by their own reports, and kept with what they would have come to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from tests.support.local_jobs import foretune, shown, told, trials, write_job

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

EPOCHS = 12

PROGRAM = f"""
    import math
    for epoch in range(1, {EPOCHS} + 1):
        reply = report(epoch, accuracy=(1 - (params["x"] - 0.3) ** 2) * (1 - math.exp(-epoch / 3)))
        if reply["action"] == "stop":
            tell(event="stopped", epoch=epoch, reason=reply.get("reason"))
            break
    """
"""A training that stops when the reply to a report says so."""


def test_bad_trials_are_stopped_and_predicted(tmp_path: Path) -> None:
    """What the program did, the history and the status agree; the best ran to its end."""
    manifest = write_job(
        tmp_path,
        PROGRAM,
        parallelism=1,
        search={"algorithm": "sobol", "seed": 1},
        budget={"trials": 12},
        earlyStopping={"method": "median", "graceTrials": 5},
    )
    code, out, err = foretune(tmp_path, "run", str(manifest))
    assert code == 0, err
    rows = trials(tmp_path)
    stopped = [row for row in rows if row["state"] == "EarlyStopped"]
    whole = [row for row in rows if row["state"] == "Completed"]
    said = {one["index"]: one for one in told(tmp_path, event="stopped")}
    assert stopped
    assert {row["index"] for row in stopped} == set(said)
    assert len(stopped) + len(whole) == 12
    assert {row["index"] for row in rows[:5]} <= {row["index"] for row in whole}
    for row in stopped:
        assert said[row["index"]]["reason"] == "median"
        assert row["epochs"] == said[row["index"]]["epoch"] < EPOCHS
        truth = (1 - (row["params"]["x"] - 0.3) ** 2) * (1 - math.exp(-EPOCHS / 3))
        assert abs(row["value"] - truth) < max(0.1, 3 * row["value_sd"])
        assert row["value_sd"] > 0
    assert all(row["value_sd"] == 0 for row in whole)
    best = max(whole, key=lambda row: row["value"])
    assert f"trial {best['index']}" in out
    table = shown(tmp_path, "trials", "mine")
    assert table.count("~") == len(stopped)


def test_idle_trials_end_the_run(tmp_path: Path) -> None:
    """A job that gets no better is Complete after so many trials, and says why."""
    program = """
        report(1, accuracy=0.5)
        """
    manifest = write_job(tmp_path, program, parallelism=1, budget={"trials": 30, "idleTrials": 3})
    code, out, err = foretune(tmp_path, "run", str(manifest))
    assert code == 0, err
    assert len(trials(tmp_path)) == 4
    assert "the last 3 trials brought nothing better than 0.5" in out
    assert "Complete" in shown(tmp_path, "status", "mine")
