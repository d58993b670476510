"""What a trial used, added up over the processes that ran it.

Each report's `resources` are of one process, from its start. A trial that was interrupted has several, whose
seconds, joules and examples add up, and of whose peaks the highest counts. A figure that one of them does not
know is unknown for the trial: a part of it would pass for all of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SUMS: Final = (
    "wall_s",
    "cpu_s",
    "cpu_throttled_s",
    "gpu_held_s",
    "gpu_busy_s",
    "energy_j",
    "samples",
)
"""Figures that add up."""

PEAKS: Final = (
    "rss_peak_bytes",
    "mem_peak_bytes",
    "gpu_mem_peak_bytes",
    "gpu_mem_reserved_peak_bytes",
    "gpu_mem_device_peak_bytes",
)
"""Figures of which the highest counts."""

SOURCES: Final = {"cpu_source": None, "gpu_busy_source": "gpu_busy_s", "energy_scope": "energy_j"}
"""Where figures come from, and those that add up only when they come from one source; CPU seconds always do."""

NONE: Final = "none"
"""The source of what nobody knows."""


def added_up(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the resources of a trial from the last ones of each of its processes; unknown names are left out."""
    told = [one for one in processes if one]
    if not told:
        return {}
    found: dict[str, Any] = {}
    for name in (*SUMS, *PEAKS):
        values = [_number(one.get(name)) for one in told]
        known = [value for value in values if value is not None]
        if len(known) == len(told):
            found[name] = max(known) if name in PEAKS else _sum(known)
    for name, figure in SOURCES.items():
        sources = {str(one[name]) for one in told if name in one}
        if not sources:
            continue
        found[name] = sources.pop() if len(sources) == 1 else NONE if figure else "mixed"
        if figure is not None and found[name] == NONE:
            found.pop(figure, None)
        elif figure is not None and figure not in found:
            found[name] = NONE
    phases = [one["phase_s"] for one in told if isinstance(one.get("phase_s"), dict)]
    if len(phases) == len(told):
        found["phase_s"] = {
            name: _sum([n for one in phases if (n := _number(one.get(name))) is not None])
            for name in dict.fromkeys(name for one in phases for name in one)
        }
        trained = found["phase_s"].get("train")
        if trained and "samples" in found:
            found["samples_per_s"] = round(found["samples"] / trained, 1)
    return found


def _number(value: Any) -> float | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if right else None


def _sum(values: Sequence[float]) -> float:
    return round(math.fsum(values), 3) if any(isinstance(v, float) for v in values) else sum(values)
