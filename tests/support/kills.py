"""Trainings that are killed at random steps, each in a process of its own that imports nothing anew.

    python -m tests.support.kills FOLDER SEED MODEL...

A line of JSON a model: how each process ended, and which tensors of the last checkpoint differ from those of
the training that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, Final

import torch

from foretune_trainer import __main__ as program
from foretune_trainer import checkpoint, data, loop
from foretune_trainer.checkpoint import MANIFEST
from foretune_trainer.models import build

EPOCHS: Final = 3
SAMPLES: Final = 240
STEPS: Final = EPOCHS * 7
"""Nine tenths of 240 examples are seven steps of 32 an epoch."""


def trial(model: str, folder: Path) -> Path:
    """Write the trial.json of one training into `folder`."""
    params = {"lr": 0.01, "epochs": EPOCHS, "batch_size": 32, "dropout": 0.3, "layers": 2}
    shape = {"schedule": "cosine", "warmup": 0.2, "optimizer": "adam", "gradient_clip": 1.0}
    extras: dict[str, Any] = {"max_samples": SAMPLES, "width": 16, "max_length": 12}
    text = model in {"lstm", "transformer", "bert"}
    dataset = "synthetic:text:3:400" if text else "digits"
    raw = {
        "version": 1,
        "params": {**params, **shape},
        "workload": {"model": model, "dataset": dataset, "extras": extras},
        "fidelity": {"name": "epochs", "max": EPOCHS + 1},
        "seed": 5,
        "checkpoint": {"everySeconds": 0},
    }
    folder.mkdir(parents=True)
    path = folder / "trial.json"
    path.write_text(json.dumps(raw))
    return path


class Killed(program.Leaving):
    """Sends this very process a signal before its n-th step: really, so that nothing of it is left to tidy up."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__()
        self._number, self._left = number, step

    def __call__(self) -> bool:
        if self._left == 0:
            os.kill(os.getpid(), self._number)
        self._left -= 1
        return super().__call__()


class KilledSaving:
    """Kills this very process when half of its n-th checkpoint has been written."""

    def __init__(self, saves: int) -> None:
        self._left, self._real = saves, checkpoint._dump

    def __call__(self, content: dict[str, Any], file: Any) -> None:
        self._left -= 1
        if self._left == 0:
            file.write(b"torn" * 1000)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self._real(content, file)


def run(config: Path, out: Path, log: Path, **change: Any) -> int:
    """Train in a child of this process, as the program does; return its exit code, or minus the signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
        checkpoint.SAVE_SHARE = 0.0  # type: ignore[misc]
        if "leaving" in change:
            program.Leaving = lambda: Killed(*change["leaving"])  # type: ignore[assignment,misc]
        if "saving" in change:
            checkpoint._dump = KilledSaving(change["saving"])
        code = program.main(["--config", str(config), "--out", str(out)])
    finally:
        sys.stdout.flush()
        os._exit(code)


def last(folder: Path) -> dict[str, Any]:
    """Return the content of the newest checkpoint."""
    newest = json.loads((folder / MANIFEST).read_text())["checkpoints"][0]["file"]
    found: dict[str, Any] = torch.load(folder / newest, weights_only=True)["state"]
    return found


def differing(left: Any, right: Any, path: str = "") -> list[str]:
    """Return where two checkpoints are not the same to the last bit."""
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return [path or "keys"]
        return [one for key in left for one in differing(left[key], right[key], f"{path}/{key}")]
    same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    return [] if same else [path]


def disturbed(model: str, folder: Path, dice: random.Random) -> dict[str, Any]:
    """Train once undisturbed and once with four deaths, and compare."""
    config = trial(model, folder)
    log = folder / "log.txt"
    ended = [run(config, folder / "whole", log)]
    out = folder / "pieces"
    steps = [dice.randrange(1, 7), dice.randrange(1, 7), dice.randrange(1, 5)]
    ended += [
        run(config, out, log, leaving=(signal.SIGTERM, steps[0])),  # within the first epoch
        run(config, out, log, leaving=(signal.SIGKILL, 7 - steps[0] + steps[1])),  # in the second
        run(config, out, log, saving=1),  # at the end of the second, which is trained anew
        run(config, out, log, leaving=(signal.SIGTERM, 7 + steps[2])),  # in the third
        run(config, out, log),
    ]
    lines = log.read_text().splitlines()
    return {
        "model": model,
        "steps": steps,
        "ended": ended,
        "resumed": [line for line in lines if line.startswith("resumed")],
        "tests": [line for line in lines if line.startswith("test_accuracy=")],
        "differing": differing(last(folder / "whole"), last(out)),
        "tensors": len(last(out)["model"]),
        "log": lines[-5:],
    }


def main() -> None:
    """Disturb each model's training."""
    folder, seed, *models = sys.argv[1:]
    dice = random.Random(int(seed))
    torch.set_num_threads(1)
    # Loaded once for all children.
    assert all((loop, data, build))
    for model in models:
        print(json.dumps(disturbed(model, Path(folder) / model, dice)), flush=True)


if __name__ == "__main__":
    main()
