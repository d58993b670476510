"""`python -m foretune.experiment`, the same as `foretune experiment`."""

from __future__ import annotations

import argparse
import sys

from foretune.errors import ForetuneError
from foretune.experiment.command import add_arguments, execute


def main(argv: list[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="foretune experiment", description="Compare designers on recorded tuning histories."
    )
    add_arguments(parser)
    try:
        return execute(parser.parse_args(argv))
    except ForetuneError as error:
        print(f"foretune: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 2


if __name__ == "__main__":
    sys.exit(main())
