"""Entry point of the `foretune` command and of `python -m foretune`."""

from __future__ import annotations

import os
import sys
import threading


def main() -> None:
    """Run the command line; the exit code is the command's."""
    from foretune.cli.main import run  # noqa: PLC0415 - keeps `import foretune.__main__` light

    code = run(sys.argv[1:])
    if threading.active_count() > 1:
        # A thread still imports torch, or computes for a job that has ended: nobody waits for it.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
