"""Train every cell of the built-in trainer by hand, and write a table.

`python -m scripts.trainer_grid` trains the default configuration of each model on each data set below
FORETUNE_DATA, one process at a time; `--set` changes it for all. A run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from foretune import contract
from foretune_trainer import config

HEAD: Final = (
    "| data set | model | natural | accuracy | val_loss | test_accuracy | seconds | CPU seconds | MiB |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def row(result: dict[str, Any]) -> str:
    """Return a line of the table of a run's result."""
    metrics, used = result["metrics"], result["resources"]
    natural = "yes" if result["tags"]["natural"] else ""
    return (
        f"| {result['dataset']} | {result['model']} | {natural} | {metrics['accuracy']:.4f} "
        f"| {metrics['val_loss']:.4f} | {result['test_accuracy']:.4f} | {used['wall_s']:.0f} "
        f"| {used['cpu_s']:.0f} | {used['rss_peak_bytes'] / 2**20:.0f} |\n"
    )


def train(model: str, dataset: str, options: argparse.Namespace) -> str:
    """Train one cell, unless its result is there, and return its line of the table."""
    out: Path = options.out / f"{dataset}-{model}"
    if not (out / "result.json").exists():
        folder = Path(os.environ.get("FORETUNE_DATA", ""), "datasets", dataset)
        argv = ["--model", model, "--dataset", dataset, "--out", str(out)]
        if folder.is_dir():
            argv += ["--data", str(folder)]
        for one in options.set:
            argv += ["--set", one]
        command = [sys.executable, "-m", "foretune_trainer", *argv]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            return f"| {dataset} | {model} | | ended with code {done.returncode} | | | | | |\n"
    return row(json.loads((out / "result.json").read_text()))


def main() -> int:
    """Train the cells and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=contract.BUILTIN_MODELS)
    parser.add_argument("--datasets", nargs="+", default=tuple(config.KINDS)[1:])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, default=Path("build/trainer-grid"))
    parser.add_argument("--to", type=Path, default=Path("docs/results/trainer.md"))
    options = parser.parse_args()
    changed = f" with {', '.join(options.set)}" if options.set else ""
    text = (
        "# The cells of the built-in trainer\n\n"
        f"Seed 0, the default configuration{changed}. `accuracy` and `val_loss` are of the validation part; "
        "the test was looked at once.\nSeconds and memory are of the process, start included, and of a run "
        "that was not cut off.\n\n" + HEAD
    )
    for dataset in options.datasets:
        for model in options.models:
            text += train(model, dataset, options)
            options.to.parent.mkdir(parents=True, exist_ok=True)
            options.to.write_text(text)
            print(text.splitlines()[-1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
