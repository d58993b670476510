"""The clock of a running process."""

from __future__ import annotations

import time


class SystemClock:
    """The operating system's clock; implements `ports.Clock`."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()
