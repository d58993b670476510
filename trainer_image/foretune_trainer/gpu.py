"""What a GPU did while this process held it: busy seconds, energy and memory, read from NVML.

A number is there only when it is this process's own. On a slice of a GPU (MIG), or beside other processes,
nobody can tell whose work it was: then there is no number, which is not zero.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Final

EVERY_S: Final = 1.0
"""Seconds between two looks at the GPU."""

FRESH_S: Final = 0.5
"""Seconds that `read` waits for a look; a driver that hangs must not stop the training."""

STALE_S: Final = 10.0
"""Age of the last look from which on what was counted is no longer all."""

PATIENCE: Final = 5
"""Failed looks in a row after which nothing more is counted."""

OCCUPIED: Final = 128 * 2**20
"""Bytes in use before this process has touched the GPU from which on somebody else must be using it."""

GPM, RATES, NONE = "gpm", "nvml", "none"
"""Sources of the busy time: share of multiprocessors at work, as Hopper and later count it; share of time
in which anything ran at all, an upper bound; nobody."""


class Unknown(Exception):  # noqa: N818 - an answer, not a mistake
    """Why a book can't be kept; for a person."""


class Gpu:
    """The books of one whole GPU, from `start` to `stop`; a thread of its own looks every second."""

    def __init__(self, uuid: str) -> None:
        """Find the GPU of this CUDA UUID, with or without `GPU-` before it. Never raises."""
        self._lock = threading.Lock()
        self._wake, self._looked, self._over = (threading.Event() for _ in range(3))
        self._thread: threading.Thread | None = None
        self._failures = 0
        self._slow = False
        self._busy: float | None = None
        self._energy: float | None = None
        self._last_energy: int | None = None
        self._memory: int | None = None
        self._samples: list[Any] = []
        self._at = 0.0
        self.source = NONE
        """Where the busy time comes from."""
        self.dropped = 0
        """Differences of energy that were negative, and not counted: the driver was loaded anew."""
        self.why_not: str | None = None
        """Why busy time and energy are unknown, where they are."""
        try:
            self._nvml, self._handle = _find(uuid)
        except Unknown as why:
            self._give_up(str(why))
        except Exception as error:  # noqa: BLE001 - NVML and its binding fail in many ways
            self._give_up(f"NVML: {error}")

    def start(self) -> None:
        """Begin to count."""
        if self.why_not is not None:
            return
        self._at = time.monotonic()
        self.source = GPM if self._has_gpm() else RATES
        self._busy = 0.0
        self._look()
        self._thread = threading.Thread(target=self._run, name="foretune-gpu", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Count no more; what was counted stays."""
        self._over.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(FRESH_S)

    def read(self) -> dict[str, Any]:
        """Return `gpu_busy_source` and `energy_scope`, and of the numbers those that are known."""
        if self.why_not is None and self._thread is not None and self._thread.is_alive():
            self._looked.clear()
            self._wake.set()
            if not self._looked.wait(0.0 if self._slow else FRESH_S):
                self._slow = True
                if time.monotonic() - self._at > STALE_S:
                    self._give_up("NVML does not answer")
        with self._lock:
            found: dict[str, Any] = {
                "gpu_busy_source": self.source,
                "energy_scope": NONE if self._energy is None else "device",
            }
            if self._busy is not None:
                found["gpu_busy_s"] = round(self._busy, 3)
            if self._energy is not None:
                found["energy_j"] = round(self._energy, 3)
                if self.dropped:
                    found["energy_dropped"] = self.dropped
            if self._memory is not None:
                found["gpu_mem_device_peak_bytes"] = self._memory
        return found

    # ---------------------------------------------------------------- looks
    def _run(self) -> None:
        while self.why_not is None and not self._over.is_set():
            self._wake.wait(EVERY_S)
            self._wake.clear()
            self._look()
            self._looked.set()

    def _look(self) -> None:
        """Add what happened since the last look."""
        try:
            self._check_alone()
            used = int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
            now = time.monotonic()
            share = self._share()
        except Unknown as why:
            self._give_up(str(why))
            return
        except Exception as error:  # noqa: BLE001 - as above
            # The next look spans the time of this one too: nothing is lost by one that fails.
            self._failures += 1
            if self._failures >= PATIENCE:
                self._give_up(f"NVML: {error}")
            return
        energy = self._joules()
        with self._lock:
            self._failures, self._slow = 0, False
            if self.why_not is not None or self._busy is None:
                return
            self._busy += share * (now - self._at)
            self._at = now
            self._memory = max(self._memory or 0, used)
            self._book(energy)

    def _book(self, millijoules: int | None) -> None:
        if millijoules is None:
            return
        if self._last_energy is None:
            self._energy = 0.0
        elif millijoules >= self._last_energy:
            self._energy = (self._energy or 0.0) + (millijoules - self._last_energy) / 1000
        else:
            self.dropped += 1
        self._last_energy = millijoules

    def _give_up(self, why: str) -> None:
        """Forget what was counted: a part of it would pass for all of it. Says why, once."""
        with self._lock:
            self._busy = self._energy = self._memory = None
            self.source = NONE
            told, self.why_not = self.why_not is not None, self.why_not or why
        if not told:
            text = f"foretune_trainer: busy time and energy of the GPU are unknown: {why}"
            print(text, file=sys.stderr, flush=True)

    # ------------------------------------------------------------- questions to NVML
    def _check_alone(self) -> None:
        """Raise `Unknown` if others use the GPU too.

        This process counts as one: within a container NVML names it by the host's number, or not at all.
        """
        if len(_processes(self._nvml, self._handle)) > 1:
            raise Unknown("other processes use the GPU as well")
        if _mig(self._nvml, self._handle):
            raise Unknown("the GPU has been divided (MIG)")

    def _has_gpm(self) -> bool:
        try:
            return bool(self._nvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice)
        except Exception:  # noqa: BLE001 - older drivers and GPUs: the other source is asked
            return False

    def _share(self) -> float:
        """Return the share of the time since the last look, 0 to 1, in which the GPU was busy."""
        if self.source == RATES:
            rates = self._nvml.nvmlDeviceGetUtilizationRates(self._handle)
            return min(1.0, float(rates.gpu) / 100)
        if not self._samples:
            self._samples = [self._nvml.nvmlGpmSampleAlloc() for _ in range(2)]
            self._nvml.nvmlGpmSampleGet(self._handle, self._samples[0])
            return 0.0
        before, after = self._samples
        self._nvml.nvmlGpmSampleGet(self._handle, after)
        asked = self._nvml.c_nvmlGpmMetricsGet_t()
        asked.version = self._nvml.NVML_GPM_METRICS_GET_VERSION
        asked.numMetrics = 1
        asked.sample1, asked.sample2 = before, after
        asked.metrics[0].metricId = self._nvml.NVML_GPM_METRIC_SM_UTIL
        self._nvml.nvmlGpmMetricsGet(asked)
        if asked.metrics[0].nvmlReturn != self._nvml.NVML_SUCCESS:
            raise self._nvml.NVMLError(asked.metrics[0].nvmlReturn)
        self._samples = [after, before]
        return min(1.0, max(0.0, float(asked.metrics[0].value) / 100))

    def _joules(self) -> int | None:
        """Return the board's energy since its driver was loaded, in millijoules; None where unknown."""
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except Exception:  # noqa: BLE001 - boards before Volta do not count it
            return None


def _find(uuid: str) -> tuple[Any, Any]:
    """Return NVML's binding and its handle of a GPU; raises `Unknown`, or what NVML raises."""
    try:
        import pynvml  # noqa: PLC0415 - needed only where there is a GPU
    except ImportError:
        raise Unknown("the package nvidia-ml-py is not installed") from None
    pynvml.nvmlInit()
    wanted = _plain(uuid)
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        # CUDA and NVML number the same GPUs differently: only the UUID, as text, says which is which.
        if _plain(pynvml.nvmlDeviceGetUUID(handle)) == wanted:
            if _mig(pynvml, handle):
                raise Unknown("the GPU has been divided (MIG)")
            if _used(pynvml, handle) > OCCUPIED:
                raise Unknown("the GPU was in use already")
            return pynvml, handle
    raise Unknown(f"NVML has no whole GPU with the UUID {uuid}")


def _plain(uuid: str | bytes) -> str:
    text = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
    return text.lower().removeprefix("gpu-")


def _mig(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError_NotSupported:
        return False  # a GPU that can't be divided


def _used(nvml: Any, handle: Any) -> int:
    """Return the bytes that programs use; what the driver keeps for itself is not among them."""
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return 0  # an old driver can't tell the two apart


def _processes(nvml: Any, handle: Any) -> set[int]:
    """Return the processes that compute or draw on a GPU."""
    found = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    for name in (
        "nvmlDeviceGetMPSComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses",
    ):
        try:
            found |= {process.pid for process in getattr(nvml, name)(handle)}
        except nvml.NVMLError:
            continue  # not on this GPU, or not with this driver
    return found
