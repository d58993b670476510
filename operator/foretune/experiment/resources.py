"""CPU seconds and memory of this process. Wall time lies on a busy machine; CPU time hardly does."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def cpu_s() -> float:
    """Return CPU seconds that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class PeakMemory:
    """How much the resident memory has grown above what it was when this was made."""

    def __init__(self) -> None:
        """Start here: on Linux the kernel's peak is set back to what is resident now."""
        self._before = resident_mib()
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def grown_mib(self) -> float:
        """Return the growth at the peak, in MiB; NaN where there is no /proc."""
        return _resident_mib("VmHWM") - self._before


def resident_mib() -> float:
    """Return the resident memory of this process in MiB; NaN where there is no /proc."""
    return _resident_mib("VmRSS")


def _resident_mib(key: str) -> float:
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return float("nan")
    (line,) = (line for line in text.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024
