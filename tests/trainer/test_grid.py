"""The tables that `make trainer-grid` and `make trainer-bert` write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripts.trainer_bert import COMPARISONS
from scripts.trainer_bert import page as comparison_page
from scripts.trainer_grid import Options, all_cells
from scripts.trainer_grid import page as grid_page
from scripts.trainer_runs import Cell, best, keep, tried, tune, write_part

from foretune_trainer import config

ROOT = Path(__file__).parents[2]

RESULT = {
    "metrics": {"accuracy": 0.9, "val_loss": 0.3},
    "test_accuracy": 0.887,
    "resources": {"wall_s": 61.2, "cpu_s": 60.1, "rss_peak_bytes": 600 * 2**20},
    "tags": {"train": 2250, "valid": 250, "test": 872, "device": "cpu", "torch": "2.13.0"},
}


def options(folder: Path, trials: int = 3) -> Options:
    return Options(folder, trials, time.time() + 600, epochs=1, samples=100)


@pytest.mark.slow
def test_a_tiny_grid(tmp_path: Path) -> None:
    """A cell that trains has a line of each configuration, one that can't says why; nothing runs twice."""
    command = [sys.executable, "-m", "scripts.trainer_grid", "--jobs", "1"]
    command += ["--cells", "digits-cnn", "synthetic:text:2:20-cnn"]
    command += ["--samples", "100", "--epochs", "1", "--trials", "2", "--seeds", "1"]
    command += ["--out", str(tmp_path / "runs"), "--to", str(tmp_path / "page.md")]
    env = {k: v for k, v in os.environ.items() if not k.startswith("FORETUNE_")}
    pages = []
    for _ in range(2):
        subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
        pages.append((tmp_path / "page.md").read_text())
    assert pages[0] == pages[1]
    lines = [line for line in pages[0].splitlines() if line.startswith("| digits | cnn | natural")]
    assert len(lines) == 2
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert all(float(cell) >= 0 for cell in cells[4:])
    assert "ended with code 64" in pages[0]
    cell = tmp_path / "runs" / "digits-cnn"
    assert len(tried(cell)) == 2
    assert len((cell / "default" / "records.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_tuning_goes_on(tmp_path: Path) -> None:
    """Trials see no test, the first is the default configuration, and those of an earlier run are kept."""
    fixed = {"epochs": 1, "max_samples": 100}
    cell, until = Cell("digits", "cnn"), time.time() + 600
    first = list(tune(cell, fixed, tmp_path, trials=2, until=until))
    assert first[0]["params"] == {
        name: config.HYPERPARAMETERS[name].default for name in first[0]["params"]
    }
    assert all(
        set(row) == {"params", "accuracy", "val_loss", "train_loss", "seconds"} for row in first
    )
    rows = list(tune(cell, fixed, tmp_path, trials=3, until=until))
    assert rows[:2] == first
    assert len({json.dumps(row["params"], sort_keys=True) for row in rows}) == 3
    assert list(tune(cell, fixed, tmp_path, trials=9, until=0.0)) == rows


def test_the_best_trial() -> None:
    """Failures are passed over, and of equals the one with the lower loss is the best."""
    rows = [
        {"params": {"layers": 2}, "failure": "diverged"},
        {"params": {"layers": 3}, "accuracy": 0.5, "val_loss": 1.0},
        {"params": {"layers": 4}, "accuracy": 0.5, "val_loss": 0.9},
    ]
    assert best(rows)["params"] == {"layers": 4}


def test_what_is_missing_says_so(tmp_path: Path) -> None:
    """A page without runs has two lines for each of the 25 cells, all not run."""
    text = grid_page(all_cells(), options(tmp_path))
    assert text.count("| not run |") == 50
    assert text.count("| natural |") == 26
    assert comparison_page(COMPARISONS, tmp_path).count("| not run yet |") == len(COMPARISONS)


def test_figures_of_the_comparison(tmp_path: Path) -> None:
    """The mean of the seeds, its range, and by how much it is above what was reported."""
    one = COMPARISONS[0]
    for seed, test in enumerate((0.8, 0.82, 0.84)):
        folder = tmp_path / one.key / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({**RESULT, "test_accuracy": test}))
    line = next(x for x in comparison_page([one], tmp_path).splitlines() if x.startswith("| sst2"))
    assert (
        "| 3 | 0.900 | **0.820** (0.800 to 0.840) | 0.487 | +0.333 | 2,250 + 250, test 872 | 60 |"
        in line
    )


def test_other_seeds_have_their_own_table(tmp_path: Path) -> None:
    """The default configuration with several seeds is given with its mean and its range."""
    for name, test in (("default", 0.8), ("seed-1", 0.9)):
        folder = tmp_path / "mnist-cnn" / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({**RESULT, "test_accuracy": test}))
    keep(tmp_path / "mnist-cnn", {"params": {}, "failure": "oom"})
    text = grid_page([Cell("mnist", "cnn")], options(tmp_path))
    assert "| mnist | cnn | 2 | 0.850 | 0.800 to 0.900 |" in text
    assert "| tuned | not run |" in text


def test_a_part_of_a_page(tmp_path: Path) -> None:
    """A part is replaced where it stands, and what a person wrote around it stays."""
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- a -->\nold\n<!-- /a -->\n\nFindings.\n")
    write_part(page, "a", r"new \1")
    write_part(page, "b", "second")
    assert page.read_text() == (
        "# Title\n\n<!-- a -->\nnew \\1\n<!-- /a -->\n\nFindings.\n\n<!-- b -->\nsecond\n<!-- /b -->\n"
    )
