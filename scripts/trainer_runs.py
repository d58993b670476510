"""Runs of the built-in trainer for tables: whole ones by hand, and trials that only see validation.

`trainer_grid` and `trainer_bert` are built on this. What has run is kept in a folder and not run again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune import contract
from foretune.optimizer import Optimizer
from foretune_trainer import config
from foretune_trainer.errors import DivergedError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SPACE: Final[Mapping[str, Any]] = {
    "learning_rate": {"min": 0.0001, "max": 0.1, "scale": "log"},
    "batch_size": {"values": [16, 32, 64, 128]},
    "layers": {"min": 2, "max": 5},
    "dropout": {"min": 0.1, "max": 0.4, "type": "float"},
    "optimizer": {"values": ["adam", "sgd", "rmsprop"]},
}
"""What is tuned: the hyperparameters of the contract, but for the number of epochs."""

DEFAULTS: Final = {name: config.HYPERPARAMETERS[name].default for name in SPACE}
"""The default configuration, which is in the space."""

RESULT: Final = "result.json"
"""File that the trainer leaves at the end of a run by hand."""

FAILED: Final = "failed.txt"
"""File that says how a run failed."""

TRIALS: Final = "trials.jsonl"
"""File of a folder with a trial a line."""


@dataclass(frozen=True)
class Cell:
    """A model and a data set."""

    dataset: str
    model: str

    @property
    def kind(self) -> str:
        """Return `image` or `text`."""
        made = config.SYNTHETIC.fullmatch(self.dataset)
        return made[1] if made else config.KINDS[self.dataset]

    @property
    def natural(self) -> bool:
        """Whether the model is made for such data."""
        return config.natural(self.model, self.kind)

    @property
    def data(self) -> Path | None:
        """Its folder below FORETUNE_DATA; None leaves the data to the trainer."""
        folder = Path(os.environ.get("FORETUNE_DATA", "/nonexistent"), "datasets", self.dataset)
        return folder.resolve() if folder.is_dir() else None

    def __str__(self) -> str:
        return f"{self.dataset}-{self.model}"


def whole(
    cell: Cell, values: Mapping[str, Any], out: Path, *, seed: int = 0
) -> dict[str, Any] | str:
    """Train by hand in a process of its own, the test at the end; return its result, or what went wrong.

    `out` keeps the run: one that ended is read, one that was cut off goes on.
    """
    if not (out / RESULT).exists():
        argv = ["--model", cell.model, "--dataset", cell.dataset, "--out", str(out)]
        argv += ["--seed", str(seed)]
        if cell.data:
            argv += ["--data", str(cell.data)]
        for name, value in values.items():
            argv += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        command = [sys.executable, "-m", "foretune_trainer", *argv]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            said = f"ended with code {done.returncode}: {lines[-1] if lines else 'without a word'}"
            (out / FAILED).parent.mkdir(parents=True, exist_ok=True)
            (out / FAILED).write_text(f"{said}\n")
            return said
        (out / FAILED).unlink(missing_ok=True)
    found: dict[str, Any] = json.loads((out / RESULT).read_text())
    return found


def stored(out: Path) -> dict[str, Any] | str | None:
    """Return the result of a run's folder, what went wrong with it, or None while there is none."""
    if (out / RESULT).exists():
        found: dict[str, Any] = json.loads((out / RESULT).read_text())
        return found
    return (out / FAILED).read_text().strip() if (out / FAILED).exists() else None


