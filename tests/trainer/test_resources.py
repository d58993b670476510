"""The books of a trial: what is in them, and what is left out because nobody knows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest
import torch
from tests.support.nvml import UUID, Library

from foretune.adapters.http.wire import read_reports
from foretune_trainer import cgroup, resources
from foretune_trainer.cgroup import Cgroup, Cpu
from foretune_trainer.resources import Meter

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(resources.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def failing_evaluation(meter: Meter, clock: Clock) -> None:
    with meter.phase("eval"):
        clock.now += 1
        raise ValueError("x")


def test_phases_never_overlap(clock: Clock) -> None:
    """A phase within another stops the outer one's clock, also where an exception leaves it."""
    meter = Meter(90.0)
    with meter.phase("train"):
        clock.now += 2
        with meter.phase("checkpoint"):
            clock.now += 3
            assert meter.phases() == {"train": 2.0, "checkpoint": 3.0}
        clock.now += 4
        with pytest.raises(ValueError, match="x"):
            failing_evaluation(meter, clock)
    clock.now += 5  # of no phase
    with meter.phase("train"):
        clock.now += 1
    found = meter.read(CPU)
    assert found["phase_s"] == {"train": 7.0, "checkpoint": 3.0, "eval": 1.0}
    assert found["wall_s"] == 26.0


def test_samples(clock: Clock) -> None:
    """Examples a second are of the training alone; before it there is no such number."""
    meter = Meter(100.0)
    assert "samples_per_s" not in meter.read(CPU)
    calls = []
    meter.on_step = lambda: calls.append(meter.steps)
    with meter.phase("train"):
        for _ in range(3):
            meter.trained(64)
            clock.now += 1
    with meter.phase("eval"):
        clock.now += 10
    found = meter.read(CPU)
    assert (found["samples"], found["samples_per_s"]) == (192, 64.0)
    assert calls == [1, 2, 3]


def test_without_gpu_and_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, in no group of its own, what can't be known is absent: no zero stands for it."""
    monkeypatch.setattr(resources.cgroup, "own", lambda: None)
    found = Meter(time.monotonic()).read(CPU)
    assert set(found) == {
        "wall_s",
        "cpu_s",
        "cpu_source",
        "samples",
        "rss_peak_bytes",
        "phase_s",
    }
    assert found["cpu_source"] == "rusage"
    assert found["cpu_s"] > 0


class Group(Cgroup):
    """A group whose seconds the test sets."""

    def __init__(self) -> None:
        super().__init__(2)
        self.__dict__["now"] = Cpu(100.0, 80.0, 20.0, 1.0)

    def cpu(self) -> Cpu | None:
        found: Cpu | None = self.__dict__["now"]
        return found

    def memory_peak(self) -> int | None:
        return 2**30


def test_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a group's seconds those since the start count, and what this process had used before it looked."""
    monkeypatch.setattr(resources, "_rusage", lambda: (1.5, 0.5))
    group = Group()
    meter = Meter(0.0, group)
    group.__dict__["now"] = Cpu(110.0, 87.0, 23.0, 2.5)
    book = meter.cpu()
    assert (book.total, book.user, book.system) == (12.0, 8.5, 3.5)
    found = meter.read(CPU)
    assert (found["cpu_s"], found["cpu_source"], found["cpu_throttled_s"]) == (12.0, "cgroup2", 2.5)
    assert found["mem_peak_bytes"] == 2**30


def test_group_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the group stops answering, the process's own count stands in, under its own name."""
    monkeypatch.setattr(resources, "_rusage", lambda: (1.5, 0.5))
    group = Group()
    meter = Meter(0.0, group)
    group.__dict__["now"] = None
    assert meter.read(CPU)["cpu_source"] == "rusage"
    assert meter.read(CPU)["cpu_s"] == 2.0


