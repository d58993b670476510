"""`python -m foretune_trainer.warm`: fills a cache with data sets, for `foretune data warm` and for Jobs.

What comes from the hub is kept as the library `datasets` keeps it, too. A second call changes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from foretune_trainer import config
from foretune_trainer.errors import TrainerError

if TYPE_CHECKING:
    from collections.abc import Sequence

HUB: Final = "huggingface"
"""Folder within the cache for what comes from the hub; the image's HF_HOME is there."""

NAMES: Final = tuple(name for name in config.KINDS if name != "digits")
"""Data sets that can be warmed; digits ship with the trainer."""


def warm(dataset: str, path: str | None, folder: Path) -> str:
    """Write a copy of a data set into the cache at `folder`, unless it is there, and say in one line what is.

    Raises `TrainerError`, and `OSError` where the cache can't be written to.
    """
    if path is None:
        # Read by the library when it is imported, which is later.
        os.environ.setdefault("HF_HOME", str(folder / HUB))
    from foretune_trainer.data import datasets  # noqa: PLC0415 - after HF_HOME

    one = config.TrialConfig(model="cnn", dataset=dataset, path=path, values={})
    manifest, was = datasets.warm(one, folder)
    arrays = manifest.with_suffix(".safetensors")
    size = arrays.stat().st_size / 2**20
    return f"{dataset}: {arrays} ({size:.1f} MiB) {'was there' if was else 'written'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Warm data sets and return the exit code of the contract."""
    from foretune_trainer.data import copies  # noqa: PLC0415 - the parser's default needs no more

    parser = argparse.ArgumentParser(prog="python -m foretune_trainer.warm", description=__doc__)
    parser.add_argument("--dataset", required=True, choices=NAMES)
    parser.add_argument("--data", metavar="FOLDER", help="folder that holds it; default: the hub")
    parser.add_argument("--cache", metavar="DIR", type=Path, default=copies.cache())
    options = parser.parse_args(argv)
    try:
        print(warm(options.dataset, options.data, options.cache))
    except TrainerError as error:
        print(f"foretune_trainer: {error}", file=sys.stderr)
        return int(error.code)
    except OSError as error:
        print(f"foretune_trainer: {options.cache}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
