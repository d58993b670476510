"""A stand-in for NVIDIA's library below the real binding: `pynvml` calls it as it calls libnvidia-ml.so.1.

It fills the structures of the C interface and returns its error codes, so that what is tested is our code
with the binding that runs beside a GPU.
"""

# ruff: noqa: N802 - names of the C interface

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import pynvml

UUID = "GPU-5c89afc4-1c0a-4b67-9a34-b6a7b7a1d1f2"


@dataclass
class Board:
    """One GPU as NVML shows it; tests turn its knobs."""

    uuid: str = UUID
    mig: int | None = 0
    """Whether it is divided; None: it can't be."""
    used: int = 0
    gpm: bool = True
    busy: float = 50.0
    """Per cent, by either measure."""
    energy: int | None = 1_000_000
    """Millijoules since the driver was loaded; None: not counted on this board."""
    processes: list[int] = field(default_factory=list)
    drawing: list[int] = field(default_factory=list)


@dataclass
class Library:
    """The functions that we use, by their names in C."""

    boards: list[Board] = field(default_factory=lambda: [Board()])
    broken: dict[str, int] = field(default_factory=dict)
    """Function -> the error it returns."""
    calls: list[str] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)
    """Functions that this version of the driver does not have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.absent:
            raise AttributeError(name)
        function = getattr(type(self), f"_{name}")

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.broken:
                return self.broken[name]
            return int(function(self, *arguments) or pynvml.NVML_SUCCESS)

        return call

    def _board(self, handle: Any) -> Board:
        return self.boards[ctypes.cast(handle, ctypes.c_void_p).value - 1]  # type: ignore[operator]

    def _nvmlInitWithFlags(self, flags: int) -> None:
        pass

    def _nvmlDeviceGetCount_v2(self, count: Any) -> None:
        count._obj.value = len(self.boards)

    def _nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> None:
        ctypes.memmove(ctypes.byref(handle._obj), ctypes.byref(ctypes.c_void_p(index.value + 1)), 8)

    def _nvmlDeviceGetUUID(self, handle: Any, text: Any, length: Any) -> None:
        text.value = self._board(handle).uuid.encode()

    def _nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> int | None:
        mig = self._board(handle).mig
        if mig is None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        current._obj.value = pending._obj.value = mig
        return None

    def _nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> None:
        memory._obj.used = self._board(handle).used + 600 * 2**20  # the driver's own share is in it

    def _nvmlDeviceGetMemoryInfo_v2(self, handle: Any, memory: Any) -> None:
        assert memory._obj.version == pynvml.nvmlMemory_v2
        memory._obj.used = self._board(handle).used

    def _listed(self, pids: list[int], count: Any, array: Any) -> int | None:
        if array is None:
            count._obj.value = len(pids)
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE) if pids else None
        count._obj.value = len(pids)
        for place, pid in enumerate(pids):
            array[place].pid = pid
        return None

    def _nvmlDeviceGetComputeRunningProcesses_v3(
        self, handle: Any, count: Any, array: Any
    ) -> int | None:
        return self._listed(self._board(handle).processes, count, array)

    def _nvmlDeviceGetGraphicsRunningProcesses_v3(
        self, handle: Any, count: Any, array: Any
    ) -> int | None:
        return self._listed(self._board(handle).drawing, count, array)

    def _nvmlDeviceGetMPSComputeRunningProcesses_v3(
        self, handle: Any, count: Any, array: Any
    ) -> int:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def _nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> None:
        rates._obj.gpu = int(self._board(handle).busy)

    def _nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, energy: Any) -> int | None:
        found = self._board(handle).energy
        if found is None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        energy._obj.value = found
        return None

    def _nvmlGpmQueryDeviceSupport(self, handle: Any, support: Any) -> None:
        assert support._obj.version == pynvml.NVML_GPM_SUPPORT_VERSION
        support._obj.isSupportedDevice = int(self._board(handle).gpm)

    def _nvmlGpmSampleAlloc(self, sample: Any) -> None:
        pass

    def _nvmlGpmSampleGet(self, handle: Any, sample: Any) -> None:
        assert self._board(handle).gpm

    def _nvmlGpmMetricsGet(self, asked: Any) -> None:
        found = asked._obj
        assert (found.version, found.numMetrics) == (pynvml.NVML_GPM_METRICS_GET_VERSION, 1)
        assert found.metrics[0].metricId == pynvml.NVML_GPM_METRIC_SM_UTIL
        found.metrics[0].nvmlReturn = self.broken.get("metric", pynvml.NVML_SUCCESS)
        found.metrics[0].value = self.boards[0].busy
