"""Train the cells of the built-in trainer, as they come and tuned, and write a table.

    python -m scripts.trainer_grid --minutes 35
    python -m scripts.trainer_grid --cells mnist-cnn sst2-lstm --trials 8
    python -m scripts.trainer_grid --report          write the page of what has run

A cell is trained in its default configuration; then it is tuned on fewer examples, by accuracy on
validation alone, and trained in the best configuration found. Cells that a model is made for come first.
A run that was cut off goes on; `--minutes` ends it early, and the table says what is missing.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scripts.trainer_runs import (
    Cell,
    best,
    commit,
    described,
    stored,
    tried,
    tune,
    whole,
    write_part,
)

from foretune import contract
from foretune_trainer.errors import TrainerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

EPOCHS: Final = 10
"""The least of the usual range, for every run."""

SAMPLES: Final[Mapping[str, int]] = {
    "mnist": 3000,
    "cifar10": 4000,
    "imdb": 2000,
    "ag_news": 1500,
    "sst2": 2500,
}
"""Training examples, a tenth of them for validation."""

STRANGE: Final = 1000
"""The same for an image in a model that is made for texts, which is slow."""

TRIED: Final[Mapping[tuple[str, bool], int]] = {
    ("image", True): 1000,
    ("image", False): 400,
    ("text", True): 600,
    ("text", False): 600,
}
"""Examples that a trial of the tuning sees, by kind and whether the cell is natural."""

HELD: Final = 0.25
"""Share of them for validation."""

QUICK_FIRST: Final = ("cnn", "resnet", "lstm", "transformer", "bert")
"""Models, the quick ones first."""

COMMIT: Final = "commit"
"""File that says of which commit the trainer was that made the runs."""

PAGE: Final = Path("docs/results/trainer.md")
"""Where the table goes."""

HEAD: Final = (
    "| data set | model | | configuration | accuracy | val_loss | test_accuracy | seconds | CPU s | MiB |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)


@dataclass(frozen=True)
class Options:
    """What the runs depend on."""

    out: Path
    trials: int
    until: float
    """No run begins after this (`time.time()`)."""
    epochs: int
    samples: int | None
    """Training examples of every run; None is the cell's own number."""

    def sizes(self, cell: Cell) -> dict[str, Any]:
        """Return what is set for a whole run."""
        strange = cell.kind == "image" and not cell.natural
        own = STRANGE if strange else SAMPLES.get(cell.dataset, STRANGE)
        return {"epochs": self.epochs, "max_samples": self.samples or own}

    def trial_sizes(self, cell: Cell) -> dict[str, Any]:
        """Return what is set for a trial of the tuning."""
        own = TRIED[cell.kind, cell.natural]
        return {
            "epochs": self.epochs,
            "max_samples": self.samples or own,
            "valid_fraction": HELD,
        }


def default(cell: Cell, options: Options, seed: int) -> str:
    """Train the default configuration; return a line of progress."""
    out = options.out / str(cell) / (f"seed-{seed}" if seed else "default")
    return said(cell, f"default, seed {seed}", whole(cell, options.sizes(cell), out, seed=seed))


def tuned(cell: Cell, options: Options) -> str:
    """Tune, and train the best configuration; return a line of progress."""
    out = options.out / str(cell)
    try:
        rows = list(
            tune(cell, options.trial_sizes(cell), out, trials=options.trials, until=options.until)
        )
        if len(rows) < options.trials:
            return f"{cell}: out of time after {len(rows)} of {options.trials} trials"
        values = {**options.sizes(cell), **best(rows)["params"]}
    except (TrainerError, ValueError) as error:
        return f"{cell}: tuning failed: {error}"
    return said(cell, f"tuned ({described(values)})", whole(cell, values, out / "tuned"))


def said(cell: Cell, what: str, result: dict[str, Any] | str) -> str:
    """Return a line of progress about a run."""
    if isinstance(result, str):
        return f"{cell}: {what}: {result}"
    accuracy, seconds = result["metrics"]["accuracy"], result["resources"]["wall_s"]
    test = result["test_accuracy"]
    return f"{cell}: {what}: accuracy {accuracy:.3f}, test {test:.3f}, {seconds:.0f} s"


