"""The books of a trial: time, memory, samples, GPU and energy of this process.

What can't be known is left out: it is never zero. All of it adds up from the start of the process; what an
earlier attempt used is in that attempt's reports, and the tracker adds the attempts up.
"""

from __future__ import annotations

import resource
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foretune_trainer import cgroup
from foretune_trainer.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

PHASES: Final = ("startup", "data", "compile", "train", "eval", "checkpoint")
"""What the time of a trial goes into. Phases never overlap: within another one, the outer one's clock stops."""


@dataclass(frozen=True)
class CpuBook:
    """CPU seconds of this process and its children."""

    total: float
    user: float
    system: float
    source: str
    """`cgroup2`, `cgroup1`, or `rusage`, which misses children that still run."""
    throttled: float | None = None
    """Seconds in which the container's limit kept it from running; None where nobody counts them."""


class Meter:
    """Adds up within one process; `started` is the clock's reading when the process began."""

    def __init__(self, started: float, group: cgroup.Cgroup | None = None) -> None:
        """Begin at `started` (`time.monotonic()`); `group` is the container's, by default this process's own."""
        self._started = started
        self._lock = threading.Lock()
        self._phases: dict[str, float] = {}
        self._open: list[str] = []
        self._since = started
        self._group = cgroup.own() if group is None else group
        # A group may be older than this process; what it had by now and what this process had differ.
        self._base = self._group.cpu() if self._group is not None else None
        self._first = _rusage()
        self._gpus = 0
        self._gpu: Gpu | None = None
        self._device_peak = 0
        self.samples = 0
        """Examples trained on."""
        self.steps = 0
        """Steps trained."""
        self.on_step: Callable[[], None] | None = None
        """Called after each step; for whoever shows the training live."""

    # ---------------------------------------------------------------- booking
    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the time of a block under `name`, one of `PHASES`; within another phase that one's clock stops."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        """Book the time since the last turn under the phase that is open, if one is."""
        now = time.monotonic()
        with self._lock:
            if self._open:
                name = self._open[-1]
                self._phases[name] = self._phases.get(name, 0.0) + now - self._since
            self._since = now

    def book(self, name: str, seconds: float) -> None:
        """Book seconds that were measured elsewhere under a phase."""
        with self._lock:
            self._phases[name] = self._phases.get(name, 0.0) + seconds

    def trained(self, samples: int) -> None:
        """Count one step over so many examples."""
        self.samples += samples
        self.steps += 1
        if self.on_step is not None:
            self.on_step()

    def hold(self, device: torch.device) -> None:
        """Open the books of the GPU that is trained on, before anything is put there; nothing on a CPU."""
        if device.type != "cuda":
            return
        import torch  # noqa: PLC0415 - loaded long ago

        self._gpus = torch.cuda.device_count()
        properties = torch.cuda.get_device_properties(device)
        self._gpu = Gpu(str(getattr(properties, "uuid", "unknown")))  # not every platform has it
        self._gpu.start()

    def close(self) -> None:
        """Stop looking at the GPU."""
        if self._gpu is not None:
            self._gpu.stop()

    # ---------------------------------------------------------------- reading
    @property
    def gpus(self) -> int:
        """GPUs that this process holds: all that it can see."""
        return self._gpus

    @property
    def wall_s(self) -> float:
        """Seconds since the process began."""
        return time.monotonic() - self._started

    def phases(self) -> dict[str, float]:
        """Return seconds by phase so far, of those that there were; safe from any thread."""
        with self._lock:
            found = dict(self._phases)
            if self._open:
                name = self._open[-1]
                found[name] = found.get(name, 0.0) + time.monotonic() - self._since
        return found

    def cpu(self) -> CpuBook:
        """Return CPU seconds so far, by the best source there is."""
        now = self._group.cpu() if self._group is not None else None
        if self._base is None or now is None:
            user, system = _rusage()
            return CpuBook(user + system, user, system, "rusage")
        user = self._first[0] + now.user - self._base.user
        system = self._first[1] + now.system - self._base.system
        total = sum(self._first) + now.total - self._base.total
        assert self._group is not None
        return CpuBook(total, user, system, f"cgroup{self._group.version}", now.throttled)

    def gpu(self, device: torch.device) -> dict[str, Any]:
        """Return what is known of the GPU; nothing on a CPU."""
        if device.type != "cuda":
            return {}
        import torch  # noqa: PLC0415 - as above

        free, total = torch.cuda.mem_get_info(device)
        self._device_peak = max(self._device_peak, total - free)
        found: dict[str, Any] = {
            "gpu_mem_peak_bytes": torch.cuda.max_memory_allocated(device),
            "gpu_mem_reserved_peak_bytes": torch.cuda.max_memory_reserved(device),
        }
        found |= self.gpu_live()
        if (
            "gpu_mem_device_peak_bytes" in found
        ):  # CUDA's figure is of moments, NVML's of every second
            found["gpu_mem_device_peak_bytes"] = max(
                found["gpu_mem_device_peak_bytes"], self._device_peak
            )
        return found

    def gpu_live(self) -> dict[str, Any]:
        """Return what is known of the GPU without asking CUDA; safe from any thread."""
        if self._gpu is None:
            return {}
        return {"gpu_held_s": round(self._gpus * self.wall_s, 3), **self._gpu.read()}

    def read(self, device: torch.device) -> dict[str, Any]:
        """Return the resources of a report: seconds, bytes, joules, examples; all since the process began."""
        cpu, phases = self.cpu(), self.phases()
        found: dict[str, Any] = {
            "wall_s": round(self.wall_s, 3),
            "cpu_s": round(cpu.total, 3),
            "cpu_source": cpu.source,
            "samples": self.samples,
            "rss_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "phase_s": {name: round(seconds, 3) for name, seconds in phases.items()},
        }
        if cpu.throttled is not None:
            found["cpu_throttled_s"] = round(cpu.throttled, 3)
        peak = self._group.memory_peak() if self._group is not None else None
        if peak is not None:
            found["mem_peak_bytes"] = peak
        if phases.get("train"):
            found["samples_per_s"] = round(self.samples / phases["train"], 1)
        return found | self.gpu(device)


def _rusage() -> tuple[float, float]:
    """Return user and system seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime for one in used), sum(one.ru_stime for one in used)
