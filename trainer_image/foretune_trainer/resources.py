"""What a trial used so far: time, memory, samples."""

from __future__ import annotations

import resource
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


class Meter:
    """Adds up within one process; `started` is the clock's reading when the process began."""

    def __init__(self, started: float) -> None:
        """Begin at `started` (`time.monotonic()`)."""
        self._started = started
        self._phases: dict[str, float] = {}
        self.samples = 0
        """Examples trained on."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the time of a block under `name`."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.book(name, time.monotonic() - begin)

    def book(self, name: str, seconds: float) -> None:
        """Book seconds under a phase."""
        self._phases[name] = self._phases.get(name, 0.0) + seconds

    def read(self, device: torch.device) -> dict[str, Any]:
        """Return the resources of a report."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        trained = self._phases.get("train", 0.0)
        found: dict[str, Any] = {
            "wall_s": round(time.monotonic() - self._started, 3),
            "cpu_s": round(sum(u.ru_utime + u.ru_stime for u in used), 3),
            "samples": self.samples,
            "samples_per_s": round(self.samples / trained, 1) if trained else 0.0,
            "rss_peak_bytes": used[0].ru_maxrss * 1024,
            "phase_s": {name: round(seconds, 3) for name, seconds in self._phases.items()},
        }
        if device.type == "cuda":
            import torch  # noqa: PLC0415 - loaded long ago

            found["gpu_mem_peak_bytes"] = torch.cuda.max_memory_allocated(device)
        return found