def run(cells: Sequence[Cell], options: Options, jobs: int, seeds: int) -> None:
    """Run all that is missing, what matters most first, and print a line of progress after each."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    steps: list[tuple[Any, ...]] = [(default, cell, options, 0) for cell in cells]
    steps += [(tuned, cell, options) for cell in cells]
    natural = [cell for cell in cells if cell.natural]
    steps += [(default, cell, options, seed) for seed in range(1, seeds) for cell in natural]
    began, done = time.monotonic(), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for future in as_completed([pool.submit(guarded, *step) for step in steps]):
            done += 1
            seconds = time.monotonic() - began
            print(f"{done}/{len(steps)} {seconds:.0f} s  {future.result()}", flush=True)


def guarded(step: Any, cell: Cell, options: Options, *more: int) -> str:
    """Take a step unless the time is over."""
    if time.time() >= options.until:
        return f"{cell}: {step.__name__}: not begun, the time is over"
    line: str = step(cell, options, *more)
    return line


def lines(cells: Sequence[Cell], options: Options) -> Iterator[str]:
    """Yield the lines of the table: two for a cell."""
    for cell in cells:
        mark = "natural" if cell.natural else ""
        head = f"| {cell.dataset} | {cell.model} | {mark} "
        out = options.out / str(cell)
        rows = tried(out)
        chosen = "tuned"
        if len(rows) >= options.trials and any("failure" not in row for row in rows):
            chosen = f"tuned: {described(best(rows)['params'])}"
        for name, kind in (("default", "default"), ("tuned", chosen)):
            result = stored(out / name)
            if not isinstance(result, dict):
                yield f"{head}| {kind} | {result or 'not run'} | | | | | |\n"
                continue
            metrics, used = result["metrics"], result["resources"]
            yield (
                f"{head}| {kind} | {metrics['accuracy']:.3f} | {metrics['val_loss']:.3f} "
                f"| {result['test_accuracy']:.3f} | {used['wall_s']:.0f} | {used['cpu_s']:.0f} "
                f"| {used['rss_peak_bytes'] / 2**20:.0f} |\n"
            )


def spread(cells: Sequence[Cell], options: Options) -> Iterator[str]:
    """Yield the lines of the table of several seeds: cells with more than one."""
    for cell in cells:
        folders = sorted((options.out / str(cell)).glob("seed-*"))
        found = [stored(out) for out in (options.out / str(cell) / "default", *folders)]
        tests = [result["test_accuracy"] for result in found if isinstance(result, dict)]
        if len(tests) > 1:
            yield (
                f"| {cell.dataset} | {cell.model} | {len(tests)} | {statistics.mean(tests):.3f} "
                f"| {min(tests):.3f} to {max(tests):.3f} |\n"
            )


def sizes(cells: Sequence[Cell], options: Options) -> Iterator[str]:
    """Yield the lines of the table of how many examples were used."""
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        groups: dict[tuple[int, int], list[str]] = {}
        for cell in cells:
            if cell.dataset == dataset:
                size = (
                    options.sizes(cell)["max_samples"],
                    options.trial_sizes(cell)["max_samples"],
                )
                groups.setdefault(size, []).append(cell.model)
        for (whole_size, trial_size), models in groups.items():
            yield f"| {dataset} | {', '.join(models)} | {whole_size:,} | {trial_size:,} |\n"


def page(cells: Sequence[Cell], options: Options) -> str:
    """Return the part of the page about the cells."""
    found = [stored(options.out / str(cell) / "default") for cell in cells]
    tags = [result["tags"] for result in found if isinstance(result, dict)]
    device = ", ".join(sorted({tag["device"] for tag in tags})) or "nothing"
    torch = ", ".join(sorted({tag["torch"] for tag in tags})) or "-"
    code = options.out / COMMIT
    text = (
        f"Trainer of commit {code.read_text().strip() if code.exists() else 'unknown'}, torch {torch}, on {device}, "
        f"one thread a run; {options.epochs} epochs, seed 0.\n"
        "`accuracy` and `val_loss` are of the last epoch on validation, a tenth of the examples; the test was looked at "
        "once, after that.\nSeconds, CPU seconds and memory are of the process, start included; seconds were taken beside other work.\n\n"
        f"*Tuned*: the best by accuracy on validation of {options.trials} trials, the default configuration and "
        f"{options.trials - 1} of Foretune's optimiser with the prior that ships; {HELD:.0%} of a trial's examples "
        "are its validation. Learning rate, batch size, layers, dropout and optimiser are tuned, epochs are not.\n"
        "Both are *sub-sampled and one seed*: a difference of a point or two is chance.\n\n"
        "| data set | models | examples to train and validate | of a trial |\n|---|---|---|---|\n"
    )
    text += "".join(sizes(cells, options)) + "\n" + HEAD + "".join(lines(cells, options))
    seeds = "".join(spread(cells, options))
    if seeds:
        text += (
            "\nThe default configuration with other seeds:\n\n"
            "| data set | model | seeds | mean test_accuracy | range |\n|---|---|---|---|---|\n"
            + seeds
        )
    return text


def named(name: str) -> Cell:
    """Return the cell of `<data set>-<model>`; raises `ValueError`."""
    dataset, sign, model = name.rpartition("-")
    if not sign or model not in contract.BUILTIN_MODELS:
        raise ValueError(f"{name}: must be <data set>-<model>")
    return Cell(dataset, model)


def all_cells() -> list[Cell]:
    """Return the 25 cells, those that a model is made for first, quick models first."""
    every = [Cell(dataset, model) for model in QUICK_FIRST for dataset in SAMPLES]
    return sorted(every, key=lambda cell: not cell.natural)


def main() -> int:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", type=named, metavar="DATASET-MODEL")
    parser.add_argument(
        "--trials", type=int, default=7, help="of the tuning, the default among them"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of natural cells in the default")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--samples", type=int, help="examples of every run, for a quick look")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after this")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, a thread each")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=Path("build/trainer-grid"))
    parser.add_argument("--to", type=Path, default=PAGE)
    given = parser.parse_args()
    cells = given.cells or all_cells()
    until = time.time() + 60 * given.minutes
    options = Options(given.out.resolve(), given.trials, until, given.epochs, given.samples)
    if not given.report:
        options.out.mkdir(parents=True, exist_ok=True)
        code = options.out / COMMIT
        if not code.exists():
            code.write_text(f"{commit()}\n")
        run(cells, options, given.jobs, given.seeds)
    shown = sorted(
        cells, key=lambda cell: list(SAMPLES).index(cell.dataset) if cell.dataset in SAMPLES else -1
    )
    write_part(given.to, "cells", page(shown, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
