"""Trials on a disk that is full, or that can't be written to: real file systems, mounted for the test."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.trials import trial_json
from tests.support.until import until

from foretune import contract
from foretune.contract import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.trials import Pod, Tracked

    Make = Callable[..., Pod]

pytestmark = pytest.mark.slow

WIDE = {"model": "cnn", "dataset": "digits", "extras": {"max_samples": 200, "width": 64}}
"""A checkpoint of it has half a megabyte."""


def mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting: {done.stderr.strip() or 'not allowed here'}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, "size=64k")
    except FileNotFoundError:
        pytest.skip("mounting: there is no mount here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave no room at all."""
    with (disk / "full").open("wb", 0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(itertools.repeat(b"x" * 1024))


def by_hand(*argv: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("FORETUNE_")}
    command = [sys.executable, "-m", "foretune_trainer", "--set", "epochs=2"]
    return subprocess.run(
        [*command, "--set", "max_samples=200", "--set", "width=64", *argv],
        env=env | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_no_room_for_a_checkpoint(disk: Path) -> None:
    """By hand: the run is done, its records and its result are kept, and 74 says what is missing."""
    done = by_hand("--out", str(disk))
    assert done.returncode == ExitCode.DATA_UNREACHABLE
    assert done.stderr == (
        "foretune_trainer: the last checkpoint could not be written: No space left on device\n"
    )
    assert done.stdout.splitlines()[-1].startswith("test_accuracy=0.")
    assert {path.name for path in disk.iterdir()} == {"records.jsonl", "result.json"}


def test_no_room_at_all(disk: Path) -> None:
    """By hand: everything is still printed, and one line says that it was not kept."""
    fill(disk)
    done = by_hand("--out", str(disk / "run"))
    assert done.returncode == ExitCode.DATA_UNREACHABLE
    assert len(contract.parse_report_lines(done.stdout)) == 3
    (line,) = done.stderr.splitlines()
    assert line == (
        f"foretune_trainer: --out {disk / 'run'}: not all could be written: No space left on device"
    )


def test_read_only_by_hand(disk: Path) -> None:
    """By hand: a folder that is read-only is told before any training."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = by_hand("--out", str(disk / "run"))
    assert done.returncode == ExitCode.BAD_CONFIG
    (line,) = done.stderr.splitlines()
    assert line == f"foretune_trainer: --out {disk / 'run'}: Read-only file system"


def checkpoint_lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if "checkpoint" in line]


def test_a_trial_goes_on(disk: Path, tracked: Tracked) -> None:
    """A trial whose disk is full trains to its end, and says once that no checkpoint could be written."""
    fill(disk)
    changed = trial_json(workload=WIDE, checkpoint={"everySeconds": 0})
    here = tracked.pod(config=changed)
    here.env[contract.ENV_CHECKPOINT_DIR] = str(disk / "checkpoints")
    code, _, err = here.train()
    assert code == 0, err
    assert len(checkpoint_lines(err)) == 1, err
    assert "no checkpoint could be written: No space left on device; another" in err
    assert "Traceback" not in err
    assert [point.epoch for point in tracked.curve()] == [1, 2, 3]


@pytest.mark.parametrize("why", ["No space left on device", "Read-only file system"])
def test_a_trial_leaves(disk: Path, tracked: Tracked, why: str) -> None:
    """A trial that is asked to leave then ends with 75, and its last line says that nothing was kept."""
    if why.startswith("Read"):
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    else:
        fill(disk)
    params: dict[str, Any] = {"lr": 0.01, "epochs": 5000, "batch_size": 64}
    here = tracked.pod(config=trial_json(workload=WIDE, params=params))
    here.env[contract.ENV_CHECKPOINT_DIR] = str(disk / "checkpoints")
    process = here.command("-m", "foretune_trainer")
    until(lambda: tracked.reports() >= 1, "a report", limit_s=180)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.PREEMPTED, err
    last = err.splitlines()[-1]
    assert "asked to leave after epoch" in last
    assert last.endswith(f"no checkpoint could be written: {why}; another attempt starts anew")
    assert json.loads(here.message)["reason"] == "preempted"
