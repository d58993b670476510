"""The table of cells that `make trainer-grid` writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_tiny_grid(tmp_path: Path) -> None:
    """A cell that trains has a row of figures, one that can't its exit code, and none is trained twice."""
    sizes = ["max_samples=100", "epochs=1"]
    command = [sys.executable, "-m", "scripts.trainer_grid", "--models", "cnn"]
    command += [
        "--datasets",
        "digits",
        "synthetic:text:2:20",
        "--set",
        *" --set ".join(sizes).split(),
    ]
    command += ["--out", str(tmp_path / "runs"), "--to", str(tmp_path / "table.md")]
    env = {k: v for k, v in os.environ.items() if not k.startswith("FORETUNE_")}
    for _ in range(2):
        subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
        digits, wrong = (tmp_path / "table.md").read_text().splitlines()[-2:]
        cells = [cell.strip() for cell in digits.strip("|").split("|")]
        assert cells[:3] == ["digits", "cnn", "yes"]
        assert all(float(cell) >= 0 for cell in cells[3:])
        assert "ended with code 64" in wrong
        records = (tmp_path / "runs" / "digits-cnn" / "records.jsonl").read_text()
        assert len(records.splitlines()) == 2