def test_children_count(tmp_path: Path) -> None:
    """Seconds of children that have ended are in the process's own count."""
    text = (
        "import subprocess, sys, time\n"
        "from foretune_trainer.resources import Meter\n"
        "meter = Meter(time.monotonic())\n"
        "before = meter.cpu().total\n"
        "burn = 'import time\\nwhile time.process_time() < 0.3: pass'\n"
        "subprocess.run([sys.executable, '-c', burn], check=True)\n"
        "print(meter.cpu().total - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert float(done.stdout) > 0.25


class Cuda:
    """What PyTorch says of two GPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, uuid: str) -> None:
        self.allocated, self.reserved, self.used = 2**20, 2**21, 2**22
        for name, value in {
            "device_count": lambda: 2,
            "get_device_properties": lambda device: SimpleNamespace(uuid=uuid),
            "mem_get_info": lambda device: (2**33 - self.used, 2**33),
            "max_memory_allocated": lambda device: self.allocated,
            "max_memory_reserved": lambda device: self.reserved,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


GPU = torch.device("cuda")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setattr(pynvml, "nvmlLib", made)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return made


def test_gpu(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held is GPUs times wall time; memory as PyTorch allocates and reserves it, and as the device has it."""
    Cuda(monkeypatch, UUID.removeprefix("GPU-"))
    meter = Meter(time.monotonic() - 10)
    meter.hold(GPU)
    try:
        library.boards[0].energy = 1_002_000
        found = meter.read(GPU)
    finally:
        meter.close()
    assert 20 <= found["gpu_held_s"] < 25
    assert found["gpu_held_s"] == pytest.approx(2 * found["wall_s"], abs=0.1)
    assert (found["gpu_busy_source"], found["energy_scope"]) == ("gpm", "device")
    assert found["energy_j"] == 2.0
    assert 0 <= found["gpu_busy_s"] <= found["wall_s"]
    assert found["gpu_mem_peak_bytes"] == 2**20
    assert found["gpu_mem_reserved_peak_bytes"] == 2**21
    assert found["gpu_mem_device_peak_bytes"] >= 2**22


def test_slice_of_a_gpu(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a slice the time held and PyTorch's memory are known; nothing else."""
    Cuda(monkeypatch, "MIG-1")
    meter = Meter(time.monotonic())
    meter.hold(GPU)
    found = meter.read(GPU)
    meter.close()
    assert (found["gpu_busy_source"], found["energy_scope"]) == ("none", "none")
    assert {name for name in found if name.startswith(("gpu", "energy"))} == {
        "gpu_held_s",
        "gpu_busy_source",
        "energy_scope",
        "gpu_mem_peak_bytes",
        "gpu_mem_reserved_peak_bytes",
    }
    assert "no whole GPU" in capsys.readouterr().err


def test_the_tracker_takes_all_of_it(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field there can be passes the tracker's check, and is still there behind it."""
    Cuda(monkeypatch, UUID)
    meter = Meter(time.monotonic(), Group())
    meter.hold(GPU)
    for name in resources.PHASES:
        with meter.phase(name):
            meter.trained(1)
    found = meter.read(GPU)
    meter.close()
    record: dict[str, Any] = {"v": 1, "trial": "j/0", "attempt": 0, "pod": "p", "seq": 0}
    (read,) = read_reports(json.dumps([{**record, "resources": found}]).encode())
    assert read["resources"] == found
    assert set(found["phase_s"]) == set(resources.PHASES)
    assert {"cpu_throttled_s", "mem_peak_bytes", "gpu_busy_s", "energy_j"} <= set(found)


def test_this_machine() -> None:
    """Whatever groups this machine has, a trial's start is counted in full."""
    text = "from foretune_trainer.resources import Meter; import time; print(Meter(time.monotonic()).cpu().source)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {"cgroup2", "cgroup1", "rusage"}
    assert cgroup.own() is None or cgroup.own().version in {1, 2}  # type: ignore[union-attr]