def trial(cell: Cell, values: Mapping[str, Any], *, seed: int = 0) -> dict[str, Any]:
    """Train in this process and return the last epoch's metrics and `seconds`; the test is not looked at.

    Raises `TrainerError`.
    """
    import torch  # noqa: PLC0415 - the threads of the environment must be set before

    from foretune_report import Reporter  # noqa: PLC0415
    from foretune_trainer import data, loop  # noqa: PLC0415
    from foretune_trainer.resources import Meter  # noqa: PLC0415

    class Listener(Reporter):
        last: Mapping[str, Any] = {}

        def report(self, metrics: Mapping[str, Any], **more: Any) -> Any:
            del more
            self.last = metrics
            return self.reply

    torch.set_num_threads(1)
    workload = {"model": cell.model, "dataset": cell.dataset}
    if cell.data:
        workload["path"] = str(cell.data)
    raw = {"version": contract.CONTRACT_VERSION, "workload": workload, "params": dict(values)}
    chosen = config.parse({**raw, "seed": seed}, {})
    began, listener = time.monotonic(), Listener({})
    training = loop.Training(
        chosen,
        data.load(chosen),
        device=loop.pick_device(),
        reporter=listener,
        meter=Meter(began),
        leave=lambda: False,
    )
    training.run()
    return {**listener.last, "seconds": round(time.monotonic() - began, 2)}


def tried(out: Path) -> list[dict[str, Any]]:
    """Return the trials of a folder, in order."""
    path = out / TRIALS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(out: Path, row: Mapping[str, Any]) -> None:
    """Add a trial to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / TRIALS).open("a") as file:
        file.write(f"{json.dumps(row)}\n")


def tune(
    cell: Cell, fixed: Mapping[str, Any], out: Path, *, trials: int, until: float
) -> Iterator[dict[str, Any]]:
    """Yield trials, those of `out` first, up to `trials` in all; none begins after `until` (`time.time()`).

    The first is the default configuration, the others come from Foretune's optimiser with the prior that
    ships; its objective is the accuracy on validation.
    """
    context = {"model": cell.model, "dataset": cell.dataset}
    search = Optimizer(SPACE, "maximize", "accuracy", history="starter", context=context)
    rows = tried(out)
    for row in rows:
        search.observe(row["params"], **_outcome(row))
        yield row
    while len(rows) < trials and time.time() < until:
        params = search.suggest()[0].params if rows else DEFAULTS
        row = {"params": params}
        try:
            row |= trial(cell, {**fixed, **params})
        except (DivergedError, OutOfMemoryError) as error:
            row["failure"] = "diverged" if isinstance(error, DivergedError) else "oom"
        search.observe(params, **_outcome(row))
        keep(out, row)
        rows.append(row)
        yield row


def _outcome(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"failure": row["failure"]} if "failure" in row else {"value": row["accuracy"]}


def best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the trial with the highest accuracy; the lower loss decides between equals.

    Raises `ValueError` when none has a value.
    """
    valued = [row for row in rows if "failure" not in row]
    return max(valued, key=lambda row: (row["accuracy"], -row["val_loss"]))


def write_part(page: Path, name: str, text: str) -> None:
    """Put `text` between the comments `<!-- name -->` and `<!-- /name -->` of a page, at its end if need be."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    old = page.read_text() if page.exists() else ""
    part = f"{start}{text.rstrip()}\n{end}"
    if start in old:
        new = re.sub(
            re.escape(start) + ".*?" + re.escape(end), lambda _: part, old, flags=re.DOTALL
        )
    else:
        new = f"{old.rstrip()}\n\n{part}".lstrip()
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(new)


def described(values: Mapping[str, Any]) -> str:
    """Return a configuration in a few words."""
    return (
        f"{values['optimizer']} {values['learning_rate']:.2g}, batch {values['batch_size']}, "
        f"{values['layers']} layers, dropout {values['dropout']:.2f}"
    )


def commit() -> str:
    """Return the commit that the trainer's code is of, or that it is of none."""
    place = Path(config.__file__).parent
    said = subprocess.run(
        ["git", "-C", str(place), "rev-parse", "--short=7", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    changed = subprocess.run(
        ["git", "-C", str(place), "status", "--porcelain", "."],
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode:
        return "unknown"
    return said.stdout.strip() + (" with changes" if changed.stdout else "")
