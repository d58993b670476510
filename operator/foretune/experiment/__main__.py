"""`python -m foretune.experiment`."""

from __future__ import annotations

import sys

from foretune.experiment.command import main

if __name__ == "__main__":
    sys.exit(main())
