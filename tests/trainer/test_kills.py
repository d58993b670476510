"""A training that is killed again and again ends as the one that was left alone, bit for bit (CPU)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foretune import contract
from foretune.contract import ExitCode

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of each model's training."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FORETUNE_")}
    env["OMP_NUM_THREADS"] = env["MKL_NUM_THREADS"] = "1"
    seed = str(random.randrange(2**31))
    folder = str(tmp_path_factory.mktemp("kills"))
    command = [sys.executable, "-m", "tests.support.kills", folder, seed]
    done = subprocess.run(
        [*command, *contract.BUILTIN_MODELS],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    return {one["model"]: one for one in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("model", contract.BUILTIN_MODELS)
def test_ends_the_same(told: dict[str, dict[str, Any]], model: str) -> None:
    """TERM and KILL at random steps of three epochs, and KILL within a checkpoint; with dropout and a schedule.

    Weights, optimiser, progress and random state of the last checkpoint equal those of the whole run.
    """
    one = told[model]
    left, killed = int(ExitCode.PREEMPTED), -int(signal.SIGKILL)
    assert one["ended"] == [0, left, killed, killed, left, 0], one
    first, _, third = one["steps"]
    assert one["resumed"] == [
        f"resumed after epoch 0, step {first}",
        "resumed after epoch 1, step 0",
        "resumed after epoch 1, step 0",
        f"resumed after epoch 2, step {third}",
    ], one
    assert one["tensors"] > 4
    assert one["differing"] == []
    whole, pieces = one["tests"]
    assert whole == pieces
