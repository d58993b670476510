"""Entry point of the `foretune` command and of `python -m foretune`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the exit code is the command's."""
    from foretune.cli.main import run  # noqa: PLC0415 - keeps `import foretune.__main__` light

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
