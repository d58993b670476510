"""`python -m foretune_trainer.check`: reads the data set that a trial would, and trains nothing.

Takes the trainer's own arguments and FORETUNE_CONFIG, and ends as a trial would: with 0, or with the exit
code and the line that say what is wrong. What it fetches is in the cache of the trials that follow.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from foretune_trainer import data
from foretune_trainer.__main__ import arguments, trial
from foretune_trainer.errors import TrainerError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Read the data set and return the exit code."""
    try:
        data.load(trial(arguments(sys.argv[1:] if argv is None else argv)))
    except TrainerError as error:
        print(f"foretune_trainer: {error}", file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
